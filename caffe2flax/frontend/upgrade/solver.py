"""What Caffe upgrades in a solver: its kind was an enum, and is a string now."""

from __future__ import annotations

from dataclasses import replace

from caffe2flax.errors import ConversionError, Problem, closest
from caffe2flax.frontend.message import Field, Message, Scalar
from caffe2flax.frontend.scalar import converted, shown

_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}
"""The enum in the order of its numbers, and the type of each now."""


def upgrade_solver(solver: Message) -> Message:
    """`solver_type: ADAM` as `type: "Adam"`; anything else as it is.

    Raises ConversionError where the enum has no such value, where it is given twice,
    and where both are given, which Caffe refuses.
    """
    old = list(solver.all("solver_type"))
    if not old:
        return solver
    problems = [
        Problem("solver_type is given twice in the solver", again.span)
        for again in old[1:]
    ]
    if solver.has("type"):
        text = "give type or solver_type, which is its older form, not both"
        problems.append(Problem(text, old[0].span))
    upgraded = _upgraded(old[0], problems)
    if problems:
        raise ConversionError(problems)
    fields = (upgraded if f is old[0] else f for f in solver.fields)
    return replace(solver, fields=tuple(fields))


def _upgraded(field: Field, problems: list[Problem]) -> Field:
    value = field.value
    if isinstance(value, Scalar) and value.kind != "string":
        number = converted(value, int)
        in_order = list(_TYPES.values())
        known = _TYPES.get(value.text)
        if number is not None and 0 <= number < len(in_order):
            known = in_order[number]
        if known is not None:
            return Field("type", Scalar("string", known, value.span), field.span)
    hint = closest(value.text, _TYPES) if isinstance(value, Scalar) else ""
    if isinstance(value, Scalar) and value.kind == "string" and value.text in _TYPES:
        hint = "; leave out the quotes"
    text = f"solver_type is one of {', '.join(_TYPES)}, not {shown(value)}{hint}"
    problems.append(Problem(text, field.span))
    return field
