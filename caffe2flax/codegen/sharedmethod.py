"""The methods of a class for training, and the one that computes what they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from caffe2flax.codegen.body import Body
from caffe2flax.codegen.methods import Scores, split_last
from caffe2flax.codegen.module import returns
from caffe2flax.codegen.statements import commented, lines, shape_checks
from caffe2flax.codegen.trunk import Trunk
from caffe2flax.ir.call import literal
from caffe2flax.ir.graph import Graph, Value
from caffe2flax.passes.unused import needed

TRUNK = "trunk"
RNGS = "rngs: nnx.Rngs | None = None"


@dataclass(frozen=True, slots=True)
class SharedMethod:
    """The method that computes what all nets have in common.

    name: "" where there is none, "__call__" and "logits" where the net as deployed is
    just that, else "trunk". outputs: what it returns. checks: the lines of it that
    refuse inputs of another shape.
    """

    trunk: Trunk
    name: str
    outputs: tuple[Value, ...]
    body: Body
    checks: tuple[str, ...] = ()

    @classmethod
    def choose(
        cls,
        trunk: Trunk,
        train: Graph,
        tests: Sequence[Graph],
        body: Body,
        deployed: Body,
    ) -> SharedMethod:
        deploy = deployed.graph
        whole, last = split_last(deploy)
        reads = (v for graph in (train, *tests) for v in trunk.boundary(graph))
        values = tuple(dict.fromkeys(reads))
        graph = needed(train, values)
        if not any(body.attributes.get(node.number) for node in graph.nodes):
            return cls(Trunk(), "", (), body)
        choices = [("logits", whole)] if last else []
        for name, net in (*choices, ("__call__", deploy)):
            known = set(net.outputs).issuperset(values)
            if known and all(map(trunk.has, net.nodes)):
                checks = tuple(shape_checks(whole, deployed.variables))
                return cls(trunk, name, net.outputs, body, checks)
        outputs = tuple(dict.fromkeys((*values, *trunk.boundary(whole))))
        own = [*shape_checks(needed(train, outputs), body.variables)]
        checks = tuple(line for line in trunk.checks if line in own)
        return cls(trunk, TRUNK, outputs, body, checks)

    def plain(self, deployed: Body) -> list[str]:
        """`__call__` and `logits` of the net as deployed, and the method `trunk`."""
        graph = deployed.graph
        whole, last = split_last(graph)
        random = [RNGS] if deployed.is_random else []
        given = _signature(deployed, graph, random)
        call = f"    def __call__({given}) -> {returns(graph)}:"
        if self.name == TRUNK:
            body = self._rest(whole, deployed)
            start = [*self._checks(whole, deployed), *self._start(body)]
        else:
            # What training shares keeps gradients from where it does.
            phase = "TRAIN" if self.name else graph.phase
            body = _part(replace(whole, phase=phase), deployed)
            start = []
        rest = body.call_lines(checks=not start)
        found = self._trunk() if self.name == TRUNK else []
        if last is None:
            return ["", call, *start, *rest, *found]
        passed = arguments_of(whole, deployed) + ["rngs=rngs"] * deployed.is_random
        scores = Scores(last, body, passed)
        return [
            "",
            call,
            f"        return {scores.expression}",
            "",
            f"    def logits({given}) -> {returns(graph)}:",
            f'        """What enters the last {last.layer.type}."""',
            *start,
            *rest,
            *found,
        ]

    def method(
        self, name: str, graph: Graph, body: Body, doc: str, random: list[str]
    ) -> list[str]:
        """The method `name`, which returns the outputs of `graph`, a part of that of
        `body`, by blob."""
        rest = self._rest(graph, body)
        statements, result = rest.named_result()
        return [
            "",
            f"    def {name}({_signature(body, graph, random)}) -> dict[str, Array]:",
            f'        """{doc}"""',
            *self._checks(graph, body),
            *self._start(rest),
            *lines(statements, comments=True),
            *commented(f"return {result}", ""),
        ]

    def _checks(self, graph: Graph, body: Body) -> list[str]:
        """The lines that refuse inputs of another shape than `graph` has, but for those
        of the shared method."""
        found = shape_checks(graph, body.variables)
        return [line for line in found if line not in self.checks]

    def _read(self, graph: Graph) -> tuple[Value, ...]:
        return self.trunk.boundary(graph) if self.name else ()

    def _rest(self, graph: Graph, body: Body) -> Body:
        """What is left of `graph` behind the shared method."""
        if not self.name:
            return _part(graph, body)
        read = self._read(graph)
        left = tuple(node for node in graph.nodes if not self.trunk.has(node))
        part = replace(graph, nodes=left)
        variables = dict(body.variables)
        if self.name == "__call__" and len(self.outputs) > 1:
            outputs = _free("outputs", variables)
            variables |= {v: f"{outputs}[{literal(v.blob)}]" for v in read}
        return _part(part, body, read, variables)

    def _start(self, body: Body) -> list[str]:
        """The line that calls the shared method."""
        read = [v for n in body.graph.inputs if n.number == -1 for v in n.outputs]
        if not read:
            return []
        method = "self" if self.name == "__call__" else f"self.{self.name}"
        graph = needed(self.body.graph, self.outputs)
        given = [body.variables[value] for value in graph.arguments]
        given += ["rngs=rngs"] if _is_random(graph, self.body) else []
        call = f"{method}({', '.join(given)})"
        if len(self.outputs) == 1:
            return [f"        {body.variables[read[0]]} = {call}"]
        if self.name == "__call__":
            outputs = body.variables[read[0]].partition("[")[0]
            return [f"        {outputs} = {call}"]
        taken = [body.variables[v] if v in read else "_" for v in self.outputs]
        return [f"        {', '.join(taken)} = {call}"]

    def _trunk(self) -> list[str]:
        """The method `trunk`."""
        graph = needed(self.body.graph, self.outputs)
        body = _part(graph, self.body)
        random = [RNGS] if body.is_random else []
        kinds = ", ".join(["Array"] * len(self.outputs))
        kind = f"tuple[{kinds}]" if len(self.outputs) > 1 else kinds
        returned = ", ".join(body.variables[value] for value in self.outputs)
        return [
            "",
            f"    def {TRUNK}({_signature(body, graph, random)}) -> {kind}:",
            '        """What training, tests and the deployed net have in common."""',
            *self.checks,
            *lines(body.statements, comments=True),
            f"        return {returned}",
        ]


def _part(
    graph: Graph,
    body: Body,
    read: Sequence[Value] = (),
    variables: Mapping[Value, str] | None = None,
) -> Body:
    """A body for `graph`, a part of that of `body`, that is given the values `read`."""
    inputs = graph.inputs
    if read:
        source = body.graph.nodes[0]
        source = replace(source, inputs=(), outputs=tuple(read), number=-1)
        inputs = (*inputs, source)
    return Body(
        replace(graph, inputs=inputs, taps=()),
        initialise=True,
        modules=body,
        variables=variables or body.variables,
    )


def arguments_of(graph: Graph, body: Body) -> list[str]:
    return [body.variables[value] for value in graph.arguments]


def _signature(body: Body, graph: Graph, random: Sequence[str]) -> str:
    arguments = [f"{name}: Array" for name in arguments_of(graph, body)]
    star = ["*", *random] if random else []
    return ", ".join(["self", *arguments, *star])


def _is_random(graph: Graph, body: Body) -> bool:
    return _part(graph, body).is_random


def _free(name: str, variables: Mapping[Value, str]) -> str:
    while name in variables.values():
        name += "_"
    return name
