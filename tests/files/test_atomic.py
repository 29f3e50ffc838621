"""Full disks, folders that cannot be written, files that change, signals: a message and
a status, and no unfinished files."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import caffe2flax
from caffe2flax.cli.main import main
from caffe2flax.files import atomic, system
from caffe2flax.files.mapped import Mapped, loaded, mapping_of
from tests.golden import FIXTURES
from tests.smallnets import save

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "fixtures" / "digits"
NET, WEIGHTS = DIGITS / "deploy.prototxt", DIGITS / "digits_lenet.caffemodel"
OLD = b"what was here before"
V1 = 'layers { name: "d" type: RELU bottom: "x" top: "d" }\n'


def listing(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with older results."""
    made = tmp_path / "out"
    made.mkdir()
    for name in ("net.py", "net.safetensors", "net.dot", "net.prototxt", "out.npz"):
        (made / name).write_bytes(OLD)
    return made


def command(name: str, folder: Path) -> list[str]:
    """One that replaces what is in `folder`."""
    weights = [str(NET), str(WEIGHTS)]
    old = folder.parent / "old.prototxt"
    old.write_text(V1 * 200)
    return {
        "convert": ["convert", *weights, "-o", str(folder), "--name", "Net", "--force"],
        "draw": ["draw", str(NET), "-o", str(folder / "net.dot"), "--force"],
        "upgrade": [
            *("upgrade", str(old)),
            *("-o", str(folder / "net.prototxt"), "--force"),
        ],
        "run": [
            *("run", *weights, "--inputs", str(folder.parent / "in.npz")),
            *("--outputs", str(folder / "out.npz")),
        ],
    }[name]


COMMANDS = ("convert", "draw", "upgrade", "run")


@pytest.fixture
def quick_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`run` without the network."""
    np.savez(tmp_path / "in.npz", data=np.zeros(1))
    monkeypatch.setattr("caffe2flax.run", lambda *a, **k: {"prob": np.ones(10**4)})


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may grow beyond `size`, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=["nameless", "named"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of writing: with and without files that have no name."""
    if request.param == "named":
        monkeypatch.setattr(system, "create_nameless", lambda folder: -1)


@pytest.mark.usefixtures("quick_run", "parts")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = listing(folder)
    argv = command(name, folder)
    with small_files(512):
        assert main(argv) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"{folder / 'net' if name != 'run' else folder / 'out'}.")
    assert err.endswith(": error: File too large\n")
    assert listing(folder) == before


@pytest.mark.usefixtures("parts")
def test_no_room_for_the_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = listing(folder)
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert main(command("convert", folder)) == 1
    name = folder / "net.safetensors"
    assert capsys.readouterr().err == f"{name}: error: No space left on device\n"
    assert listing(folder) == before
    assert main([*command("convert", folder.parent / "new")]) == 1
    assert not (folder.parent / "new").exists()


@pytest.mark.usefixtures("quick_run")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_where_the_folder_should_be(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(OLD)
    assert main(command(name, tmp_path / "file")) == 1
    err = capsys.readouterr().err
    assert str(tmp_path / "file") in err
    assert ": error: " in err
    assert (tmp_path / "file").read_bytes() == OLD


@pytest.mark.usefixtures("quick_run", "parts")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_is_read_only(
    name: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No mode stops root, so the system's error is simulated."""
    before = listing(folder)
    argv = command(name, folder)
    real = os.open

    def refused(path: str, flags: int, *args: object, **options: object) -> int:
        if flags & (os.O_RDWR | os.O_CREAT):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refused)
    assert main(argv) == 1
    assert ": error: Permission denied\n" in capsys.readouterr().err
    assert listing(folder) == before


@pytest.mark.usefixtures("quick_run")
@pytest.mark.parametrize("name", COMMANDS)
def test_links_are_replaced_and_not_followed(name: str, folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.write_bytes(OLD)
    for path in list(folder.iterdir()):
        path.unlink()
        path.symlink_to(elsewhere)
    assert main(command(name, folder)) == 0
    assert elsewhere.read_bytes() == OLD
    assert any(not path.is_symlink() for path in folder.iterdir())


def test_a_device_is_no_target(folder: Path) -> None:
    (folder / "net.dot").unlink()
    (folder / "net.dot").symlink_to("/dev/null")
    assert main(command("draw", folder)) == 1
    assert (folder / "net.dot").is_symlink()


def digits(tmp_path: Path, seed: int) -> tuple[Path, dict[str, list[np.ndarray]]]:
    """Weights of the digits net, of a size that takes several steps to copy."""
    noise = np.random.default_rng(seed)
    shapes = {
        "conv1": [(8, 1, 5, 5), (8,)],
        "conv2": [(16, 4, 5, 5), (16,)],
        "ip1": [(48, 784), (48,)],
        "ip2": [(10, 48), (10,)],
    }
    blobs = {
        name: [noise.normal(size=shape).astype(np.float32) for shape in each]
        for name, each in shapes.items()
    }
    return save(tmp_path / f"{seed}.caffemodel", blobs), blobs


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (lambda path: os.truncate(path, 5000), "went from|ended at byte"),
    "emptied": (lambda path: os.truncate(path, 0), "went from|ended at byte"),
    "written to": (lambda path: os.utime(path, (1, 1)), "was written to"),
    "grown": (lambda path: os.truncate(path, 10**6), "went from"),
}


@pytest.mark.parametrize("when", ["before", "amid"])
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_change(change: str, when: str, tmp_path: Path) -> None:
    """Reading pages of a truncated mapped file would end the process."""
    act, said = CHANGES[change]
    weights, _ = digits(tmp_path, 1)
    conversion = caffe2flax.convert(NET, weights)
    done: list[int] = []

    def progress(bytes_done: int, total: int) -> None:
        if not done:
            act(weights)
        done.append(bytes_done)

    if when == "before":
        act(weights)
        done.append(0)
    with pytest.raises(caffe2flax.ConversionError, match=said):
        conversion.write(tmp_path / "out", progress=progress)
    assert done
    assert not (tmp_path / "out").exists()


def test_weights_that_vanish_are_still_read(tmp_path: Path) -> None:
    weights, blobs = digits(tmp_path, 1)
    conversion = caffe2flax.convert(NET, weights)
    weights.unlink()
    assert conversion.weights is not None
    np.testing.assert_array_equal(conversion.weights["ip2.bias"], blobs["ip2"][1])


@given(data=st.data())
def test_views_of_files_are_read_as_numpy_would(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "numbers"
    if not path.exists():
        path.write_bytes(np.arange(2 * 3 * 5 * 7 * 64, dtype="<f4").tobytes())
    with path.open("rb") as file:
        mapped = Mapped.of(file.fileno(), str(path))
    plain = np.fromfile(path, "<f4").reshape(2, 3, 5, 7, 64)
    view = np.ndarray(plain.shape, "<f4", mapped)
    axes = data.draw(st.permutations(range(5)))
    cuts = tuple(
        slice(*sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))), step)
        for n in np.array(plain.shape)[axes]
        for step in [data.draw(st.sampled_from([1, 2, None]))]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("caffe2flax.files.mapped.STAGE", data.draw(st.integers(4, 999)))
        patch.setattr("caffe2flax.files.mapped.ROWS", data.draw(st.integers(1, 4)))
        found = loaded(view.transpose(axes)[cuts])
    assert mapping_of(found) is None
    np.testing.assert_array_equal(found, plain.transpose(axes)[cuts])
    start = data.draw(st.integers(0, len(mapped)))
    end = data.draw(st.integers(0, len(mapped)))
    assert mapped[start:end] == path.read_bytes()[start:end]


STOPPED = """
import sys, time
from caffe2flax.files import atomic, system
from caffe2flax.cli.main import main
fill = atomic._Part.fill
if {named}:
    system.create_nameless = lambda folder: -1
def slow(part, write):
    fill(part, write)
    print("ready", flush=True)
    time.sleep(60)
atomic._Part.fill = slow
sys.exit(main(sys.argv[1:]))
"""


def stopped(
    argv: list[str], number: int, named: bool
) -> subprocess.CompletedProcess[str]:
    """A command that gets a signal while it writes its files."""
    code = STOPPED.format(named=named)
    with subprocess.Popen(
        [sys.executable, "-c", code, *argv],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("number", "status", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_signals(
    number: int, status: int, said: str, named: bool, folder: Path
) -> None:
    before = listing(folder)
    for name in ("convert", "upgrade"):
        done = stopped(command(name, folder), number, named)
        assert (done.returncode, done.stderr) == (status, f"caffe2flax: {said}\n")
        assert listing(folder) == before


def test_what_a_killed_run_leaves_goes_with_the_next(folder: Path) -> None:
    before = listing(folder)
    argv = command("convert", folder)
    assert stopped(argv, signal.SIGKILL, named=False).returncode == -9
    assert listing(folder) == before
    assert stopped(argv, signal.SIGKILL, named=True).returncode == -9
    left = listing(folder).keys() - before.keys()
    assert all(name.startswith(".net.py.") for name in left)
    assert len(left) == 1
    own = folder / ".net.py.notes.part"
    own.write_bytes(OLD)
    assert main(argv) == 0
    assert listing(folder).keys() == {*before, own.name}
    assert (folder / "net.py").read_bytes() != OLD


def test_the_part_of_a_run_at_work_stays(folder: Path) -> None:
    part = folder / f".net.py.{'0' * 16}.part"
    part.write_bytes(OLD)
    with part.open("rb") as file:
        assert system.lock(file.fileno())
        atomic._sweep(folder / "net.py")
        assert part.exists()
    atomic._sweep(folder / "net.py")
    assert not part.exists()


def test_a_signal_between_the_two_of_a_pair(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.replace, 0

    def replace(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        real(source, target)
        if calls == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(os, "replace", replace)
    assert main(command("convert", folder)) == 143
    assert calls == 2
    found = listing(folder)
    assert OLD not in (found["net.py"], found["net.safetensors"])


def test_two_runs_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes write the same files at once: the files are of one of them."""
    real = os.replace

    def slow(source: Path, target: Path) -> None:
        real(source, target)
        time.sleep(0.003)

    monkeypatch.setattr(os, "replace", slow)
    pairs = []
    conversions = []
    for seed in (1, 2):
        weights, _ = digits(tmp_path, seed)
        made = caffe2flax.convert(NET, weights, name="Net", mean=[seed])
        made.write(tmp_path / f"alone{seed}")
        pairs.append(listing(tmp_path / f"alone{seed}"))
        conversions.append(made)
    assert all(pairs[0][name] != pairs[1][name] for name in pairs[0])
    with ThreadPoolExecutor(2) as pool:
        for _ in range(8):
            both = [
                pool.submit(made.write, tmp_path / "out", True) for made in conversions
            ]
            for each in both:
                each.result()
            assert listing(tmp_path / "out") in pairs


FORKING = """
import json, os, sys
from caffe2flax.cli.main import main
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(json.loads(line)))
    print(child, flush=True)
    os.waitpid(child, 0)
    print("done", flush=True)
"""


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """kill -9: the old pair or the new one, and nothing else."""
    pairs = []
    for seed in (1, 2):
        weights, _ = digits(tmp_path, seed)
        made = caffe2flax.convert(NET, weights, name="Net", mean=[seed])
        made.write(tmp_path / f"alone{seed}")
        pairs.append(listing(tmp_path / f"alone{seed}"))
    out = tmp_path / "out"
    noise = np.random.default_rng(0)
    longest, found = 0.0, []
    with subprocess.Popen(
        [sys.executable, "-c", FORKING],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for kill in range(16):
            seed = kill % 2 + 1
            argv = ["convert", str(NET), str(tmp_path / f"{seed}.caffemodel")]
            argv += ["-o", str(out), "--force", "--name", "Net", "--mean", str(seed)]
            print(json.dumps(argv), file=server.stdin, flush=True)
            child = int(server.stdout.readline())
            start = time.monotonic()
            if kill > 1:
                time.sleep(noise.uniform(0, longest))
                with suppress(ProcessLookupError):  # it may have ended
                    os.kill(child, signal.SIGKILL)
            assert server.stdout.readline() == "done\n"
            if kill <= 1:
                longest = time.monotonic() - start
            assert len(list(out.iterdir())) == 2
            found.append(pairs.index(listing(out)))
        server.stdin.close()
    assert set(found) == {0, 1}


def test_existing_files_in_the_callers_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python has `force=True`, the command line `--force`."""
    net = str(FIXTURES / "digits" / "deploy.prototxt")
    weights = str(FIXTURES / "digits" / "digits_lenet.caffemodel")
    conversion = caffe2flax.convert(net, weights)
    paths = conversion.write(tmp_path)
    with pytest.raises(FileExistsError) as caught:
        conversion.write(tmp_path)
    one, two = map(str, paths)
    assert str(caught.value) == f"{one} and {two} exist; force=True replaces them"
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    paths[1].unlink()
    with pytest.raises(FileExistsError, match=r"py exists; force=True replaces it$"):
        conversion.write(tmp_path)
    drawn, new = tmp_path / "net.dot", tmp_path / "new.prototxt"
    for path in (drawn, new):
        path.touch()
    for command in (
        ["convert", net, weights, "-o", str(tmp_path)],
        ["draw", net, "-o", str(drawn)],
        ["upgrade", net, "-o", str(new)],
    ):
        assert main(command) == 1
        told = capsys.readouterr().err
        assert told.endswith("exists; --force replaces it\n")
        assert "force=True" not in told
