"""A net's graphs in training, in tests and as deployed -> one Flax NNX module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from caffe2flax.codegen.body import Body
from caffe2flax.codegen.heads import find_training_options
from caffe2flax.codegen.methods import Scores, split_last, total_loss
from caffe2flax.codegen.module import (
    GAP,
    Module,
    assemble,
    constructor,
    returns,
    signature,
)
from caffe2flax.codegen.names import attribute_names, module_names
from caffe2flax.codegen.options import CLASSES, Option
from caffe2flax.codegen.preprocess import preprocess_functions
from caffe2flax.codegen.statements import commented, lines, shape_checks
from caffe2flax.codegen.trunk import Trunk, needed
from caffe2flax.codegen.variables import name_variables
from caffe2flax.ir.call import Code, literal
from caffe2flax.ir.graph import Graph, Value, Weight

LOSSES, METRICS, TRUNK = "losses", "metrics", "trunk"
RNGS = "rngs: nnx.Rngs | None = None"


def metrics_names(count: int) -> list[str]:
    """The methods for so many nets for tests: metrics, metrics_1, metrics_2, ..."""
    return [METRICS, *(f"{METRICS}_{i}" for i in range(1, count))][:count]


def emit_training(
    train: Graph,
    tests: Sequence[Graph],
    deploy: Graph,
    name: str,
    *,
    origin: str,
    version: str,
) -> Module:
    """The module `name`: `__call__` computes `deploy`, `losses` what counts in the loss
    of `train`, `metrics`, `metrics_1`, ... the outputs of `tests`. Layers of one number
    are one, and their weights those of `train`. Its fillers are those of the prototxt.

    `origin` is the file that the docstring names. Raises ConversionError where a layer
    differs between the nets.
    """
    names = module_names(name)
    bodies = _bodies(train, tests, deploy)
    (body, *tested), deployed = bodies[:-1], bodies[-1]
    weighted = {value.blob for node in train.nodes for value, _ in node.weighted}
    counted = [value for value in train.outputs if value.blob in weighted]
    objective = needed(train, counted)
    trunk = Trunk.of([each for each in bodies if each.graph.nodes])
    shared = _Shared.choose(trunk, objective, tests, body, deployed)
    options = find_training_options(bodies)
    cls = [f"class {name}(nnx.Module):", f'    """{signature(deploy, deployed)}"""']
    if body.built:
        cls += ["", *constructor(options, body)]
    cls += shared.plain(deployed)
    cls += shared.method(
        LOSSES,
        objective,
        body,
        "What Caffe minimises, by blob and unweighted: see `total_loss`.",
        [RNGS],
    )
    cls += ["", *total_loss(replace(objective, taps=()), always=True)]
    cls += _metrics(shared, tests, tested)
    cls += body.methods
    if body.built:
        cls += ["", *_from_pretrained(options)]
    prepare = preprocess_functions(deploy, deployed.variables, names)
    functions = GAP.join(("\n".join(cls), *prepare))
    attributes = {n: a for each in reversed(bodies) for n, a in each.attributes.items()}
    return Module(
        assemble(name, deploy, deployed, functions, origin, version),
        attributes,
        {n: s for each in reversed(bodies) for n, s in each.sites.items()},
        {n: body.tied[a] for n, a in attributes.items() if a in body.tied},
        {},
        next((a for a, call in body.built if Code(CLASSES) in call.args), ""),
    )


def _metrics(
    shared: _Shared, tests: Sequence[Graph], bodies: Sequence[Body]
) -> list[str]:
    """The methods of the nets for tests; one that is written as another is that."""
    found: list[str] = []
    known: dict[tuple[str, ...], str] = {}
    for name, graph, body in zip(metrics_names(len(tests)), tests, bodies, strict=True):
        doc = "What Caffe prints in a test, by blob."
        random = [RNGS] if body.is_random else []
        _, title, *rest = shared.method(name, graph, body, doc, random)
        text = title.partition("(")[2], *rest
        if text in known:
            found += ["", f"    {name} = {known[text]}"]
            continue
        known[text] = name
        found += ["", title, *rest]
    return found


def _from_pretrained(options: Sequence[Option]) -> list[str]:
    """The class method that loads the weights; classifiers of another width are as
    `rngs` draws them."""
    head = next((option for option in options if option.head), None)
    doc = "The network in eval mode, weights from `path` or beside this file."
    fresh = []
    if head is not None:
        heads = head.head.split()
        one = len(heads) == 1
        doc = f"With another `{head.name}`, {_listed(heads)} start{'s' * one} fresh."
        known = f"{literal(head.name)} in options"
        fresh = [f"    fresh = {literal(tuple(heads))} if {known} else ()"]
    lines = [
        "@classmethod",
        "def from_pretrained(",
        "    cls,",
        "    path: str | Path | None = None,",
        "    *,",
        "    rngs: nnx.Rngs | None = None,",
        "    **options: Any,",
        ") -> Self:",
        f'    """{doc}"""',
        "    model = cls(**options, rngs=rngs or nnx.Rngs(0))",
        *fresh,
        '    path = path or Path(__file__).with_suffix(".safetensors")',
        f"    load_trained(model, path, {'fresh' if fresh else '()'})",
        "    model.eval()",
        "    return model",
    ]
    return [f"    {line}" for line in lines]


def _listed(names: Sequence[str]) -> str:
    *most, last = (f"`{name}`" for name in names)
    return f"{', '.join(most)} and {last}" if most else last


def _bodies(train: Graph, tests: Sequence[Graph], deploy: Graph) -> list[Body]:
    """For each net, with the nnx modules of all."""
    graphs = [train, *tests, deploy]
    weights: dict[int, tuple[Weight, ...]] = {}
    for graph in graphs:
        for node in graph.nodes:
            weights.setdefault(node.number, node.weights)
    uses = Counter(weight for each in weights.values() for weight in each)
    names = attribute_names(LOSSES, TRUNK, *metrics_names(len(tests)))
    bodies: list[Body] = []
    for graph in graphs:
        variables = name_variables(graph, None).of
        first = bodies[0] if bodies else None
        bodies.append(
            Body(
                graph,
                initialise=True,
                zeros=True,
                modules=first,
                variables=variables,
                uses=uses,
                names=names,
            )
        )
    return bodies


@dataclass(frozen=True, slots=True)
class _Shared:
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
    ) -> _Shared:
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
