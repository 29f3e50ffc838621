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
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caffe2flax.errors import ConversionError
from caffe2flax.ir.call import is_atom
from caffe2flax.ir.filler import Filler
from caffe2flax.ir.layout import Layout, Merged, Operand, Shape
from caffe2flax.ir.params import Params
from caffe2flax.ir.window import Padding

Array = NDArray[Any]
Placing = tuple[tuple[Fraction, Fraction], ...]
"""index in the top = scale * index in the bottom + shift, for rows and for columns."""
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
    fastest, for a layer that works on arrays in Caffe's order and has no weights.
    """

    __slots__ = ()

    type: ClassVar[str] = ""
    """Caffe's name of the type, set by `layer`."""
    bottoms: ClassVar[Arity] = 1
    tops: ClassVar[Arity] = 1
    source: ClassVar[bool] = False
    """Its tops are inputs of the module."""
    optional: ClassVar[bool] = False
    """A source whose tops are inputs only where the net needs them."""
    training_data: ClassVar[bool] = False
    """A source that reads from disk: labels from it do not outlive the losses in
    TEST."""
    metric: ClassVar[bool] = False
    """A loss or a score: in TEST it is left out where its labels come from a data
    layer."""
    unconverted: ClassVar[bool] = False
    """It serves training alone and has no counterpart in the module: left out in either
    phase where no weights depend on it, refused by `infer` otherwise."""
    fed: ClassVar[bool] = False
    """What it computes is the caller's part, as from ground truth that no net holds:
    its tops become inputs of the module."""
    has_method: ClassVar[bool] = False
    """Whether the generated class has a method of its own for the layer."""
    ends_section: ClassVar[bool] = False
    """A blank line follows in generated code."""
    section: ClassVar[str] = ""
    """Calls of one section stand together in generated code."""
    dynamic: ClassVar[bool] = False
    """The leading extents of its tops depend on the data: the net cannot be jitted."""
    pointwise: ClassVar[bool] = False
    """Each pixel of the top follows from that pixel of the first bottom."""
    in_place: ClassVar[bool] = True
    """Whether Caffe computes the same when a top is its bottom."""
    converts_weights: ClassVar[bool] = False
    """Whether `reference` reads weights from their file itself, and brings them to
    float64, a piece at a time: for weights so large that most of the time would go into
    memory."""
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

    def feed(self, top: int) -> Shape:
        """The shape of one top of a source. ConversionError where nothing says."""
        return self.infer()[top]

    @property
    def carried(self) -> tuple[str, ...]:
        """The states that Caffe keeps from one call of the net to the next. The layer's
        expression is its top and these, and takes them in where `Site.state` is set."""
        return ()

    def files(self, *inputs: Shape) -> Mapping[str, Shape]:
        """Arrays that Caffe reads from files of these names, with their shapes. Here
        they are inputs of the module, and of the layer behind its bottoms."""
        return {}

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

    def build(self, at: Site) -> str | None:
        """The expression that makes the nnx module; None where it needs none."""
        return None

    def write_method(self, name: str, parameters: Sequence[str], at: Site) -> str:
        """The method, where `has_method`; `call` calls it as `Site.module`."""
        return ""

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

    def fold(self, following: Layer) -> Layer | None:
        """One layer that does the work of this and the one behind it, if there is
        one."""
        return None

    def trim(self, top: Array) -> Array:
        """A top without the rows that only fill up its fixed shape, for layers whose
        number of rows follows from the data."""
        return top

    def draws(self, phase: str) -> bool:
        """Whether its tops are random."""
        return False

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

    def placing(self) -> Placing | None:
        """Where the pixels of the top lie in the first bottom; None where that has no
        meaning."""
        identity = (Fraction(1), Fraction(0))
        return (identity, identity) if self.pointwise else None

    @property
    def aligned(self) -> bool:
        """Whether the layer asks for `with_alignment`."""
        return False

    def with_alignment(
        self, offsets: tuple[Fraction, ...] | None, wide: bool
    ) -> tuple[Layer, str]:
        """The layer for a second bottom that begins at `offsets` of the first, None
        where nothing tells, and a note. `wide`: a border on the way is there for it.
        Raises ConversionError."""
        return self, ""

    def windows(self, shape: Shape, outputs: Shape) -> Padding | None:
        """For a windowed layer, how its pads are to be emitted for an input of
        `shape`."""
        return None

    def with_padding(self, padding: Padding) -> Layer:
        """The layer with what `reconcile_padding` decided."""
        return self


class Elementwise(Layer):
    """A function of one blob's elements: any layout will do."""

    __slots__ = ()

    pointwise = True

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
