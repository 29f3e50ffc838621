"""Layers of `type: "Python"`, which Caffe computes by Python code that the net names.

That code is never imported: some classes are known by their module and name.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from caffe2flax.ir.layer import Layer
from caffe2flax.ir.params import Params

PYTHON: dict[tuple[str, str], Callable[[Params], Layer]] = {}
"""The function that reads a Python layer, by module and class."""

Words = dict[str, tuple[str, ...]]

LIMIT = 10_000
DIGITS = 9
QUOTES = " \t\r\n'\""
WORD = r"[^\s,{}\[\]()]+"
PAIR = re.compile(
    rf"""\s*['"]?(?P<key>\w+)['"]?\s*:\s*(?:!!python/tuple\b\s*)?
    (?:[\[(](?P<list>[^\[\]()]*)[\])]
    |(?P<items>-[ \t]+{WORD}(?:[ \t]*\n\s*-[ \t]+{WORD})*)
    |(?P<one>{WORD}))[ \t]*(?:,|\s+|$)""",
    re.VERBOSE,
)
"""A key and a word, or a list: in brackets, or of lines that start with a dash."""


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
    """`param_str`, a mapping in YAML or Python, with each value as a tuple of words.

    Anything else, and keys that are not in `known`, are an error at its line.
    """
    text = params.get("param_str", "").strip()
    if text[:1] == "{" and text[-1:] == "}":
        text = text[1:-1]
    values: Words = {}
    place = 0
    while text[place:].strip():
        pair = PAIR.match(text, place)
        if pair is None or len(text) > LIMIT:
            shown = text[place : place + 40].strip()
            params.unsupported(
                "param_str", f"param_str is not understood from {shown!r} on"
            )
            return values
        if pair["key"] not in known:
            params.unsupported(
                "param_str", f"unknown option {pair['key']} in param_str"
            )
        words = pair["one"] if pair["list"] is None else pair["list"]
        if pair["items"] is not None:
            words = re.sub(r"(?:^|\n\s*)-[ \t]", ",", pair["items"])
        values[pair["key"]] = tuple(
            word.strip(QUOTES) for word in words.split(",") if word.strip(QUOTES)
        )
        place = pair.end()
    return values


def numbers(
    params: Params, words: Words, key: str, *default: float
) -> tuple[float, ...]:
    """The numbers of an option, or its default; an error unless they are positive."""
    try:
        values = tuple(map(float, words[key])) if key in words else default
    except ValueError:
        values = ()
    if not values or not all(0 < number < float("inf") for number in values):
        params.error("param_str", f"{key} in param_str needs positive numbers")
        return default or (1.0,)
    return values


def whole(params: Params, words: Words, key: str) -> int:
    """A whole number, 0 or more, that an option must have."""
    text = " ".join(words.get(key, ()))
    if not text.isascii() or not text.isdecimal() or len(text) > DIGITS:
        shown = repr(text) if text else "nothing"
        params.error("param_str", f"{key} in param_str is a number, not {shown}")
        return 0
    return int(text)


def test_alone(params: Params) -> None:
    """Refuses a layer whose part in training is not known."""
    if params.phase == "TRAIN":
        name = params.get("module", "")
        text = f"{name} is known for TEST alone: convert the net as TEST"
        params.unsupported("module", text)
