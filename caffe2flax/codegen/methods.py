"""Methods of a generated class besides `__call__`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from caffe2flax.codegen.body import Body
from caffe2flax.ir import Graph
from caffe2flax.registry import literal

STATE = "dict[str, list[Array]]"


def stepping(body: Body, arguments: Sequence[str], returns: str) -> list[str]:
    """`__call__` from a state of zeros, and `step`, which takes a state and returns the
    next: what Caffe keeps in the net from one forward pass to another."""
    graph = body.graph
    random = ["*", "rngs: nnx.Rngs | None = None"] if body.is_random else []
    given = ", ".join(
        [*(body.variables[value] for value in graph.arguments), "{}"]
        + (["rngs=rngs"] if random else [])
    )
    called = ", ".join(["self", *arguments, *random])
    stepped = ", ".join(["self", *arguments, f"state: {STATE}", *random])
    return [
        f"    def __call__({called}) -> {returns}:",
        '        """From a state of zeros; `step` goes on from another call\'s."""',
        f"        return self.step({given})[0]",
        "",
        f"    def step({stepped}) -> tuple[{returns}, {STATE}]:",
        '        """The output, and the state for the next call; at first it is {}."""',
        *body.call_lines(),
    ]


def compiling(graph: Graph) -> list[str]:
    """`compile`, for a net that is only run and whose shapes are known beforehand."""
    layers = [node.layer for node in graph.nodes]
    if graph.phase != "TEST" or graph.dynamic:
        return []
    if any(layer.draws(graph.phase) for layer in layers):
        return []
    apart = all(layer.by_item for layer in layers)
    sizes = (prod(graph.shapes[value][1:]) for n in graph.nodes for value in n.outputs)
    options = ["self"] + [f"largest={max(sizes, default=0)}"] * apart
    if any(
        node.layer.has_kernels_to_tile(*map(graph.shapes.__getitem__, node.inputs))
        for node in graph.nodes
    ):
        options.append("prepare=with_tiled_kernels")
    return [
        "",
        "    def compile(self) -> Callable[..., Any]:",
        '        """This network as a compiled function of its inputs, to be run."""',
        f"        return Compiled({', '.join(options)})",
    ]


def total_loss(graph: Graph) -> list[str]:
    """`total_loss`, for a net in training that does not return just that."""
    weights = {
        value: weight
        for node in graph.nodes
        for value, weight in zip(node.outputs, node.loss_weights, strict=False)
        if weight and value in graph.outputs
    }
    single = len(graph.outputs) == 1
    plain = single and list(weights.values()) == [1.0] and not _rank(graph)
    if graph.phase != "TRAIN" or not weights or plain:
        return []
    terms = []
    for value, weight in weights.items():
        term = "output" if single else f"outputs[{literal(value.blob)}]"
        term += ".sum()" if graph.shapes[value] else ""
        terms.append(term if weight == 1 else f"{literal(weight)} * {term}")
    parameter = "output: Array" if single else "outputs: dict[str, Array]"
    return [
        "    @staticmethod",
        f"    def total_loss({parameter}) -> Array:",
        '        """What Caffe minimises, from what the module returns."""',
        f"        return {' + '.join(terms)}",
    ]


def _rank(graph: Graph) -> int:
    return len(graph.shapes[graph.outputs[0]])
