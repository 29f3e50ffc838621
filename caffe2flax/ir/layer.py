"""`Layer`, the base class of layer types: one class a type, with all that the converter
needs to know about it.

    @layer("ReLU", "relu_param")
    @dataclass(frozen=True, slots=True)
    class ReLU(Elementwise):
        \"\"\"max(x, 0) + negative_slope * min(x, 0).\"\"\"

        negative_slope: float = 0.0
        ...

Registration is public: users write and register layers of their own in the same way.
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
    """A weight blob of a layer: its shape in Caffe's axis order, and its filler."""

    shape: Shape
    filler: Filler


class Layouts(NamedTuple):
    """The layouts that a layer needs its inputs in, and those of its outputs."""

    inputs: tuple[Layout, ...]
    outputs: tuple[Layout, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """Where generated code calls a layer.

    `module` is the attribute with its nnx module; `args` the expressions of its inputs.
    """

    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    module: str = ""
    args: tuple[str, ...] = ()
    initialise: bool = False
    """Whether the source has the prototxt's fillers as initializers: only where there
    are no weights."""
    zeros: bool = False
    """Whether a kernel without a filler starts from zeros, as in Caffe, and not from
    what Flax has there: so in training."""
    state: str = ""
    """The states of the previous call, as arguments, for a `Stateful` layer."""

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

    All shapes are in Caffe's axis order. The methods here suit a layer without weights
    that works on arrays in Caffe's order; other layers override them. What only a few
    types have is in `ir/abilities.py`.
    """

    __slots__ = ()

    type: ClassVar[str] = ""
    """Caffe's name of the type, set by `layer`."""
    bottoms: ClassVar[Arity] = 1
    tops: ClassVar[Arity] = 1
    metric: ClassVar[bool] = False
    """A loss or a score: left out in TEST where its labels come from a data layer."""
    in_place: ClassVar[bool] = True
    """Whether a top may be its bottom, as in `bottom: "x" top: "x"`."""
    default_loss: ClassVar[float] = 0.0
    """Caffe's loss_weight for the first top where none is given."""

    @classmethod
    def parse(cls, params: Params) -> Layer:
        """The layer with the fields of its parameter message: an instance of this
        class, or of another where the type has several meanings. Raises
        ConversionError."""
        return cls()

    @abstractmethod
    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Shapes of the tops. Raises ConversionError where Caffe aborts."""

    def blobs(self, *inputs: Shape) -> tuple[Blob, ...]:
        """The weight blobs that the layer has in Caffe for these bottoms."""
        return ()

    def names(self) -> tuple[str, ...]:
        """The variable of the nnx module for each weight blob, "" where no variable is
        exactly that blob; needed only to share a blob between layers."""
        return ()

    def layouts(self, *inputs: Operand) -> Layouts:
        """The layouts of bottoms and tops; Caffe's axis order by default."""
        outputs = self.infer(*(operand.shape for operand in inputs))
        return Layouts(
            tuple(Layout.caffe(len(operand.shape)) for operand in inputs),
            tuple(Layout.caffe(len(shape)) for shape in outputs),
        )

    def build(self, at: Site) -> Call | None:
        """The call that builds the nnx module; None where there is none."""
        return None

    @abstractmethod
    def call(self, at: Site) -> str:
        """The expression of its top, or of the tuple of its tops."""

    def weights(self, blobs: Sequence[Array], at: Site) -> Mapping[str, Array | Merged]:
        """Caffe's blobs as the variables of the nnx module: views where possible, as
        the blobs may be larger than memory."""
        return {}

    @abstractmethod
    def reference(
        self, blobs: Sequence[Array], *inputs: Array
    ) -> Array | tuple[Array, ...]:
        """What Caffe computes, in float64 and Caffe's axis order."""

    def trim(self, top: Array) -> Array:
        """A top without the rows that only pad it to its fixed shape, for layers whose
        number of rows depends on the data."""
        return top

    def multiply_adds(self, *inputs: Shape) -> int:
        """The number of multiply-adds of one call, as `inspect` shows it."""
        return 0

    def example(
        self, bottom: int, noise: np.random.Generator, *inputs: Shape
    ) -> Array | None:
        """Random values for a bottom that takes only some numbers, such as labels; None
        where it takes any."""
        return None

    def caption(self, *inputs: Shape) -> str:
        """Its main parameters, for pictures: "96, 11x11, stride 4"."""
        return ""


class Elementwise(Layer, Pointwise):
    """A function of each element of one blob, in any layout."""

    __slots__ = ()

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        return inputs[:1]

    def layouts(self, *inputs: Operand) -> Layouts:
        return Layouts((inputs[0].layout,), (inputs[0].layout,))


def canonical_axis(axis: int, rank: int, name: str = "axis") -> int:
    """`axis`, which may be negative, as an axis from 0 of a blob with `rank` axes.
    Raises ConversionError where Caffe aborts."""
    if not -rank <= axis < rank:
        raise ConversionError(
            f"{name} {axis} is out of range for a blob of {rank} axes"
        )
    return axis % rank
