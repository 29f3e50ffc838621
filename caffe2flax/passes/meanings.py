"""Layer types that mean several things, settled by the shapes of the net."""

from __future__ import annotations

from dataclasses import replace

from caffe2flax.errors import ConversionError, Problem
from caffe2flax.ir.abilities import SeveralMeanings
from caffe2flax.ir.dialects import choice_note, undecided
from caffe2flax.ir.graph import Graph, Node
from caffe2flax.passes.shapes import infer_shapes


def settle_meanings(graph: Graph) -> Graph:
    """Gives the layers of a type with several meanings the one in which all shapes
    agree.

    Before: priors (1, 2, 48) = PriorBox(map, data), for 336 numbers of locations
    After:  priors (1, 2, 336) = PriorBox(map, data), as FaceBoxes has it

    All layers of a type have one meaning. Raises ConversionError where the fields of
    one suggest a meaning that fits as well as the usual one.
    """
    types = dict.fromkeys(node.type for node in graph.nodes if _settled(node) is None)
    for type_ in types:
        graph = _settle(graph, type_)
    return graph


def _settled(node: Node) -> bool | None:
    layer = node.layer
    several = isinstance(layer, SeveralMeanings) and layer.meanings()
    return None if several else True


def _settle(graph: Graph, type_: str) -> Graph:
    layers = {
        node: node.layer
        for node in graph.nodes
        if node.type == type_ and isinstance(node.layer, SeveralMeanings)
    }
    suggested = {m: node for node, each in layers.items() for m in each.looks_like()}
    usual = _agrees(graph)
    if usual and not suggested:
        return graph
    known = {m for each in layers.values() for m in each.meanings()}
    fitting = [
        meaning
        for meaning in sorted(suggested if usual else known)
        if _agrees(_with(graph, type_, meaning))
    ]
    if not fitting:
        return graph
    if usual or len(fitting) > 1:
        node = suggested.get(fitting[0], next(iter(layers)))
        raise ConversionError([Problem(undecided(type_), node.span, "ambiguous")])
    note = choice_note(type_, fitting[0], "so the shapes of the net agree")
    return _with(graph, type_, fitting[0]).with_notes(note)


def _agrees(graph: Graph) -> bool:
    try:
        infer_shapes(graph)
    except ConversionError:
        return False
    return True


def _with(graph: Graph, type_: str, meaning: str) -> Graph:
    nodes = []
    for node in graph.nodes:
        layer = node.layer
        if node.type == type_ and isinstance(layer, SeveralMeanings):
            node = replace(node, layer=layer.meanings().get(meaning, layer))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))
