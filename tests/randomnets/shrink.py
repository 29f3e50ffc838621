"""The smallest net, of the layers of another, that fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from tests.randomnets.draw import as_input
from tests.randomnets.net import Shape, Step

Steps = tuple[Step, ...]


def shrink(
    steps: Steps, shapes: Mapping[str, Shape], fails: Callable[[Steps], bool]
) -> Steps:
    """Tries each smaller net in turn, from the last layer on, as long as one fails."""
    while True:
        smaller = next(filter(fails, _smaller(steps, shapes)), None)
        if smaller is None:
            return steps
        steps = smaller


def _smaller(steps: Steps, shapes: Mapping[str, Shape]) -> Iterator[Steps]:
    for i in reversed(range(len(steps))):
        without = (*steps[:i], *steps[i + 1 :])
        if not _read(steps[i + 1 :], steps[i]):
            yield without
    for i in reversed(range(len(steps))):
        step = steps[i]
        if step.type == "Input":
            continue
        if step.in_place:
            yield (*steps[:i], *steps[i + 1 :])
            continue
        if all(top in shapes for top in step.tops):
            inputs = (as_input(top, shapes[top]) for top in step.tops)
            yield (*steps[:i], *inputs, *steps[i + 1 :])
        for top, bottom in ((t, b) for t in step.tops for b in step.bottoms):
            if len(step.tops) == 1 and shapes.get(top) == shapes.get(bottom):
                later = (_renamed(s, top, bottom) for s in steps[i + 1 :])
                yield (*steps[:i], *later)


def _read(later: Steps, step: Step) -> bool:
    """Whether a later layer needs this one."""
    return any(not {*step.tops}.isdisjoint(s.bottoms) for s in later)


def _renamed(step: Step, old: str, new: str) -> Step:
    def names(blobs: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(new if blob == old else blob for blob in blobs)

    return replace(step, bottoms=names(step.bottoms), tops=names(step.tops))
