"""The expressions that make nnx modules, taken apart."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from caffe2flax.codegen.format import WIDTH
from caffe2flax.codegen.names import Namespace

INDENT = 8
"""Columns in front of a line of `__init__`."""

FLAX_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "nnx.Conv": {
        "strides": "1",
        "padding": "'SAME'",
        "kernel_dilation": "1",
        "feature_group_count": "1",
        "use_bias": "True",
    },
    "nnx.Linear": {"use_bias": "True"},
    "nnx.BatchNorm": {"epsilon": "1e-05", "use_bias": "True", "use_scale": "True"},
}
"""What an argument is that a call leaves out, so that calls can be held together."""

PASSED_ON = {"dtype": "Dtype", "precision": "PrecisionLike"}
"""Arguments of a class, and their types, that it hands to its modules."""

ORDER = (
    *FLAX_DEFAULTS["nnx.Conv"],
    *PASSED_ON,
    "rngs",
)
"""Keywords in the order in which they are written; others come first."""


class Call(NamedTuple):
    """`self.attribute = func(positional, keyword=value)  # comment`, arguments as
    source text."""

    attribute: str
    func: str
    positional: tuple[str, ...]
    keywords: Mapping[str, str]
    comment: str = ""

    def argument(self, slot: int | str) -> str:
        """The argument in a place or under a keyword, Flax's default where it is not
        given, "" where there is none."""
        if isinstance(slot, int):
            return self.positional[slot]
        default = FLAX_DEFAULTS.get(self.func, {}).get(slot, "")
        return self.keywords.get(slot, default)

    def arguments(self) -> list[str]:
        return [*self.positional, *(f"{k}={v}" for k, v in self.keywords.items())]

    def expression(self) -> str:
        comment = f"  # {self.comment}" if self.comment else ""
        return f"{self.func}({', '.join(self.arguments())}){comment}"

    def __str__(self) -> str:
        return f"self.{self.attribute} = {self.expression()}"


def parse_call(attribute: str, text: str) -> Call | None:
    """The expression that makes a module; None where it is no call."""
    code, _, comment = text.partition("  # ")
    call = ast.parse(code, mode="eval").body
    if not isinstance(call, ast.Call):
        return None
    keywords = {k.arg or "": ast.unparse(k.value) for k in call.keywords}
    return Call(
        attribute,
        ast.unparse(call.func),
        tuple(map(ast.unparse, call.args)),
        {k: keywords[k] for k in in_order(keywords)},
        comment,
    )


def in_order(keywords: Iterable[str]) -> list[str]:
    """Without repetition, in the order of ORDER."""
    found = dict.fromkeys(keywords)
    return sorted(found, key=lambda k: ORDER.index(k) if k in ORDER else -1)


class Partial(NamedTuple):
    """`name = partial(func, keyword=value)`."""

    name: str
    func: str
    given: Mapping[str, str]

    def arguments(self) -> list[str]:
        return [self.func, *(f"{k}={v}" for k, v in self.given.items())]

    def __str__(self) -> str:
        return f"{self.name} = partial({', '.join(self.arguments())})"

    def shorten(self, call: Call) -> Call:
        """The call of `func` as one of this."""
        rest = {k: v for k, v in call.keywords.items() if self.given.get(k) != v}
        return call._replace(func=self.name, keywords=rest)


def assignments(
    built: Sequence[tuple[str, str]], parameters: Iterable[str]
) -> list[str]:
    """The lines of an `__init__` with these parameters: keywords that all calls of a
    class agree on are given once, in a partial, where that makes it shorter.

    Before: self.a = nnx.Conv(3, 8, (1, 1), use_bias=False, rngs=rngs), ...
    After:  conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
            self.a = conv(3, 8, (1, 1)), ...
    """
    parsed = [(name, text, parse_call(name, text)) for name, text in built]
    calls = [call for *_, call in parsed if call]
    functions = dict.fromkeys(call.func for call in calls)
    found = (_partial([c for c in calls if c.func == func]) for func in functions)
    shared = list(filter(None, found))
    partials = {each.func: each for each in _named(shared, Namespace(parameters))}
    lines = [*map(str, partials.values()), *[""] * bool(partials)]
    for name, text, call in parsed:
        if call is None:
            lines.append(f"self.{name} = {text}")
            continue
        call = _repeated(call, partials.values())
        partial = partials.get(call.func)
        lines.append(str(partial.shorten(call) if partial else call))
    return lines


def _partial(calls: Sequence[Call]) -> Partial | None:
    """What is given once for all calls of a class: all that they agree on, or only what
    the class around them was given, or nothing, as makes the fewest lines."""
    func = calls[0].func
    agreed = {
        k: calls[0].keywords[k]
        for k in in_order(calls[0].keywords)
        if all(call.keywords.get(k) == calls[0].keywords[k] for call in calls)
    }
    if "rngs" not in agreed:
        return None
    passed = {k: v for k, v in agreed.items() if k in (*PASSED_ON, "rngs")}
    all_, some = (Partial(snake_case(func), func, each) for each in (agreed, passed))
    choices = (all_, some) if len(calls) > 1 else (None, some)

    def length(partial: Partial | None) -> int:
        if partial is None:
            return sum(map(_lines, calls))
        return _lines(partial) + sum(_lines(partial.shorten(call)) for call in calls)

    return min(choices, key=length)


def _lines(statement: Call | Partial) -> int:
    """How many lines it takes: all in one, the arguments in one, or one each."""
    given = statement.arguments()
    if len(str(statement)) <= WIDTH - INDENT:
        return 1
    return 3 if len(", ".join(given)) <= WIDTH - INDENT - 4 else 2 + len(given)


def _named(partials: Sequence[Partial], names: Namespace) -> Iterable[Partial]:
    """With names that nothing else has; the first word is enough for a class of ours
    whose name is too long for its line."""
    claimed = [p._replace(name=names.claim(p.name)) for p in partials]
    for partial in claimed:
        first, more, _ = partial.name.partition("_")
        long = more and "." not in partial.func and _lines(partial) > 1
        yield partial._replace(name=names.claim(first)) if long else partial


def _repeated(call: Call, partials: Iterable[Partial]) -> Call:
    """`nnx.Sequential(*[Block(...) for ...])` with the partial of Block."""
    if call.func != "nnx.Sequential":
        return call
    text = call.positional[0]
    for name, func, agreed in partials:
        given = "".join(f", {k}={v}" for k, v in agreed.items())
        if text.startswith(f"*[{func}(") and f"{given})" in text:
            short = text.replace(f"{given})", ")", 1)
            return call._replace(positional=(short.replace(func, name, 1),))
    return call


def snake_case(cls: str) -> str:
    """`nnx.BatchNorm` -> `batch_norm`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.rpartition(".")[2]).lower()
