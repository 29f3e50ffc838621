"""A generated module that was edited since: where it has the layers of the net now."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence

from caffe2flax.codegen.positions import NodePosition, NodePositions
from caffe2flax.codegen.sourcemap import SourceMap

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
    """For each statement its number in `other`: the same one, else the one that assigns
    the same names, the last where only one did."""
    values = _by(map(_value, other))
    names = _targets(own)
    targets, before = _by(_targets(other)), _by(names)
    found: list[int | None] = []
    for i, statement in enumerate(own):
        name = names[i]
        there, turn = targets.get(name, []), before[name].index(i)
        same = values.get(_value(statement), [])
        if len(same) == 1 or not there:
            found.append(same[0] if same else None)
        elif len(before[name]) == 1:
            found.append(there[-1])
        else:
            found.append(there[turn] if turn < len(there) else None)
    return found


def _by(keys: Iterable[str]) -> Mapping[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    return found


def _targets(statements: Statements) -> list[str]:
    """What each assigns; the last returns the output, one before it the logits."""
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
    """The expression in `after` that stands where `text` stands in `before`; `text`
    where it is there, or nothing is."""
    wanted = ast.dump(ast.parse(text, mode="eval").body)
    if any(ast.dump(node) == wanted for node in ast.walk(after)):
        return text
    path = _path(before, wanted)
    node: object = after
    for step in path or ():
        node = _child(node, step)
    return ast.unparse(node) if path and isinstance(node, ast.Call) else text


Step = tuple[str, int | None]


def _path(tree: ast.AST, wanted: str) -> tuple[Step, ...] | None:
    """Fields that lead from `tree` to the first expression that reads like `wanted`."""
    waiting: list[tuple[ast.AST, tuple[Step, ...]]] = [(tree, ())]
    while waiting:
        node, path = waiting.pop()
        if isinstance(node, ast.expr) and ast.dump(node) == wanted:
            return path
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.AST):
                waiting.append((value, (*path, (name, None))))
            elif isinstance(value, list):
                waiting += (
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
