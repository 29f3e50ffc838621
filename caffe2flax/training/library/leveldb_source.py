"""Databases of LevelDB."""

from __future__ import annotations

from typing import Any

from caffe2flax.training.library.datum import read_datum


class LevelDb:
    """The records of Caffe's LevelDB in the order of their keys: (image, label).

    Only one process may have it open, and it writes lock and log beside it.
    """

    def __init__(self, path: str, color: bool | None = None):
        try:
            import plyvel
        except ImportError:  # which has no wheels from Python 3.13 on
            import plyvel_next as plyvel

        self.path, self.color = path, color
        self.database = plyvel.DB(path, create_if_missing=False)
        self.keys = list(self.database.iterator(include_value=False))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        try:
            return read_datum(self.database.get(self.keys[i]), self.color)
        except Exception as error:
            raise ValueError(f"{self.path}: record {i}: {error}") from error
