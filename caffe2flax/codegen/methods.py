"""Methods of a generated class besides `__call__`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from caffe2flax.codegen.body import Body
from caffe2flax.codegen.positions import CallPosition
from caffe2flax.ir.abilities import Probabilities
from caffe2flax.ir.call import literal
from caffe2flax.ir.graph import Graph, Node
from caffe2flax.ir.layer import Site

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


def split_last(graph: Graph) -> tuple[Graph, Node | None]:
    """The net without the layer that turns scores into probabilities, and that layer,
    where a net ends in one and gives nothing else."""
    last = graph.nodes[-1] if graph.nodes else None
    carried = any(node.carried for node in graph.nodes)
    if last is None or not isinstance(last.layer, Probabilities):
        return graph, None
    if carried or graph.taps:
        return graph, None
    if last.outputs != graph.outputs or last.inputs[0] in graph.arguments:
        return graph, None
    if not all(last.propagate_down):
        return graph, None
    return replace(graph, nodes=graph.nodes[:-1], outputs=last.inputs), last


@dataclass(frozen=True, slots=True)
class Scores:
    """`__call__` of a class whose `logits` are all but the last layer, `node`."""

    node: Node
    body: Body
    given: Sequence[str] | None = None
    """The arguments of `logits`, where the body is not all of it."""

    @property
    def sites(self) -> Mapping[int, Site]:
        """As those of a Body."""
        return {self.node.number: self._site("")}

    @property
    def calls_at(self) -> Mapping[int, CallPosition]:
        """As those of a Body: the statement behind all of `logits`."""
        count = len(self.body.statements) + (not self.body.result_is_last)
        return {self.node.number: CallPosition(count, self.expression)}

    @property
    def expression(self) -> str:
        variables, arguments = self.body.variables, self.body.graph.arguments
        given = [variables[value] for value in arguments]
        given += ["rngs=rngs"] if self.body.is_random else []
        given = [*self.given] if self.given is not None else given
        call = f"self.logits({', '.join(given)})"
        return self.node.layer.call(self._site(call))

    def _site(self, x: str) -> Site:
        graph = self.body.graph
        inputs = tuple(map(graph.operand, self.node.inputs))
        return Site(inputs, tuple(map(graph.operand, self.node.outputs)), args=(x,))


def total_loss(graph: Graph, always: bool = False) -> list[str]:
    """`total_loss`, for a net in training that does not return just that; or `always`,
    from what the method `losses` returns."""
    weights = dict(pair for node in graph.nodes for pair in node.weighted)
    single = len(graph.outputs) == 1 and not always
    plain = single and list(weights.values()) == [1.0] and not _rank(graph)
    if graph.phase != "TRAIN" or not weights or plain:
        return []
    returned = {value.blob for value in graph.outputs}
    terms = []
    for value, weight in weights.items():
        assert value.blob in returned, f"{value} is no output: see return_losses"
        given = "losses" if always else "outputs"
        term = "output" if single else f"{given}[{literal(value.blob)}]"
        term += ".sum()" if graph.shapes[value] else ""
        terms.append(term if weight == 1 else f"{literal(weight)} * {term}")
    parameter = "output: Array" if single else "outputs: dict[str, Array]"
    doc = "What Caffe minimises, from what the module returns."
    if always:
        parameter = "losses: dict[str, Array]"
        doc = "What Caffe minimises, from what `losses` returns."
    return [
        "    @staticmethod",
        f"    def total_loss({parameter}) -> Array:",
        f'        """{doc}"""',
        f"        return {' + '.join(terms)}",
    ]


def _rank(graph: Graph) -> int:
    return len(graph.shapes[graph.outputs[0]])
