"""The names of the variables in a `__call__`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from caffe2flax.codegen.names import attribute_names, variable_names
from caffe2flax.ir.graph import Graph, Value


@dataclass(frozen=True, slots=True)
class Labels:
    """Names to use in place of Caffe's: of nodes by number, and of values."""

    nodes: Mapping[int, str]
    values: Mapping[Value, str]


class Variables(NamedTuple):
    """of: the variable of each value. states: key and variable of the state that a node
    carries to the next call, by the node's number."""

    of: Mapping[Value, str]
    states: Mapping[int, tuple[str, str]]


def name_variables(graph: Graph, labels: Labels | None) -> Variables:
    """One variable for all versions of a blob, another for its copy in another
    layout."""
    names = variable_names()
    variables: dict[Value, str] = {}
    blobs: dict[str, str] = {}
    for value in _values(graph):
        label = labels.values.get(value) if labels else None
        if value.version > graph.blobs[value.blob].version:
            layout = graph.layouts[value]
            usual = layout.is_caffe and layout.rank == 4
            suffix = "_nchw" if usual else "_moved"
            variables[value] = names.claim(label or value.blob, suffix=suffix)
            continue
        if value.blob not in blobs:
            blobs[value.blob] = names.claim(label or value.blob)
        variables[value] = blobs[value.blob]
    keys = attribute_names()
    states: dict[int, tuple[str, str]] = {}
    for node in graph.nodes:
        if node.carried:
            key = keys.claim(node.name)
            states[node.number] = key, names.take(f"{key}_state")
    return Variables(variables, states)


def _values(graph: Graph) -> Iterable[Value]:
    yield from graph.arguments
    for node in graph.nodes:
        yield from node.outputs
