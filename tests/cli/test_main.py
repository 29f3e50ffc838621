"""The command line: statuses, messages, and that bad input leaves nothing behind."""

import json
import resource
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from caffe2flax.cli.main import main

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "fixtures" / "digits"
NET, WEIGHTS = DIGITS / "deploy.prototxt", DIGITS / "digits_lenet.caffemodel"
TRAINED = (str(NET), str(WEIGHTS))

BAD_NET = """\
name: "Bad"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 2 kernel_size: 3 strid: 2 } }
layer { name: "odd" type: "Odd" bottom: "conv" top: "odd" }
"""


@pytest.fixture
def images() -> np.ndarray:
    """(2, 1, 28, 28)"""
    with np.load(DIGITS / "digits_test.npz") as test:
        return test["data"][:2].astype(np.float32) / 16


def spawn(*argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, *argv], cwd=ROOT, capture_output=True, text=True, **options
    )


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "COMMAND"),
        (["transmute"], "invalid choice: 'transmute'"),
        (["convert"], "NET.prototxt"),
        (["convert", "n.prototxt", "--phase", "test"], "invalid choice: 'test'"),
        (["convert", "n.prototxt", "--level", "high"], "invalid int value"),
        (["convert", "n.prototxt", "--name", "2fast"], "'2fast' cannot name a class"),
        (["convert", "n.prototxt", "--name", "class"], "'class' cannot name a class"),
        (["convert", "n.prototxt", "--forc"], "unrecognized arguments: --forc"),
        (
            ["convert", "n.prototxt", "--input-shape", "1,3"],
            "not like data=1,3,227,227",
        ),
        (["convert", "n.prototxt", "--input-shape", "a=1,0"], "'a=1,0' is not like"),
        (["convert", "n.prototxt", "--input-shape", "a=1,-2"], "'a=1,-2' is not like"),
        (
            ["convert", "n.prototxt", *["--input-shape", "a=1"] * 2],
            "'a' is given twice",
        ),
        (["run", "n.prototxt", "--inputs", "in.npz"], "--outputs"),
        (["run", "n.prototxt", "--outputs", "out.npz"], "--inputs"),
        (
            ["run", "n", "--inputs", "i", "--outputs", "o", "--blobs", "a,,b"],
            "'a,,b' holds an empty name",
        ),
        (["demo", "extra"], "unrecognized arguments: extra"),
    ],
)
def test_wrong_usage(
    argv: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert not out
    assert said in err


@pytest.mark.parametrize("command", ["", "convert", "run", "upgrade", "demo"])
def test_help_shows_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    assert f"  caffe2flax {command or 'demo'}" in out.partition("example")[2]
    assert not err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"caffe2flax {project['version']}\n"


def test_help_is_quick() -> None:
    """In processor time, which a busy machine does not stretch as much."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert spawn("-m", "caffe2flax", "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    seconds()  # compiles the sources
    assert statistics.median(seconds() for _ in range(3)) < 0.8


def test_convert_imports_no_jax(tmp_path: Path) -> None:
    script = (
        "import sys, caffe2flax, caffe2flax.cli.main\n"
        "status = caffe2flax.cli.main.main(sys.argv[1:])\n"
        "heavy = {'jax', 'flax', 'rich'} & sys.modules.keys()\n"
        "sys.exit(f'{status} {heavy}' if status or heavy else 0)"
    )
    done = spawn("-c", script, "convert", *TRAINED, "-o", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


def test_convert_prints_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["convert", str(NET), "-o", "out", str(WEIGHTS)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[:2] == [
        str(Path("out", "digitslenet.py")),
        str(Path("out", "digitslenet.safetensors")),
    ]
    assert "DigitsLeNet: " in out
    # conv1 8*25+8, conv2 16*4*25+16, ip1 48*784+48, ip2 10*48+10
    assert "39,994 parameters" in out
    assert not err
    assert files(tmp_path / "out") == ["digitslenet.py", "digitslenet.safetensors"]


def test_convert_takes_a_name_and_a_tap(tmp_path: Path) -> None:
    options = ["--name", "Digits", "--tap", "pool1", "-o", str(tmp_path)]
    assert main(["convert", str(NET), *options]) == 0
    assert files(tmp_path) == ["digits.py"]
    source = (tmp_path / "digits.py").read_text()
    assert "class Digits(nnx.Module):" in source
    assert '"pool1": pool1' in source


def test_a_file_is_replaced_only_with_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "digitslenet.py"
    module.write_text("mine\n")
    argv = ["convert", *TRAINED, "-o", str(tmp_path)]
    assert main(argv) == 1
    err = capsys.readouterr().err
    assert "error: " in err
    assert str(module) in err
    assert "--force" in err
    assert files(tmp_path) == [module.name]
    assert module.read_text() == "mine\n"
    assert main([*argv, "--force"]) == 0
    assert "class DigitsLeNet" in module.read_text()


def test_every_problem_is_printed_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = tmp_path / "bad.prototxt"
    net.write_text(BAD_NET)
    assert main(["convert", str(net), "-o", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert f"{net}:5:52: error: " in err
    assert "strid" in err
    assert f"{net}:6:" in err
    assert "Odd" in err
    _, line, pointer = err.splitlines()[:3]
    assert line[pointer.index("^") :].startswith("strid: 2")
    assert not (tmp_path / "out").exists()


def unreadable_net(folder: Path) -> list[str]:
    return [str(folder / "missing.prototxt")]


def folder_as_net(folder: Path) -> list[str]:
    return [str(folder)]


def binary_as_net(folder: Path) -> list[str]:
    return [str(DIGITS / "digits_test.npz")]


def missing_weights(folder: Path) -> list[str]:
    return [str(NET), str(folder / "missing.caffemodel")]


def folder_as_weights(folder: Path) -> list[str]:
    return [str(NET), str(folder)]


def text_as_weights(folder: Path) -> list[str]:
    return [str(NET), str(NET)]


def truncated_weights(folder: Path) -> list[str]:
    (folder / "cut.caffemodel").write_bytes(WEIGHTS.read_bytes()[:-1000])
    return [str(NET), str(folder / "cut.caffemodel")]


def empty_net(folder: Path) -> list[str]:
    (folder / "empty.prototxt").touch()
    return [str(folder / "empty.prototxt")]


@pytest.mark.parametrize("command", ["convert", "run"])
@pytest.mark.parametrize(
    "given",
    [
        unreadable_net,
        folder_as_net,
        binary_as_net,
        missing_weights,
        folder_as_weights,
        text_as_weights,
        truncated_weights,
        empty_net,
    ],
    ids=lambda given: given.__name__,
)
def test_a_bad_file_is_named(
    given: object, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(given)
    argv = given(tmp_path)
    np.savez(tmp_path / "in.npz", data=np.zeros((1, 1, 28, 28), np.float32))
    before = files(tmp_path)
    paths = ["--inputs", str(tmp_path / "in.npz"), "--outputs", str(tmp_path / "out")]
    options = paths if command == "run" else ["-o", str(tmp_path / "out")]
    assert main([command, *argv, *options]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert f"{argv[-1]}: error: " in err or f"{argv[-1]}:1:" in err
    assert files(tmp_path) == before


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["convert", str(NET), "-o", str(tmp_path / "file" / "out")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def run_digits(folder: Path, arrays: Mapping[str, np.ndarray], *options: str) -> int:
    np.savez(folder / "in.npz", **arrays)
    paths = ["--inputs", str(folder / "in.npz"), "--outputs", str(folder / "out")]
    return main(["run", *TRAINED, *paths, *options])


@pytest.mark.parametrize(
    ("blobs", "names"),
    [
        ("outputs", {"prob"}),
        ("pool1,ip2", {"pool1", "ip2"}),
        (
            "all",
            {"data", "conv1", "pool1", "norm1", "conv2", "pool2", "ip1", "ip2", "prob"},
        ),
    ],
)
def test_run_writes_the_blobs_asked_for(
    blobs: str, names: set[str], tmp_path: Path, images: np.ndarray
) -> None:
    shape = "data=2,1,28,28"
    arrays = {"data": images}
    assert not run_digits(tmp_path, arrays, "--blobs", blobs, "--input-shape", shape)
    assert files(tmp_path) == ["in.npz", "out"]
    with np.load(tmp_path / "out", allow_pickle=False) as results:
        assert set(results) == names
        if "prob" in names:
            with np.load(DIGITS / "digits_test.npz") as test:
                np.testing.assert_allclose(results["prob"], test["prob"][:2], atol=1e-5)


ONE = np.zeros((1, 1, 28, 28), np.float32)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "data"),
        ({"data": ONE, "extra": ONE}, "extra"),
        ({"data": np.zeros((1, 28, 28, 1), np.float32)}, "(1, 28, 28, 1)"),
        ({"data": np.array([{}], object)}, "array 'data': holds object"),
        ({"data": np.zeros((1, 1, 28, 28), complex)}, "array 'data': holds complex"),
    ],
    ids=["missing", "extra", "shape", "object", "complex"],
)
def test_run_refuses_wrong_arrays(
    arrays: Mapping[str, np.ndarray],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_digits(tmp_path, arrays) == 1
    out, err = capsys.readouterr()
    assert not out
    assert "error: " in err
    assert said in err
    assert files(tmp_path) == ["in.npz"]


@pytest.mark.parametrize(
    "options",
    [["--blobs", "nowhere"], ["--input-shape", "nowhere=1,2"]],
    ids=["blobs", "input-shape"],
)
def test_run_names_a_blob_that_the_net_lacks(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_digits(tmp_path, {"data": ONE}, *options) == 1
    assert "nowhere" in capsys.readouterr().err
    assert files(tmp_path) == ["in.npz"]


@pytest.mark.parametrize("target", ["in.npz", "missing/out.npz", "."])
def test_run_writes_nowhere_else(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "in.npz", data=ONE)
    before = (tmp_path / "in.npz").read_bytes()
    paths = ["--inputs", str(tmp_path / "in.npz"), "--outputs", str(tmp_path / target)]
    assert main(["run", *TRAINED, *paths]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert ": error: " in err
    assert files(tmp_path) == ["in.npz"]
    assert (tmp_path / "in.npz").read_bytes() == before


def test_ctrl_c_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("caffe2flax.convert", interrupted)
    assert main(["convert", str(NET)]) == 130
    assert capsys.readouterr() == ("", "caffe2flax: interrupted\n")


@pytest.mark.parametrize(
    ("redirect", "status", "said"),
    [
        ("| true", 141, ""),
        (">/dev/full", 1, "error: No space left on device\n"),
        (">&-", 0, ""),
    ],
)
def test_output_that_nobody_can_take(
    redirect: str, status: int, said: str, tmp_path: Path
) -> None:
    script = 'set -o pipefail; (sleep 0.2; "$0" -m caffe2flax convert "$1" -o "$2") '
    argv = [sys.executable, str(NET), str(tmp_path)]
    done = subprocess.run(
        ["bash", "-c", script + redirect, *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (status, said)
    assert files(tmp_path) == ["digitslenet.py"]


def test_demo(tmp_path: Path) -> None:
    start = time.perf_counter()
    done = spawn("-m", "caffe2flax", "demo", "-o", str(tmp_path / "demo"))
    seconds = time.perf_counter() - start
    assert (done.returncode, done.stderr) == (0, "")
    assert "356 of 360 test images right, 98.89%" in done.stdout
    assert "▄" in done.stdout
    assert float(done.stdout.partition("Caffe recorded: ")[2].split()[0]) < 1e-5
    assert seconds < 30


@pytest.mark.parametrize(
    "argv",
    [
        ["verify", "NET"],
        ["inspect", "NET"],
        ["draw", "NET", "-o", "net.dot"],
        ["predict", "NET", "NET", "NET"],
    ],
    ids=lambda argv: str(argv[0]),
)
def test_what_is_refused_as_json(
    argv: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    net = tmp_path / "net.prototxt"
    wrong = (f"{net}", 1), ("gone.prototxt", None)
    net.write_text("layer { tpe: 1 }")
    for file, line in wrong:
        given = [file if word == "NET" else word for word in argv]
        assert main([*given, "--json"]) == 1
        out, err = capsys.readouterr()
        assert not err
        (problem, *_) = json.loads(out)["problems"]
        assert (problem["file"], problem["line"]) == (file, line)
        assert problem["message"]


MISTYPED = {
    "covert n.prototxt": "did you mean convert?",
    "inspct n.prototxt": "did you mean inspect?",
    "convert n.prototxt --nam Net": "did you mean --name?",
    "convert n.prototxt --forec": "did you mean --force?",
    "convert n.prototxt --input-shapes=data=1": "did you mean --input-shape?",
    "convert n.prototxt --phase train": "did you mean TRAIN?",
    "verify n.prototxt n.caffemodel --jsn": "did you mean --json?",
    "upgrade n.prototxt --focre": "did you mean --force?",
}


@pytest.mark.parametrize(("line", "hint"), MISTYPED.items())
def test_mistyped(line: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    printed = capsys.readouterr().err
    assert printed.rstrip().endswith(hint)
