"""Writing safetensors as fast as a file is copied.

The format: 8 bytes length, a JSON header with types, shapes and offsets, the data.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.files.system import reserve
from caffe2flax.weights.transpose import copy_blocked
from caffe2flax.weights.variables import Variables

Array = NDArray[Any]

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


def write_safetensors(
    stream: IO[bytes],
    variables: Variables,
    progress: Progress | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes all variables, and `metadata`, to a file that is open for reading and
    writing.

    The file is mapped and filled in place, so nothing is held in memory. OSError where
    the disk has no room for it, ConversionError where the weights changed meanwhile.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, shape in variables.shapes.items():
        end = offset + int(np.prod(shape)) * 4
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    stream.write(len(text).to_bytes(8, "little") + text)
    if not offset:
        return
    reserve(stream, start + offset)
    mapped = mmap.mmap(stream.fileno(), start + offset)
    try:
        for done in _fill(memoryview(mapped)[start:], variables):
            if progress:
                progress(done, offset)
    finally:
        with suppress(BufferError):  # an exception may hold on to parts of it
            mapped.close()
    variables.check()


def _fill(data: memoryview, variables: Variables) -> Iterator[int]:
    """Copies one variable after another into `data`; yields the bytes done."""
    done = 0
    with data:
        for name in variables:
            source = variables.stored(name)
            end = done + source.size * 4
            with data[done:end] as part:
                target = np.frombuffer(part, "<f4").reshape(source.shape)
                copy_blocked(target, source)
                del target
            done = end
            yield done
