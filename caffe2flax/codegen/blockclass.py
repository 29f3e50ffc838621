"""Blocks of one kind -> the source of one class, and what each use of it is given."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import NamedTuple

from caffe2flax.codegen.body import Body
from caffe2flax.codegen.calls import (
    FLAX_DEFAULTS,
    PASSED_ON,
    Call,
    assignments,
    in_order,
    snake_case,
)
from caffe2flax.codegen.format import WIDTH
from caffe2flax.codegen.names import Namespace, identifier
from caffe2flax.passes.blocks import Block

WIDE = ("nnx.Conv", "nnx.Linear", "nnx.ConvTranspose")
"""Modules whose first two arguments are the features that come in and go out."""

FEATURES = "features_in"


class Instance(NamedTuple):
    """A block, what its class would hold, and the calls that make its modules."""

    block: Block
    body: Body
    calls: tuple[Call, ...]


class Parameter(NamedTuple):
    """An argument of a block class: its value in each instance, and the default."""

    name: str
    values: tuple[str, ...]
    default: str = ""

    def declaration(self) -> str:
        types = sorted({type(ast.literal_eval(v)).__name__ for v in self.values})
        default = f" = {self.default}" if self.default else ""
        return f"{self.name}: {' | '.join(types)}{default}"


def common_shape(instance: Instance) -> object:
    """What instances must have in common to be one class: all but literal arguments of
    their modules."""
    return (
        tuple(map(_call_shape, instance.calls)),
        tuple(instance.body.call_lines(comments=False)),
        len(instance.block.inputs),
    )


def _call_shape(call: Call) -> object:
    defaults = FLAX_DEFAULTS.get(call.func, {})
    fixed = {k: "" if _is_literal(v) else v for k, v in call.keywords.items()}
    named = sorted((k, v) for k, v in fixed.items() if v or k not in defaults)
    positional = tuple("" if _is_literal(a) else a for a in call.positional)
    return call.attribute, call.func, positional, tuple(named)


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class BlockClass:
    """A class for the instances of a block.

    parameters: by their vectors of values, one value an instance; arguments that agree
    in every instance are one parameter.
    """

    name: str
    instances: Sequence[Instance]
    parameters: Mapping[tuple[str, ...], Parameter]

    @classmethod
    def of(cls, name: str, instances: Sequence[Instance]) -> BlockClass:
        slots: dict[tuple[str, ...], list[tuple[Call, int | str]]] = {}
        for i, call in enumerate(instances[0].calls):
            for slot in (*range(len(call.positional)), *_keywords(instances, i)):
                vector = _vector(instances, i, slot)
                if len(set(vector)) > 1:
                    slots.setdefault(vector, []).append((call, slot))
        calls = instances[0].calls
        names = Namespace({snake_case(call.func) for call in calls})
        made = [_parameter(v, places, names) for v, places in slots.items()]
        width = [call.attribute for call in calls]
        made.sort(key=lambda p: width.index(p.name) if p.name in width else len(width))
        made.sort(key=lambda p: (p.name != FEATURES, bool(p.default)))
        return cls(name, instances, {p.values: p for p in made})

    def source(self) -> str:
        first = self.instances[0]
        body = first.body
        built = [
            (call.attribute, self._template(i, call))
            for i, call in enumerate(first.calls)
        ]
        declared = [p.declaration() for p in self.parameters.values()]
        head = [text for text in declared if text.startswith(f"{FEATURES}:")]
        rest = [text for text in declared if text not in head]
        rest += [f"{name}: {PASSED_ON[name]} = None" for name in body.passed_on]
        star = [] if self._is_terse() else ["*"]
        signature = ", ".join(["self", *head, *star, *rest, "rngs: nnx.Rngs"])
        if self._is_terse():
            required = [t for t in rest if " = " not in t]
            options = [t for t in rest if " = " in t]
            signature = ", ".join(
                ["self", *head, *required, "*", *options, "rngs: nnx.Rngs"]
            )
        lines = assignments(built, (p.name for p in self.parameters.values()))
        inputs = [f"{body.variables[v]}: Array" for v in first.block.inputs]
        inputs += ["*", "rngs: nnx.Rngs | None = None"] if body.is_random else []
        return "\n".join(
            [
                f"class {self.name}(nnx.Module):",
                *self._docstring(),
                "",
                f"    def __init__({signature}):",
                *(f"        {line}" if line else "" for line in lines),
                "",
                f"    def __call__(self, {', '.join(inputs)}) -> Array:",
                *body.call_lines(comments=False),
            ]
        )

    def _docstring(self) -> list[str]:
        blocks = [each.block for each in self.instances]
        first, *others = (identifier(block.name) for block in blocks)
        stem = identifier(blocks[0].stem)
        names = [first, *(n.removeprefix(stem).lstrip("_") or n for n in others)]
        lines = wrap(f'"""{", ".join(names)}."""', WIDTH - 4)
        return [f"    {line}" for line in lines]

    def _template(self, i: int, call: Call) -> str:
        """The call with parameters in place of what differs."""

        def shown(slot: int | str) -> str:
            vector = _vector(self.instances, i, slot)
            known = self.parameters.get(vector)
            return known.name if known else vector[0]

        arguments = [shown(j) for j in range(len(call.positional))]
        defaults = FLAX_DEFAULTS.get(call.func, {})
        arguments += [
            f"{k}={shown(k)}"
            for k in _keywords(self.instances, i)
            if shown(k) != defaults.get(k)
        ]
        comment = f"  # {call.comment}" if call.comment else ""
        return f"{call.func}({', '.join(arguments)}){comment}"

    def _is_terse(self) -> bool:
        """Whether keywords would break the lines of calls: then widths go by
        position."""
        longest = max(
            len(self._given(i, named=True)) for i in range(len(self.instances))
        )
        return longest > WIDTH - 12

    def _given(self, i: int, *, named: bool) -> str:
        given = []
        for parameter in self.parameters.values():
            value = parameter.values[i]
            if value == parameter.default:
                continue
            bare = parameter.name == FEATURES or not (named or parameter.default)
            given.append(value if bare else f"{parameter.name}={value}")
        return ", ".join(given)

    def given(self, i: int) -> str:
        """The arguments of instance `i`."""
        return self._given(i, named=not self._is_terse())


def _keywords(instances: Sequence[Instance], i: int) -> list[str]:
    return in_order(k for instance in instances for k in instance.calls[i].keywords)


def _vector(instances: Sequence[Instance], i: int, slot: int | str) -> tuple[str, ...]:
    """The argument in each instance; SAME is spelt out where others spell their
    pads."""
    calls = [instance.calls[i] for instance in instances]
    vector = tuple(call.argument(slot) for call in calls)
    if slot != "padding" or len(set(vector)) == 1:
        return vector
    explicit = tuple(map(_explicit_padding, calls))
    return explicit if len(set(explicit)) == 1 else vector


def _explicit_padding(call: Call) -> str:
    """The pads that SAME stands for at stride 1, else the argument as it is."""
    padding, strides = call.argument("padding"), call.argument("strides")
    if padding != "'SAME'" or strides != "1" or call.func != "nnx.Conv":
        return padding
    kernel = set(ast.literal_eval(call.positional[2]))
    dilation = ast.literal_eval(call.argument("kernel_dilation"))
    if len(kernel) > 1 or not isinstance(dilation, int):
        return padding
    span = (kernel.pop() - 1) * dilation
    return padding if span % 2 else str(span // 2)


def _parameter(
    vector: tuple[str, ...],
    places: Sequence[tuple[Call, int | str]],
    names: Namespace,
) -> Parameter:
    """Named by the layer whose width it is, or else by what it is."""
    for call, slot in places:
        if slot == 1 and call.func in WIDE:
            return Parameter(names.claim(call.attribute), vector)
    for call, slot in places:
        if slot == 0 and call.func in WIDE:
            return Parameter(names.claim(FEATURES), vector)
    call, slot = places[0]
    if isinstance(slot, int):
        return Parameter(names.claim(f"{call.attribute}_{slot}"), vector)
    same = all(other == slot for _, other in places)
    defaults = {FLAX_DEFAULTS.get(c.func, {}).get(slot, "") for c, _ in places}
    default = defaults.pop() if same and len(defaults) == 1 else ""
    return Parameter(names.claim(slot), vector, default if default in vector else "")
