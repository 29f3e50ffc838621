"""HDF5 snapshots (`.caffemodel.h5`) -> arrays.

The library only says where things stand; the values are taken from the mapped file.
Whatever would make it look elsewhere (links and datasets that live in other files,
filters that unpack more than is there) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from caffe2flax.errors import ConversionError, optional
from caffe2flax.frontend.blob import MAX_AXES, Array
from caffe2flax.frontend.sniff import HDF5_NAMES, WANTED, is_keras
from caffe2flax.frontend.wire import Wire

Entry = tuple[str, dict[int, Array], int]

ROOT = "data"
"""The group that Caffe writes its layers into."""

MAX_OBJECTS = 2**20
NUMBER = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
"""The name of a dataset, a blob's number."""


def read_hdf5(wire: Wire) -> list[Entry]:
    """Name, blobs by number and offset of each layer, in the order of their names.

    Caffe leaves out a blob that another layer owns.
    Raises ConversionError if h5py is missing or the file is no such snapshot.
    """
    with optional("an HDF5 file", "h5py", "hdf5", wire.path):
        import h5py
    try:
        with h5py.File(wire.path, "r", locking=False) as file:
            return list(_Snapshot(wire, h5py).layers(file))
    except ConversionError:
        raise
    # What the library raises on a damaged file depends on where the damage is.
    except Exception as error:
        raise wire.error(f"damaged HDF5: {error},", 0) from error


class _Snapshot:
    """Walks one file without recursion, and every object of it once."""

    def __init__(self, wire: Wire, h5py: Any) -> None:
        self.wire, self.h5py = wire, h5py
        self.seen: set[int] = set()
        self.bytes_left = len(wire.data)

    def layers(self, file: Any) -> Iterator[Entry]:
        """The layers below `data`; a `/` in a layer's name makes a group in a group."""
        root = self.member(file, ROOT) if ROOT in file else None
        if not isinstance(root, self.h5py.Group):
            what = "no Caffe snapshot"
            if is_keras(self.wire.data[:HDF5_NAMES]):
                what = f"an HDF5 file of Keras; {WANTED['weights']}"
            raise self.wire.error(f"{what}: there is no group {ROOT!r}", 0)
        waiting = [("", root)]
        while waiting:
            name, group = waiting.pop()
            members = [(key, self.member(group, key)) for key in group]
            groups = [m for m in members if isinstance(m[1], self.h5py.Group)]
            blobs = {k: m for k, m in members if isinstance(m, self.h5py.Dataset)}
            if len(groups) + len(blobs) < len(members):
                raise self.error(group, "it holds more than groups and datasets")
            if blobs and not name:
                raise self.error(group, f"datasets of no layer: {', '.join(blobs)}")
            if name and (blobs or not groups):
                yield name, self.blobs(group, blobs), self.offset(group)
            prefix = f"{name}/" if name else ""
            waiting.extend((f"{prefix}{key}", member) for key, member in groups[::-1])

    def member(self, group: Any, key: str) -> Any:
        """A member of a group; a link that leads elsewhere is not followed."""
        link = group.get(key, getlink=True)
        if not isinstance(link, self.h5py.HardLink):
            raise self.error(group, f"{key!r} is a {type(link).__name__}, not followed")
        member = group[key]
        address = self.offset(member)
        if address in self.seen:
            raise self.error(member, "it is stored under two names")
        self.seen.add(address)
        if len(self.seen) > MAX_OBJECTS:
            raise self.error(member, f"more than {MAX_OBJECTS} groups and datasets")
        return member

    def blobs(self, group: Any, blobs: dict[str, Any]) -> dict[int, Array]:
        strange = [key for key in blobs if not NUMBER.fullmatch(key)]
        if strange:
            what = f"datasets that are no blobs: {', '.join(sorted(strange))}"
            raise self.error(group, what)
        ordered = sorted(blobs, key=int)
        return {int(key): self.array(blobs[key]) for key in ordered}

    def array(self, dataset: Any) -> Array:
        """The values: a view of the mapped file where they stand in one piece."""
        data = self.wire.data
        if dataset.dtype.kind != "f" or dataset.dtype.itemsize not in (2, 4, 8):
            raise self.error(dataset, f"values of type {dataset.dtype}")
        if dataset.is_virtual or dataset.external:
            raise self.error(dataset, "its values are in another file")
        shape = dataset.shape
        if shape is None or len(shape) > MAX_AXES:
            raise self.error(dataset, "no shape of Caffe's")
        size = int(dataset.nbytes)
        self.bytes_left -= size
        if size > dataset.id.get_storage_size() or self.bytes_left < 0:
            raise self.error(dataset, f"shape {shape} takes more bytes than are stored")
        start = dataset.id.get_offset()
        if start is not None and start + size > len(data):
            raise self.error(dataset, "its values lie beyond the end of the file")
        if start is not None and dataset.dtype.isnative:
            array: Array = np.ndarray(shape, dataset.dtype, data, start)
        else:
            array = np.asarray(dataset[()], dataset.dtype.newbyteorder("="))
        array.flags.writeable = False
        return array

    def offset(self, member: Any) -> int:
        return int(self.h5py.h5o.get_info(member.id).addr)

    def error(self, member: Any, message: str) -> ConversionError:
        return self.wire.error(f"{member.name!r}: {message}", self.offset(member))
