"""Weight files -> the variables of the generated module."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.codegen.module import Module
from caffe2flax.errors import ConversionError, broken_by_default, unsupported
from caffe2flax.files.mapped import loaded
from caffe2flax.frontend.caffemodel import WeightFile
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.graph import Graph, Node, Weight
from caffe2flax.ir.layout import Merged, Shape
from caffe2flax.limits import current
from caffe2flax.weights.finite import note_not_finite
from caffe2flax.weights.matching import (
    Blobs,
    Matching,
    doubts,
    listed,
    match,
    unfilled,
)
from caffe2flax.weights.transpose import in_order

Array = NDArray[Any]


@broken_by_default()
def collect(graph: Graph, files: Sequence[WeightFile]) -> tuple[Blobs, tuple[str, ...]]:
    """The graph's weight blobs out of `files`, laid over one another, and notes for the
    user.

    Blobs that no file holds have their filler's values. Raises ConversionError for
    layers that do not fit or lack weights, as `match` says.
    """
    made = match(graph, files)
    blobs = made.blobs
    every = dict.fromkeys(weight for node in graph.nodes for weight in node.weights)
    held = {w: blobs[w.owner, w.index] for w in every if (w.owner, w.index) in blobs}
    missing = [weight for weight in every if weight not in held]
    check_filled(missing)
    notes = (*_notes(graph, made), *doubts(graph, made), *note_not_finite(held))
    filled = {(weight.owner, weight.index): initial(weight) for weight in missing}
    return blobs | filled, notes


def check_fillers(graph: Graph) -> None:
    """Raises ConversionError where a filler of the graph is not known in full."""
    fillers = dict.fromkeys(w.filler for node in graph.nodes for w in node.weights)
    if problems := [problem for filler in fillers for problem in filler.refused]:
        raise ConversionError(problems)


def check_filled(weights: Iterable[Weight]) -> None:
    """Raises ConversionError where weights that no file holds would take too much
    memory: a line of text can ask for any number of them."""
    limits = current()
    needed = 4 * sum(prod(weight.shape) for weight in weights)
    if needed > limits.filled_bytes:
        text = f"weights that no file holds take {needed} bytes"
        raise unsupported(limits.refusal("filled_bytes", text))


def as_float32(blob: Array) -> Array:
    if blob.dtype == np.float32:
        return blob
    with np.errstate(over="ignore"):  # `note_not_finite` reports it
        return loaded(blob).astype(np.float32)


def initial(weight: Weight) -> Array:
    """The filler's values, the same at every conversion."""
    key = f"{weight.layer}/{weight.index}".encode()
    return weight.filler.sample(weight.shape, np.random.default_rng(zlib.crc32(key)))


def _notes(graph: Graph, made: Matching) -> Iterable[str]:
    """Weights that find no layer, and layers that find no weights."""
    dropped = {d.name for d in graph.remarks.dropped}
    strange = [name for name in made.foreign if name not in dropped]
    if strange:
        text = "weights of layers that the net lacks are left out"
        yield f"{text}: {listed(strange, 8)}"
    missing = list(unfilled(graph, made))
    if missing:
        text = "layers without weights start from their fillers"
        yield f"{text}: {listed(missing, 8)}"


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
    return (f"{text} own initialiser stands there: {listed(list(names), 8)}",)


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
