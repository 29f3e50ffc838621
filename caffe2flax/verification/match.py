"""Where an edited module has the layers of the net."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence

from caffe2flax.codegen.positions import NodePosition, NodePositions
from caffe2flax.codegen.sourcemap import SourceMap
from caffe2flax.ir.syntax import parse_expression

Statements = Sequence[ast.Assign | ast.Return]


def carried_over(
    positions: NodePositions, written: SourceMap, edited: SourceMap
) -> NodePositions:
    """`positions` in `written`, as they are in `edited`: a statement is found by what
    it assigns, a call inside another by its path in the statement. What is not there
    any more has no position."""
    aligned: dict[str, list[int | None]] = {}
    found: dict[int, NodePosition] = {}
    for number, position in positions.items():
        own, other = written.classes.get(position.cls), edited.classes.get(position.cls)
        if own is None or other is None:
            continue
        if position.cls not in aligned:
            aligned[position.cls] = _align(own.statements, other.statements)
        at = aligned[position.cls][position.call.statement]
        if at is None:
            continue
        before = own.statements[position.call.statement]
        text = _counterpart(before, other.statements[at], position.call.expression)
        call = position.call._replace(statement=at, expression=text)
        found[number] = position._replace(call=call)
    return found


def _align(own: Statements, other: Statements) -> list[int | None]:
    """For each statement its number in `other`: the same statement, otherwise the one
    that assigns the same names, the last of them if only one did before."""
    values = _by(map(_value, other))
    names = _targets(own)
    targets, before = _by(_targets(other)), _by(names)
    numbers: list[int | None] = []
    for i, statement in enumerate(own):
        name = names[i]
        candidates, turn = targets.get(name, []), before[name].index(i)
        same = values.get(_value(statement), [])
        if len(same) == 1 or not candidates:
            numbers.append(same[0] if same else None)
        elif len(before[name]) == 1:
            numbers.append(candidates[-1])
        else:
            numbers.append(candidates[turn] if turn < len(candidates) else None)
    return numbers


def _by(keys: Iterable[str]) -> Mapping[str, list[int]]:
    positions: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        positions.setdefault(key, []).append(i)
    return positions


def _targets(statements: Statements) -> list[str]:
    """The names that each statement assigns, as text; the last return is that of the
    output, an earlier one that of the logits."""
    returns = [i for i, s in enumerate(statements) if isinstance(s, ast.Return)]
    return [
        ", ".join(map(ast.unparse, statement.targets))
        if isinstance(statement, ast.Assign)
        else ("return" if i == returns[-1] else "return of logits")
        for i, statement in enumerate(statements)
    ]


def _value(statement: ast.Assign | ast.Return) -> str:
    return ast.dump(statement.value) if statement.value else ""


def _counterpart(before: ast.stmt, after: ast.stmt, text: str) -> str:
    """The expression in `after` at the position of `text` in `before`; `text` itself
    where `after` contains it, or has no call at that position."""
    wanted = ast.dump(parse_expression(text))
    if any(ast.dump(node) == wanted for node in ast.walk(after)):
        return text
    path = _path(before, wanted)
    node: object = after
    for step in path or ():
        node = _child(node, step)
    return ast.unparse(node) if path and isinstance(node, ast.Call) else text


Step = tuple[str, int | None]


def _path(tree: ast.AST, wanted: str) -> tuple[Step, ...] | None:
    """The fields from `tree` to the first expression that is equal to `wanted`."""
    pending: list[tuple[ast.AST, tuple[Step, ...]]] = [(tree, ())]
    while pending:
        node, path = pending.pop()
        if isinstance(node, ast.expr) and ast.dump(node) == wanted:
            return path
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.AST):
                pending.append((value, (*path, (name, None))))
            elif isinstance(value, list):
                pending += (
                    (child, (*path, (name, i)))
                    for i, child in enumerate(value)
                    if isinstance(child, ast.AST)
                )
    return None


def _child(node: object, step: Step) -> object:
    name, place = step
    value = getattr(node, name, None)
    if place is None or not isinstance(value, list):
        return value
    return value[place] if place < len(value) else None
