"""Batches as Caffe's data layers give them, recorded in fixtures/data."""

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import caffe2flax
from caffe2flax import ConversionError
from caffe2flax.codegen.library import loaded_names, read
from caffe2flax.training.data import data_shapes, data_source
from tests.golden import FIXTURES

pytest.importorskip("grain")
DATA = FIXTURES / "data"
LIBRARY = Path(caffe2flax.__file__).parent / "training" / "library"
CASES = json.loads((DATA / "index.json").read_text("utf-8"))
GOOD = [n for n, c in CASES.items() if "error" not in c and "random" not in n]
REFUSED = {
    "error_two_means": ("2:159", "give either mean_value or mean_file"),
    "error_mean_channels": ("2:145", "2 values of mean_value for 3 channels"),
    "error_crop": ("2:145", "crop_size 11 exceeds the image, 10 x 12"),
    "error_sizes": ("2:73", "record 1 has another size"),
    "error_no_db": ("2:73", "there is no 'nothing.lmdb'"),
    "error_image_one_side": ("2:82", "both new_height and new_width"),
    "error_image_sizes": ("2:84", "record 1 has another size"),
    "error_image_missing": ("2:84", "zzz.png is not there"),
    "error_hdf5_transform": ("2:67", "does not transform data"),
    "error_hdf5_name": ("2:83", "no dataset 'target'"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, as LevelDB writes files beside what it opens."""
    return Path(shutil.copytree(DATA, tmp_path_factory.mktemp("data") / "data"))


def recorded(name: str) -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """The batches of a case, and what was given for it."""
    batches: dict[int, dict[str, np.ndarray]] = {}
    given = {}
    with np.load(DATA / f"{name}.npz") as file:
        for key in file.files:
            kind, _, blob = key.partition(":")
            if kind == "given":
                given[blob] = file[key]
            else:
                batches.setdefault(int(kind[5:]), {})[blob] = file[key]
    return [batches[k] for k in sorted(batches)], given


def in_caffe_order(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def batches(name: str, folder: Path, **options: Any) -> Iterator[dict[str, np.ndarray]]:
    options = {"share": (0, 1), **options}
    return iter(
        caffe2flax.data(folder / f"{name}.prototxt", CASES[name]["phase"], **options)
    )


@pytest.mark.parametrize("name", GOOD)
def test_batches_are_those_of_caffe(name: str, folder: Path) -> None:
    """Byte for byte: decoders and OpenCV's resize included."""
    wanted, given = recorded(name)
    found = batches(name, folder, source=given or None)
    for each, batch in zip(wanted, found, strict=False):
        assert batch.keys() == each.keys()
        for blob, array in each.items():
            assert batch[blob].dtype == np.float32
            # MemoryData is given labels without the axes of length 1.
            exact = array.reshape(-1) if given and blob == "label" else array
            np.testing.assert_array_equal(in_caffe_order(batch[blob]), exact)


@pytest.mark.parametrize("name", GOOD)
def test_the_shapes_of_a_batch_are_known_before(name: str, folder: Path) -> None:
    wanted, given = recorded(name)
    net = folder / f"{name}.prototxt"
    shapes = data_shapes(net, CASES[name]["phase"], given or None)
    if given:
        wanted[0]["label"] = wanted[0]["label"].reshape(-1)
    assert shapes == {blob: array.shape for blob, array in wanted[0].items()}


@pytest.mark.parametrize("name", REFUSED)
def test_what_caffe_refuses_is_refused(name: str, folder: Path) -> None:
    net = folder / f"{name}.prototxt"
    where, text = REFUSED[name]
    with pytest.raises(ConversionError) as caught:
        caffe2flax.data(net, CASES[name]["phase"])
    assert f"{name}.prototxt:{where}: error: " in str(caught.value)
    assert text in str(caught.value)


def test_every_recorded_refusal_is_in_the_table() -> None:
    assert {name for name, case in CASES.items() if "error" in case} == REFUSED.keys()


def outcomes(folder: Path, crop: int, middle: bool) -> list[list[bytes]]:
    """What crop and mirror can make of each record of raw_gray.lmdb."""
    from caffe2flax.training.library.lmdb_source import Lmdb

    found, source = [], Lmdb(str(folder / "raw_gray.lmdb"))
    for image, _ in map(source.__getitem__, range(len(source))):
        spare = [extent - crop for extent in image.shape[:2]]
        tops, lefts = ([n // 2] if middle else range(n + 1) for n in spare)
        places = [(top, left) for top in tops for left in lefts]
        parts = [image[t : t + crop, s : s + crop, 0] for t, s in places]
        found.append([x.astype("f4").tobytes() for p in parts for x in (p, p[:, ::-1])])
    return found


@pytest.mark.parametrize("name", ["random_crop_mirror", "random_mirror_test"])
def test_crops_and_mirrors_are_distributed_as_in_caffe(name: str, folder: Path) -> None:
    """Each crop of a record is as likely as another, and so is its mirror image."""
    (wanted,), _ = recorded(name)
    known = outcomes(folder, 5, middle=CASES[name]["phase"] == "TEST")
    drawn = batches(name, folder)
    ours = np.concatenate([in_caffe_order(next(drawn)["data"]) for _ in range(10)])
    for record, possible in enumerate(known):
        for images in (wanted["data"][record::6], ours[record::6]):
            seen = [np.ascontiguousarray(image).tobytes() for image in images]
            assert set(seen) <= set(possible)
            expected = len(seen) / len(possible)
            counts = np.array([seen.count(each) for each in possible])
            squares = ((counts - expected) ** 2).sum() / expected
            # Chi squared: five standard deviations above its mean.
            free = len(possible) - 1
            assert squares < free + 5 * (2 * free) ** 0.5 + 5


def test_the_state_of_the_iterator_is_the_place(folder: Path) -> None:
    straight = batches("random_crop_mirror", folder, seed=3)
    states, data = [], []
    for _ in range(4):
        states.append(straight.get_state())
        data.append(next(straight))
    resumed = batches("random_crop_mirror", folder, seed=3)
    resumed.set_state(json.loads(json.dumps(states[2])))
    for batch in data[2:]:
        again = next(resumed)
        assert all(np.array_equal(again[blob], batch[blob]) for blob in batch)
    other = next(batches("random_crop_mirror", folder, seed=4))
    assert not np.array_equal(other["data"], data[0]["data"])


def test_processes_share_each_batch(folder: Path) -> None:
    whole = batches("data_batch_gt_db", folder)
    parts = [batches("data_batch_gt_db", folder, share=(i, 2)) for i in range(2)]
    for _ in range(3):
        batch, shares = next(whole), [next(part) for part in parts]
        for i, share in enumerate(shares):
            assert np.array_equal(share["data"], np.split(batch["data"], 2)[i])
    with pytest.raises(ConversionError, match="batch of 3 cannot be shared"):
        batches("data_rgb_train", folder, share=(0, 2))


def test_shuffled_order_holds_every_record_once(folder: Path) -> None:
    found = batches("data_rgb_train", folder, shuffle=True)
    labels = np.concatenate([next(found)["label"] for _ in range(7)]).reshape(3, 7)
    assert all(len({*row}) == len({*labels[0]}) for row in labels)
    assert not np.array_equal(labels[0], labels[1])


@pytest.mark.parametrize("source", ["data_rgb_train", "hdf5_types", "image_same"])
def test_sources_survive_pickling(source: str, folder: Path) -> None:
    """As worker processes need it."""
    from caffe2flax.training.library.hdf5_source import Hdf5Rows
    from caffe2flax.training.library.lists import ImageList
    from caffe2flax.training.library.lmdb_source import Lmdb

    make = {
        "data_rgb_train": lambda: Lmdb(str(folder / "raw_rgb.lmdb")),
        "hdf5_types": lambda: Hdf5Rows(
            str(folder / "h5_list.txt"), str(folder), ("count",)
        ),
        "image_same": lambda: ImageList(str(folder / "list_same.txt"), str(folder)),
    }[source]
    before = make()
    after = pickle.loads(pickle.dumps(before))
    assert len(after) == len(before)
    assert repr(after[2]) == repr(before[2])


@pytest.mark.parametrize(
    "name",
    [
        "data_rgb_test",
        "data_mean_file_crop",
        "data_leveldb",
        "image_resize_crop",
        "window_square",
        "hdf5_types",
        "dummy",
    ],
)
def test_the_text_for_a_script_stands_alone(name: str, tmp_path: Path) -> None:
    # Files of its own: another copy of the class cannot know that an LMDB is open.
    folder = Path(shutil.copytree(DATA, tmp_path / "data"))
    library = read(file.read_text("utf-8") for file in sorted(LIBRARY.glob("*.py")))
    text = data_source(folder / f"{name}.prototxt", "TEST", name="batches_of_net")
    carried = library.needed(text)
    whole = "\n\n\n".join([text, *(each.source for each in carried)])
    used = loaded_names(ast.parse(whole)) & library.imports.keys()
    imports = "\n".join(library.imports[each] for each in sorted(used))
    program = f"from __future__ import annotations\n{imports}\n\n\n{whole}"
    assert "caffe2flax" not in program.replace(str(folder), "")
    space: dict[str, Any] = {}
    exec(compile(program, "script", "exec"), space)
    found = iter(space["batches_of_net"]())
    wanted, _ = recorded(name)
    for each, batch in zip(wanted, found, strict=False):
        for blob, array in each.items():
            assert np.array_equal(in_caffe_order(batch[blob]), array)


def test_the_text_gives_blobs_as_the_module_takes_them(folder: Path) -> None:
    net = folder / "data_rgb_test.prototxt"
    text = data_source(net, "TEST", axes={"data": (0, 1, 2, 3)}, blobs=["data"])
    assert ".transpose(2, 0, 1)" in text
    assert 'label"' not in text


NET = """
layer { name: "d" type: "Data" top: "data" top: "label"
  data_param { source: "raw_rgb.lmdb" batch_size: 4 backend: LMDB } }
layer { name: "x" type: "Input" top: "clip" input_param { shape { dim: 8 dim: 2 } } }
"""


def test_arrays_stand_for_all_data_and_inputs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "data": rng.normal(size=(10, 3, 4, 5)).astype("f4"),
        "label": np.arange(10),
        "clip": rng.normal(size=(20, 2)).astype("f4"),
    }
    np.savez(tmp_path / "all.npz", **arrays)
    found = iter(caffe2flax.data(NET, "TRAIN", tmp_path / "all.npz", share=(0, 1)))
    rows, double = np.arange(50) % 10, np.arange(100) % 20
    for k in range(6):
        batch = next(found)
        these, others = rows[4 * k : 4 * k + 4], double[8 * k : 8 * k + 8]
        assert np.array_equal(in_caffe_order(batch["data"]), arrays["data"][these])
        assert np.array_equal(batch["label"], these)
        assert np.array_equal(batch["clip"], arrays["clip"][others])
    assert data_shapes(NET, "TRAIN", arrays) == {
        "data": (4, 3, 4, 5),
        "label": (4,),
        "clip": (8, 2),
    }


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"data": np.zeros((4, 3)), "clip": np.zeros((8, 2))}, "blob 'label'"),
        ({"data": np.zeros((0, 3)), "label": [1], "clip": [1]}, "holds no items"),
        (
            {"data": np.zeros((4, 3)), "label": np.zeros(5), "clip": np.zeros(8)},
            "differ",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays: Any, text: str) -> None:
    with pytest.raises(ConversionError, match=text):
        caffe2flax.data(NET, "TRAIN", arrays)


@pytest.mark.parametrize(
    "layer",
    [
        'layer { name: "a" type: "AnnotatedData" top: "data" }',
        'layer { name: "a" type: "VideoData" top: "data" top: "label" }',
        'layer { name: "a" type: "DenseImageData" top: "data" top: "label" }',
        'layer { name: "a" type: "Python" top: "data" '
        'python_param { module: "m" layer: "MyDataLayer" } }',
        'layer { name: "a" type: "Input" top: "data" '
        "input_param { shape { dim: 2 dim: 3 } } }",
        'layer { name: "a" type: "MemoryData" top: "data" top: "label" '
        "memory_data_param { batch_size: 1 channels: 1 height: 1 width: 1 } }",
    ],
)
def test_layers_that_are_not_ours_ask_for_arrays(layer: str) -> None:
    with pytest.raises(ConversionError, match=r"--data x\.npz") as caught:
        caffe2flax.data(layer)
    assert caught.value.problems[0].line == 1


def test_layers_together_give_one_batch(folder: Path) -> None:
    first = (folder / "data_no_label.prototxt").read_text()
    second = (
        (folder / "hdf5_types.prototxt")
        .read_text()
        .replace("batch_size: 3", "batch_size: 2")
    )
    net = folder / "both.prototxt"
    net.write_text(first + second.split("\n", 1)[1])
    batch = next(iter(caffe2flax.data(net, "TEST", share=(0, 1))))
    (wanted, *_), _ = recorded("data_no_label")
    assert np.array_equal(in_caffe_order(batch["data"]), wanted["data"])
    assert batch["pair"].shape == (2, 2)
    assert data_source(net, "TEST").count("def train_batches") == 3


def test_a_source_stands_for_that_of_the_net(folder: Path) -> None:
    with pytest.raises(ConversionError, match=r"mean of shape .*10, 12, 3"):
        batches("data_v1", folder, source=folder / "sizes.lmdb")


def test_worker_processes_give_the_same_batches(folder: Path) -> None:
    """In a process of its own, whose end waits for theirs."""
    program = f"""
import numpy as np
import caffe2flax

def main():
    net = {str(folder / "random_crop_mirror.prototxt")!r}
    alone = iter(caffe2flax.data(net, share=(0, 1)))
    helped = iter(caffe2flax.data(net, share=(0, 1), workers=2))
    for _ in range(3):
        print(np.array_equal(next(alone)["data"], next(helped)["data"]))

if __name__ == "__main__":
    main()
"""
    (folder / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, folder / "program.py"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(caffe2flax.__file__).parents[1])},
    )
    assert done.stdout.split() == ["True"] * 3, done.stderr
