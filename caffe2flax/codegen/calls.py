"""The expressions that make nnx modules, taken apart."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

FLAX_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "Conv": {
        "strides": "1",
        "padding": "'SAME'",
        "kernel_dilation": "1",
        "feature_group_count": "1",
        "use_bias": "True",
        "relu": "False",
    },
    "WinogradConv": {"padding": "'SAME'", "relu": "False"},
    "nnx.Linear": {"use_bias": "True"},
    "RowLinear": {"use_bias": "True"},
    "nnx.BatchNorm": {"epsilon": "1e-05", "use_bias": "True", "use_scale": "True"},
}
"""What an argument is that a call leaves out, so that calls can be held together."""

ORDER = (
    *FLAX_DEFAULTS["Conv"],
    "conv_general_dilated",
    "dot_general",
    "dtype",
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

    def expression(self) -> str:
        given = [*self.positional, *(f"{k}={v}" for k, v in self.keywords.items())]
        comment = f"  # {self.comment}" if self.comment else ""
        return f"{self.func}({', '.join(given)}){comment}"

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


def assignments(built: Sequence[tuple[str, str]]) -> list[str]:
    """The lines of `__init__`: keywords that all calls of a class agree on are given
    once, in a partial.

    Before: self.a = Conv(3, 8, (1, 1), use_bias=False, dtype=dtype, rngs=rngs), ...
    After:  conv = partial(Conv, use_bias=False, dtype=dtype, rngs=rngs)
            self.a = conv(3, 8, (1, 1)), ...
    """
    parsed = [(name, text, parse_call(name, text)) for name, text in built]
    calls = [call for *_, call in parsed if call]
    shared = {
        func: _agreed(func, calls) for func in dict.fromkeys(c.func for c in calls)
    }
    lines = [
        f"{snake_case(func)} = partial({func}, "
        f"{', '.join(f'{k}={v}' for k, v in keywords.items())})"
        for func, keywords in shared.items()
        if keywords
    ]
    lines += [""] * bool(lines)
    for name, text, call in parsed:
        if call is None:
            lines.append(f"self.{name} = {text}")
            continue
        agreed = shared[call.func]
        call = _repeated(call, shared)
        rest = {k: v for k, v in call.keywords.items() if agreed.get(k) != v}
        func = snake_case(call.func) if agreed else call.func
        lines.append(str(call._replace(func=func, keywords=rest)))
    return lines


def _repeated(call: Call, shared: Mapping[str, Mapping[str, str]]) -> Call:
    """`nnx.Sequential(*[Block(...) for ...])` with the partial of Block."""
    if call.func != "nnx.Sequential":
        return call
    text = call.positional[0]
    for func, agreed in shared.items():
        given = "".join(f", {k}={v}" for k, v in agreed.items())
        if agreed and text.startswith(f"*[{func}(") and f"{given})" in text:
            short = text.replace(f"{given})", ")", 1)
            return call._replace(positional=(short.replace(func, snake_case(func), 1),))
    return call


def _agreed(func: str, calls: Iterable[Call]) -> Mapping[str, str]:
    """Keywords that two or more calls of `func` all give alike, rngs among them."""
    same = [call.keywords for call in calls if call.func == func]
    if len(same) < 2:
        return {}
    agreed = {
        k: v for k, v in same[0].items() if all(other.get(k) == v for other in same)
    }
    if "rngs" not in agreed:
        return {}
    return {k: agreed[k] for k in in_order(agreed)}


def snake_case(cls: str) -> str:
    """`nnx.BatchNorm` -> `batch_norm`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.rpartition(".")[2]).lower()
