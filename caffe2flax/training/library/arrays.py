"""Arrays that are given, or made up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


class Arrays:
    """The items of arrays along their first axis, by blob. rows: how many rows of an
    array are one item, where it is not one; they then keep their axis."""

    def __init__(
        self, arrays: Mapping[str, Any], rows: Mapping[str, int] | None = None
    ):
        self.arrays, self.rows = arrays, rows or {}

    def __len__(self) -> int:
        """How many items there are before all begin again."""
        lengths = ((len(a), self.rows.get(name, 1)) for name, a in self.arrays.items())
        return math.lcm(*(n // math.gcd(n, rows) for n, rows in lengths))

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = {}
        for name, array in self.arrays.items():
            rows = self.rows.get(name)
            at = i % len(array) if rows is None else range(i * rows, (i + 1) * rows)
            item[name] = np.asarray(array.take(at, axis=0, mode="wrap"), np.float32)
        return item


def load_arrays(path: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Arrays of an .npz, in Caffe's axis order."""
    with np.load(path) as file:
        return {name: file[name] for name in names}
