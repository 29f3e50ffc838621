"""Constants of a network that its users change, as arguments of the class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from caffe2flax.codegen.body import Body
from caffe2flax.codegen.calls import Assignment
from caffe2flax.codegen.classes import CLASSES, Classes
from caffe2flax.codegen.names import argument_names
from caffe2flax.ir.call import Call, Code, literal

DROPOUT = "nnx.Dropout"


class Option(NamedTuple):
    """`name: type_ = default` of a constructor; `head`: the layers whose width it is,
    with blanks between them; `enlarging`: those of them that enlarge each channel by
    itself."""

    name: str
    type_: str
    default: str
    head: str = ""
    enlarging: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.type_} = {self.default}"


Use = tuple[int, Option, int]
"""The number of a call, the option, and which argument of the call it is."""


def find_options(body: Body) -> tuple[Option, ...]:
    """The numbers of classes and the dropout ratios; `body.built` reads them then.

    Before: self.drop7 = nnx.Dropout(0.5); self.fc8 = nnx.Linear(4096, 1000, ...)
    After:  self.drop7 = nnx.Dropout(dropout)
            self.fc8 = nnx.Linear(4096, num_classes, ...)
    """
    classes = [_classes(body, each) for each in body.classes]
    names = [option.name for option in classes]
    return (*classes, *take_options(body, dropouts(body.built, *names)))


def _classes(body: Body, classes: Classes) -> Option:
    calls = dict(body.built)
    heads = dict.fromkeys(body.attributes[number] for number in classes.heads)
    planes = {
        body.attributes[node.number]
        for node in body.graph.nodes
        if node.number in classes.heads and len(node.weights[0].shape) == 4
    }
    found = (n for n in heads if n in planes and "input_dilation" in calls[n].keywords)
    enlarging = " ".join(found)
    count = str(classes.count)
    return Option(classes.name, "int", count, " ".join(heads), enlarging)


def take_options(body: Body, found: Sequence[Use]) -> tuple[Option, ...]:
    """The options of `found`; `body.built` reads them then."""
    for at, option, slot in found:
        attribute, call = body.built[at]
        body.built[at] = Assignment(attribute, _reading(call, option, slot))
    return tuple(dict.fromkeys(option for _, option, _ in found))


def _reading(call: Call, option: Option, slot: int) -> Call:
    """The call with an option as its argument number `slot`."""
    args = list(call.args)
    args[slot] = Code(option.name)
    return replace(call, args=tuple(args))


def dropouts(built: Sequence[Assignment], *others: str) -> list[Use]:
    """One ratio for all where they agree, one for each layer elsewhere; `others` are
    further arguments."""
    found = [
        (i, attribute, literal(call.args[0]))
        for i, (attribute, call) in enumerate(built)
        if call.function == DROPOUT
    ]
    names = argument_names((call for _, call in built), CLASSES, *others)
    ratios = {ratio for _, _, ratio in found}
    one = names.take("dropout") if len(ratios) == 1 else ""
    return [
        (i, Option(one or names.take(attribute), "float", ratio), 0)
        for i, attribute, ratio in found
    ]
