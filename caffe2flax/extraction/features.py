"""The part of a net that computes some of its blobs, as a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from caffe2flax import conversion
from caffe2flax.conversion import Conversion, Weights
from caffe2flax.errors import ConversionError, Problem
from caffe2flax.frontend.source import PathOrText, at_hand
from caffe2flax.ir.graph import Graph, Value
from caffe2flax.ir.layout import Layout, Shape
from caffe2flax.options import NetOptions, check_options, one_or_more
from caffe2flax.runner import PRECISION, instantiate, variables
from caffe2flax.weights.matching import Blobs

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike

Run = Any
"""A module and the function that calls it."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Features:
    """`features(images)` -> the blobs, by Caffe's names.

    inputs: the blobs that the call takes, in this order, those of four and more axes
    with channels last. blobs: those that it returns. axes: by blob, which of Caffe's
    axes stands at each place of the array: (0, 2, 3, 1) is N, H, W, C. notes: what the
    user should know.

    Images of another size than the prototxt's are computed as Caffe does when its net
    is reshaped to that size; each size is compiled once. ValueError where the arrays
    do not fit; ConversionError where a layer does not take that size.
    """

    inputs: tuple[str, ...]
    blobs: tuple[str, ...]
    axes: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...]
    _conversion: Conversion = field(repr=False)
    _source: PathOrText = field(repr=False)
    _options: NetOptions = field(repr=False)
    _runs: dict[tuple[Shape, ...], Run] = field(repr=False, default_factory=dict)

    def __call__(self, *inputs: ArrayLike) -> dict[str, Array]:
        """The blobs for images (N, H, W, C), taken as float32; under jax.jit and
        jax.grad, too."""
        import jax
        import jax.numpy as jnp

        if len(inputs) != len(self.inputs):
            wanted = ", ".join(self.inputs)
            text = f"{len(inputs)} arrays are given, not {len(self.inputs)}: {wanted}"
            raise TypeError(text)
        arrays = [jnp.asarray(x, jnp.float32) for x in inputs]
        sizes = tuple(map(self._size, self._conversion.graph.arguments, arrays))
        if sizes not in self._runs:
            with jax.ensure_compile_time_eval():  # its variables are no tracers
                self._runs[sizes] = self._run(sizes)
        model, call = self._runs[sizes]
        with jax.default_matmul_precision(PRECISION):
            found: dict[str, Array] = call(model, *arrays)
        return found

    def _size(self, value: Value, array: Array) -> Shape:
        """The shape in Caffe's axis order, with the net's batch where that is free. An
        array that the net refuses at any size gets the net's own, which refuses it."""
        operand = self._conversion.graph.operand(value)
        if array.ndim != len(operand.shape):
            return operand.shape
        axes = np.argsort(_given(array.ndim).axes)
        shape = tuple(array.shape[place] for place in axes)
        if operand.is_batch(0):
            shape = (operand.shape[0], *shape[1:])
        return shape if shape[1:2] == operand.shape[1:2] else operand.shape

    def _run(self, sizes: tuple[Shape, ...]) -> Run:
        import jax

        done = self._resized(sizes)
        graph = done.graph
        alike = (m for other, (m, _) in self._runs.items() if self._alike(sizes, other))
        held = next(map(variables, alike), None)
        taken = [graph.layouts[value] for value in graph.arguments]
        axes = {value.blob: graph.layouts[value].axes for value in graph.outputs}

        def call(model: Any, *arrays: Array) -> dict[str, Array]:
            moved = (
                x.transpose(_given(x.ndim).permutation(layout))
                if x.ndim == layout.rank
                else x
                for x, layout in zip(arrays, taken, strict=True)
            )
            found = model(*moved)
            found = {self.blobs[0]: found} if len(self.blobs) == 1 else found
            return {
                blob: x.transpose([axes[blob].index(axis) for axis in self.axes[blob]])
                for blob, x in found.items()
            }

        model = instantiate(done, weights=held)
        return model, call if graph.dynamic else jax.jit(call)

    def _resized(self, sizes: tuple[Shape, ...]) -> Conversion:
        """The net for inputs of these shapes, with the same weights."""
        first = self._conversion
        if sizes == tuple(first.graph.shapes[value] for value in first.graph.arguments):
            return first
        own = _input_shapes(self._options) | dict(zip(self.inputs, sizes, strict=True))
        options: NetOptions = {**self._options, "input_shapes": own}
        return _convert(self._source, None, self.blobs, options, first.blobs)

    def _alike(self, sizes: Sequence[Shape], others: Sequence[Shape]) -> bool:
        """Whether inputs of these shapes differ only along free axes."""
        graph = self._conversion.graph
        return all(
            axis in graph.sizes.free_axes.get(value, ()) or size == other
            for value, shape, known in zip(graph.arguments, sizes, others, strict=True)
            for axis, (size, other) in enumerate(zip(shape, known, strict=True))
        )


def _given(rank: int) -> Layout:
    """How arrays of inputs are given."""
    return Layout.channels_last(rank) if rank >= 4 else Layout.caffe(rank)


def _input_shapes(options: NetOptions) -> dict[str, Sequence[int]]:
    return dict(options.get("input_shapes") or {})


def _convert(
    source: PathOrText,
    weights: Weights | None,
    blobs: Sequence[str],
    options: NetOptions,
    held: Blobs | None = None,
) -> Conversion:
    """The part of the net that computes `blobs`, with the weights of files, or those
    that are `held`."""

    def checked(graph: Graph) -> Blobs:
        assert held is not None
        _check_weights(graph, held)
        return held

    chosen: NetOptions = {**options, "flat": True, "until": blobs}
    return conversion.convert(
        source,
        weights,
        filled=True,
        default_blobs=checked if held is not None else None,
        **chosen,
    )


def _check_weights(graph: Graph, blobs: Blobs) -> None:
    """Raises ConversionError for layers whose weights depend on the size of images."""
    problems = []
    for node in graph.nodes:
        for weight in node.weights:
            held = blobs[weight.owner, weight.index].shape
            if prod(held) != prod(weight.shape):
                text = f"layer {node.name!r} would need weights of {weight.shape}, not "
                text += f"{held}, for inputs of this size"
                problems.append(Problem(text, node.span))
    if problems:
        raise ConversionError(problems)


def features(
    prototxt: PathOrText,
    weights: Weights | None,
    blobs: Sequence[str] | str,
    **options: Unpack[NetOptions],
) -> Features:
    """See `caffe2flax.features`."""
    check_options(options, NetOptions)
    prototxt = at_hand(prototxt)
    wanted = tuple(dict.fromkeys(one_or_more(blobs)))
    if not wanted:
        raise ConversionError("no blob is asked for")
    done = _convert(prototxt, weights, wanted, options)
    graph = done.graph
    if graph.random:
        text = f"in {graph.phase} these layers are random: "
        raise ConversionError(text + ", ".join(graph.random[:5]))
    names = tuple(value.blob for value in graph.outputs)
    return Features(
        tuple(value.blob for value in graph.arguments),
        names,
        {value.blob: graph.layouts[value].axes for value in graph.outputs},
        done.notes,
        done,
        prototxt,
        options,
    )
