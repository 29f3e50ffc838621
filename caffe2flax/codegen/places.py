"""Where the generated module has the layers of the net."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Spot(NamedTuple):
    """Where a class calls a node: the number of the statement, and the expression that
    is all of it or, for what an in-place layer takes in, a part of it."""

    statement: int
    expression: str


class Home(NamedTuple):
    """Where a node of a block is: the number of the call that holds it, the path from
    there to its instance of the class `cls`, and its spot in that."""

    call: int
    path: str
    cls: str
    spot: Spot


class Place(NamedTuple):
    """Where the module has a node.

    cls: the class that calls it. path: attributes from the whole module to the instance
    of that, "" for the whole module itself. attribute: what holds its nnx module there,
    "" where it has none. outer: the statement of the whole module that calls the block.
    """

    cls: str
    path: str
    spot: Spot
    attribute: str
    outer: int | None = None


Places = Mapping[int, Place]
"""By the number of the node; those of one statement from the inside out."""
