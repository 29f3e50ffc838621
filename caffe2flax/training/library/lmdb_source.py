"""Databases of LMDB."""

from __future__ import annotations

import os
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import lmdb

from caffe2flax.training.library.datum import read_datum


class Lmdb:
    """The records of Caffe's LMDB in the order of their keys: (image, label)."""

    opened: ClassVar[WeakValueDictionary[str, Any]] = WeakValueDictionary()

    def __init__(self, path: str, color: bool | None = None):
        self.path, self.color = os.path.realpath(path), color
        folder = os.path.isdir(self.path)
        self.environment: Any = self.opened.get(self.path)  # once in a process
        if self.environment is None:
            self.environment = lmdb.open(
                self.path, subdir=folder, readonly=True, lock=False, readahead=False
            )
            self.opened[self.path] = self.environment
        pages = self.environment.info()["last_pgno"] + 1
        file = os.path.join(self.path, "data.mdb") if folder else self.path
        if os.path.getsize(file) < pages * self.environment.stat()["psize"]:
            raise ValueError(f"{path}: the file is cut off")
        with self.environment.begin() as records:
            self.keys = list(records.cursor().iternext(values=False))

    def __reduce__(self) -> tuple[Any, ...]:
        return Lmdb, (self.path, self.color)  # worker processes open it themselves

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        try:
            with self.environment.begin() as records:
                return read_datum(records.get(self.keys[i]), self.color)
        except Exception as error:
            raise ValueError(f"{self.path}: record {i}: {error}") from error
