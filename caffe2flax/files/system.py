"""What operating systems do in different ways, or only some of them at all.

On Windows a folder cannot be opened, an open file can neither be renamed nor removed,
and there are no locks of the kind that end with the process.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

CHUNK = 2**20
"""Bytes of zeros written at a time."""
MINUTE = 60.0
LOCK_FILE = ".caffe2flax.lock"
"""Is in a folder, on Windows, while a process renames its files there."""

_position = threading.Lock()
"""Descriptors have one position, which threads share."""


def reserve(stream: IO[bytes], size: int) -> None:
    """Makes an open file `size` bytes long, with room for them on the disk: a full one
    must not fail under a mapping, which would end the process. OSError where there is
    none. What the file holds remains; the stream's position may change."""
    stream.flush()
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(stream.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise  # those two: a file system that does not have it
    left = size - stream.seek(0, os.SEEK_END)
    zeros = bytes(max(0, min(left, CHUNK)))
    while left > 0:
        left -= stream.write(zeros[:left])
    stream.flush()


def read_at(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Reads bytes from `offset` on into `buffer`; how many, 0 at the end of the file.
    OSError where it cannot be read."""
    if hasattr(os, "preadv"):
        count: int = os.preadv(descriptor, [buffer], offset)
        return count
    with _position, io.FileIO(descriptor, closefd=False) as file:
        file.seek(offset)
        return file.readinto(buffer) or 0


def create(path: Path) -> int:
    """A descriptor of a new file. FileExistsError where there is one."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    return os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)


def create_nameless(folder: Path) -> int:
    """A descriptor of a new file without a name, for `give_name`; -1 where the system
    or the file system has no such thing."""
    flag = getattr(os, "O_TMPFILE", 0)
    if not flag or not os.path.isdir("/proc/self/fd"):
        return -1
    try:
        return os.open(folder, flag | os.O_RDWR, 0o666)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return -1
        raise


def give_name(descriptor: int, path: Path) -> None:
    """Puts a nameless file into its folder."""
    # A folder's descriptor is what makes link() follow the handle.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        handle = f"/proc/self/fd/{descriptor}"
        os.link(handle, path, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def lock(descriptor: int) -> bool:
    """Locks a file or a folder until it is closed; False where another process has
    locked it. Does nothing where the system has no such locks."""
    if sys.platform == "win32":
        return True
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True


def lock_folder(folder: Path, until: float) -> int:
    """A descriptor that keeps other processes from locking the folder until it is
    closed; after the time `until` of `time.monotonic` one without a lock, -1 on
    Windows."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        while not lock(descriptor) and time.monotonic() < until:
            time.sleep(0.01)
        return descriptor
    while True:
        try:
            # O_TEMPORARY: it goes when it is closed, or when the process ends.
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_TEMPORARY
            return os.open(folder / LOCK_FILE, flags)
        except (FileExistsError, PermissionError):  # the latter while it is going
            if time.monotonic() >= until:
                return -1
            time.sleep(0.01)


def remove_unlocked(path: str) -> None:
    """Removes a file unless a process has locked it. OSError where it cannot."""
    if sys.platform == "win32":
        # An open file stays anyway; a process may have closed its own to rename it.
        if time.time() - os.stat(path).st_mtime > MINUTE:
            os.unlink(path)
        return
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        if lock(descriptor):
            os.unlink(path)
    finally:
        os.close(descriptor)


def close_before_rename() -> bool:
    """Whether an open file can be neither renamed nor replaced."""
    return sys.platform == "win32"


def open_all(paths: Sequence[Path]) -> list[int]:
    """Descriptors of those files that can be opened, none on Windows: what is replaced
    while it is open is freed when it is closed."""
    descriptors: list[int] = []
    if sys.platform == "win32":
        return descriptors
    for path in paths:
        try:
            flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)
            descriptors.append(os.open(path, flags))
        except OSError:
            continue
    return descriptors
