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
