"""Base classes for layers with parameters that may follow from a number of classes."""

from __future__ import annotations

from abc import ABC, abstractmethod

from caffe2flax.ir.layer import Layer


class PerClass(ABC):
    """A layer that may have a parameter which is a multiple of the number of
    classes."""

    __slots__ = ()

    @abstractmethod
    def with_classes(self, count: int, other: int) -> Layer | None:
        """This layer for `other` classes in place of `count`; None where no parameter
        follows from that."""


class ScoresByClass(PerClass):
    """A layer that says itself how many classes its bottoms have scores of."""

    __slots__ = ()

    @property
    @abstractmethod
    def scored(self) -> tuple[tuple[int, ...], int]:
        """The bottoms whose size follows from the number of classes, and that
        number."""


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
