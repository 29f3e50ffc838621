"""What only some layer types have, to be asked for by `isinstance`.

    @layer("Dropout", "dropout_param")
    @dataclass(frozen=True, slots=True)
    class Dropout(Elementwise, Stochastic):
        ...

Each class here stands beside `Layer` in the bases of a layer type. One more, for layers
whose pixels lie somewhere in the bottom, is `coordinates.Spatial`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import ClassVar

from caffe2flax.ir.layer import Arity, Array, Layer, Site
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.window import Padding


class Source(Layer):
    """A layer whose tops are inputs of the module, such as Input and Data."""

    __slots__ = ()

    bottoms: ClassVar[Arity] = 0
    tops: ClassVar[Arity] = (1, None)
    optional: ClassVar[bool] = False
    """Its tops are inputs only where the net reads them."""
    training_data: ClassVar[bool] = False
    """It reads from disk: labels from it do not outlive the losses in TEST."""

    def feed(self, top: int) -> Shape:
        """The shape of one top. ConversionError where nothing says."""
        return self.infer()[top]

    def call(self, at: Site) -> str:
        raise AssertionError("its tops are arguments of the module")

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        raise AssertionError("its tops are arguments, not computed")


class Abbreviated:
    """A layer that has a short name in generated code, where Caffe's name of it is only
    a number or a size, as in `conv_1x1`."""

    __slots__ = ()

    abbreviation: ClassVar[str]


class Probabilities:
    """A layer that turns scores into probabilities."""

    __slots__ = ()

    of_classes: ClassVar[bool] = False
    """They are those of classes that exclude one another."""


class Rearranges:
    """A layer that moves, repeats or leaves out entries of axes: it may depend on how
    many there are of them."""

    __slots__ = ()


class ComputedByCaller:
    """A layer whose work is the caller's, as it needs ground truth that no net has: its
    tops become inputs of the module."""

    __slots__ = ()


class NotConverted:
    """A layer that serves training alone and has no counterpart in the module: left out
    in either phase where no weights depend on it, refused by `infer` otherwise."""

    __slots__ = ()


class DataDependentShape:
    """A layer the leading extents of whose tops depend on the data: its net cannot be
    jitted."""

    __slots__ = ()


class ReadsWeights:
    """A layer whose `reference` reads weights from their file itself, and converts them
    to float64, a piece at a time: for weights so large that most of the time would go
    into memory."""

    __slots__ = ()


class Doubtful(ABC):
    """A layer whose weights may be such that Caffe computes what nobody wanted."""

    __slots__ = ()

    @abstractmethod
    def doubt(self, blobs: Sequence[Array]) -> str:
        """What is odd about the blobs of a weights file, and what to do about it;
        nothing where all is well."""


class EndsSection:
    """A layer behind whose call a blank line follows in generated code."""

    __slots__ = ()


class Windowed(ABC):
    """A layer of sliding windows whose pads are settled by `reconcile_padding`."""

    __slots__ = ()

    @abstractmethod
    def windows(self, shape: Shape, outputs: Shape) -> Padding:
        """How the pads are to be emitted for an input of `shape`."""

    @abstractmethod
    def with_padding(self, padding: Padding) -> Layer:
        """The layer with that."""


class Aligned(ABC):
    """A layer whose second bottom may begin at an offset that follows from the layers
    above both."""

    __slots__ = ()

    @property
    @abstractmethod
    def aligned(self) -> bool:
        """Whether this one asks for `with_alignment`."""

    @abstractmethod
    def with_alignment(
        self, offsets: tuple[Fraction, ...] | None, wide: bool
    ) -> tuple[Layer, str]:
        """The layer for a second bottom that begins at `offsets` of the first, None
        where nothing says, and a note. `wide`: a border on the way is there for it.
        Raises ConversionError."""


class Foldable(ABC):
    """A layer that can take in the one behind it."""

    __slots__ = ()

    @abstractmethod
    def fold(self, following: Layer) -> Layer | None:
        """One layer that does the work of this and the one behind it, if there is
        one."""


class Stateful(ABC):
    """A layer with a state that Caffe keeps from one call of the net to the next."""

    __slots__ = ()

    @property
    @abstractmethod
    def carried(self) -> tuple[str, ...]:
        """The names of the states; none where they are bottoms and tops. The layer's
        expression is its top and these, and takes them in where `Site.state` is set."""


class Stochastic(ABC):
    """A layer whose tops may be random."""

    __slots__ = ()

    @abstractmethod
    def draws(self, phase: str) -> bool:
        """Whether they are."""

    @property
    def takes_rngs(self) -> bool:
        """Whether its expression takes `rngs`, be it in use or not."""
        return True


class ReadsFiles(ABC):
    """A layer for which Caffe reads arrays from files that the net names."""

    __slots__ = ()

    @abstractmethod
    def files(self, *inputs: Shape) -> Mapping[str, Shape]:
        """The shapes of the arrays by the names of their files. They are inputs of the
        module, and of the layer behind its bottoms."""


class WritesMethod(ABC):
    """A layer for which the generated class has a method of its own; what blobs it has
    is not known."""

    __slots__ = ()

    @abstractmethod
    def write_method(self, name: str, parameters: Sequence[str], at: Site) -> str:
        """The method; the layer's expression calls it as `Site.module`."""
