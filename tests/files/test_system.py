"""Systems that lack what others have: the same files, the same numbers."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from caffe2flax.files import system
from caffe2flax.files.atomic import write_all, write_bytes
from caffe2flax.files.mapped import Mapped
from caffe2flax.limits import Limits

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "fixtures" / "digits"
NET, WEIGHTS = DIGITS / "deploy.prototxt", DIGITS / "digits_lenet.caffemodel"
FUNCTIONS = (
    "posix_fallocate",
    "preadv",
    "pread",
    "pwrite",
    "sched_getaffinity",
    "sysconf",
    "O_NOFOLLOW",
    "O_TMPFILE",
)
MODULES = ("fcntl", "resource")

COMMANDS = """
import asyncio, os, sys  # asyncio needs sysconf itself
for name in {functions}:
    if hasattr(os, name):
        delattr(os, name)
sys.modules |= dict.fromkeys({modules})
from caffe2flax.cli.main import main
net = [{net!r}, {weights!r}]
sys.exit(
    main(["convert", *net, "-o", "made"])
    or main(["run", *net, "--inputs", "in.npz", "--outputs", "out.npz"])
    or main(["verify", *net])
    or main(["demo", "-o", "demo"])
)
"""


def all_commands(folder: Path, functions: tuple[str, ...]) -> tuple[object, ...]:
    """What they print and what is in their files."""
    folder.mkdir()
    np.savez(folder / "in.npz", data=np.ones((1, 1, 28, 28), np.float32))
    modules = MODULES if functions else ()
    code = COMMANDS.format(
        functions=functions, modules=modules, net=str(NET), weights=str(WEIGHTS)
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".npz"
    }
    with np.load(folder / "out.npz") as archive:
        numbers = {name: archive[name].tobytes() for name in archive}
    return done.stdout, files, numbers


def test_every_command_without_functions_that_some_systems_lack(
    tmp_path: Path,
) -> None:
    here = all_commands(tmp_path / "with", ())
    assert all_commands(tmp_path / "without", FUNCTIONS) == here
    assert len(here[1]) == 7


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_function_after_the_other(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = caffe2flax.convert(NET, WEIGHTS).write(tmp_path / "expected")
    monkeypatch.delattr(os, name, raising=False)
    made = caffe2flax.convert(NET, WEIGHTS).write(tmp_path / "made")
    assert [p.read_bytes() for p in made] == [p.read_bytes() for p in expected]


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_reserves_no_room(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(*given: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "posix_fallocate", unable)
    with (tmp_path / "file").open("w+b") as stream:
        stream.write(b"before")
        system.reserve(stream, system.CHUNK + 10)
    assert (tmp_path / "file").read_bytes() == b"before".ljust(system.CHUNK + 10, b"\0")


def test_memory_that_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sysconf")
    assert Limits().memory_bytes == 2**34


def test_threads_read_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "preadv")
    numbers = np.arange(10**6, dtype="<u4")
    (tmp_path / "file").write_bytes(numbers.tobytes())
    with (tmp_path / "file").open("rb") as stream:
        mapped = Mapped.of(stream.fileno(), "file")
    wrong: list[int] = []

    def read(seed: int) -> None:
        for start in np.random.default_rng(seed).integers(0, 9 * 10**5, 300):
            found = np.frombuffer(mapped.bytes_at(4 * start, 4 * start + 4000), "<u4")
            if not np.array_equal(found, numbers[start : start + 1000]):
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its documentation says: no folder can be opened; what is open can neither be
    renamed, replaced nor removed; a temporary file goes when it is closed."""
    real_open, real_close = os.open, os.close
    temporary: dict[int, Path] = {}

    def open_(path: Path, flags: int, *args: int, **options: int) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        held = flags & os.O_TEMPORARY  # type: ignore[attr-defined]
        descriptor = real_open(path, flags & ~held, *args, **options)
        if held:
            temporary[descriptor] = Path(path)
        return descriptor

    def close(descriptor: int) -> None:
        real_close(descriptor)
        if descriptor in temporary:
            temporary.pop(descriptor).unlink()

    def unless_open(real: Callable[..., None]) -> Callable[..., None]:
        def act(*paths: Path, **options: int) -> None:
            for path in filter(os.path.exists, paths):
                for each in os.listdir("/proc/self/fd"):
                    with suppress(FileNotFoundError):
                        if os.path.samefile(f"/proc/self/fd/{each}", path):
                            raise PermissionError(errno.EACCES, "in use", str(path))
            real(*paths, **options)

        return act

    for name in FUNCTIONS:
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "O_TEMPORARY", 1 << 40, raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "close", close)
    for name in ("replace", "unlink", "rename", "remove"):
        monkeypatch.setattr(os, name, unless_open(getattr(os, name)))


needs_proc = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="cannot tell which files are open"
)


@needs_proc
@pytest.mark.usefixtures("windows")
def test_windows(tmp_path: Path) -> None:
    """The files appear, replace others, and leave nothing beside them."""
    conversion = caffe2flax.convert(NET, WEIGHTS)
    made = conversion.write(tmp_path / "out")
    first = [path.read_bytes() for path in made]
    made[0].write_bytes(b"old")
    assert conversion.write(tmp_path / "out", force=True) == made
    assert [path.read_bytes() for path in made] == first
    assert set((tmp_path / "out").iterdir()) == set(made)


@needs_proc
@pytest.mark.usefixtures("windows")
def test_a_fault_on_windows(tmp_path: Path) -> None:
    """What was there stays, and no part is left."""

    def fail(stream: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_bytes(tmp_path / "a", b"old")
    targets = {tmp_path / "a": lambda s: s.write(b"new"), tmp_path / "b": fail}
    with pytest.raises(OSError, match="No space"):
        write_all(targets, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


@needs_proc
@pytest.mark.usefixtures("windows")
def test_parts_of_killed_runs_on_windows(tmp_path: Path) -> None:
    old, new, busy = (tmp_path / f".a.{digit * 16}.part" for digit in "012")
    long_ago = time.time() - 2 * system.MINUTE
    for path in (old, new, busy):
        path.write_bytes(b"")
    os.utime(old, (long_ago, long_ago))
    with busy.open("rb"):
        os.utime(busy, (long_ago, long_ago))
        write_bytes(tmp_path / "a", b"new")
    assert {*tmp_path.iterdir()} == {new, busy, tmp_path / "a"}


@needs_proc
@pytest.mark.usefixtures("windows")
def test_folders_are_locked_on_windows(tmp_path: Path) -> None:
    first = system.lock_folder(tmp_path, time.monotonic())
    assert first >= 0
    assert system.lock_folder(tmp_path, time.monotonic() + 0.03) == -1
    timer = threading.Timer(0.05, os.close, [first])
    timer.start()
    second = system.lock_folder(tmp_path, time.monotonic() + 60)
    timer.join()
    assert second >= 0
    os.close(second)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_locked_once(tmp_path: Path) -> None:
    first = system.lock_folder(tmp_path, time.monotonic())
    second = system.lock_folder(tmp_path, time.monotonic())
    assert not system.lock(second)
    os.close(first)
    assert system.lock(second)
    os.close(second)
