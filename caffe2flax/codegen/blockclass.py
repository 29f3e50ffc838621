"""Blocks of one kind -> the source of one class, and what each use of it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import NamedTuple

from caffe2flax.codegen.body import Body
from caffe2flax.codegen.calls import (
    PASSED_ON,
    Assignment,
    assignments,
    in_order,
    snake_case,
)
from caffe2flax.codegen.format import WIDTH
from caffe2flax.codegen.names import Namespace, argument_names, identifier
from caffe2flax.ir.call import DEFAULTS, RNGS, Call, Code, is_literal, literal
from caffe2flax.passes.blocks import Block

WIDE = ("nnx.Conv", "nnx.Linear", "nnx.ConvTranspose")
"""Modules whose first two arguments are the features that come in and go out."""

FEATURES = "features_in"

Texts = tuple[str, ...]
"""The source of an argument in each instance of a block."""


class Instance(NamedTuple):
    """A block, and the modules and calls of its class."""

    block: Block
    body: Body

    @property
    def calls(self) -> tuple[Call, ...]:
        """Those that make its modules."""
        return tuple(call for _, call in self.body.built)


class Parameter(NamedTuple):
    """An argument of a block class: its value in each instance, and the default, None
    for none."""

    name: str
    values: tuple[object, ...]
    default: object = None

    def declaration(self) -> str:
        types = sorted({type(value).__name__ for value in self.values})
        default = "" if self.default is None else f" = {literal(self.default)}"
        return f"{self.name}: {' | '.join(types)}{default}"


def common_shape(instance: Instance) -> object:
    """What instances must have in common to be one class: all but literal arguments of
    their modules."""
    return (
        tuple(map(_call_shape, instance.body.built)),
        tuple(instance.body.call_lines(comments=False)),
        len(instance.block.inputs),
    )


def _call_shape(assignment: Assignment) -> object:
    attribute, call = assignment
    defaults = DEFAULTS.get(call.function, {})
    fixed = {k: _fixed(v) for k, v in call.keywords.items()}
    named = sorted((k, v) for k, v in fixed.items() if v or k not in defaults)
    return attribute, call.function, tuple(map(_fixed, call.args)), tuple(named)


def _fixed(value: object) -> str:
    """What an argument must be in all instances, "" for any value."""
    return "" if is_literal(value) else literal(value)


@dataclass(frozen=True, slots=True)
class BlockClass:
    """A class for the instances of a block.

    parameters: by the texts of their values, one value an instance; arguments that
    agree in every instance are one parameter.
    """

    name: str
    instances: Sequence[Instance]
    parameters: Mapping[Texts, Parameter]

    @classmethod
    def of(cls, name: str, instances: Sequence[Instance]) -> BlockClass:
        slots: dict[Texts, list[_Slot]] = {}
        for i, (attribute, call) in enumerate(instances[0].body.built):
            for slot in (*range(len(call.args)), *_keywords(instances, i)):
                values = _values(instances, i, slot)
                texts = tuple(map(literal, values))
                if len(set(texts)) > 1:
                    found = _Slot(attribute, call.function, slot, values)
                    slots.setdefault(texts, []).append(found)
        calls = instances[0].calls
        names = argument_names(calls, *(snake_case(c.function) for c in calls))
        made = {texts: _parameter(same, names) for texts, same in slots.items()}
        widths = [attribute for attribute, _ in instances[0].body.built]

        def place(texts: Texts) -> tuple[bool, bool, int]:
            parameter = made[texts]
            width = parameter.name in widths
            return (
                parameter.name != FEATURES,
                parameter.default is not None,
                widths.index(parameter.name) if width else len(widths),
            )

        ordered = sorted(made, key=place)
        return cls(name, instances, {texts: made[texts] for texts in ordered})

    def source(self) -> str:
        block, body = self.instances[0]
        built = [
            Assignment(attribute, self._template(i, call))
            for i, (attribute, call) in enumerate(body.built)
        ]
        lines = assignments(built, (p.name for p in self.parameters.values()))
        inputs = [f"{body.variables[v]}: Array" for v in block.inputs]
        inputs += ["*", "rngs: nnx.Rngs | None = None"] if body.is_random else []
        return "\n".join(
            [
                f"class {self.name}(nnx.Module):",
                *self._docstring(),
                "",
                f"    def __init__({self._signature()}):",
                *(f"        {line}" if line else "" for line in lines),
                "",
                f"    def __call__(self, {', '.join(inputs)}) -> Array:",
                *body.call_lines(comments=False),
            ]
        )

    def _signature(self) -> str:
        before, behind = ["self"], ["*"]
        for parameter in self.parameters.values():
            side = before if self._is_positional(parameter) else behind
            side.append(parameter.declaration())
        passed = self.instances[0].body.passed_on
        behind += [f"{name}: {PASSED_ON[name]} = None" for name in passed]
        return ", ".join([*before, *behind, "rngs: nnx.Rngs"])

    def _docstring(self) -> list[str]:
        blocks = [each.block for each in self.instances]
        first, *others = (identifier(block.name) for block in blocks)
        stem = identifier(blocks[0].stem)
        names = [first, *(n.removeprefix(stem).lstrip("_") or n for n in others)]
        lines = wrap(f'"""{", ".join(names)}."""', WIDTH - 4)
        return [f"    {line}" for line in lines]

    def _template(self, i: int, call: Call) -> Call:
        """The call with parameters in place of what differs."""

        def shown(slot: int | str) -> object:
            values = _values(self.instances, i, slot)
            known = self.parameters.get(tuple(map(literal, values)))
            return Code(known.name) if known else values[0]

        positional = map(shown, range(len(call.args)))
        keywords = {name: shown(name) for name in _keywords(self.instances, i)}
        made = Call.of(call.function, *positional, **keywords)
        return Call(made.function, made.args, made.keywords, call.comment)

    def _is_positional(self, parameter: Parameter) -> bool:
        if parameter.name == FEATURES:
            return True
        return parameter.default is None and self._is_terse()

    def _is_terse(self) -> bool:
        """Whether keywords would break the lines of calls: then widths go by
        position."""
        calls = (self._given(i, named=True) for i in range(len(self.instances)))
        return max(len(", ".join(call.arguments())) for call in calls) > WIDTH - 12

    def _given(self, i: int, *, named: bool) -> Call:
        positional: list[object] = []
        keywords: dict[str, object] = {}
        for parameter in self.parameters.values():
            value = parameter.values[i]
            if value == parameter.default:
                continue
            if parameter.name == FEATURES or not (
                named or parameter.default is not None
            ):
                positional.append(value)
            else:
                keywords[parameter.name] = value
        return Call(self.name, tuple(positional), keywords)

    def call(self, i: int) -> Call:
        """What makes instance `i`."""
        given = self._given(i, named=not self._is_terse())
        passed = {name: Code(name) for name in self.instances[i].body.passed_on}
        keywords = {**given.keywords, **passed, RNGS.text: RNGS}
        return Call(self.name, given.args, keywords)


class _Slot(NamedTuple):
    """An argument of what makes the module `attribute`, and its values."""

    attribute: str
    function: str
    slot: int | str
    values: tuple[object, ...]


def _keywords(instances: Sequence[Instance], i: int) -> list[str]:
    return in_order(k for instance in instances for k in instance.calls[i].keywords)


def _values(
    instances: Sequence[Instance], i: int, slot: int | str
) -> tuple[object, ...]:
    """The argument in each instance; SAME is spelt out where others spell their
    pads."""
    calls = [instance.calls[i] for instance in instances]
    values = tuple(call.argument(slot) for call in calls)
    if slot != "padding" or len(set(values)) == 1:
        return values
    explicit = tuple(map(_explicit_padding, calls))
    return explicit if len(set(explicit)) == 1 else values


def _explicit_padding(call: Call) -> object:
    """The pads of SAME at stride 1, else the argument as it is."""
    padding = call.argument("padding")
    if call.function != "nnx.Conv" or padding != "SAME":
        return padding
    kernel, dilation = call.args[2], call.argument("kernel_dilation")
    if call.argument("strides") != 1 or not isinstance(dilation, int):
        return padding
    if not isinstance(kernel, tuple) or len(set(kernel)) != 1:
        return padding
    span = int(kernel[0] - 1) * dilation
    return padding if span % 2 else span // 2


def _parameter(slots: Sequence[_Slot], names: Namespace) -> Parameter:
    """Named by the layer whose width it is, or else by what it is."""
    attribute, slot, values = slots[0].attribute, slots[0].slot, slots[0].values
    for each in slots:
        if each.slot == 1 and each.function in WIDE:
            return Parameter(names.take(each.attribute), each.values)
    for each in slots:
        if each.slot == 0 and each.function in WIDE:
            return Parameter(names.take(FEATURES), each.values)
    if isinstance(slot, int):
        return Parameter(names.take(f"{attribute}_{slot}"), values)
    same = all(each.slot == slot for each in slots)
    defaults = {DEFAULTS.get(each.function, {}).get(slot) for each in slots}
    default = defaults.pop() if same and len(defaults) == 1 else None
    return Parameter(names.take(slot), values, default if default in values else None)
