"""Masks of poolings, and what puts values back by them."""

from __future__ import annotations

from caffe2flax.errors import ConversionError, Problem
from caffe2flax.ir.abilities import MakesMask, PassesValues, ReadsMask
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.passes.walk import problems_of_layer


def compare_masks(graph: Graph) -> Graph:
    """Adds a note for each layer that puts values back by a mask of another size.

    Raises ConversionError with the problems of all layers where values would be lost.
    """
    makers = {value: node for node in graph.nodes for value in node.outputs}
    problems: list[Problem] = []
    notes: list[str] = []
    for node in graph.nodes:
        if not isinstance(node.layer, ReadsMask):
            continue
        known = _masked(graph, makers, node.inputs[1])
        if known is None:
            continue
        try:
            note = node.layer.compare_mask(*known, graph.shapes[node.outputs[0]])
        except ConversionError as error:
            problems += problems_of_layer(node, error)
            continue
        notes += [f"{node.span}: {note}"] if note else []
    if problems:
        raise ConversionError(problems)
    return graph.with_notes(*notes)


def _masked(
    graph: Graph, makers: dict[Value, Node], mask: Value
) -> tuple[tuple[int, int], int] | None:
    """What `MakesMask.masked` says of the pooling that made `mask`; None where that is
    not known."""
    maker = makers.get(mask)
    while maker is not None and isinstance(maker.layer, PassesValues):
        (mask,) = maker.inputs
        maker = makers.get(mask)
    if maker is None or not isinstance(maker.layer, MakesMask):
        return None
    if maker.outputs[1:] != (mask,):
        return None
    return maker.layer.masked(graph.shapes[maker.inputs[0]])
