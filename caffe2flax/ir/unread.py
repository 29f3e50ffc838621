"""What is said of the fields of a message that no layer read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from caffe2flax.errors import Problem, closest, is_misspelt, unknown
from caffe2flax.frontend.message import Message
from caffe2flax.ir.dialects import IMAGES, WITHOUT_EFFECT
from caffe2flax.ir.field_types import known_fields

SIZES = re.compile("size|crop|height|width|channel|shape|dim|length|frames", re.I)
"""What is in the names of fields that may set the shape of an input."""


class Read(Protocol):
    """What is known of a message that was read: `ir.params.Params`."""

    name: str
    message: Message | None
    about: str
    problems: list[Problem]
    known: dict[str, None]
    lacking: dict[str, Problem]
    suggested: list[str]

    @property
    def path(self) -> tuple[str, ...]: ...

    @property
    def children(self) -> Sequence[Read]: ...

    def note_once(self, text: str) -> None: ...


def report_unread(params: Read) -> None:
    """Records each field of the message, and of those inside of it, that nobody read:
    a problem, or a note where it cannot reach the module."""
    fields = params.message.fields if params.message else ()
    first = {f.name: f.span for f in reversed(fields)}
    for name, span in reversed(first.items()):
        if name in params.known or _has_no_effect(params, name):
            continue
        if not (params.about and _is_passed_over(params, name)):
            hint = _hint(params, name)
            text = f"unknown field {name} in {params.name}{hint}"
            # Caffe takes a field of its own, whether or not it is known here.
            own = name in known_fields(params.path)
            kind = "unsupported" if own else unknown(name, hint)
            params.problems.append(Problem(text, span, kind))
    for child in params.children:
        if child.message is not None:
            report_unread(child)


def _hint(params: Read, name: str) -> str:
    """What an unknown field is taken for: rather one that is missing, which is then
    no problem of its own."""
    for child in params.children:
        if child.message is None and closest(name, [child.name], params.problems):
            for lacking in list(child.lacking):
                _excuse(child, lacking)
    for lacking in params.lacking:
        if hint := closest(name, [lacking], params.problems):
            _excuse(params, lacking)
            return hint
    for expected in params.suggested:
        if hint := closest(name, [expected], params.problems):
            return hint
    return closest(name, params.known, params.problems)


def _excuse(params: Read, name: str) -> None:
    params.problems.remove(params.lacking.pop(name))


def _has_no_effect(params: Read, name: str) -> bool:
    """Whether the field is one of a fork that changes no value; if so, adds a note,
    once."""
    about = WITHOUT_EFFECT.get(params.name, {}).get(name)
    if about is None:
        return False
    params.note_once(f"{name} in {params.name} is about {about}: passed over")
    return True


def _is_passed_over(params: Read, name: str) -> bool:
    """Whether the field is none of those that count, misspelt; if so, adds a note."""
    given = {found.name for found in params.message.fields} if params.message else set()
    counting = (known for known in params.known if known not in given)
    if is_misspelt(name, counting):
        return False
    text = f"{name} in {params.name} is about {params.about}: passed over"
    if params.about == IMAGES and SIZES.search(name):
        text += "; where it changes the size of an input, --input-shape says it"
    params.note_once(text)
    return True
