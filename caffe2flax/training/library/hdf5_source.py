"""Rows of HDF5 files."""

from __future__ import annotations

import os
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import h5py
import numpy as np


class Hdf5Rows:
    """The rows of datasets in the files of a list, one file after the other: arrays by
    the names of the datasets. `folder` is where relative files are."""

    def __init__(self, path: str, folder: str, names: tuple[str, ...]):
        self.arguments = path, folder, names
        self.names = names
        lines = Path(path).read_text().split()
        self.files = [os.path.join(folder, line) for line in lines]
        self.open = lru_cache(maxsize=64)(self._open)
        self.ends = list(accumulate(map(self._rows, self.files)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Hdf5Rows, self.arguments  # worker processes open the files themselves

    def _open(self, file: str) -> Any:
        try:
            return h5py.File(file, "r")
        except OSError as error:
            raise ValueError(f"{file}: {error}") from error

    def _rows(self, file: str) -> int:
        found = {name: self._open(file).get(name) for name in self.names}
        for name, dataset in found.items():
            if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iuf":
                raise ValueError(f"{file}: no dataset {name!r} of numbers")
        rows = {dataset.shape[:1] for dataset in found.values()}
        if len(rows) > 1 or rows == {()}:
            raise ValueError(f"{file}: the datasets differ in rows: {rows}")
        return int(rows.pop()[0])

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, i: int) -> dict[str, Any]:
        k = bisect_right(self.ends, i)
        row = i - (self.ends[k - 1] if k else 0)
        file = self.open(self.files[k])
        try:
            return {
                name: np.asarray(file[name][row], np.float32) for name in self.names
            }
        except OSError as error:
            raise ValueError(f"{self.files[k]}: row {row}: {error}") from error
