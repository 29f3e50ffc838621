"""A prototxt that grows layer by layer."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

Shape = tuple[int, ...]


def dims(shape: Shape) -> str:
    return "".join(f"dim: {extent} " for extent in shape)


@dataclass(frozen=True)
class Step:
    """A layer. `text` is what it has besides its name, type, bottoms and tops."""

    type: str
    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    text: str = ""

    @property
    def in_place(self) -> bool:
        return self.tops[:1] == self.bottoms[:1] != ()

    def __str__(self) -> str:
        names = "".join(f'bottom: "{blob}" ' for blob in self.bottoms)
        names += "".join(f'top: "{blob}" ' for blob in self.tops)
        return f'layer {{ name: "{self.name}" type: "{self.type}" {names}{self.text} }}'


@dataclass
class Net:
    """Its layers, the shapes of its blobs, and how often each was read since it was
    made."""

    dice: random.Random = field(default_factory=random.Random)
    steps: list[Step] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    phase: str = "TEST"
    reads: Counter[str] = field(default_factory=Counter)
    made: int = 0
    """Names given so far."""

    def input(self, name: str, shape: Shape) -> str:
        text = f"input_param {{ shape {{ {dims(shape)}}} }}"
        self.steps.append(Step("Input", name, (), (name,), text))
        self.shapes[name] = shape
        return name

    def fed(self, shape: Shape, what: str = "x") -> str:
        """A further input."""
        return self.input(self.fresh(what), shape)

    def fresh(self, what: str) -> str:
        self.made += 1
        return f"{what}{self.made}"

    def add(
        self, type_: str, bottoms: list[str], text: str, *shapes: Shape, name: str = ""
    ) -> list[str]:
        """A layer with a top of each of these shapes."""
        name = name or f"l{len(self.steps)}"
        tops = [self.fresh("b") for _ in shapes]
        self.steps.append(Step(type_, name, tuple(bottoms), tuple(tops), text))
        self.reads.update(bottoms)
        self.shapes.update(zip(tops, shapes, strict=True))
        return tops

    def same(self, type_: str, blob: str, text: str = "", name: str = "") -> list[str]:
        """A layer with a top of the shape of its bottom: in place where that may be,
        and the dice say so."""
        if self.reads[blob] or self.dice.random() < 0.5:
            return self.add(type_, [blob], text, self.shapes[blob], name=name)
        name = name or f"l{len(self.steps)}"
        self.steps.append(Step(type_, name, (blob,), (blob,), text))
        return [blob]

    def shared(self, biased: bool) -> str:
        """Names for the weights of a layer, so that others may share them, or ""."""
        if self.dice.random() < 0.7:
            return ""
        name = self.fresh("w")
        bias = f'param {{ name: "{name}_b" }}' if biased else ""
        return f'param {{ name: "{name}" }} {bias}'

    def like(self, suits: Callable[[Shape], bool]) -> list[str]:
        """The blobs of a shape that suits."""
        return [blob for blob, shape in self.shapes.items() if suits(shape)]

    @property
    def text(self) -> str:
        return text_of(self.steps)


def text_of(steps: Iterable[Step]) -> str:
    return 'name: "net"\n' + "\n".join(map(str, steps)) + "\n"
