"""Graph -> the source of a Flax NNX module."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from caffe2flax.codegen.blocks import factor
from caffe2flax.codegen.body import Body
from caffe2flax.codegen.calls import PASSED_ON
from caffe2flax.codegen.classes import CLASSES
from caffe2flax.codegen.format import WIDTH, paragraph
from caffe2flax.codegen.library import import_lines, library, loaded_names
from caffe2flax.codegen.loading import from_pretrained
from caffe2flax.codegen.methods import Scores, split_last, stepping, total_loss
from caffe2flax.codegen.names import identifier, module_names
from caffe2flax.codegen.options import Option, find_options
from caffe2flax.codegen.positions import BlockPosition, NodePosition, NodePositions
from caffe2flax.codegen.preprocess import preprocess_functions
from caffe2flax.codegen.scoring import find_classes
from caffe2flax.ir.call import Code, literal
from caffe2flax.ir.graph import Graph, Value
from caffe2flax.ir.layer import Site
from caffe2flax.ir.syntax import parse_module
from caffe2flax.ir.window import CEIL
from caffe2flax.passes.blocks import Block

GAP = "\n\n\n"


@dataclass(frozen=True, slots=True)
class Module:
    """A generated class before it is formatted.

    `attributes` is the path of attributes that leads to each node's nnx module, by the
    node's number.
    """

    source: str
    attributes: Mapping[int, str]
    sites: Mapping[int, Site]
    tied: Mapping[int, Collection[str]] = field(default_factory=dict)
    """Variables of a node's nnx module that belong to another module, by its number."""
    positions: NodePositions = field(default_factory=dict)
    classifier: str = ""
    """The attribute of the layer whose width is the argument `num_classes`."""


def emit(
    graph: Graph,
    name: str,
    *,
    blocks: Sequence[Block] = (),
    initialise: bool,
    origin: str,
    version: str,
) -> Module:
    """The module `name`, with a class for `blocks` of one kind; `initialise` writes the
    prototxt's fillers into it.

    `origin` is the file that the docstring names.
    """
    names = module_names(name)
    factored = factor(graph, blocks, names, initialise=initialise)
    whole, last = split_last(factored.graph)
    classes = find_classes(factored.graph, initialise=initialise)
    body = Body(whole, initialise, classes=classes)
    scores = Scores(last, body) if last else None
    definitions = GAP.join(
        (
            *factored.classes,
            _class(name, body, factored.graph, scores, total_loss(graph)),
        )
    )
    prepare = preprocess_functions(graph, body.variables, names)
    source = assemble(
        name, graph, body, GAP.join((definitions, *prepare)), origin, version
    )
    members = {
        number: f"{body.attributes[call]}.{attribute}"
        for number, (call, attribute) in factored.members.items()
    }
    attributes = {**body.attributes, **members}
    return Module(
        source,
        attributes,
        {**body.sites, **factored.sites, **(scores.sites if scores else {})},
        {n: body.tied[a] for n, a in body.attributes.items() if a in body.tied},
        _positions(name, body, factored.block_positions, attributes, scores),
        next((a for a, call in body.built if Code(CLASSES) in call.args), ""),
    )


def assemble(
    name: str, graph: Graph, body: Body, functions: str, origin: str, version: str
) -> str:
    """The source of a module with these classes and functions, and with what they
    use."""
    docstring = f"{name}, converted from {_quoted(origin)} by caffe2flax {version}."
    paragraphs = [_axis_order(graph), _dynamic(graph), *_preparation(graph, body)]
    if any(paragraphs):
        docstring += "".join(f"\n\n{text}" for text in paragraphs if text) + "\n"
    definitions = (d.source for d in library().needed(functions))
    head = f'"""{docstring}"""\n\n{_imports(functions)}'
    return GAP.join([head, functions, *definitions]) + "\n"


def _positions(
    name: str,
    body: Body,
    block_positions: Mapping[int, BlockPosition],
    attributes: Mapping[int, str],
    scores: Scores | None,
) -> NodePositions:
    calls_at = {**body.calls_at, **(scores.calls_at if scores else {})}
    positions = {
        number: NodePosition(name, "", call, attributes.get(number, ""))
        for number, call in calls_at.items()
    }
    for number, position in block_positions.items():
        block = body.attributes[position.block]
        path = f"{block}.{position.path}" if position.path else block
        own = attributes.get(number, "").removeprefix(f"{path}.")
        outer = body.calls_at[position.block].statement
        positions[number] = NodePosition(position.cls, path, position.call, own, outer)
    return positions


def _axis_order(graph: Graph) -> str:
    """How the arrays at the module's border lie, where that is not as in Caffe."""
    if all(graph.layouts[value].is_caffe for value in graph.arguments):
        return ""
    return "Blobs are channels last: N, H, W, C where Caffe has N, C, H, W."


def _dynamic(graph: Graph) -> str:
    """Why jax.jit cannot take the module, where it cannot."""
    if not graph.dynamic:
        return ""
    layers = ", ".join(map(identifier, graph.dynamic))
    text = (
        f"Not for jax.jit: how many items pass {layers}, the data decides; the shapes "
        "behind it are those with all items."
    )
    return paragraph(text, WIDTH)


def _preparation(graph: Graph, body: Body) -> Iterable[str]:
    """What the caller does to the images, as Caffe's data layers did."""
    for value in graph.arguments:
        transform = graph.transforms.get(value.blob)
        steps = transform.describe(graph.phase) if transform else ""
        if steps:
            text = (
                f"{body.variables[value]} is prepared as Caffe does: {_quoted(steps)}."
            )
            yield paragraph(text, WIDTH)


def _class(
    name: str, body: Body, graph: Graph, scores: Scores | None, objective: list[str]
) -> str:
    """`graph` is all of the net, the layer of `scores` included; `objective` the lines
    of `total_loss`."""
    options = find_options(body)
    lines = [f"class {name}(nnx.Module):", f'    """{signature(graph, body)}"""']
    if body.built:
        lines += ["", *constructor(options, body)]
    arguments = [f"{body.variables[value]}: Array" for value in graph.arguments]
    if body.states:
        lines += ["", *stepping(body, arguments, returns(graph))]
    else:
        if body.is_random:
            arguments += ["*", "rngs: nnx.Rngs | None = None"]
        taken = ", ".join(["self", *arguments]) if arguments else "self,"
        lines += ["", f"    def __call__({taken}) -> {returns(graph)}:"]
        if scores is not None:
            lines += [
                f"        return {scores.expression}",
                "",
                f"    def logits({taken}) -> {returns(graph)}:",
                f'        """What enters the last {scores.node.layer.type}."""',
            ]
        lines += body.call_lines()
    lines += body.methods
    if objective:
        lines += ["", *objective]
    if body.built:
        lines += ["", *from_pretrained(options, bool(body.passed_on))]
    return "\n".join(lines)


def constructor(options: Sequence[Option], body: Body) -> list[str]:
    """The lines of `__init__`."""
    parameters = ["*", *map(str, options)]
    parameters += (f"{name}: {PASSED_ON[name]} = None" for name in body.passed_on)
    parameters.append("rngs: nnx.Rngs")
    return [
        f"    def __init__(self, {', '.join(parameters)}):",
        *body.init_lines(option.name for option in options),
    ]


def signature(graph: Graph, body: Body) -> str:
    """Arguments as they are named, and outputs by their blobs."""

    def show(name: str, value: Value) -> str:
        return f"{name} ({graph.operand(value).describe()})"

    taken = (show(body.variables[value], value) for value in graph.arguments)
    returned = (show(identifier(value.blob), value) for value in graph.outputs)
    return f"{', '.join(taken)} -> {', '.join(returned)}.".lstrip()


def returns(graph: Graph) -> str:
    output = "Array" if len(graph.outputs) == 1 else "dict[str, Array]"
    return f"tuple[{output}, dict[str, Array]]" if graph.taps else output


def _imports(source: str) -> str:
    """What the module imports, and its constant."""
    names = set(loaded_names(parse_module(source)))
    for definition in library().needed(source):
        names |= definition.uses
    groups = import_lines(names, library().imports)
    if "CEIL" in names:
        groups.append(f"CEIL = {CEIL}  # Caffe rounds pooled sizes up")
    return "\n\n".join(groups)


def _quoted(text: str) -> str:
    """`text` for a docstring: nothing in it can end the string or steer a terminal."""
    return literal(text)[1:-1].replace('"', "'")
