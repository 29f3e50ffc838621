"""Source text as ruff formats it, for what we write.

Only lines that ruff would change are looked at: those that are too long, and those with
strings in single quotes. Everything else is written as it is to stand in the file.
"""

from __future__ import annotations

import re
from textwrap import wrap

from caffe2flax.codegen.layout import split_statement

WIDTH = 88
"""Columns of a line in ruff's default style."""

TOKEN = re.compile(
    r"""(?P<whole>"{3}(?:[^"\\]|\\.|"(?!""))*+"{3}|'{3}(?:[^'\\]|\\.|'(?!''))*+'{3})"""
    r"""|(?P<start>"{3}|'{3}).*|#.*|"(?:[^"\\]|\\.)*+\""""
    r"""|(?P<prefix>[A-Za-z])?'(?P<single>(?:[^'\\]|\\.)*+)'"""
)
"""A string, the start of one that goes on in the next line, or a comment."""
ESCAPE = re.compile(r"""\\.|\"""")


def paragraph(text: str, width: int) -> str:
    """`text` in lines of `width`; words are not cut, as an escape may be in one."""
    return "\n".join(wrap(text, width, break_long_words=False))


def format_source(source: str) -> str:
    """`source`, which we wrote with a statement a line, in ruff's default style. A line
    that cannot be split stays as it is."""
    result: list[str] = []
    quotes = ""
    """Of the string that the line begins in."""
    depth = 0
    for line in source.split("\n"):
        outside = line
        if quotes:
            result.append(line)
            _, end, outside = line.partition(quotes)
            quotes = "" if end else quotes
            depth = max(0, depth + _deeper(outside))
            continue
        if '"' in line or "'" in line or "#" in line:
            line = TOKEN.sub(_requoted, line)
            outside = TOKEN.sub("", line)
            quotes = _unended(line)
        before = depth
        depth = max(0, depth + _deeper(outside))
        whole = not before and not depth and not quotes
        if whole and (len(line) > WIDTH or ",) ->" in outside):
            result += split_statement(line, WIDTH)
        else:
            result.append(line)
    return "\n".join(result)


def _requoted(match: re.Match[str]) -> str:
    """A string in double quotes, unless that takes more escapes."""
    text = match["single"]
    if text is None or match["prefix"]:
        return match[0]
    bare = text.replace("\\\\", "")
    if bare.count('"') > bare.count("'"):
        return match[0]
    return f'"{ESCAPE.sub(_escaped, text)}"'


def _escaped(match: re.Match[str]) -> str:
    """What stands between single quotes, between double ones."""
    return {'"': '\\"', "\\'": "'"}.get(match[0], match[0])


def _unended(line: str) -> str:
    """The quotes of a string that does not end in the line."""
    if '"""' not in line and "'''" not in line:
        return ""
    return next((m["start"] for m in TOKEN.finditer(line) if m["start"]), "")


def _deeper(code: str) -> int:
    """How many more brackets are opened than closed."""
    opened = code.count("(") + code.count("[") + code.count("{")
    return opened - code.count(")") - code.count("]") - code.count("}")
