"""A net's graphs in training, in tests and as deployed -> one Flax NNX module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from caffe2flax.codegen.blocks import Factored
from caffe2flax.codegen.body import Body
from caffe2flax.codegen.classes import CLASSES
from caffe2flax.codegen.commonblocks import Blocks, factor_alike
from caffe2flax.codegen.heads import find_training_options
from caffe2flax.codegen.loading import listed
from caffe2flax.codegen.methods import total_loss
from caffe2flax.codegen.module import (
    GAP,
    Module,
    assemble,
    constructor,
    signature,
)
from caffe2flax.codegen.names import attribute_names, module_names
from caffe2flax.codegen.options import Option
from caffe2flax.codegen.preprocess import preprocess_functions
from caffe2flax.codegen.sharedmethod import RNGS, TRUNK, SharedMethod
from caffe2flax.codegen.trunk import Trunk
from caffe2flax.codegen.variables import name_variables
from caffe2flax.ir.call import Code, literal
from caffe2flax.ir.graph import Graph, Weight
from caffe2flax.passes.unused import needed

LOSSES, METRICS = "losses", "metrics"


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
    flat: bool = False,
) -> Module:
    """The module `name`: `__call__` computes `deploy`, `losses` the outputs of `train`
    and what counts in its loss, `metrics`, `metrics_1`, ... the outputs of `tests`.
    Layers of one number are one, and their weights those of `train`. Its fillers are
    those of the prototxt.

    `origin` is the file that the docstring names; `flat`: repeated blocks are written
    out. Raises ConversionError where a layer differs between the nets.
    """
    names = module_names(name)
    bodies = _bodies(train, tests, deploy)
    trunk = _trunk(bodies)
    blocks = Blocks([train, *tests, deploy], Factored(train))
    if not flat:
        blocks = factor_alike(blocks.graphs, trunk, names)
    if blocks.classes:
        train, *tests, deploy = blocks.graphs
        bodies = _bodies(train, tests, deploy)
        trunk = _trunk(bodies)
    (body, *tested), deployed = bodies[:-1], bodies[-1]
    objective = returned(train)
    shared = SharedMethod.choose(trunk, objective, tests, body, deployed)
    options = find_training_options(bodies)
    cls = [f"class {name}(nnx.Module):", f'    """{signature(deploy, deployed)}"""']
    if body.built:
        cls += ["", *constructor(options, body)]
    cls += shared.plain(deployed)
    cls += shared.method(
        LOSSES,
        objective,
        body,
        "What Caffe prints in training, by blob: losses, unweighted, and scores.",
        [RNGS],
    )
    cls += ["", *total_loss(replace(objective, taps=()), always=True)]
    cls += _metrics(shared, tests, tested)
    cls += body.methods
    if body.built:
        cls += ["", *_from_pretrained(options)]
    prepare = preprocess_functions(deploy, deployed.variables, names)
    functions = GAP.join((*blocks.classes, "\n".join(cls), *prepare))
    attributes = {n: a for each in reversed(bodies) for n, a in each.attributes.items()}
    sites = {n: s for each in reversed(bodies) for n, s in each.sites.items()}
    members = {
        number: f"{attributes[call]}.{path}"
        for number, (call, path) in blocks.factored.members.items()
    }
    return Module(
        assemble(name, deploy, deployed, functions, origin, version),
        {**attributes, **members},
        {**sites, **blocks.factored.sites},
        {n: body.tied[a] for n, a in attributes.items() if a in body.tied},
        {},
        next((a for a, call in body.built if Code(CLASSES) in call.args), ""),
    )


def returned(train: Graph) -> Graph:
    """The net up to what it returns and what counts in its loss: `losses` computes
    that. An input that nothing reads is not computed."""
    given = set(train.arguments)
    return needed(train, [v for v in train.outputs if v not in given])


def _metrics(
    shared: SharedMethod, tests: Sequence[Graph], bodies: Sequence[Body]
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
        doc = f"With another `{head.name}`, {listed(heads)} start{'s' * one} fresh."
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


def _trunk(bodies: Sequence[Body]) -> Trunk:
    """What all nets have in common, but for tests that print nothing."""
    return Trunk.of([body for body in bodies if body.graph.nodes])


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
