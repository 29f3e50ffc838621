"""Layers that Caffe has somebody's Python code compute.

A net names that code, and nothing that it names is imported: the few that are known
are recognised by module and class.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from caffe2flax.ir.layer import Layer
from caffe2flax.ir.params import Params

PYTHON: dict[tuple[str, str], Callable[[Params], Layer]] = {}
"""What reads a Python layer, by its module and class."""

Words = dict[str, tuple[str, ...]]

LIMIT = 10_000
QUOTES = " \t\r\n'\""
PAIR = re.compile(
    r"""\s*['"]?(?P<key>\w+)['"]?\s*:\s*
    (?:[\[(](?P<list>[^\[\]()]*)[\])]|(?P<one>[^\s,{}\[\]()]+))[ \t]*(?:,|\s+|$)""",
    re.VERBOSE,
)


def python_layer(
    module: str, *classes: str
) -> Callable[[Callable[[Params], Layer]], Callable[[Params], Layer]]:
    """Registers a function that reads `type: "Python"` layers of these classes."""

    def register(read: Callable[[Params], Layer]) -> Callable[[Params], Layer]:
        for name in classes:
            PYTHON[module, name] = read
        return read

    return register


def options(params: Params, *known: str) -> Words:
    """`param_str`, a mapping as YAML or Python write it, each value as its words.

    What is not understood, and keys that `known` lacks, are an error at its line.
    """
    text = params.get("param_str", "").strip()
    if text[:1] == "{" and text[-1:] == "}":
        text = text[1:-1]
    found: Words = {}
    place = 0
    while text[place:].strip():
        pair = PAIR.match(text, place)
        if pair is None or len(text) > LIMIT:
            shown = text[place : place + 40].strip()
            params.error("param_str", f"param_str is not understood from {shown!r} on")
            return found
        if pair["key"] not in known:
            params.error("param_str", f"unknown option {pair['key']} in param_str")
        words = pair["one"] if pair["list"] is None else pair["list"]
        found[pair["key"]] = tuple(
            word.strip(QUOTES) for word in words.split(",") if word.strip(QUOTES)
        )
        place = pair.end()
    return found


def numbers(
    params: Params, words: Words, key: str, *default: float
) -> tuple[float, ...]:
    """The positive numbers of an option, else its default; others are an error."""
    try:
        found = tuple(map(float, words[key])) if key in words else default
    except ValueError:
        found = ()
    if not found or not all(0 < number < float("inf") for number in found):
        params.error("param_str", f"{key} in param_str needs positive numbers")
        return default or (1.0,)
    return found
