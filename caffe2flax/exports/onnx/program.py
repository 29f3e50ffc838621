"""A program of ONNX operations, as the layers write it one after the other.

Values, tensors and operations have names of one space. A tensor that is a weight blob
of Caffe is written once, however many layers share it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from caffe2flax.errors import ConversionError
from caffe2flax.files.mapped import loaded
from caffe2flax.ir.graph import Node
from caffe2flax.ir.layout import Shape
from caffe2flax.limits import current

Array = NDArray[Any]
Attribute = int | float | str | list[int]

FEW = 64
"""Constants of at most so many elements are shared by value."""


class Operation(NamedTuple):
    """One call of an ONNX operation."""

    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str
    attributes: Mapping[str, Attribute]


@dataclass(slots=True)
class Program:
    """Operations in order, and the tensors that they read."""

    reserved: Collection[str] = ()
    """Names that are given later."""
    operations: list[Operation] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)
    weights: dict[tuple[object, ...], str] = field(default_factory=dict)
    """The tensors of weight blobs, by owner, index and shape."""
    _names: dict[str, int] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)
    _claimed: set[str] = field(default_factory=set)
    _bytes: int = 0

    def __post_init__(self) -> None:
        self._taken |= {*self.reserved, ""}

    def unique(self, name: str) -> str:
        """`name`, with a number where it is taken."""
        number, found = self._names.get(name, 1), name
        while found in self._taken:
            number += 1
            found = f"{name}:{number}"
        self._names[name] = number
        self._taken.add(found)
        return found

    def claim(self, name: str) -> str:
        """The reserved `name` for the first that asks for it; one like it for
        others."""
        if name in self._claimed or not name:
            return self.unique(name or "blob")
        self._claimed.add(name)
        self._taken.add(name)
        return name

    def rename(self, names: Mapping[str, str]) -> None:
        """Gives values other names."""
        self.operations = [
            operation._replace(
                inputs=tuple(names.get(name, name) for name in operation.inputs),
                outputs=tuple(names.get(name, name) for name in operation.outputs),
            )
            for operation in self.operations
        ]

    def tensor(self, name: str, array: Array) -> str:
        if array.size > FEW:
            self._bytes += array.nbytes
        found = self.unique(name)
        self.tensors[found] = array
        return found

    def check_room(self, count: int) -> None:
        """Raises ConversionError where `count` more float32 constants are too many: a
        line of text can ask for any number of them."""
        limits, needed = current(), self._bytes + 4 * count
        if needed > limits.filled_bytes:
            text = f"constants that no file holds take {needed} bytes"
            raise ConversionError(limits.refusal("filled_bytes", text))

    def weight(self, key: tuple[object, ...], name: str, blob: Array) -> str:
        """The tensor of a weight blob, which may still be in its file."""
        if key not in self.weights:
            found = self.unique(name)
            self.tensors[found] = blob
            self.weights[key] = found
        return self.weights[key]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer is called: the names of its bottoms, and the shapes of its blobs in
    Caffe's axis order.

    other_outs: the shapes of the tops under another batch; extents that differ depend
    on the batch. blobs: the weights. training: whether the phase is TRAIN.
    """

    program: Program
    node: Node
    inputs: tuple[str, ...]
    shapes: tuple[Shape, ...]
    outs: tuple[Shape, ...]
    other_outs: tuple[Shape, ...]
    blobs: tuple[Array, ...] = ()
    training: bool = False

    @property
    def x(self) -> str:
        """The first bottom."""
        return self.inputs[0]

    @property
    def shape(self) -> Shape:
        """That of the first bottom."""
        return self.shapes[0]

    @property
    def out(self) -> Shape:
        """That of the first top."""
        return self.outs[0]

    @property
    def rank(self) -> int:
        return len(self.shapes[0])

    def op(self, type_: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operation with one output, and returns the name of that."""
        return self.ops(type_, *inputs, outputs=1, **attributes)[0]

    def ops(
        self, type_: str, *inputs: str, outputs: int, **attributes: Any
    ) -> list[str]:
        """Adds an operation, and returns the names of its outputs."""
        name = self.program.unique(f"{self.node.name}/{type_}")
        tail = [f"{name}.{i}" for i in range(1, outputs)]
        made = [name, *map(self.program.unique, tail)]
        self.program.operations.append(
            Operation(type_, inputs, tuple(made), name, attributes)
        )
        return made

    def weight(self, index: int, name: str, shape: Shape | None = None) -> str:
        """Weight blob `index` as a tensor, in another shape where one is given."""
        weight, blob = self.node.weights[index], self.blobs[index]
        wanted = weight.shape if shape is None else shape
        key = (weight.owner, weight.index, wanted)
        return self.program.weight(key, f"{weight.layer}.{name}", blob.reshape(wanted))

    def values(self, index: int) -> Array:
        """Weight blob `index` in memory, float32."""
        return np.asarray(loaded(self.blobs[index]), np.float32)

    def constant(self, name: str, array: Any, dtype: DTypeLike = np.float32) -> str:
        """A tensor of numbers that are no weight blob."""
        made = np.asarray(array, dtype)
        return self.program.tensor(f"{self.node.name}.{name}", made)

    def check_room(self, *shape: int) -> None:
        """Raises ConversionError where a constant of this shape is too large."""
        self.program.check_room(prod(shape))

    def integers(self, name: str, *numbers: int) -> str:
        return self.constant(name, numbers, np.int64)

    def dims(self, top: int = 0) -> list[int]:
        """The shape of a top for Reshape: -1 for the extent that depends on the
        batch."""
        return self.dims_of(self.outs[top], self.other_outs[top])

    def dims_of(self, shape: Shape, other: Shape) -> list[int]:
        pairs = zip(shape, other, strict=False)
        dims = [extent if extent == changed else -1 for extent, changed in pairs]
        usable = len(shape) == len(other) and dims.count(-1) < 2
        return dims if usable else list(shape)

    def reshape(self, x: str, *dims: int) -> str:
        return self.op("Reshape", x, self.integers("shape", *dims), allowzero=0)

    def to_top(self, x: str, top: int = 0) -> str:
        """The elements of `x` in the shape of a top."""
        return self.reshape(x, *self.dims(top))

    def along(self, name: str, x: str, first: int, rank: int) -> str:
        """`x`, a blob of `rank` axes, with as many axes after them as it takes to
        broadcast against the first bottom, whose axes it has from `first` on."""
        missing = self.rank - first - rank
        if missing <= 0:
            return x
        axes = self.integers(name, *range(rank, rank + missing))
        return self.op("Unsqueeze", x, axes)

    def floats(self, x: str) -> str:
        """`x`, an array of integers or booleans, as float32."""
        return self.op("Cast", x, to=FLOAT)

    def whole(self, x: str) -> str:
        """`x` as int64, rounded towards zero."""
        return self.op("Cast", x, to=INT64)


FLOAT, INT64, BOOL = 1, 7, 9
"""ONNX's numbers of these element types."""
