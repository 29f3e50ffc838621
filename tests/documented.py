"""The files that the commands and programs of the documents work on."""

from __future__ import annotations

import shutil
from pathlib import Path

import lmdb
import numpy as np
from PIL import Image

from tests import wireformat as wire
from tests.docs import FAULTY, ROOT
from tests.single import single
from tests.test_networks import write_seeded

RNG = np.random.default_rng(7)


def make(folder: Path) -> None:
    """A net and its weights, photographs, arrays, and what else the documents name."""
    source = ROOT / "fixtures" / "docs"
    for name in ("net.prototxt", "train_val.prototxt", "solver.prototxt"):
        shutil.copy(source / name, folder / name)
    shutil.copy(source / "fcn.prototxt", folder / "fcn.prototxt")
    for name in ("net", "fcn"):
        write_seeded(folder / f"{name}.prototxt", folder / f"{name}.caffemodel")
    text = "squashed_sum_param { slope: 0.5 offset: 2 }"
    squashed = single("SquashedSum", text, (2, 3))
    (folder / "squashed.prototxt").write_text(squashed, encoding="utf-8")
    (folder / "faulty.prototxt").write_text(FAULTY, encoding="utf-8")
    shutil.copy(ROOT / "fixtures/upgrade/v1_misc.prototxt", folder / "old.prototxt")
    for name in ("ssd", "digits_training"):
        shutil.copytree(ROOT / "fixtures" / name, folder / "fixtures" / name)
    shutil.copytree(ROOT / "examples", folder / "examples")
    (folder / "photos").mkdir()
    for name in ("photos/a.jpg", "photos/b.png", "cat.jpg", "photo.jpg"):
        Image.fromarray(pixels(90, 80)).save(folder / name)
    words = "\n".join(f"word {i}" for i in range(10))
    (folder / "words.txt").write_text(words, encoding="utf-8")
    (folder / "mean.binaryproto").write_bytes(mean())
    np.savez(folder / "in.npz", data=data())
    for name in ("train_lmdb", "test_lmdb"):
        write_database(folder / name)


def write_database(path: Path) -> None:
    """An LMDB of 20 small images of 10 classes."""
    with lmdb.open(str(path), map_size=1 << 20) as env, env.begin(write=True) as out:
        for i in range(20):
            image = wire.chunk(4, pixels(36, 36).transpose(2, 0, 1).tobytes())
            sizes = [wire.integer(n, size) for n, size in ((1, 3), (2, 36), (3, 36))]
            record = b"".join([*sizes, image, wire.integer(5, i % 10)])
            out.put(f"{i:08}".encode(), record)


def arrays() -> dict[str, object]:
    """The names that programs of the documents expect to be defined."""
    return {
        "data": data(),
        "images": data().transpose(0, 2, 3, 1),
        "crops": RNG.normal(size=(4, 32, 32, 3)).astype(np.float32),
        "labels": np.array([0, 3, 1, 4], np.int32),
    }


def data() -> np.ndarray:
    """Four images, N, C, H, W."""
    return np.asarray(RNG.normal(size=(4, 3, 67, 67)) * 50, np.float32)


def pixels(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 255, (height, width, 3), np.uint8)


def mean() -> bytes:
    """A mean image of 70 x 70 as a binaryproto."""
    values = np.full((3, 70, 70), 110.0).ravel()
    return wire.dims(1, 3, 70, 70) + wire.chunk(5, wire.floats(*values))
