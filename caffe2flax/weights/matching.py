"""The layers of weight files -> the weight blobs of the net, matched as Caffe does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

from caffe2flax.codegen.module import emit
from caffe2flax.errors import ConversionError, Kind, Problem, Span, closest
from caffe2flax.frontend.caffemodel import LayerBlobs, WeightFile
from caffe2flax.ir.abilities import Doubtful, WritesMethod
from caffe2flax.ir.graph import Graph, Node, Weight

Blobs = dict[tuple[int, int], NDArray[Any]]
"""Weight blobs by (owner's number, index), as the file holds them, in Caffe's shape."""

NAMES_SHOWN = 6

MANY = 3
"""Layers of other shapes that nobody changed one by one."""


class Target(NamedTuple):
    """A layer of the net that a layer of a file may be copied to."""

    name: str
    number: int
    span: Span
    weights: tuple[Weight, ...] | None
    """None where they are not known, as the graph leaves the layer out."""
    node: Node | None = None

    @property
    def own(self) -> tuple[Weight, ...]:
        """Those that no other layer owns."""
        return tuple(w for w in self.weights or () if w.owner == self.number)


@dataclass(slots=True)
class Matching:
    """What became of the layers of the files, laid over one another."""

    blobs: Blobs = field(default_factory=dict)
    foreign: dict[str, None] = field(default_factory=dict)
    """Layers of the files that the net lacks."""
    names: dict[str, int] = field(default_factory=dict)
    """How many layers with weights of each name the last file with any has."""
    misfits: dict[str, list[Problem]] = field(default_factory=dict)
    """What is wrong with layers that the net has, by name."""
    resized: set[str] = field(default_factory=set)
    """Those of them whose blobs have other shapes."""


def match(graph: Graph, files: Sequence[WeightFile]) -> Matching:
    """The blobs of `files` by the weight of the net that each becomes.

    A layer of a binary file is copied to the net's first layer of its name, one of an
    HDF5 file to the last; either holds as many blobs as that, of the same shapes, but
    for blobs that an HDF5 file leaves out because another layer owns them. Raises
    ConversionError for every layer that does not fit, and in TEST for every layer
    without weights that does not start from a weight_filler; but where a file holds
    each of several layers of one name, the others keep their fillers as in Caffe.
    """
    targets = _targets(graph)
    made = Matching()
    for file in files:
        last = file.version == "HDF5"
        by_name = {t.name: t for t in (targets if last else reversed(targets))}
        found: dict[str, int] = {}
        for layer in file.layers:
            if layer.blobs:
                found[layer.name] = found.get(layer.name, 0) + 1
            target = by_name.get(layer.name)
            if target is None or target.weights is None:
                if layer.blobs:
                    made.foreign[layer.name] = None
                continue
            problems = list(_lay(made.blobs, target, layer, file))
            if problems:
                made.misfits[layer.name] = problems
                if len(layer.blobs) == len(target.weights):
                    made.resized.add(layer.name)
        made.names |= found
    if files:
        _check(graph, files, targets, made)
    return made


def _targets(graph: Graph) -> list[Target]:
    """The layers of the net as the prototxt has them, in its order."""
    nodes = (*graph.inputs, *(x for node in graph.nodes for x in node.layers))
    found = [
        Target(
            node.name,
            node.number,
            node.span,
            None if isinstance(node.layer, WritesMethod) else node.weights,
            node,
        )
        for node in nodes
        if node.number >= 0
    ]
    gone = (Target(d.name, d.node.number, d.span, None) for d in graph.remarks.dropped)
    return sorted((*found, *gone), key=lambda target: target.number)


def _lay(
    blobs: Blobs, target: Target, layer: LayerBlobs, file: WeightFile
) -> Iterator[Problem]:
    """Copies a layer of the file; yields what does not fit."""
    slots = target.weights or ()
    where = f"layer {layer.name!r} at byte {layer.offset}"
    span = Span(file.path)
    given = layer.numbered
    missing = [slot for i, slot in enumerate(slots) if i not in given]
    left_out = file.version == "HDF5" and not any(w in target.own for w in missing)
    if any(i >= len(slots) for i in given) or (missing and not left_out):
        text = f"{where} has {len(layer.blobs)} blobs, the net's has {len(slots)}"
        yield Problem(f"{text} ({target.span})", span)
        return
    for i, blob in given.items():
        slot = slots[i]
        if _fits(blob.shape, slot.shape):
            blobs[slot.owner, slot.index] = blob.reshape(slot.shape)
            continue
        text = f"{where}: blob {i} has shape {blob.shape}, the net's {slot.shape}"
        yield Problem(f"{text} ({target.span})", span)


def _fits(have: tuple[int, ...], want: tuple[int, ...]) -> bool:
    """Older files write every blob with four axes, ones in front."""
    if have == want:
        return True
    padded = (1,) * (4 - len(want)) + want
    return len(have) == 4 and have == padded


def _check(
    graph: Graph, files: Sequence[WeightFile], targets: Sequence[Target], made: Matching
) -> None:
    """Raises ConversionError for what does not fit and for layers without weights."""
    weighted = dict.fromkeys(target.name for target in targets if target.own)
    _check_same_net(graph, files, weighted, made)
    problems = [p for found in made.misfits.values() for p in found]
    if problems:
        advice = [_remedy(graph, targets, made)] if made.resized else []
        raise ConversionError(problems, advice)
    if graph.phase != "TEST":
        return
    held = f"the file holds {listed(list(made.names)) or 'no weights at all'}"
    for target in targets:
        if not target.own or any((w.owner, w.index) in made.blobs for w in target.own):
            continue
        again = made.names.get(target.name)
        if again and again == _count_weighted(targets, target.name):
            continue  # a file of this net itself: the others keep their fillers
        if again:
            text = _overlooked(target, targets, again)
            problems.append(Problem(text, target.span, "ambiguous"))
        elif not any(weight.filler.given for weight in target.own):
            hint = closest(target.name, made.foreign, problems)
            text = f"layer {target.name!r} has no weights in the file{hint}; {held}; a "
            text += "weight_filler lets the layer start from that, as in Caffe"
            problems.append(Problem(text, target.span, "ambiguous"))
    if problems:
        raise ConversionError(problems)


def _count_weighted(targets: Sequence[Target], name: str) -> int:
    """How many layers of this name own weights."""
    return sum(target.name == name and bool(target.own) for target in targets)


def _overlooked(target: Target, targets: Sequence[Target], count: int) -> str:
    """What to say of a layer whose name Caffe finds at another layer."""
    others = [t.span for t in targets if t.name == target.name and t is not target]
    layers = "1 layer" if count == 1 else f"{count} layers"
    return (
        f"layer {target.name!r} has no weights: another layer has its name "
        f"({', '.join(map(str, others[:NAMES_SHOWN]))}), and Caffe copies all that a "
        f"file holds of one name, {layers} here, to one layer; give each layer a name "
        "of its own, in the net and in the file"
    )


def _check_same_net(
    graph: Graph,
    files: Sequence[WeightFile],
    weighted: Mapping[str, None],
    made: Matching,
) -> None:
    """Raises ConversionError where the files are clearly those of another net: fewer
    than half of the layers fit, and more do not or are none of the net's."""
    agreeing = weighted.keys() & made.names.keys()
    misfits = agreeing & made.misfits.keys()
    fitting = len(agreeing) - len(misfits)
    strange = len(misfits) + len(made.foreign)
    if len(weighted) < 2 or 2 * fitting >= len(weighted) or strange <= fitting:
        return
    if not made.foreign and len(misfits) < MANY:
        return
    started = graph.phase != "TEST" or _filled(graph, agreeing)
    if not misfits and agreeing and started:
        return
    names = ", ".join(repr(file.net_name) for file in files if file.net_name)
    text = f"this file holds another net{f', {names}' if names else ''}: "
    text += f"{len(made.names)} layers with weights ({listed(list(made.names))}); "
    text += f"of the {len(weighted)} layers with weights of this net "
    text += f"({listed(list(weighted))}) {len(agreeing)} are in it by name"
    if misfits:
        text += f", and {len(misfits)} of those other shapes"
    text += "; give the weights of this net, or the prototxt of those weights"
    kind: Kind = "broken" if misfits else "ambiguous"
    raise ConversionError(Problem(text, Span(files[0].path), kind))


def _filled(graph: Graph, agreeing: set[str]) -> bool:
    """Whether every other layer starts from a weight_filler."""
    weights = [w for node in graph.nodes for x in node.layers for w in x.weights]
    filled = {weight.layer for weight in weights if weight.filler.given}
    return {weight.layer for weight in weights} <= filled | agreeing


def _remedy(graph: Graph, targets: Sequence[Target], made: Matching) -> str:
    """What to do about layers of another size."""
    text = (
        f"to learn {listed(sorted(made.resized))} afresh in another size, rename what "
        "is to be learned, as Caffe demands: a layer that the file lacks starts from "
        "its weight_filler"
    )
    if len(made.misfits) > 1:
        return text
    return text + _new_classes(graph, [t for t in targets if t.name in made.resized])


def _new_classes(graph: Graph, targets: Sequence[Target]) -> str:
    """`; or ... num_classes=20`, where the layer is the classifier of the module."""
    module = emit(graph, "Net", initialise=False, origin="", version="")
    for target in targets:
        attribute = module.attributes.get(target.number)
        if attribute and attribute == module.classifier and target.own:
            width = target.own[-1].shape[0]
            return (
                "; or convert the net as the file has it, and load the module by "
                f"from_pretrained(num_classes={width}), which starts {attribute} afresh"
            )
    return ""


def unfilled(graph: Graph, made: Matching) -> Mapping[str, None]:
    """The layers that own weights which no file holds, as notes name them."""
    names = [x.name for node in graph.nodes for x in node.layers if x.weights]
    found: dict[str, None] = {}
    for node in graph.nodes:
        for layer in node.layers:
            own = [w for w in layer.weights if w.owner == layer.number]
            if any((w.owner, w.index) not in made.blobs for w in own):
                twice = names.count(layer.name) > 1
                found[f"{layer.name} ({layer.span})" if twice else layer.name] = None
    return found


def listed(names: Sequence[str], limit: int = NAMES_SHOWN) -> str:
    """`a, b, c and 5 more`."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def doubts(graph: Graph, made: Matching) -> Iterable[str]:
    """Notes on weights that Caffe takes as they are, but that make little sense."""
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        keys = [(weight.owner, weight.index) for weight in node.weights]
        if not isinstance(node.layer, Doubtful) or not made.blobs.keys() >= {*keys}:
            continue
        text = node.layer.doubt([made.blobs[key] for key in keys])
        if text:
            found.setdefault(text, []).append(node.name)
    return (f"{listed(names, 8)}: {text}" for text, names in found.items())
