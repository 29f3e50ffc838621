"""Files that are written completely or not at all, even if the process is killed."""

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

from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.files import system

Array = NDArray[Any]
Write = Callable[[IO[bytes]], object]

ENDING = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 10.0
"""Seconds to wait for another process that is renaming its files."""
STEM = 60
"""How many characters of a file's name are in that of its part, as names are
limited."""


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
    """Writes `text` with its line ends unchanged; errors as for `write_all`."""
    return write_bytes(path, text.encode(), force)


def write_bytes(path: Path, content: bytes, force: bool = False) -> Path:
    """Writes `content`; errors as for `write_all`."""
    write_all({path: lambda stream: stream.write(content)}, force)
    return path


def write_stream(path: Path, write: Write) -> Path:
    """Writes a file by `write` into an existing folder, and replaces an existing file;
    errors as for `write_all`."""
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    write_all({path: write}, force=True)
    return path


def write_all(targets: Mapping[Path, Write], force: bool) -> None:
    """Writes each file by its function; all are written, or none.

    They are written beside their targets first and renamed when all are complete, so
    that an error leaves the existing files unchanged. A link at a target is replaced,
    not followed. Parts left by a killed run are removed. FileExistsError where a target
    exists and `force` is not given; OSError, with the target's name, where it cannot be
    written.
    """
    _check(targets, force)
    created: list[Path] = []
    parts: list[_Part] = []
    try:
        for path, write in targets.items():
            with _naming(path):
                created += _make_folder(path.parent)
                _sweep(path)
                parts.append(_Part(path))
                parts[-1].fill(write)
        with _alone(sorted({path.parent for path in targets})), _undisturbed():
            _check(targets, force)
            with _kept(targets):
                while parts:
                    parts[-1].place()
                    parts.pop().close()
        created.clear()
    finally:
        for part in parts:
            part.close()
        for folder in reversed(created):
            with suppress(OSError):
                folder.rmdir()


def identities(paths: Iterable[Path | str]) -> frozenset[tuple[int, int]]:
    """What tells the files at `paths` from others, whatever they are called; a string
    is what came out of a pipe."""
    found = set()
    for path in paths:
        with suppress(OSError):
            if not isinstance(path, str):
                status = path.stat()
                found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def refuse_overwriting(inputs: frozenset[tuple[int, int]], output: Path) -> None:
    """Raises ConversionError where `output` is one of the inputs, as `identities` has
    them."""
    if inputs & identities([output]):
        message = "the results would replace this input"
        raise ConversionError(Problem(message, Span(str(output))))


class _Part:
    """A file that is not complete yet. Where the system supports it, it has no name, so
    that nothing is left if the process is killed; otherwise it has a name that `_sweep`
    recognises, and a lock as long as a process writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        folder, name = path.parent, path.name[:STEM]
        self.name = folder / f".{name}.{os.urandom(8).hex()}.part"
        self.named = False
        self.descriptor = system.create_nameless(folder)
        if self.descriptor < 0:
            self.descriptor = system.create(self.name)
            self.named = True
        system.lock(self.descriptor)

    def fill(self, write: Write) -> None:
        with os.fdopen(os.dup(self.descriptor), "w+b") as stream:
            write(stream)

    def place(self) -> None:
        """Gives it the name of its file, in one step."""
        if not self.named:
            system.give_name(self.descriptor, self.name)
            self.named = True
        if system.close_before_rename():
            self._close_descriptor()
        os.replace(self.name, self.path)
        self.named = False

    def close(self) -> None:
        # On Windows an open file cannot be removed, elsewhere its lock ends here.
        if system.close_before_rename():
            self._close_descriptor()
        if self.named:
            self.name.unlink(missing_ok=True)
        self._close_descriptor()

    def _close_descriptor(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _sweep(path: Path) -> None:
    """Removes parts of this file that no process writes any more."""
    ours = re.compile(rf"\.{re.escape(path.name[:STEM])}\.[0-9a-f]{{16}}\.part")
    for entry in os.scandir(path.parent):
        if ours.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            with suppress(OSError):
                system.remove_unlocked(entry.path)


@contextmanager
def _alone(folders: Sequence[Path]) -> Iterator[None]:
    """Keeps other runs of this program from renaming files in these folders, so that
    the files of two runs do not mix. With a time limit, as any process can lock a
    folder."""
    descriptors: list[int] = []
    try:
        until = time.monotonic() + PATIENCE
        for folder in folders:
            descriptors.append(system.lock_folder(folder, until))
        yield
    finally:
        _close_all(descriptors)


@contextmanager
def _kept(paths: Iterable[Path]) -> Iterator[None]:
    """Keeps the replaced files until the end: to delete a large file takes time, in
    which the process could be killed between two files."""
    descriptors = system.open_all(list(paths))
    try:
        yield
    finally:
        _close_all(descriptors)


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Delays signals that end the process until all files are renamed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals
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
    """Adds the name of the file to an OSError that has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None or error.filename2 is not None:
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise


def _make_folder(folder: Path) -> list[Path]:
    """Creates a folder and its parents, and returns those that were missing."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _check(targets: Mapping[Path, Write], force: bool) -> None:
    """Raises FileExistsError, or OSError for a target that is no file."""
    existing = [str(path) for path in targets if os.path.lexists(path)]
    if existing and not force:
        raise FilesExist(existing)
    for path in existing:
        # The target of a link, too: a link to a device must not be replaced.
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
