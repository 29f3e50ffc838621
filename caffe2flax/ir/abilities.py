"""Base classes for what only some layer types have; the converter tests for them with
`isinstance`.

    @layer("Dropout", "dropout_param")
    @dataclass(frozen=True, slots=True)
    class Dropout(Elementwise, Stochastic):
        ...

A layer type names them among its bases, beside `Layer`. More are in coordinates.py,
`Spatial` for layers whose top has pixels that correspond to pixels of the bottom, and
in classes.py, `PerClass` for layers that may depend on a number of classes.
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
    reads_data: ClassVar[bool] = True
    """Its fields say how data is read and prepared, which is the caller's part: unknown
    ones are passed over, with a note."""
    training_data: ClassVar[bool] = False
    """It reads from disk. In TEST, labels from it are dropped with the losses that read
    them."""

    def top_shape(self, top: int) -> Shape:
        """The shape of one top. ConversionError where the layer does not give it."""
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
    """The classes exclude one another, as in Softmax."""

    def class_axis(self, rank: int) -> int:
        """The axis of a bottom of `rank` axes that has an entry for each class."""
        return 1


class FindsObjects(ABC):
    """A layer whose first top is rows (image, class, score, x1, y1, x2, y2) of boxes,
    the corners in parts of the image's width and height."""

    __slots__ = ()

    counts_images: ClassVar[bool] = True
    """The first number of a row is that of the image, and not always 0."""

    @property
    @abstractmethod
    def object_classes(self) -> range:
        """The numbers that the class of a box may have."""


class ProposesRegions:
    """A layer whose first top is regions (image, x1, y1, x2, y2) in pixels of the net's
    input. Its last bottom is the input's height and width, and how many times as large
    as the image it is."""

    __slots__ = ()


class FindsPeaks:
    """A layer whose top (1, parts, peaks + 1, 3) has for each part the number of peaks,
    then rows (x, y, value) in pixels of its bottom."""

    __slots__ = ()


class NumbersClasses:
    """A layer whose top holds numbers of classes, not scores."""

    __slots__ = ()


class Rearranges:
    """A layer that moves, repeats or leaves out entries of axes. What it computes may
    depend on the extents of these axes."""

    __slots__ = ()


class ComputedByCaller:
    """A layer that needs ground truth, which a net does not have. The caller computes
    its tops: they become inputs of the module."""

    __slots__ = ()


class NotConverted:
    """A layer that only training uses and that has no counterpart in the module. It is
    left out in either phase where no weights depend on it; otherwise `infer` raises."""

    __slots__ = ()

    def compare(self, *inputs: Shape | None) -> None:
        """Compares the shapes of its bottoms as Caffe does where it is left out, too:
        None for a bottom that is left out with it. Raises ConversionError."""


class DataDependentShape:
    """A layer with tops whose first extent depends on the data: a net that has it
    cannot be jitted."""

    __slots__ = ()


class ReadsWeights:
    """A layer whose `reference` reads its weights from the file and converts them to
    float64 piece by piece, because they may be too large for one copy in memory."""

    __slots__ = ()


class Doubtful(ABC):
    """A layer whose weights may be such that Caffe computes what nobody wanted."""

    __slots__ = ()

    @abstractmethod
    def doubt(self, blobs: Sequence[Array]) -> str:
        """What is odd about the blobs of a weights file, and what to do about it;
        nothing where all is well."""


class PassesValues:
    """A layer whose tops have the values of its bottom, in the same order."""

    __slots__ = ()


class EndsSection:
    """A layer after whose call generated code has a blank line."""

    __slots__ = ()


class Windowed(ABC):
    """A layer of sliding windows; the pass `reconcile_padding` chooses its padding."""

    __slots__ = ()

    @abstractmethod
    def windows(self, shape: Shape, outputs: Shape) -> Padding:
        """The padding to emit for an input of `shape` and tops of `outputs`."""

    @abstractmethod
    def with_padding(self, padding: Padding) -> Layer:
        """This layer with `padding`."""


class MakesMask(ABC):
    """A pooling the second top of which may say where in its bottom each value is."""

    __slots__ = ()

    @abstractmethod
    def masked(self, shape: Shape) -> tuple[tuple[int, int], int] | None:
        """Height and width of the bottom, and the last pixel, row by row, that the mask
        can name; None where there is no mask."""


class SeveralMeanings(ABC):
    """A layer that means something else in some forks, whose files do not say so: the
    shapes of the net may tell."""

    __slots__ = ()

    @abstractmethod
    def meanings(self) -> Mapping[str, Layer]:
        """This layer in each of its other meanings, by name; none where it is
        settled."""

    @abstractmethod
    def looks_like(self) -> Sequence[str]:
        """Those of the other meanings that its fields suggest."""


class ReadsMask(ABC):
    """A layer whose second bottom is the mask of a pooling."""

    __slots__ = ()

    @abstractmethod
    def compare_mask(self, size: tuple[int, int], last: int, top: Shape) -> str:
        """A note, or "", on a `top` that is not of the `size` which the pooling read.
        Raises ConversionError where pixel `last` of it is none of the top."""


class Aligned(ABC):
    """A layer that may crop its first bottom at an offset that follows from the layers
    that computed both bottoms."""

    __slots__ = ()

    @property
    @abstractmethod
    def aligned(self) -> bool:
        """Whether this layer needs `with_alignment`."""

    @abstractmethod
    def with_alignment(
        self, offsets: tuple[Fraction, ...] | None, wide: bool
    ) -> tuple[Layer, str]:
        """This layer for a second bottom that begins at `offsets` of the first, and a
        note. offsets: None where they do not follow from the layers. wide: a layer
        above adds a border that the crop is meant to remove. Raises ConversionError."""


class FollowsPhase(ABC):
    """A layer whose nnx module differs between the phases."""

    __slots__ = ()

    @abstractmethod
    def serving(self, other: Layer) -> Layer:
        """This layer with a module that serves `other`, too: the layer of its name in
        another phase of the net."""


class Foldable(ABC):
    """A layer that can be joined with the one after it."""

    __slots__ = ()

    @abstractmethod
    def fold(self, following: Layer) -> Layer | None:
        """One layer that computes the same as this one and `following`; None where
        there is no such layer."""


class Stateful(ABC):
    """A layer with a state that Caffe keeps from one call of the net to the next."""

    __slots__ = ()

    @property
    @abstractmethod
    def carried(self) -> tuple[str, ...]:
        """The names of the states; none where they are bottoms and tops. The layer's
        expression gives its top and these, and takes them as arguments where
        `Site.state` is set."""


class Stochastic(ABC):
    """A layer whose tops may be random."""

    __slots__ = ()

    @abstractmethod
    def draws(self, phase: str) -> bool:
        """Whether they are random in `phase`."""

    @property
    def takes_rngs(self) -> bool:
        """Whether its expression takes `rngs`, also in a phase that does not use it."""
        return True


class ReadsFiles(ABC):
    """A layer for which Caffe reads arrays from files that the net names."""

    __slots__ = ()

    @abstractmethod
    def files(self, *inputs: Shape) -> Mapping[str, Shape]:
        """The shapes of the arrays by the names of their files. They become inputs of
        the module, and of the layer after its bottoms."""


class WritesMethod(ABC):
    """A layer for which the generated class has a method of its own, to be written by
    hand. Its weight blobs are unknown."""

    __slots__ = ()

    @abstractmethod
    def write_method(self, name: str, parameters: Sequence[str], at: Site) -> str:
        """The method; the layer's expression calls it as `Site.module`."""
