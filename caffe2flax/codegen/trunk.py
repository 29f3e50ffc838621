"""What a net computes alike in training, in tests, and as deployed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from caffe2flax.codegen.body import Body
from caffe2flax.codegen.statements import shape_checks
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.ir.layout import Layout

Tops = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Trunk:
    """The values that are the same in several nets: each the top of equal layers that
    read equal values, or an input."""

    values: frozenset[Value] = frozenset()
    checks: tuple[str, ...] = ()
    """The lines that refuse inputs of another shape and that all nets have."""

    @classmethod
    def of(cls, bodies: Sequence[Body]) -> Trunk:
        """What these bodies of one class have in common."""
        first, *others = (_written(body) for body in bodies)
        given, *more = (_layouts(body.graph) for body in bodies)
        common = {
            value
            for value, layout in given.items()
            if all(other.get(value) == layout for other in more)
        }
        for tops, (inputs, call) in first.items():
            alike = all(other.get(tops) == (inputs, call) for other in others)
            if alike and common.issuperset(inputs):
                common.update(tops)
        checks = [[*shape_checks(body.graph, body.variables)] for body in bodies]
        shared = (line for line in checks[0] if all(line in each for each in checks))
        return cls(frozenset(common), tuple(shared))

    def has(self, node: Node) -> bool:
        return self.values.issuperset(node.outputs)

    def boundary(self, graph: Graph) -> tuple[Value, ...]:
        """What the rest of `graph` reads of it, inputs apart."""
        rest = [node for node in graph.nodes if not self.has(node)]
        read = [value for node in rest for value in node.inputs]
        given = set(graph.arguments)
        found = (v for v in (*read, *graph.returned) if v in self.values)
        return tuple(v for v in dict.fromkeys(found) if v not in given)


def _written(body: Body) -> Mapping[Tops, tuple[Tops, object]]:
    """By its tops: what each node reads, and how it is written."""
    found: dict[Tops, tuple[Tops, object]] = {}
    for node in body.graph.nodes:
        site = replace(
            body.sites[node.number],
            module=f"self.{body.attributes.get(node.number, '')}",
            args=tuple(f"x{i}" for i in range(len(node.inputs))),
        )
        layouts = tuple(o.layout for o in (*site.inputs, *site.outputs))
        call = node.layer.call(site), layouts, node.propagate_down
        found[node.outputs] = node.inputs, call
    return found


def _layouts(graph: Graph) -> Mapping[Value, Layout]:
    return {value: graph.layouts[value] for value in graph.arguments}
