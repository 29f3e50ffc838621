"""Python's own parser, for the source that layers and the code generator write."""

from __future__ import annotations

import ast
from threading import Lock

# CPython up to 3.12 counts the depth of a tree once for all threads: two that parse at
# the same time raise SystemError (python/cpython#106905).
_ONE_AT_A_TIME = Lock()


def parse_module(source: str) -> ast.Module:
    """The statements of a file.

    Raises:
        SyntaxError: if `source` is not Python.
    """
    with _ONE_AT_A_TIME:
        return ast.parse(source)


def parse_expression(source: str) -> ast.expr:
    """The tree of one expression.

    Raises:
        SyntaxError: if `source` is not an expression.
    """
    with _ONE_AT_A_TIME:
        return ast.parse(source, mode="eval").body
