"""The statements of a `__call__`, and their lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from caffe2flax.codegen.format import WIDTH
from caffe2flax.ir.call import arguments, literal
from caffe2flax.ir.graph import Graph, Value
from caffe2flax.ir.layout import Operand

LETTERS = {4: "NCHW", 5: "NCDHW"}
"""What Caffe's axes are called, by how many there are."""

INDENT = " " * 8


@dataclass(frozen=True, slots=True)
class Statement:
    """`target = expression  # comment`.

    A blank line comes before a statement of another section, and behind a pool.
    """

    targets: tuple[str, ...]
    expression: str
    comment: str = ""
    section: str = ""
    ends_section: bool = False


def lines(statements: Sequence[Statement], *, comments: bool) -> list[str]:
    """The lines of statements, indented."""
    found: list[str] = []
    section, ended = "", False
    for statement in statements:
        new = statement.section not in ("", section)
        left = section and not statement.section
        apart = new or left or (ended and not statement.section)
        if found and apart and not statement.ends_section:
            found.append("")
        target = ", ".join(statement.targets)
        comment = statement.comment if comments else ""
        found += commented(f"{target} = {statement.expression}", comment)
        section, ended = statement.section, statement.ends_section
    return found


def commented(statement: str, comment: str) -> list[str]:
    """The statement with its comment behind it, or above where that would break the
    line."""
    if not comment:
        return [f"{INDENT}{statement}"]
    line = f"{INDENT}{statement}  # {comment}"
    fits = len(line) <= WIDTH
    return [line] if fits else [f"{INDENT}# {comment}", f"{INDENT}{statement}"]


def section(name: str, current: str) -> str:
    """The part of a blob's name that it has in common with its block."""
    if name == current:
        return current
    head, slash, _ = name.rpartition("/")
    if slash:
        return head
    match = re.match(r"(.+?)_branch", name)
    return match.group(1) if match else ""


def shape_checks(graph: Graph, variables: Mapping[Value, str]) -> Iterator[str]:
    """The lines that refuse inputs of another shape."""
    for value in graph.arguments:
        operand, free = graph.operand(value), graph.sizes.free_axes.get(value, ())
        sizes = [
            _letter(axis, operand) if axis in free or operand.is_batch(axis) else size
            for axis, size in enumerate(operand.shape)
        ]
        name = variables[value]
        wanted = map(literal, operand.layout.arrange_each(sizes))
        yield f"{INDENT}check_shape({arguments(literal(name), name, *wanted)})"


def _letter(axis: int, operand: Operand) -> str:
    """The letter of Caffe's `axis`, whose extent may be any."""
    known = LETTERS.get(len(operand.shape), "N")
    return known[axis] if axis < len(known) else "*"


def dictionary(values: Iterable[Value], variables: Mapping[Value, str]) -> str:
    """`{"blob": variable, ...}`."""
    items = (f"{literal(v.blob)}: {variables[v]}" for v in values)
    return "{" + ", ".join(items) + "}"
