"""The classifiers of a net in training, whose width is the argument `num_classes`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from caffe2flax.codegen.blockcall import BlockCall
from caffe2flax.codegen.body import Body
from caffe2flax.codegen.classes import CLASSES
from caffe2flax.codegen.options import Option, Use, dropouts, take_options
from caffe2flax.codegen.scoring import LINEAR
from caffe2flax.errors import ConversionError
from caffe2flax.ir.abilities import Rearranges
from caffe2flax.ir.call import literal
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.ir.layer import Site
from caffe2flax.ir.layout import Operand, Shape

HEADS = (LINEAR, "nnx.Conv")


def find_training_options(bodies: Sequence[Body]) -> tuple[Option, ...]:
    """As `find_options`, for the bodies of a class: of the net in training, of those
    for tests, and of the one as deployed.

    All layers whose scores are compared with the labels of the classifier are as wide
    as that: GoogLeNet has three.
    """
    body = bodies[0]
    return take_options(body, [*_classes(bodies), *dropouts(body.built)])


def _classes(bodies: Sequence[Body]) -> list[Use]:
    *compared, deployed = bodies
    heads: dict[str, set[Value]] = {}
    for body in compared:
        for attribute, label in _compared(body):
            heads.setdefault(attribute, set()).add(label)
    found = [_head(deployed, value) for value in deployed.graph.outputs]
    known = [attribute for attribute in found if attribute in heads]
    if not known or len(known) < len(found):
        return []
    at = {attribute: i for i, (attribute, _) in enumerate(bodies[0].built)}
    labels = set[Value]().union(*(heads[attribute] for attribute in known))
    alike = [a for a in heads if not labels.isdisjoint(heads[a])]
    widths = {a: bodies[0].built[at[a]].call.args[1] for a in alike}
    width = widths[known[-1]]
    if {widths[attribute] for attribute in alike} != {width}:
        return []
    if not all(_takes_any_width(body, frozenset(alike)) for body in bodies):
        return []
    option = Option(CLASSES, "int", literal(width), " ".join(alike))
    return [(at[attribute], option, 1) for attribute in alike]


def _compared(body: Body) -> Iterator[tuple[str, Value]]:
    """The attributes of classifiers, and the labels that their scores are compared
    with."""
    for node in body.graph.nodes:
        if node.layer.metric and len(node.inputs) > 1:
            attribute = _head(body, node.inputs[0])
            if attribute:
                yield attribute, node.inputs[1]


def _head(body: Body, value: Value | None) -> str:
    """The attribute of the classifier that a value comes from; "" where none is."""
    makers = {top: node for node in body.graph.nodes for top in node.outputs}
    calls = dict(body.built)
    while value in makers:
        node = makers[value]
        if node.layer.metric:
            value = node.inputs[0]
            continue
        attribute = body.attributes.get(node.number, "")
        call = calls.get(attribute)
        if node.weights:
            usual = call is not None and call.function in HEADS
            grouped = call is not None and "feature_group_count" in call.keywords
            return attribute if usual and not grouped else ""
        if len(node.inputs) != 1 or isinstance(node.layer, Rearranges):
            return ""
        value = node.inputs[0]
    return ""


def _takes_any_width(body: Body, heads: frozenset[str]) -> bool:
    """Whether all layers stay as they are written if the classifiers are wider."""
    graph = body.graph
    shapes, larger = dict(graph.shapes), dict(graph.sizes.larger_batch)
    calls = dict(body.built)
    for node in graph.nodes:
        attribute = body.attributes.get(node.number, "")
        if attribute in heads:
            axis = -1 if calls[attribute].function == LINEAR else 1
            for known in (shapes, larger):
                known[node.outputs[0]] = _doubled(known[node.outputs[0]], axis)
            continue
        if all(shapes[value] == graph.shapes[value] for value in node.inputs):
            continue
        if isinstance(node.layer, BlockCall):
            return False
        try:
            for known in (shapes, larger):
                tops = node.layer.infer(*(known[value] for value in node.inputs))
                known.update(zip(node.outputs, tops, strict=True))
        except (ConversionError, ValueError):
            return False
        wanted = [weight.shape for weight in node.weights]
        blobs = node.layer.blobs(*(shapes[value] for value in node.inputs))
        if wanted != [blob.shape for blob in blobs]:
            return False
        before = _text(graph, node, graph.shapes, graph.sizes.larger_batch)
        if before != _text(graph, node, shapes, larger):
            return False
    return True


def _doubled(shape: Shape, axis: int) -> Shape:
    extents = list(shape)
    extents[axis] *= 2
    return tuple(extents)


def _text(
    graph: Graph,
    node: Node,
    shapes: Mapping[Value, Shape],
    larger: Mapping[Value, Shape],
) -> str:
    """The code of a node, and of its nnx module, where values have these shapes."""

    def operand(value: Value) -> Operand:
        layout = graph.layouts[value]
        return Operand(shapes[value], layout, larger.get(value, shapes[value]))

    site = Site(
        tuple(map(operand, node.inputs)),
        tuple(map(operand, node.outputs)),
        "module",
        tuple(f"x{i}" for i in range(len(node.inputs))),
    )
    return f"{node.layer.build(site)} {node.layer.call(site)}"
