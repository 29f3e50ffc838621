"""The calls that make nnx modules -> the lines of an `__init__`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from caffe2flax.codegen.format import WIDTH
from caffe2flax.codegen.names import Namespace, argument_names
from caffe2flax.ir.call import RNGS, Call, Code, Repeated, literal

INDENT = 8
"""Columns in front of a line of `__init__`."""

PASSED_ON = {"dtype": "Dtype", "precision": "PrecisionLike"}
"""Arguments of a class, and their types, that it hands to its modules."""

ORDER = (
    "strides",
    "padding",
    "kernel_dilation",
    "feature_group_count",
    "use_bias",
    *PASSED_ON,
    RNGS.text,
)
"""Keywords in the order in which they are written; others come first."""


class Assignment(NamedTuple):
    """`self.attribute = call  # comment`, the keywords of the call in order."""

    attribute: str
    call: Call

    @classmethod
    def of(cls, attribute: str, call: Call) -> Assignment:
        keywords = {name: call.keywords[name] for name in in_order(call.keywords)}
        return cls(attribute, replace(call, keywords=keywords))

    def __str__(self) -> str:
        comment = f"  # {self.call.comment}" if self.call.comment else ""
        return f"self.{self.attribute} = {self.call}{comment}"

    def arguments(self) -> list[str]:
        return self.call.arguments()


def in_order(keywords: Iterable[str]) -> list[str]:
    """Without repetition, in the order of ORDER."""
    found = dict.fromkeys(keywords)
    return sorted(found, key=lambda k: ORDER.index(k) if k in ORDER else -1)


def passed_on(built: Iterable[Assignment]) -> tuple[str, ...]:
    """Arguments of a class that it hands to these modules as they are."""
    calls = [call for assignment in built for call in assignment.call.calls()]
    return tuple(
        name
        for name in PASSED_ON
        if any(call.keywords.get(name) == Code(name) for call in calls)
    )


class Partial(NamedTuple):
    """`name = partial(function, keyword=value)`."""

    name: str
    function: str
    keywords: Mapping[str, object]

    def arguments(self) -> list[str]:
        given = (f"{k}={literal(v)}" for k, v in self.keywords.items())
        return [self.function, *given]

    def __str__(self) -> str:
        return f"{self.name} = partial({', '.join(self.arguments())})"

    def shorten(self, call: Call) -> Call:
        """The call of `function` as one of this."""
        rest = {k: v for k, v in call.keywords.items() if k not in self.keywords}
        return replace(call, function=self.name, keywords=rest)

    def serves(self, call: Call) -> bool:
        """Whether `call` can be one of this."""
        return call.function == self.function and all(
            k in call.keywords and call.keywords[k] == v
            for k, v in self.keywords.items()
        )


def assignments(built: Sequence[Assignment], parameters: Iterable[str]) -> list[str]:
    """The lines of an `__init__` with these parameters: keywords that all calls of a
    class agree on are given once, in a partial, where that makes it shorter.

    Before: self.a = nnx.Conv(3, 8, (1, 1), use_bias=False, rngs=rngs), ...
    After:  conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
            self.a = conv(3, 8, (1, 1)), ...
    """
    functions = dict.fromkeys(each.call.function for each in built)
    found = (
        _partial([each for each in built if each.call.function == function])
        for function in functions
    )
    shared = list(filter(None, found))
    names = argument_names((call for _, call in built), *parameters)
    partials = list(_named(shared, names))
    lines = [*map(str, partials), *[""] * bool(partials)]
    for attribute, call in built:
        shortened = _shortened(call, partials)
        lines.append(str(Assignment(attribute, shortened)))
    return lines


def _partial(built: Sequence[Assignment]) -> Partial | None:
    """What is given once for all calls of a class: all that they agree on, or only what
    the class around them was given, or nothing, as makes the fewest lines."""
    calls = [each.call for each in built]
    first = calls[0]
    agreed = {
        k: v
        for k, v in first.keywords.items()
        if all(k in call.keywords and call.keywords[k] == v for call in calls)
    }
    if RNGS.text not in agreed:
        return None
    passed = {k: v for k, v in agreed.items() if k in (*PASSED_ON, RNGS.text)}
    name = snake_case(first.function)
    all_, some = (Partial(name, first.function, each) for each in (agreed, passed))
    choices = (all_, some) if len(calls) > 1 else (None, some)

    def length(partial: Partial | None) -> int:
        if partial is None:
            return sum(map(_lines, built))
        rest = (each._replace(call=partial.shorten(each.call)) for each in built)
        return _lines(partial) + sum(map(_lines, rest))

    return min(choices, key=length)


def _lines(statement: Assignment | Partial) -> int:
    """How many lines it takes: all in one, the arguments in one, or one each."""
    given = statement.arguments()
    if len(str(statement)) <= WIDTH - INDENT:
        return 1
    return 3 if len(", ".join(given)) <= WIDTH - INDENT - 4 else 2 + len(given)


def _named(partials: Sequence[Partial], names: Namespace) -> Iterable[Partial]:
    """With names that nothing else has; the first word is enough for a class of ours
    whose name is too long for its line."""
    claimed = [p._replace(name=names.take(p.name)) for p in partials]
    for partial in claimed:
        first, more, _ = partial.name.partition("_")
        long = more and "." not in partial.function and _lines(partial) > 1
        yield partial._replace(name=names.take(first)) if long else partial


def _shortened(call: Call, partials: Sequence[Partial]) -> Call:
    """The call, or what it repeats, as one of a partial."""
    for partial in partials:
        if partial.serves(call):
            return partial.shorten(call)
    match call.args:
        case (Repeated() as run,):
            inner = replace(run, call=_shortened(run.call, partials))
            return replace(call, args=(inner,))
    return call


def snake_case(cls: str) -> str:
    """`nnx.BatchNorm` -> `batch_norm`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.rpartition(".")[2]).lower()
