"""NumPy archives by blob name: checked when read, written completely or not at all."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.files.atomic import write_stream
from caffe2flax.files.bounded import opened
from caffe2flax.limits import current

DEFLATE_LIMIT = 1032
"""The largest growth of a deflate stream; a member that claims more is damaged."""

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    EOFError,
    RuntimeError,
    OverflowError,
    OSError,
)
"""The exceptions of `zipfile` on damaged archives; OSError for a negative offset."""


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name.

    Nothing is unpickled, and no memory is allocated for an array before its header was
    checked against the size of the file.

    Raises:
        ConversionError: the file is no .npz, is damaged, or contains something else
        than
            arrays of numbers; one problem for each such member.
        OSError: the file cannot be read.
    """
    with opened(path) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                return _read_members(archive, path, stream.seek(0, os.SEEK_END))
        except _DAMAGE as error:
            message = f"this is no .npz file as numpy.savez writes it: {error}"
            raise ConversionError(Problem(message, Span(str(path)))) from error


def read_npy(path: Path) -> np.ndarray:
    """The array of an .npy file, checked as by `read_npz`.

    Raises:
        ConversionError: the file is no .npy, is damaged, or contains no numbers.
        OSError: the file cannot be read.
    """
    with opened(path) as stream:
        return npy_array(stream, path)


def npy_array(stream: IO[bytes], path: Path) -> np.ndarray:
    """`read_npy` of an open file, in which one can go back, from where it is."""
    try:
        shape, column_major, dtype = _read_header(stream)
        start = stream.tell()
        present = stream.seek(0, os.SEEK_END) - start
        stream.seek(start)
        return _values(stream, present, shape, dtype, column_major)
    except _DAMAGE as error:
        message = f"this is no .npy file as numpy.save writes it: {error}"
        raise ConversionError(Problem(message, Span(str(path)))) from error


def _read_members(
    archive: zipfile.ZipFile, path: Path, size: int
) -> dict[str, np.ndarray]:
    members = archive.infolist()
    if sum(member.compress_size for member in members) > size:
        raise zipfile.BadZipFile("its members overlap")
    limits = current()
    packed = [m for m in members if m.compress_type != zipfile.ZIP_STORED]
    unpacked = sum(min(m.file_size, DEFLATE_LIMIT * m.compress_size) for m in packed)
    if unpacked > limits.unpacked_bytes:
        text = f"compressed arrays of {unpacked} bytes"
        text = limits.refusal("unpacked_bytes", text)
        raise ConversionError(Problem(text, Span(str(path))))
    arrays: dict[str, np.ndarray] = {}
    problems = []
    for member in members:
        name = member.filename.removesuffix(".npy")
        try:
            if name in arrays:
                raise ValueError("is in the file twice")
            arrays[name] = _read_member(archive, member)
        except _DAMAGE as error:
            reason = str(error) or "ends too early"
            problems.append(Problem(f"array {name!r}: {reason}", Span(str(path))))
    if problems:
        raise ConversionError(problems)
    return arrays


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("is neither stored nor deflated")
    if member.file_size > DEFLATE_LIMIT * (member.compress_size + 1):
        raise ValueError("claims more bytes than its compressed form can hold")
    with archive.open(member) as stream:
        shape, column_major, dtype = _read_header(stream)
        present = member.file_size - stream.tell()
        return _values(stream, present, shape, dtype, column_major)


def _values(
    stream: IO[bytes],
    present: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    column_major: bool,
) -> np.ndarray:
    needed = dtype.itemsize * prod(shape)
    if present != needed:
        size = f"needs {needed} bytes, {present} are there"
        raise ValueError(f"shape {shape} of {dtype} {size}")
    values = np.frombuffer(stream.read(needed + 1), dtype)
    return values.reshape(shape, order="F" if column_major else "C")


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"has format version {version}, which no array of numbers has")
    try:
        shape, column_major, dtype = _HEADERS[version](stream)
    except Exception as error:  # the parser of Python literals may raise anything
        raise ValueError("has a damaged header") from error
    if dtype.kind not in "biuf":
        raise ValueError(f"holds {dtype}; expected numbers")
    if any(extent < 0 for extent in shape):
        raise ValueError(f"has a negative axis in its shape {shape}")
    return shape, column_major, dtype


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` to `path`, which is replaced in one step; a link there is not
    followed.

    Any name is allowed, also those that are arguments of `numpy.savez`.

    Raises:
        OSError: the file cannot be written; an existing file is unchanged.
    """

    def write(stream: IO[bytes]) -> None:
        with zipfile.ZipFile(stream, "w") as archive:
            for name, array in arrays.items():
                member = zipfile.ZipInfo(f"{name}.npy")
                with archive.open(member, "w", force_zip64=True) as part:
                    npy.write_array(part, np.asanyarray(array), allow_pickle=False)

    write_stream(path, write)
