"""What a layer type is: one class that answers every question the converter asks.

    @layer("ReLU", "relu_param")
    @dataclass(frozen=True, slots=True)
    class ReLU(Elementwise):
        \"\"\"max(x, 0) + negative_slope * min(x, 0).\"\"\"

        negative_slope: float = 0.0
        ...

Registration is public: a layer of one's own is written and registered in the same way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import Call, is_atom
from caffe2flax.ir.coordinates import Pointwise
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layout import Layout, Merged, Operand, Shape
from caffe2flax.ir.params import Params

Array = NDArray[Any]
Arity = int | tuple[int, int | None]
"""How many blobs: exactly n, or from a to b (None: no bound)."""


class Blob(NamedTuple):
    """A weight blob that the layer wants: its shape in Caffe's axes and how Caffe fills
    it."""

    shape: Shape
    filler: Filler


class Layouts(NamedTuple):
    """The layouts a layer wants its inputs in, and those its outputs have then."""

    inputs: tuple[Layout, ...]
    outputs: tuple[Layout, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """Where generated code calls a layer.

    `module` is the attribute that holds its nnx module; `args` the expressions of its
    inputs.
    """

    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    module: str = ""
    args: tuple[str, ...] = ()
    initialise: bool = False
    """Whether the prototxt's fillers go into the source: they do where there are no
    weights."""
    state: str = ""
    """What goes on from the call before, as arguments, for a layer that carries it."""

    @property
    def x(self) -> str:
        """The first input, as an argument of a call."""
        return self.args[0]

    @property
    def operands(self) -> tuple[str, ...]:
        """The inputs, as operands of an operator."""
        return tuple(a if is_atom(a) else f"({a})" for a in self.args)

    @property
    def input(self) -> Operand:
        return self.inputs[0]

    @property
    def output(self) -> Operand:
        return self.outputs[0]

    def axis(self, axis: int) -> int:
        """Caffe's `axis` as an axis of the first input as it is emitted."""
        return self.inputs[0].axis(axis)


class Layer(ABC):
    """A Caffe layer with its parameters; subclasses are frozen dataclasses.

    All shapes are in Caffe's axis order. The defaults here are right, if not the
    fastest, for a layer that works on arrays in Caffe's order and has no weights. What
    only a few types have is in `ir/abilities.py`.
    """

    __slots__ = ()

    type: ClassVar[str] = ""
    """Caffe's name of the type, set by `layer`."""
    bottoms: ClassVar[Arity] = 1
    tops: ClassVar[Arity] = 1
    metric: ClassVar[bool] = False
    """A loss or a score: in TEST it is left out where its labels come from a data
    layer."""
    in_place: ClassVar[bool] = True
    """Whether Caffe computes the same when a top is its bottom."""
    default_loss: ClassVar[float] = 0.0
    """Caffe's loss_weight for the first top where none is given."""

    @classmethod
    def parse(cls, params: Params) -> Layer:
        """The layer with the fields of its parameter message: an instance of this
        class, or of another where a type has several meanings. Raises
        ConversionError."""
        return cls()

    @abstractmethod
    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Shapes of the tops. Raises ConversionError where Caffe aborts."""

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        """The weight blobs that Caffe makes for these bottoms."""
        return ()

    def names(self) -> tuple[str, ...]:
        """The variable of the nnx module that holds each weight blob by itself, ""
        where none does; needed only to share a blob between layers."""
        return ()

    def layouts(self, *inputs: Operand) -> Layouts:
        """Layouts to be called in; Caffe's axis order unless a layer says otherwise."""
        outputs = self.infer(*(operand.shape for operand in inputs))
        return Layouts(
            tuple(Layout.caffe(len(operand.shape)) for operand in inputs),
            tuple(Layout.caffe(len(shape)) for shape in outputs),
        )

    def build(self, at: Site) -> Call | None:
        """The call that makes the nnx module; None where it needs none."""
        return None

    @abstractmethod
    def call(self, at: Site) -> str:
        """The expression of its top; a tuple's where it has several."""

    def weights(self, blobs: Sequence[Array], at: Site) -> Mapping[str, Array | Merged]:
        """Caffe's blobs as the variables of the nnx module: views of them, where it can
        be, as they may be larger than memory."""
        return {}

    @abstractmethod
    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        """What Caffe computes, in float64 and Caffe's axis order."""

    def trim(self, top: Array) -> Array:
        """A top without the rows that only fill up its fixed shape, for layers whose
        number of rows follows from the data."""
        return top

    def multiply_adds(self, *inputs: Shape) -> int:
        """Products that are summed up: what the cost of a net is told in."""
        return 0

    def example(
        self, bottom: int, noise: np.random.Generator, *inputs: Shape
    ) -> Array | None:
        """Random values for a bottom that not any number will do for, such as labels;
        None where any will."""
        return None

    def caption(self, *inputs: Shape) -> str:
        """Its parameters in a few words, for pictures: "96, 11x11, stride 4"."""
        return ""


class Elementwise(Layer, Pointwise):
    """A function of one blob's elements: any layout will do."""

    __slots__ = ()

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return inputs[:1]

    def layouts(self, *inputs: Operand) -> Layouts:
        return Layouts((inputs[0].layout,), (inputs[0].layout,))


def canonical_axis(axis: int, rank: int, name: str = "axis") -> int:
    """A non-negative axis of a blob with `rank` axes. Raises ConversionError as Caffe
    aborts."""
    if not -rank <= axis < rank:
        raise ConversionError(
            f"{name} {axis} is out of range for a blob of {rank} axes"
        )
    return axis % rank
