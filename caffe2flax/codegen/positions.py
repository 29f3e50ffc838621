"""Where the generated module makes and calls the layers of the net."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class CallPosition(NamedTuple):
    """Where a class calls a node: the number of the statement, and the node's
    expression, which is all of the statement or, for a call inside another, a part."""

    statement: int
    expression: str


class BlockPosition(NamedTuple):
    """Where a node of a block is called.

    block: the number of the node that calls the block. path: attributes from what that
    node makes to the block, "" for the block itself. cls: the class of the block. call:
    where that class calls the node.
    """

    block: int
    path: str
    cls: str
    call: CallPosition


class NodePosition(NamedTuple):
    """Where the module calls a node.

    cls: the class that calls it. path: attributes from the whole module to the instance
    of that class, "" for the whole module itself. attribute: the node's nnx module in
    that class, "" for none. outer: the statement of the whole module that calls the
    block.
    """

    cls: str
    path: str
    call: CallPosition
    attribute: str
    outer: int | None = None


NodePositions = Mapping[int, NodePosition]
"""By the number of the node; those of one statement from the inside out."""
