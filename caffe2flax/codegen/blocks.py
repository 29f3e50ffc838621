"""The graph with one call instead of each repeated block, and the blocks' classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from caffe2flax.codegen.blockcall import BlockCall
from caffe2flax.codegen.blockclass import BlockClass, Instance, common_shape
from caffe2flax.codegen.body import Body
from caffe2flax.codegen.names import Namespace, identifier
from caffe2flax.codegen.positions import BlockPosition
from caffe2flax.codegen.variables import Labels
from caffe2flax.ir.abilities import Abbreviated
from caffe2flax.ir.graph import Graph, Node, Value
from caffe2flax.ir.layer import Site
from caffe2flax.ir.registry import LAYERS
from caffe2flax.passes.blocks import Block

KNOWN_STEMS = {"res": "Bottleneck", "resx": "Bottleneck"}
"""Blocks that have a name of their own in the literature."""

LONG_RUN = 6
"""So many equal blocks one behind the other become an nnx.Sequential."""

CLASS_HEAD = 8
"""Lines of a class besides those of its modules and statements."""

Members = dict[int, tuple[int, str]]
"""For each node of a block, by number, the number of the call of the block and the
path of attributes there."""


@dataclass(frozen=True, slots=True)
class Factored:
    """A graph whose blocks are calls; `sites` are those of the nodes inside."""

    graph: Graph
    classes: tuple[str, ...] = ()
    members: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    sites: Mapping[int, Site] = field(default_factory=dict)
    block_positions: Mapping[int, BlockPosition] = field(default_factory=dict)


def factor(
    graph: Graph,
    blocks: Sequence[Block],
    names: Namespace,
    *,
    initialise: bool,
    zeros: bool = False,
) -> Factored:
    """Turns `blocks` of `graph` into classes, named through `names`. initialise, zeros:
    as in a `Site`."""
    kinds: dict[object, list[Instance]] = {}
    for block in blocks:
        instance = _instance(block, graph, initialise, zeros)
        kinds.setdefault(common_shape(instance), []).append(instance)
    groups = [group for group in kinds.values() if _pays_off(group)]
    calls: dict[int, Node] = {}
    members: Members = {}
    block_positions: dict[int, BlockPosition] = {}
    sites: dict[int, Site] = {}
    classes = []
    for group, name in zip(groups, _class_names(groups), strict=True):
        made = BlockClass.of(names.claim(name), group)
        classes.append(made.source())
        for i, instance in enumerate(group):
            head = instance.block.nodes[0]
            calls[head] = _call(made, i, graph)
            sites.update(instance.body.sites)
            members.update((n, (head, a)) for n, a in instance.body.attributes.items())
            block_positions.update(
                (n, BlockPosition(head, "", made.name, call))
                for n, call in instance.body.calls_at.items()
            )
    inside = {n for group in groups for instance in group for n in instance.block.nodes}
    nodes = [
        calls.get(node.number, node)
        for node in graph.nodes
        if node.number in calls or node.number not in inside
    ]
    nodes = _with_runs(nodes, graph, members, block_positions)
    reduced = replace(graph, nodes=tuple(nodes))
    return Factored(reduced, tuple(classes), members, sites, block_positions)


def _pays_off(group: Sequence[Instance]) -> bool:
    """Whether a class makes the module shorter: two lines a use, and a head."""
    lines = len(group[0].calls) + len(group[0].body.statements)
    return len(group) * (lines - 2) > lines + CLASS_HEAD


def _instance(block: Block, graph: Graph, initialise: bool, zeros: bool) -> Instance:
    """The block as a net of its own."""
    numbers = set(block.nodes)
    nodes = tuple(node for node in graph.nodes if node.number in numbers)
    source = replace(nodes[0], inputs=(), outputs=block.inputs)
    part = replace(
        graph,
        inputs=(source,),
        nodes=nodes,
        outputs=(block.output,),
        taps=(),
    )
    body = Body(part, initialise, _labels(block, nodes), zeros=zeros)
    return Instance(block, body)


def _labels(block: Block, nodes: Sequence[Node]) -> Labels:
    """Names inside the block: `conv_1x1` for what is only `1x1`, x for the input."""
    prefixes: dict[Value, str] = {}

    def label(name: str, prefix: str) -> str:
        if not name:
            return "out"
        return f"{prefix}_{name}" if name[0].isdigit() else name

    attributes: dict[int, str] = {}
    values: dict[Value, str] = {}
    made: dict[str, str] = {}
    for node, name in zip(nodes, block.names, strict=True):
        prefix = prefixes.get(node.inputs[0], node.layer.type.lower())
        if isinstance(node.layer, Abbreviated):
            prefix = node.layer.abbreviation
        attributes[node.number] = label(name, prefix)
        for value in node.outputs:
            prefixes[value] = prefix
            blob = block.blobs[value]
            values[value] = made.setdefault(blob, label(blob, prefix))
    for i, value in enumerate(block.inputs):
        values[value] = f"x{i}" if len(block.inputs) > 1 else "x"
    return Labels(attributes, values)


def _class_names(groups: Sequence[Sequence[Instance]]) -> list[str]:
    """From the common part of Caffe's names: Inception, InceptionB, Fire, Bottleneck; a
    residual block with a projection has one more branch."""
    bases = [_base_name(group[0]) for group in groups]
    sizes = [len(group[0].calls) for group in groups]
    named: list[str] = []
    for base, size in zip(bases, sizes, strict=True):
        same = [s for b, s in zip(bases, sizes, strict=True) if b == base]
        residual = base in KNOWN_STEMS.values() and len(same) == len(set(same)) == 2
        if residual:
            named.append(f"Projection{base}" if size == max(same) else base)
            continue
        letters = ("", *"BCDEFGHIJKLMNOPQRSTUVWXYZ")
        free = (base + x for x in letters if base + x not in named)
        named.append(next(free, base))
    return named


def _base_name(instance: Instance) -> str:
    stem = identifier(instance.block.stem)
    if stem in KNOWN_STEMS:
        return KNOWN_STEMS[stem]
    name = "".join(word[:1].upper() + word[1:] for word in stem.split("_"))
    if name not in ("Conv", "Layer", *LAYERS):
        return name
    separable = any(
        call.args[0] != 1 and call.args[0] == call.argument("feature_group_count")
        for call in instance.calls
        if call.function == "nnx.Conv"
    )
    return "SeparableConv" if separable else f"{name}Block"


def _call(made: BlockClass, i: int, graph: Graph) -> Node:
    """The node that calls instance `i`."""
    block, body = made.instances[i]
    head = next(node for node in graph.nodes if node.number == block.nodes[0])
    return replace(
        head,
        name=block.name,
        layer=BlockCall(made.call(i), body.is_random),
        inputs=block.inputs,
        outputs=(block.output,),
        weights=(),
    )


def _with_runs(
    nodes: list[Node],
    graph: Graph,
    members: Members,
    block_positions: dict[int, BlockPosition],
) -> list[Node]:
    """Long runs of equal blocks as one call each; `members` and `block_positions` are
    changed to match."""
    counts: dict[Value, int] = {}
    for node in nodes:
        for value in node.inputs:
            counts[value] = counts.get(value, 0) + 1
    runs: list[list[Node]] = []
    for node in nodes:
        before = runs[-1][-1] if runs else None
        if before is not None and _continues(before, node, counts, graph):
            runs[-1].append(node)
        else:
            runs.append([node])
    result: list[Node] = []
    for run in runs:
        if len(run) < LONG_RUN:
            result += run
            continue
        result.append(_sequential(run))
        index = {node.number: i for i, node in enumerate(run)}
        for number, (call, path) in list(members.items()):
            if call in index:
                members[number] = run[0].number, f"layers.{index[call]}.{path}"
        for number, position in list(block_positions.items()):
            if position.block in index:
                path = f"layers.{index[position.block]}"
                block_positions[number] = position._replace(
                    block=run[0].number, path=path
                )
    return result


def _continues(
    before: Node, node: Node, counts: Mapping[Value, int], graph: Graph
) -> bool:
    (output,) = before.outputs if len(before.outputs) == 1 else (None,)
    if not isinstance(node.layer, BlockCall) or node.layer != before.layer:
        return False
    closed = (
        counts.get(output) == 1 and output not in graph.returned if output else False
    )
    return closed and node.inputs == (output,) and not node.layer.random


def _sequential(run: Sequence[Node]) -> Node:
    layer = run[0].layer
    assert isinstance(layer, BlockCall)
    name = _common_start([node.name for node in run]).rstrip("/_.-")
    return replace(
        run[0],
        name=name or run[0].name,
        layer=replace(layer, count=len(run)),
        outputs=run[-1].outputs,
    )


def _common_start(names: Sequence[str]) -> str:
    """The characters with which all names start."""
    least, most = min(names), max(names)
    same = (a == b for a, b in zip(least, most, strict=False))
    return least[: next((i for i, x in enumerate(same) if not x), len(least))]
