"""Files that appear whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

Array = NDArray[Any]
Write = Callable[[IO[bytes]], object]

ENDING = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 10.0
"""Seconds to wait for another process that is renaming its files."""
STEM = 60
"""Characters of a file's name that its part is called by: names have an end."""


class FilesExist(FileExistsError):
    """Files that would be replaced."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)
        super().__init__(self.text("force=True"))

    def text(self, force: str) -> str:
        """The message; `force` is what the caller has to give to replace them."""
        what = "exist" if len(self.paths) > 1 else "exists"
        them = "them" if len(self.paths) > 1 else "it"
        return f"{' and '.join(self.paths)} {what}; {force} replaces {them}"

    def __reduce__(self) -> tuple[object, ...]:
        return (FilesExist, (self.paths,))


def write_text(path: Path, text: str, force: bool = False) -> Path:
    """Writes `text`, line ends as they are; errors as for `write_all`."""
    return write_bytes(path, text.encode(), force)


def write_bytes(path: Path, content: bytes, force: bool = False) -> Path:
    """Writes `content` as it is; errors as for `write_all`."""
    write_all({path: lambda stream: stream.write(content)}, force)
    return path


def write_stream(path: Path, write: Write) -> Path:
    """Writes by `write` into a folder that exists, over what is there; errors as for
    `write_all`."""
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    write_all({path: write}, force=True)
    return path


def write_all(targets: Mapping[Path, Write], force: bool) -> None:
    """Writes each file by its function; all appear, or none.

    They are written beside their targets first and renamed when all are complete, so a
    fault leaves what was there. A link at a target is replaced, not followed. What a
    run that was killed left there is removed. FileExistsError where a target exists and
    `force` is not given; OSError, with the target's name, where it cannot be written.
    """
    _check(targets, force)
    made: list[Path] = []
    parts: list[_Part] = []
    try:
        for path, write in targets.items():
            with _naming(path):
                made += _make_folder(path.parent)
                _sweep(path)
                parts.append(_Part(path))
                parts[-1].fill(write)
        with _alone(sorted({path.parent for path in targets})), _undisturbed():
            _check(targets, force)
            with _kept(targets):
                while parts:
                    parts[-1].place()
                    parts.pop().close()
        made.clear()
    finally:
        for part in parts:
            part.close()
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()


class _Part:
    """What becomes a file once it is complete. Until then it has no name, where the
    system knows that, so that nothing is left of it should we be killed; else a name
    that `_sweep` knows, and a lock that says that somebody is at work."""

    def __init__(self, path: Path) -> None:
        self.path = path
        folder, name = path.parent, path.name[:STEM]
        self.name = folder / f".{name}.{os.urandom(8).hex()}.part"
        self.named = False
        self.descriptor = _nameless(folder)
        if self.descriptor < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            self.descriptor = os.open(self.name, flags, 0o666)
            self.named = True
        _lock(self.descriptor)

    def fill(self, write: Write) -> None:
        with os.fdopen(os.dup(self.descriptor), "w+b") as stream:
            write(stream)

    def place(self) -> None:
        """Gives it the name of its file, in one step."""
        if not self.named:
            handle = f"/proc/self/fd/{self.descriptor}"
            # A folder's descriptor is what makes link() follow the handle.
            folder = os.open(self.name.parent, os.O_RDONLY)
            try:
                os.link(handle, self.name, src_dir_fd=folder, follow_symlinks=True)
            finally:
                os.close(folder)
            self.named = True
        os.replace(self.name, self.path)
        self.named = False

    def close(self) -> None:
        if self.named:
            self.name.unlink(missing_ok=True)
        os.close(self.descriptor)


def _nameless(folder: Path) -> int:
    """A new file without a name that can be given one later; -1 where the system or
    the file system has no such thing."""
    flag = getattr(os, "O_TMPFILE", 0)
    if not flag or not os.path.isdir("/proc/self/fd"):
        return -1
    try:
        return os.open(folder, flag | os.O_RDWR, 0o666)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return -1
        raise


def _sweep(path: Path) -> None:
    """Removes parts of this file that nobody works on any more."""
    ours = re.compile(rf"\.{re.escape(path.name[:STEM])}\.[0-9a-f]{{16}}\.part")
    for entry in os.scandir(path.parent):
        if ours.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            with suppress(OSError):
                descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    if _lock(descriptor):
                        os.unlink(entry.path)
                finally:
                    os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Takes the lock of a file or a folder until it is closed; False where somebody
    else has it."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass  # a system without such locks
    return True


@contextmanager
def _alone(folders: Sequence[Path]) -> Iterator[None]:
    """Keeps other processes of ours from renaming in these folders: the files of two
    runs must not mix. Not for ever, as anybody can lock a folder."""
    descriptors: list[int] = []
    try:
        until = time.monotonic() + PATIENCE
        for folder in folders:
            descriptors.append(os.open(folder, os.O_RDONLY))
            while not _lock(descriptors[-1]) and time.monotonic() < until:
                time.sleep(0.01)
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@contextmanager
def _kept(paths: Iterable[Path]) -> Iterator[None]:
    """Keeps what is replaced inside until the end: to free a large file takes time, in
    which we could be killed between the two of a pair."""
    descriptors: list[int] = []
    try:
        for path in paths:
            with suppress(OSError):
                descriptors.append(os.open(path, os.O_RDONLY | os.O_NOFOLLOW))
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that end us wait until the files of a pair are both in place."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread
        return
    late: list[int] = []
    known = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in known.items():
        if handler is not None:
            signal.signal(number, lambda number, frame: late.append(number))
    try:
        yield
    finally:
        for number, handler in known.items():
            if handler is not None:
                signal.signal(number, handler)
        for missed in late[:1]:
            signal.raise_signal(missed)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Says of which file an OSError is that does not say so itself."""
    try:
        yield
    except OSError as error:
        if error.filename is None or error.filename2 is not None:
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def _make_folder(folder: Path) -> list[Path]:
    """Makes a folder, and those above it; the ones that were missing."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _check(targets: Mapping[Path, Write], force: bool) -> None:
    """Raises FileExistsError, or OSError for a target that is no file."""
    existing = [str(path) for path in targets if os.path.lexists(path)]
    if existing and not force:
        raise FilesExist(existing)
    for path in existing:
        # The target of a link, too: one that leads to a device is no file of ours.
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
