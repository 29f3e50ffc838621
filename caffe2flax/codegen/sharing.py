"""Parameters that several layers share: held by one module, seen by the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from caffe2flax.codegen.arrangement import (
    Arrangement,
    arrangements,
    copied_from,
    is_whole,
    rearrangement,
)
from caffe2flax.errors import ConversionError, Problem
from caffe2flax.ir.graph import Node, Weight
from caffe2flax.ir.layer import Site


class _Owner(NamedTuple):
    attribute: str
    variable: str
    whole: Arrangement | None
    """How the variable is made of Caffe's blob; None where it is made of more than
    that, or not at all."""


@dataclass(slots=True)
class Ties:
    """The modules so far, with the shared weights that each holds."""

    uses: Mapping[Weight, int]
    owners: dict[Weight, _Owner] = field(default_factory=dict)

    def arrangement(self, node: Node, site: Site) -> object:
        """What must be equal, too, in modules that are one: how shared blobs become
        variables. A square matrix and its transpose differ in nothing else."""
        if all(self.uses[weight] == 1 for weight in node.weights):
            return None
        return tuple(arrangements(node, site).items())

    def add(self, node: Node, site: Site, attribute: str) -> dict[str, str]:
        """For the module `attribute`, expressions of its variables that others hold.

        Raises ConversionError where a variable is no rearrangement of the blob alone.
        """
        views = {}
        for i, weight in enumerate(node.weights):
            if self.uses[weight] == 1:
                continue
            names = node.layer.names()
            name = names[i] if i < len(names) else ""
            whole = _whole(node, site, i, name) if name else None
            owner = self.owners.setdefault(weight, _Owner(attribute, name, whole))
            if owner.attribute == attribute and owner.variable == name:
                continue
            if owner.whole is None or whole is None:
                raise _refused(node, weight, i)
            # Blobs of two layers: number 0 of one can be number 1 of another.
            view = rearrangement(owner.whole._replace(blob=i), whole)
            if view is None:
                raise _refused(node, weight, i)
            views[name] = f"self.{owner.attribute}.{owner.variable}[...]{view}"
        return views


def _whole(node: Node, site: Site, index: int, name: str) -> Arrangement | None:
    """How variable `name` is made of blob `index`; None where it is not all of it."""
    found = arrangements(node, site).get(name)
    if found is None:
        return None
    size = prod(node.weights[index].shape)
    if found.digest:
        return copied_from(node, site, index, name, size)
    return found if found.blob == index and is_whole(found, size) else None


def _refused(node: Node, weight: Weight, index: int) -> ConversionError:
    text = (
        f"layer {node.name!r} shares its blob {index} with layer {weight.layer!r}, but "
        f"a {node.layer.type} layer can share it only with its equal in all blobs"
    )
    return ConversionError(Problem(text, node.span, "unsupported"))
