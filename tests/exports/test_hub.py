"""A folder to publish: it loads, and prepares photographs as `predict` does."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

import caffe2flax
from caffe2flax import ConversionError
from caffe2flax.cli.main import main
from caffe2flax.prediction.images import Recipe, decode
from tests.golden import FIXTURES
from tests.smallnets import net, save

DIGITS = FIXTURES / "digits"
FILES = DIGITS / "deploy.prototxt", DIGITS / "digits_lenet.caffemodel"
RNG = np.random.default_rng(3)
COLOURS = net(
    'name: "odd|`<b>" type: "InnerProduct" bottom: "data" top: "y" '
    "inner_product_param { num_output: 2 }",
    data=(1, 3, 20, 24),
)
MEAN, SCALE = (104.0, 117.5, 123.0), 0.25


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    labels = [f"digit {i}" for i in range(10)]
    caffe2flax.export(*FILES, to="hub", path=folder, labels=labels, scale=1 / 16)
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colours")
    kernel = RNG.normal(size=(2, 3 * 20 * 24)).astype(np.float32)
    weights = save(folder / "w.caffemodel", {"odd|`<b>": [kernel, np.zeros(2)]})
    words = {"mean": MEAN, "scale": SCALE}
    caffe2flax.export(COLOURS, weights, to="hub", path=folder, resize=(30, 32), **words)
    return folder


def test_the_module_loads_from_another_folder(digits: Path, tmp_path: Path) -> None:
    weights = digits / "digitslenet.safetensors"
    (tmp_path / weights.name).write_bytes(weights.read_bytes())
    model = imported(digits / "digitslenet.py").DigitsLeNet.from_pretrained(tmp_path)
    with np.load(DIGITS / "digits_test.npz") as test:
        images, wanted = test["data"][:20].astype(np.float32) / 16, test["prob"][:20]
    found = model(images.transpose(0, 2, 3, 1))
    assert np.abs(np.asarray(found) - wanted).max() <= 1e-5


def test_the_weights_say_where_they_are_from(digits: Path) -> None:
    with safe_open(digits / "digitslenet.safetensors", "np") as weights:
        said = weights.metadata()
    assert said["format"] == "flax"
    assert said["producer"].startswith("caffe2flax ")
    card = (digits / "README.md").read_text()
    for name in (path.name for path in FILES):
        assert said[f"sha256 of {name}"] in card


def test_config(digits: Path, colours: Path) -> None:
    config = json.loads((digits / "config.json").read_text())
    assert config["architecture"] == "DigitsLeNet"
    assert config["num_classes"] == len(config["label_names"]) == 10
    assert config["preprocess"]["channel_order"] == "gray"
    config = json.loads((colours / "config.json").read_text())
    assert config["num_classes"] == 0
    known = config["pretrained_cfg"]
    assert known["input_size"] == [3, 20, 24]
    pixels = RNG.uniform(0, 255, (5, 3))
    ours = (pixels / 255 - known["mean"]) / known["std"]
    np.testing.assert_allclose(ours, (pixels - MEAN) * SCALE, 1e-9)


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "L", "P", "CMYK"])
def test_photographs_are_prepared_as_by_predict(
    colours: Path, digits: Path, tmp_path: Path, kind: str
) -> None:
    """By the code of the folder, which has all numbers of config.json: the same
    bits."""
    ending = "jpg" if kind == "CMYK" else "png"
    pixels = RNG.integers(0, 255, (47, 61, 3), np.uint8)
    path = tmp_path / f"photo.{ending}"
    Image.fromarray(pixels).convert(kind).save(path)
    mean = np.broadcast_to(np.float32(MEAN), (20, 24, 3))
    for folder, recipe in (
        (colours, Recipe(3, (20, 24), (30, 32), mean, SCALE)),
        (digits, Recipe(1, (28, 28), (28, 28), None, 1 / 16)),
    ):
        found = imported(folder / "preprocess.py").prepare(path)
        wanted = recipe.prepare(decode(path, recipe.channels))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted)


def test_the_card_holds_what_names_mean(colours: Path) -> None:
    card = (colours / "README.md").read_text()
    assert "<b>" not in card
    assert "| `odd\\|'&lt;b>` | `InnerProduct` |" in card
    assert card.count("FILL IN") == 3


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConversionError, match="needs the weights"):
        caffe2flax.export(FILES[0], to="hub", path=tmp_path)
    with pytest.raises(ConversionError, match="3 labels for 10 classes"):
        caffe2flax.export(*FILES, to="hub", path=tmp_path, labels=["a", "b", "c"])
    with pytest.raises(ConversionError, match="BGR or RGB, not 'GBR'"):
        caffe2flax.export(*FILES, to="hub", path=tmp_path, channel_order="GBR")
    with pytest.raises(ConversionError, match="has no effect on onnx"):
        caffe2flax.export(*FILES, to="onnx", path=tmp_path / "n.onnx", scale=2.0)
    with pytest.raises(ConversionError, match="bundle is for stablehlo"):
        caffe2flax.export(*FILES, to="hub", path=tmp_path, bundle=True)
    assert main(["export", *map(str, FILES), "--to", "what"]) == 2
    assert not [*tmp_path.iterdir()]
