"""Databases of LevelDB."""

from __future__ import annotations

import os
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from caffe2flax.training.library.datum import read_datum


class LevelDb:
    """The records of Caffe's LevelDB in the order of their keys: (image, label).

    Only one process may have it open, and it writes lock and log beside it.
    """

    opened: ClassVar[WeakValueDictionary[str, Any]] = WeakValueDictionary()

    def __init__(self, path: str, color: bool | None = None):
        try:
            import plyvel
        except ImportError:  # which has no wheels from Python 3.13 on
            import plyvel_next as plyvel

        self.path, self.color = os.path.realpath(path), color
        self.database: Any
        self.keys: list[bytes]
        self.first = self.opened.get(self.path)  # once in a process
        if self.first:
            self.database, self.keys = self.first.database, self.first.keys
            return
        self.database = plyvel.DB(self.path, create_if_missing=False)
        self.keys = list(self.database.iterator(include_value=False))
        self.opened[self.path] = self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"{self.path}: worker processes cannot share a LevelDB")

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        try:
            return read_datum(self.database.get(self.keys[i]), self.color)
        except Exception as error:
            raise ValueError(f"{self.path}: record {i}: {error}") from error
