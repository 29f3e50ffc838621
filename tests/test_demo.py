"""The demo: what it finds, and that it touches no file but its own."""

from pathlib import Path

import pytest

from caffe2flax.demo import LEDGER, Demo, demo
from caffe2flax.errors import ConversionError

FILES = {
    "deploy.prototxt",
    "digits_lenet.caffemodel",
    "digitslenet.py",
    "digitslenet.safetensors",
    "images.npz",
    LEDGER,
}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return demo(tmp_path_factory.mktemp("demo") / "made" / "for it")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_it_agrees_with_caffe(result: Demo) -> None:
    assert (result.correct, len(result.labels)) == (356, 360)
    assert result.difference < 1e-5


def test_it_leaves_what_is_needed_to_go_on(result: Demo) -> None:
    directory = result.paths[0].parent
    assert contents(directory).keys() == FILES
    assert {path.name for path in (*result.paths, *result.sources)} == FILES - {LEDGER}
    assert (directory / f"{result.module}.py").is_file()


@pytest.mark.parametrize(("solid", "ink"), [(True, "█"), (False, "#")])
def test_the_drawing_shows_four_read_rightly_and_one_not(
    result: Demo, solid: bool, ink: str
) -> None:
    *rows, captions = result.drawing(solid=solid).splitlines()
    assert len(rows) == 7
    assert max(map(len, rows)) <= 80
    assert sum(row.count(ink) for row in rows) > 50
    assert solid or captions.isascii()
    assert captions.split() == ["7", "9", "4", "7", "8,", "but", "is", "9"]


def test_it_replaces_its_own_files_and_no_other(result: Demo) -> None:
    directory = result.paths[0].parent
    (directory / "notes.txt").write_text("mine\n")
    again = demo(directory)
    assert again.paths == result.paths
    assert contents(directory).keys() == FILES | {"notes.txt"}

    result.paths[0].write_text("changed by hand\n")
    before = contents(directory)
    with pytest.raises(ConversionError, match="is not the demo's own") as caught:
        demo(directory)
    assert [problem.file for problem in caught.value.problems] == [str(result.paths[0])]
    assert contents(directory) == before


@pytest.mark.parametrize("ledger", ["", "[]", "{}", '{"images.npz": 1}', "\x00"])
def test_without_its_ledger_no_file_is_its_own(tmp_path: Path, ledger: str) -> None:
    (tmp_path / LEDGER).write_text(ledger)
    (tmp_path / "images.npz").mkdir()
    (tmp_path / "deploy.prototxt").write_text("mine\n")
    with pytest.raises(ConversionError) as caught:
        demo(tmp_path)
    files = [problem.file for problem in caught.value.problems]
    assert files == [str(tmp_path / name) for name in ("deploy.prototxt", "images.npz")]
    assert (tmp_path / "deploy.prototxt").read_text() == "mine\n"
