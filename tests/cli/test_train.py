"""The command train: what Caffe logged, and runs that are stopped and go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import caffe2flax
from caffe2flax.cli.main import main
from caffe2flax.frontend import caffemodel
from tests.golden import FIXTURES

pytest.importorskip("grain")
DIGITS = FIXTURES / "digits_training"
ROOT = Path(__file__).parents[2]


def train(*arguments: object, cwd: Path = DIGITS) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as users run it."""
    command = [sys.executable, "-m", "caffe2flax", "train", *map(str, arguments)]
    own = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=own, capture_output=True, text=True)


def log_of(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers(entry: object, path: str = "") -> Iterator[tuple[str, float]]:
    """Each number of an entry of a log by its place."""
    if isinstance(entry, dict):
        for key, value in entry.items():
            yield from numbers(value, f"{path}/{key}")
    elif isinstance(entry, list):
        for i, value in enumerate(entry):
            yield from numbers(value, f"{path}/{i}")
    elif isinstance(entry, int | float):
        yield path, float(entry)


def check_log(found: list[dict[str, Any]], name: str) -> None:
    """Against what Caffe printed, with 6 digits."""
    recorded = json.loads((DIGITS / f"{name}.json").read_text())
    assert [e["kind"] for e in found] == [e["kind"] for e in recorded]
    for ours, theirs in zip(found, recorded, strict=True):
        bound = max(10 * theirs.pop("sensitivity", 0), 1e-4)
        given = dict(numbers(ours))
        for place, value in numbers(theirs):
            assert abs(given[place] - value) <= bound * max(1, abs(value)), place


def blobs(path: Path) -> dict[str, list[np.ndarray]]:
    return {
        layer.name: [np.asarray(blob) for blob in layer.blobs]
        for layer in caffemodel.read(path).layers
    }


def assert_same(first: Path, second: Path, bound: float = 0.0) -> None:
    one, other = blobs(first), blobs(second)
    assert one.keys() == other.keys()
    for layer, arrays in one.items():
        for a, b in zip(arrays, other[layer], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=layer)


@pytest.mark.parametrize("name", ["log_lenet", "log_bn"])
def test_the_log_is_caffes(name: str, tmp_path: Path) -> None:
    done = train(f"{name}.solver.prototxt", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    check_log(log_of(tmp_path), name)
    if name == "log_lenet":
        made, theirs = (p / f"{name}_iter_60.caffemodel" for p in (tmp_path, DIGITS))
        assert_same(made, theirs, 1e-5)


def test_a_run_goes_on_from_caffes_snapshot(tmp_path: Path) -> None:
    state = DIGITS / "log_lenet_iter_25.solverstate"
    solver = "log_lenet_resumed.solver.prototxt"
    done = train(solver, "-o", tmp_path, "--snapshot", state)
    assert done.returncode == 0, done.stderr
    check_log(log_of(tmp_path), "log_lenet_resumed")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with Dropout, from the fillers, 12 updates."""
    folder = tmp_path_factory.mktemp("straight")
    done = train("stats_digits.solver.prototxt", "-o", folder, "--max-iter", 12)
    assert done.returncode == 0, done.stderr
    return folder


LAST = "stats_digits_iter_12.caffemodel"


def test_a_resumed_run_ends_with_the_same_bits(straight: Path, tmp_path: Path) -> None:
    solver = "stats_digits.solver.prototxt"
    for more in (["--max-iter", 5], ["--resume", "--max-iter", 12]):
        done = train(solver, "-o", tmp_path, *more)
        assert done.returncode == 0, done.stderr
    assert_same(straight / LAST, tmp_path / LAST)


def script_of(folder: Path) -> Path:
    (path,) = folder.glob("*_train.py")
    return path


def test_the_script_stands_alone_and_keeps_its_edits(
    straight: Path, tmp_path: Path
) -> None:
    """The one of examples/, which finds its data from its own folder."""
    example = ROOT / "examples" / "training"
    folder = tmp_path / "examples" / "training"
    shutil.copytree(straight, folder)
    shutil.copytree(example, folder, dirs_exist_ok=True)
    (tmp_path / "fixtures").symlink_to(FIXTURES)
    script = script_of(folder)
    text = script.read_text()
    for path in example.glob("*.py"):
        rest = path.read_text().replace("from caffe2flax import compile", "")
        assert "import caffe2flax" not in rest
    script.write_text(
        text.replace("DISPLAY, AVERAGE_LOSS = 50", "DISPLAY, AVERAGE_LOSS = 1")
    )
    done = train("stats_digits.solver.prototxt", "-o", folder)
    assert done.returncode == 1
    assert "exist; --force" in done.stderr
    command = [sys.executable, script, "--resume", "--max-iter", "14"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert log_of(folder)[-2]["iteration"] == 14


def test_devices_change_nothing(straight: Path, tmp_path: Path) -> None:
    solver = "stats_digits.solver.prototxt"
    done = train(solver, "-o", tmp_path, "--devices", 2, "--max-iter", 12)
    assert done.returncode == 0, done.stderr
    assert_same(straight / LAST, tmp_path / LAST, 1e-6)


def test_sigint_takes_a_snapshot_and_ends(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    shutil.copytree(straight, folder)
    command = [sys.executable, script_of(folder), "--resume", "--max-iter", "100000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if "Iteration 50," in line:
                run.send_signal(signal.SIGINT)
                break
        rest = run.stderr.read()
    assert run.returncode == 0, rest
    assert "Optimization stopped early." in rest
    assert log_of(folder)[-1]["kind"] == "stopped"
    (path,) = [p for p in folder.glob("*.solverstate") if "_12" not in p.name]
    assert caffe2flax.read_solverstate(path).iter > 50


def test_frozen_layers_stay_and_a_new_head_learns(tmp_path: Path) -> None:
    weights = DIGITS / "log_lenet_iter_60.caffemodel"
    solver = tmp_path / "s.prototxt"
    text = (DIGITS / "log_bn.solver.prototxt").read_text()
    net = DIGITS / "log_lenet.net.prototxt"
    (tmp_path / "net.prototxt").write_text(
        net.read_text()
        .replace('stage: "seen" ', "")
        .replace("digits_t", f"{DIGITS}/digits_t")
    )
    solver.write_text(
        'net: "net.prototxt" base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" '
        'max_iter: 3 weight_decay: 0.01 snapshot_prefix: "tuned"'
    )
    assert text
    given = ["--weights", weights, "--freeze", "conv*", "--freeze", "ip1"]
    done = train(solver, "-o", tmp_path / "out", *given)
    assert done.returncode == 0, done.stderr
    before, after = blobs(weights), blobs(tmp_path / "out" / "tuned_iter_3.caffemodel")
    for layer in ("conv1", "conv2", "ip1"):
        for a, b in zip(before[layer], after[layer], strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(before["ip2"][0], after["ip2"][0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--freeze", "conf1"], "no layer fits; did you mean conv1"),
        (["--set", "classes=5"], "no argument 'classes'"),
        (["--net", "nowhere.prototxt"], "nowhere.prototxt"),
        (["--data", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_refused(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    solver = str(DIGITS / "log_bn.solver.prototxt")
    assert main(["train", solver, "-o", str(tmp_path), *arguments]) == 1
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
