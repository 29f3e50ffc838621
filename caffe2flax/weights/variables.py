"""Weight files -> the variables of the generated module."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.codegen.module import Module
from caffe2flax.errors import ConversionError, Problem, Span, closest
from caffe2flax.files.mapped import loaded
from caffe2flax.frontend.caffemodel import LayerBlobs, WeightFile
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.graph import Graph, Node, Weight
from caffe2flax.ir.layout import Merged, Shape
from caffe2flax.limits import current
from caffe2flax.weights.finite import note_not_finite
from caffe2flax.weights.transpose import in_order

Array = NDArray[Any]
Blobs = dict[tuple[int, int], Array]
"""Weight blobs by (owner's number, index), as the file holds them, in Caffe's shape."""


def collect(graph: Graph, files: Sequence[WeightFile]) -> tuple[Blobs, tuple[str, ...]]:
    """The graph's weight blobs out of `files`, laid over one another, and notes for the
    user.

    As in Caffe a layer is found by its name; blobs that no file holds keep their
    filler's values. Raises ConversionError for every layer whose blobs do not fit, and
    in TEST phase for every layer that has neither weights nor fillers of its own: of
    a file that was cut between two layers, the rest is missing.
    """
    blobs: Blobs = {}
    problems: list[Problem] = []
    foreign: dict[str, None] = {}
    layer_weights = graph.layer_weights
    for file in files:
        for layer in file.layers:
            slots = layer_weights.get(layer.name)
            if slots is None:
                if layer.blobs:
                    foreign[layer.name] = None
                continue
            problems += _lay(blobs, slots, layer, Span(file.path))
    if problems:
        raise ConversionError(problems)
    every = dict.fromkeys(weight for node in graph.nodes for weight in node.weights)
    held = {w: blobs[w.owner, w.index] for w in every if (w.owner, w.index) in blobs}
    missing = [weight for weight in every if weight not in held]
    if files:
        _check_missing(graph, {weight.layer for weight in held}, foreign)
    check_filled(missing)
    blobs |= {(weight.owner, weight.index): initial(weight) for weight in missing}
    unfilled = dict.fromkeys(weight.layer for weight in missing)
    return blobs, (*_notes(graph, foreign, unfilled), *note_not_finite(held))


def _check_missing(graph: Graph, held: Set[str], foreign: Iterable[str]) -> None:
    """Raises ConversionError for layers that nothing fills."""
    problems: list[Problem] = []
    seen: set[str] = set()
    for node in graph.nodes if graph.phase == "TEST" else ():
        layers = {weight.layer for weight in node.weights}
        given = any(weight.filler.given for weight in node.weights)
        if given or not layers or layers & (held | seen):
            continue
        seen |= layers
        text = f"layer {node.weights[0].layer!r} has no weights in the file"
        hint = closest(node.weights[0].layer, foreign, problems)
        text += f"{hint}; a weight_filler lets it start from that, as Caffe would"
        problems.append(Problem(text, node.span))
    if problems:
        raise ConversionError(problems)


def _lay(
    blobs: Blobs, slots: Sequence[Weight], layer: LayerBlobs, span: Span
) -> Iterable[Problem]:
    where = f"layer {layer.name!r} at byte {layer.offset}"
    if not layer.blobs and layer.type in ("", "Split"):
        return
    if len(layer.blobs) != len(slots):
        text = f"{where} has {len(layer.blobs)} blobs, the net's has {len(slots)}"
        yield Problem(text, span)
        return
    for i, (slot, blob) in enumerate(zip(slots, layer.blobs, strict=True)):
        if not _fits(blob.shape, slot.shape):
            text = f"{where}: blob {i} has shape {blob.shape}, the net's {slot.shape}"
            yield Problem(text, span)
            continue
        blobs[slot.owner, slot.index] = blob.reshape(slot.shape)


def _fits(have: tuple[int, ...], want: tuple[int, ...]) -> bool:
    """Older files write every blob with four axes, ones in front."""
    if have == want:
        return True
    padded = (1,) * (4 - len(want)) + want
    return len(have) == 4 and have == padded


def check_filled(weights: Iterable[Weight]) -> None:
    """Raises ConversionError where weights that no file holds would take too much
    memory: a line of text can ask for any number of them."""
    limits = current()
    needed = 4 * sum(prod(weight.shape) for weight in weights)
    if needed > limits.filled_bytes:
        text = f"weights that no file holds take {needed} bytes"
        raise ConversionError(limits.refusal("filled_bytes", text))


def as_float32(blob: Array) -> Array:
    if blob.dtype == np.float32:
        return blob
    with np.errstate(over="ignore"):  # `note_not_finite` reports it
        return loaded(blob).astype(np.float32)


def initial(weight: Weight) -> Array:
    """The filler's values, the same at every conversion."""
    key = f"{weight.layer}/{weight.index}".encode()
    return weight.filler.sample(weight.shape, np.random.default_rng(zlib.crc32(key)))


def _notes(
    graph: Graph, foreign: Iterable[str], unfilled: Iterable[str]
) -> Iterable[str]:
    """Weights that find no layer, and layers that find no weights."""
    dropped = {d.name for d in graph.remarks.dropped}
    strange = [name for name in foreign if name not in dropped]
    if strange:
        yield f"weights of layers that the net lacks are left out: {_listed(strange)}"
    missing = list(unfilled)
    if missing:
        yield f"layers without weights start from their fillers: {_listed(missing)}"


def note_flax_initialisers(graph: Graph) -> tuple[str, ...]:
    """Notes on a conversion without weights."""
    names = dict.fromkeys(
        weight.layer
        for node in graph.nodes
        for weight in node.weights[:1]
        if weight.filler == Filler() and not weight.filler.given and node.layer.names()
    )
    if not names:
        return ()
    text = "no weights, and no weight_filler where Caffe would start from zeros; Flax's"
    return (f"{text} own initialiser stands there: {_listed(list(names))}",)


def _listed(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


class Variables(Mapping[str, Array]):
    """`attribute.variable` -> float32 array, for every variable of the module.

    Made when it is asked for, out of the weights file: however large the model is,
    memory holds little of it. Raises ConversionError where the file was cut since.
    """

    def __init__(
        self,
        graph: Graph,
        module: Module,
        blobs: Blobs,
        files: Sequence[WeightFile] = (),
    ):
        self._files = files
        self._module = module
        self._blobs = blobs
        self._nodes: dict[str, tuple[Node, str]] = {}
        self.shapes: dict[str, Shape] = {}
        self._computed: set[str] = set()
        """Those that are no views of blobs, but made of their values."""
        for node in graph.nodes:
            attribute = module.attributes.get(node.number)
            if attribute is None or not node.weights:
                continue
            nothing = [np.broadcast_to(np.float32(0), w.shape) for w in node.weights]
            tied = module.tied.get(node.number, ())
            made = node.layer.weights(nothing, module.sites[node.number])
            for variable, array in made.items():
                if variable not in tied:
                    name = f"{attribute}.{variable}"
                    self._nodes[name] = node, variable
                    self.shapes[name] = array.shape
                    held = array.array if isinstance(array, Merged) else array
                    if not any(np.may_share_memory(held, n) for n in nothing):
                        self._computed.add(name)

    def stored(self, name: str) -> Array:
        """The variable, perhaps with more axes than it has: its C order counts. It may
        be a view of a weights file, to be read by `mapped.transfer`."""
        node, variable = self._nodes[name]
        blobs = [self._blobs[w.owner, w.index] for w in node.weights]
        if name in self._computed:
            blobs = [loaded(blob) for blob in blobs]
        own = [
            as_float32(blob).reshape(w.shape)
            for w, blob in zip(node.weights, blobs, strict=True)
        ]
        made = node.layer.weights(own, self._module.sites[node.number])[variable]
        return made.array if isinstance(made, Merged) else made

    def __getitem__(self, name: str) -> Array:
        return in_order(self.stored(name)).reshape(self.shapes[name])

    def check(self) -> None:
        """Raises ConversionError if a weights file changed since it was mapped."""
        for file in self._files:
            file.check()

    def __contains__(self, name: object) -> bool:
        return name in self._nodes  # which Mapping would read the weights for

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)
