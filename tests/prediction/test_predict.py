"""Images read, prepared and ranked as Caffe's tools do it; files that are no images."""

import csv
import io
import json
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from ruff import find_ruff_bin

import caffe2flax
from caffe2flax.cli.main import main
from caffe2flax.errors import ConversionError
from caffe2flax.prediction.decode import ranked
from caffe2flax.prediction.images import Recipe, crop, decode, find, resize
from caffe2flax.prediction.preparation import read_mean
from caffe2flax.runner import load_class
from tests import wireformat
from tests.smallnets import net, save

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "fixtures" / "digits"
TRAINED = [str(DIGITS / "deploy.prototxt"), str(DIGITS / "digits_lenet.caffemodel")]
SCALE = ["--scale", str(1 / 255)]

UNUSED = {"unused": [np.zeros(1, np.float32)]}
"""Weights of a layer that the net lacks."""


def picture(height: int, width: int, channels: int) -> np.ndarray:
    """(height, width, channels): a pattern without two equal rows or columns."""
    y, x, c = np.mgrid[:height, :width, :channels]
    return ((y * 7 + x * 13 + c * 29 + x * y) ** 2 % 256).astype(np.uint8)


def store(path: Path, bgr: np.ndarray) -> Path:
    """A lossless file of an image (H, W, 3 or 1), B before G before R."""
    gray = bgr.shape[2] == 1
    Image.fromarray(bgr[..., 0] if gray else bgr[..., ::-1].copy()).save(path)
    return path


# Recorded from cv2.resize of OpenCV 4.10 and 5.0, which agree in every byte.
@pytest.mark.parametrize(
    ("height", "width", "channels", "to_height", "to_width", "checksum"),
    [
        (2, 2, 1, 5, 3, 3732704800),
        (7, 5, 3, 4, 9, 3938125900),
        (40, 60, 3, 28, 28, 2679768751),
        (28, 28, 1, 28, 28, 1441334085),
        (256, 256, 3, 227, 227, 1762995279),
        (333, 500, 3, 224, 224, 2262898016),
        (10, 10, 3, 5, 5, 3395558751),
        (1, 9, 3, 4, 4, 948227199),
        (9, 1, 1, 3, 3, 2757318019),
        (13, 17, 3, 50, 70, 2330224740),
    ],
)
def test_resizing_is_opencvs(
    height: int, width: int, channels: int, to_height: int, to_width: int, checksum: int
) -> None:
    resized = resize(picture(height, width, channels), (to_height, to_width))
    assert resized.shape == (to_height, to_width, channels)
    assert zlib.crc32(np.ascontiguousarray(resized).tobytes()) == checksum


sizes = st.integers(1, 12)


@given(sizes, sizes, sizes, sizes)
def test_resizing_is_bilinear(h: int, w: int, to_h: int, to_w: int) -> None:
    """Against the textbook's formula in float64, up to the rounding of either."""
    image = picture(h, w, 1)
    y = ((np.arange(to_h) + 0.5) * h / to_h - 0.5).clip(0, h - 1)
    x = ((np.arange(to_w) + 0.5) * w / to_w - 0.5).clip(0, w - 1)
    rows = [np.interp(x, np.arange(w), line) for line in image[..., 0].astype(float)]
    expected = np.array(
        [np.interp(y, np.arange(h), column) for column in np.transpose(rows)]
    )
    np.testing.assert_allclose(resize(image, (to_h, to_w))[..., 0], expected.T, atol=1)


def transformed(
    image: np.ndarray,
    size: int,
    mean_values: tuple[float, ...] = (),
    mean_file: np.ndarray | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """DataTransformer in TEST, element by element: (H, W, C) -> (H, W, C).

    mean_file is (C, H, W), of the size of the image before the crop.
    """
    height, width, channels = image.shape
    h_off, w_off = (height - size) // 2, (width - size) // 2
    top = np.empty((size, size, channels), np.float32)
    for h, w, c in np.ndindex(size, size, channels):
        pixel = np.float32(image[h_off + h, w_off + w, c])
        mean = np.float32(0)
        if mean_file is not None:
            mean = np.float32(mean_file[c, h_off + h, w_off + w])
        elif mean_values:
            values = mean_values * channels if len(mean_values) == 1 else mean_values
            mean = np.float32(values[c])
        top[h, w, c] = (pixel - mean) * np.float32(scale)
    return top


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [6, 7, 9])
@pytest.mark.parametrize("means", ["none", "one", "each", "file"])
@pytest.mark.parametrize("scale", [1.0, 0.017])
def test_preparing_is_the_data_transformers(
    channels: int, size: int, means: str, scale: float
) -> None:
    """In `predict`, and in the generated module's `preprocess`."""
    image = picture(9, 9, channels)
    values = {"none": (), "one": (33.3,), "each": (104.007, 116.67, 122.68), "file": ()}
    given = values[means][:channels] if means == "each" else values[means]
    array = None
    if means == "file":
        array = picture(9, 9, channels).transpose(2, 1, 0).astype(np.float32) / 3
    expected = transformed(image, size, given, array, scale)

    kept: Any = None
    if array is not None:
        kept = crop(array.transpose(1, 2, 0), (size, size))
    elif given:
        kept = np.array(given, np.float32)
    recipe = Recipe(channels, (size, size), (9, 9), kept, scale)
    np.testing.assert_array_equal(recipe.prepare(image), expected)

    fields = [f"mean_value: {value}" for value in given]
    fields += [f"scale: {scale}", f"crop_size: {size}"]
    fields += ['mean_file: "mean"'] if array is not None else []
    color = "force_color" if channels == 3 else "force_gray"
    text = (
        'layer { name: "x" type: "Data" top: "x" data_param { batch_size: 2 } '
        f"transform_param {{ {' '.join(fields)} {color}: true }} }}\n"
        'layer { name: "l" type: "Convolution" bottom: "x" top: "y" '
        "convolution_param { num_output: 1 kernel_size: 1 } }"
    )
    source = caffe2flax.convert(text).source
    preprocess = load_class("preprocess", source)
    more = () if array is None else (array.transpose(1, 2, 0),)
    made = np.asarray(preprocess(np.stack([image, image]), *more))
    np.testing.assert_array_equal(made, np.stack([expected, expected]))


@pytest.mark.parametrize(
    ("fields", "phase"),
    [
        ("mean_value: 1 scale: 2 crop_size: 5 mirror: true", "TEST"),
        ("mean_value: 1 mean_value: 2 mean_value: 3 crop_size: 5", "TRAIN"),
        (f'mean_file: "{"a " * 80}" crop_size: 5 mirror: true', "TRAIN"),
        (r'mean_file: "\"\"\"\\\n\033" crop_size: 5', "TEST"),
    ],
)
def test_preprocess_is_well_formed(fields: str, phase: str, tmp_path: Path) -> None:
    text = (
        'layer { name: "x" type: "Data" top: "x" data_param { batch_size: 2 } '
        f"transform_param {{ {fields} }} }}\n"
        'layer { name: "p" type: "Power" bottom: "x" top: "y" }'
    )
    source = caffe2flax.convert(text, phase=phase).source
    assert source.isascii()
    module = tmp_path / "net.py"
    module.write_text(source)
    for command in (["check"], ["format", "--check"]):
        argv = [find_ruff_bin(), *command, "--isolated", "--no-cache", "-q", module]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")
    function = source[source.index("def preprocess") : source.index("def check_shape")]
    assert ("crops and mirror" in function) is (phase == "TRAIN")
    assert ("x.shape[1]" in function) is (phase == "TEST")


def test_preprocess_in_caffes_order_and_by_the_callers_numbers() -> None:
    text = net(
        'name: "l" type: "InnerProduct" bottom: "x" top: "y" '
        "inner_product_param { num_output: 2 }",
        x=(1, 3, 4, 5),
    )
    image = picture(4, 5, 3)
    options: Mapping[str, Any] = {"mean": (1, 2, 3), "scale": 0.5}
    conversion = caffe2flax.convert(text, **options)
    value = conversion.graph.arguments[0]
    axes = conversion.graph.layouts[value].axes
    batch = image.transpose(2, 0, 1)[None].transpose(axes)
    made = np.asarray(load_class("preprocess", conversion.source)(batch))
    expected = (image.astype(np.float32) - np.array([1, 2, 3], np.float32)) / 2
    np.testing.assert_array_equal(
        made, expected.transpose(2, 0, 1)[None].transpose(axes)
    )
    assert "preprocess" not in caffe2flax.convert(text).source


@pytest.mark.parametrize(
    ("mean", "inputs", "said"),
    [
        ((1, 2), {"x": (1, 3, 4, 4)}, "2 means for the 3 channels of 'x'"),
        ((1,), {"x": (1, 4)}, "the net has no input of shape (N, 1 or 3, H, W)"),
        (
            (1,),
            {"x": (1, 1, 4, 4), "z": (1, 3, 4, 4)},
            "the net has more than one input of shape (N, 1 or 3, H, W)",
        ),
    ],
)
def test_means_that_do_not_fit(
    mean: tuple[float, ...], inputs: Mapping[str, tuple[int, ...]], said: str
) -> None:
    layers = (f'name: "{b}2" type: "TanH" bottom: "{b}" top: "{b}2"' for b in inputs)
    with pytest.raises(ConversionError) as caught:
        caffe2flax.convert(net(*layers, **inputs), mean=mean)
    assert said in str(caught.value)


RED = (200, 40, 10)
GRAY = round(200 * 0.299 + 40 * 0.587 + 10 * 0.114)


def modes() -> dict[str, tuple[Image.Image, tuple[int, int, int], int]]:
    """Images of 2 x 3 of one colour: B, G, R, and gray."""
    red = Image.new("RGB", (3, 2), RED)
    clear = Image.new("RGBA", (3, 2), (*RED, 0))
    paletted = red.convert("P", palette=Image.Palette.ADAPTIVE)
    with_key = paletted.copy()
    with_key.info["transparency"] = 0
    deep = Image.fromarray(np.full((2, 3), 0x7B05, np.uint16))
    bgr = (10, 40, 200)
    return {
        "RGB": (red, bgr, GRAY),
        "RGBA": (clear, bgr, GRAY),
        "P": (paletted, bgr, GRAY),
        "P with transparency": (with_key, bgr, GRAY),
        "L": (Image.new("L", (3, 2), 99), (99, 99, 99), 99),
        "LA": (Image.new("LA", (3, 2), (99, 0)), (99, 99, 99), 99),
        "1": (Image.new("1", (3, 2), 1), (255, 255, 255), 255),
        "16 bits": (deep, (0x7B, 0x7B, 0x7B), 0x7B),
    }


@pytest.mark.parametrize("mode", modes())
def test_decoding(mode: str, tmp_path: Path) -> None:
    image, bgr, gray = modes()[mode]
    path = tmp_path / "image.png"
    image.save(path)
    np.testing.assert_array_equal(decode(path, 3), np.full((2, 3, 3), bgr))
    np.testing.assert_array_equal(decode(path, 1), np.full((2, 3, 1), gray))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp"])
def test_images_are_turned_upright(suffix: str, tmp_path: Path) -> None:
    """Orientation 6: the stored image is to be turned by 90 degrees."""
    path = tmp_path / f"image.{suffix}"
    stored = Image.new("L", (32, 16), 0)
    stored.paste(255, (16, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.convert("RGB").save(path, exif=exif)
    upright = decode(path, 1)
    assert upright.shape == (32, 16, 1)
    assert upright[:12].max() < 20
    assert upright[20:].min() > 235


def png(path: Path) -> bytes:
    return store(path, picture(40, 40, 3)).read_bytes()


BAD = (
    "cut.png",
    "flipped.png",
    "empty.png",
    "text.jpg",
    "program.eps",
    "float.tiff",
    "huge.png",
)


def bad_files(folder: Path) -> dict[str, bytes]:
    """Files that are no images, or no longer, by the names in BAD."""
    whole = png(folder / "whole.png")
    (folder / "whole.png").unlink()
    deep = io.BytesIO()
    Image.fromarray(np.zeros((2, 2), np.float32)).save(deep, "TIFF")
    huge = bytearray(whole)
    huge[16:24] = (60000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    contents = (
        whole[: len(whole) // 2],
        whole[:60] + bytes([whole[60] ^ 255]) + whole[61:],
        b"",
        b"no image\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        deep.getvalue(),
        bytes(huge),
    )
    return dict(zip(BAD, contents, strict=True))


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(bad_files(tmp_path)[name])
    with pytest.raises(ConversionError) as caught:
        decode(path, 3)
    (problem,) = caught.value.problems
    assert problem.file == str(path)
    starts = "this is no image", "this image is damaged", "pixels of 32 bits (F)"
    assert problem.message.startswith(starts)


def test_colours_that_opencv_reads_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "lab.tif"
    Image.new("LAB", (3, 2)).save(path)
    with pytest.raises(ConversionError, match="colours as LAB"):
        decode(path, 3)


def test_folders_stand_for_their_files(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", ".hidden.png", "in/c.png", ".git/d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = find([tmp_path / "b.png", tmp_path])
    names = [str(path.relative_to(tmp_path)) for path in found]
    assert names == ["b.png", "a.png", "b.png", "in/c.png"]
    (tmp_path / "none").mkdir()
    with pytest.raises(ConversionError, match="holds no files"):
        list(find([tmp_path / "none"]))


def test_ranking() -> None:
    scores = np.array([[0.1, 0.7, 0.1, 0.1], [np.nan, -1, 5, 5]])
    best = [[x.number for x in ranked(row, 3).best] for row in scores]
    assert best == [[1, 0, 2], [2, 3, 1]]
    assert [len(ranked(row, 9).best) for row in scores] == [4, 4]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images as 8-bit PNGs: 0 to 1 becomes 0 to 255."""
    folder = tmp_path_factory.mktemp("digits")
    with np.load(DIGITS / "digits_test.npz") as test:
        images = test["data"].astype(np.float32) / 16
    for number, image in enumerate(images[:, 0]):
        pixels = np.rint(image * 255).astype(np.uint8)
        store(folder / f"{number:03}.png", pixels[..., None])
    return folder


def test_digits(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Caffe's 356 of 360; 360 is no multiple of the batch."""
    options = ["--csv", "--top", "1", "--batch", "100"]
    assert main(["predict", *TRAINED, str(digits), *SCALE, *options]) == 0
    out, err = capsys.readouterr()
    assert not err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [Path(row["image"]).stem for row in rows] == [f"{i:03}" for i in range(360)]
    with np.load(DIGITS / "digits_test.npz") as test:
        right = [int(r["class"]) == n for r, n in zip(rows, test["label"], strict=True)]
        best = test["prob"].max(axis=1)
    assert sum(right) == 356
    scores = [float(row["score"]) for row in rows]
    # 8 bits are less than the images have: one part in 510 of a pixel.
    np.testing.assert_allclose(scores, best, atol=0.02)


def test_files_that_are_no_images_are_named_and_nothing_else_is_lost(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{number:03}.png" for number in range(5)]
    for name in names:
        (tmp_path / name).write_bytes((digits / name).read_bytes())
    bad = bad_files(tmp_path)
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    missing = tmp_path / "missing.png"
    argv = ["predict", *TRAINED, str(missing), str(tmp_path), *SCALE, "--batch", "2"]
    assert main([*argv, "--json"]) == 1
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["blob"] == "prob"
    found = [Path(row["image"]).name for row in told["images"]]
    assert found == names
    assert [row["top"][0]["class"] for row in told["images"]] == [7, 9, 4, 7, 0]
    named = {line.partition(": error: ")[0] for line in err.splitlines()}
    assert named == {str(missing), *(str(tmp_path / name) for name in bad)}
    assert {problem["file"] for problem in told["problems"]} == named


def test_all_files_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").touch()
    assert main(["predict", *TRAINED, str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert not out.strip()
    assert err == f"{tmp_path / 'a.png'}: error: this is no image of a known format\n"


def test_text_for_people(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"digit {i}" for i in range(10)) + "\n")
    image = str(digits / "000.png")
    argv = ["predict", *TRAINED, image, *SCALE, "--top", "2", "--labels", str(labels)]
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [image, "  1.0000  7 digit 7"]
    assert lines[3].startswith("note: assumed: no mean is subtracted")
    assert len(lines) == 4


@pytest.fixture
def identity(tmp_path: Path) -> list[str]:
    """A net whose blob y is its input (N, 3, 6, 8)."""
    prototxt = tmp_path / "identity.prototxt"
    prototxt.write_text(
        net(
            'name: "p" type: "Power" bottom: "x" top: "y"',
            'name: "g" type: "Pooling" bottom: "y" top: "g" '
            "pooling_param { pool: AVE global_pooling: true }",
            x=(2, 3, 6, 8),
        )
    )
    return [str(prototxt), str(save(tmp_path / "identity.caffemodel", UNUSED))]


def seen(identity: list[str], folder: Path, *options: str) -> np.ndarray:
    """(N, H, W, C): the output of the net for the images in `folder`."""
    out = folder.parent / "out.npz"
    argv = ["predict", *identity, str(folder), *options, "--features", "y"]
    assert main([*argv, "-o", str(out)]) == 0
    with np.load(out, allow_pickle=False) as arrays:
        assert arrays.keys() == {"y", "images"}
        assert [Path(name).name for name in arrays["images"]] == sorted(
            path.name for path in folder.iterdir()
        )
        return arrays["y"].transpose(0, 2, 3, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir()
    for number in range(3):
        store(made / f"{number}.png", picture(12 + number, 15, 3))
    return made


def binaryproto(path: Path, mean: np.ndarray) -> Path:
    data = wireformat.dims(1, *mean.shape)
    path.write_bytes(data + wireformat.chunk(5, mean.astype("<f4").tobytes()))
    return path


@pytest.mark.parametrize("means", ["none", "numbers", "npy", "binaryproto"])
@pytest.mark.parametrize("order", ["BGR", "RGB"])
@pytest.mark.parametrize("cropped", [False, True])
def test_options(
    means: str,
    order: str,
    cropped: bool,
    identity: list[str],
    folder: Path,
    tmp_path: Path,
) -> None:
    before = (10, 12) if cropped else (6, 8)
    array = np.random.default_rng(0).uniform(0, 255, (3, *before)).astype(np.float32)
    files = {
        "npy": str(tmp_path / "mean.npy"),
        "binaryproto": str(binaryproto(tmp_path / "mean.binaryproto", array)),
        "numbers": "1.5,2,-3e1",
    }
    np.save(files["npy"], array)
    options = ["--scale", "0.25", "--channel-order", order]
    options += ["--mean", files[means]] if means != "none" else []
    if cropped:
        options += ["--resize", "10,12"] if means in ("none", "numbers") else ["--crop"]
    made = seen(identity, folder, *options, "--batch", "2")
    assert made.shape == (3, 6, 8, 3)
    for number, found in enumerate(made):
        x = resize(picture(12 + number, 15, 3), before).astype(np.float32)
        x = x[..., ::-1] if order == "RGB" else x
        if means == "numbers":
            x = x - np.array([1.5, 2, -30], np.float32)
        elif means != "none":
            x = x - array.transpose(1, 2, 0)
        np.testing.assert_array_equal(found, crop(x, (6, 8)) * np.float32(0.25))


def test_a_mean_of_another_size_counts_by_channel(
    identity: list[str],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mean = np.stack([np.full((9, 9), value, np.float32) for value in (1, 2, 3)])
    path = binaryproto(tmp_path / "mean.binaryproto", mean)
    made = seen(identity, folder, "--mean", str(path))
    plain = seen(identity, folder, "--mean", "1,2,3")
    np.testing.assert_array_equal(made, plain)
    told = capsys.readouterr().out
    assert "note: the mean is 9 x 9, the image 6 x 8: its mean of each channel" in told
    assert "(1, 2, 3) is subtracted from all pixels; with --crop the image is" in told
    path = binaryproto(tmp_path / "mean.binaryproto", mean[:, :5, :5])
    seen(identity, folder, "--mean", str(path))
    told = capsys.readouterr().out
    assert "note: the mean is 5 x 5" in told
    assert "with --crop" not in told


NO_MEAN = "no mean is subtracted, as neither the net nor --mean gives one"


def test_no_mean_is_said(
    identity: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the text and in JSON; not where the caller says what, and be it nothing."""
    seen(identity, folder)
    assert f"note: assumed: {NO_MEAN}" in capsys.readouterr().out
    seen(identity, folder, "--scale", "0.5")
    assert NO_MEAN in capsys.readouterr().out
    seen(identity, folder, "--json")
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert note.startswith(f"assumed: {NO_MEAN}")
    for mean in ("0", "1,2,3"):
        seen(identity, folder, "--mean", mean)
        assert NO_MEAN not in capsys.readouterr().out


TRANSFORM = "mean_value: 10 mean_value: 20 mean_value: 30 scale: 0.5 crop_size: 6"


@pytest.mark.parametrize(
    ("fields", "options", "mean", "scale", "before"),
    [
        (TRANSFORM, ["--resize", "9,9"], (10, 20, 30), 0.5, 9),
        (TRANSFORM, ["--resize", "6,6", "--scale", "2"], (10, 20, 30), 2, 6),
        (TRANSFORM, ["--resize", "7,7", "--mean", "0"], (0, 0, 0), 0.5, 7),
        ('mean_file: "m" crop_size: 6', ["--mean", "5", "--resize", "8,8"], (5,), 1, 8),
    ],
)
def test_the_nets_own_preparation_is_the_default(
    fields: str,
    options: list[str],
    mean: tuple[float, ...],
    scale: float,
    before: int,
    folder: Path,
    tmp_path: Path,
) -> None:
    prototxt = tmp_path / "train_val.prototxt"
    prototxt.write_text(
        'layer { name: "x" type: "Data" top: "x" top: "label" '
        f"transform_param {{ {fields} }} data_param {{ batch_size: 2 }} }}\n"
        'layer { name: "p" type: "Power" bottom: "x" top: "y" }'
    )
    argv = [str(prototxt), str(save(tmp_path / "w.caffemodel", UNUSED))]
    made = seen(argv, folder, *options)
    for number, found in enumerate(made):
        x = resize(picture(12 + number, 15, 3), (before, before)).astype(np.float32)
        x = crop(x, (6, 6)) - np.array(mean, np.float32)
        np.testing.assert_array_equal(found, x * np.float32(scale))


def test_256_is_what_imagenets_nets_crop_from(tmp_path: Path) -> None:
    from caffe2flax.conversion import read_graph
    from caffe2flax.prediction.preparation import recipe

    graph = read_graph(ROOT / "fixtures" / "networks" / "alexnet.prototxt")
    made, _ = recipe(graph, cropped=True)
    assert (made.before, made.size) == ((256, 256), (227, 227))
    assert recipe(graph)[0].before == (227, 227)


FIXED = (
    'name: "r" type: "Reshape" bottom: "x" top: "y" '
    "reshape_param { shape { dim: 2 dim: %d } }"
)


@pytest.mark.parametrize(
    ("layers", "options", "said"),
    [
        ("identity", ["--crop"], "--resize HEIGHT,WIDTH"),
        ("identity", ["--resize", "5,9"], "too small to crop 6 x 8 from"),
        (
            "identity",
            ["--mean", "1,2"],
            "a mean of shape (2,) does not fit images of 3 channels",
        ),
        ("identity", ["--mean", "missing.npy"], "No such file"),
        ("identity", ["--blob", "nowhere"], "no blob is called 'nowhere'"),
        ("identity", ["--as", "classes", "--blob", "y"], "y writes it as it is"),
        ("identity", ["--as", "flow", "--blob", "y"], "holds no flow: it is (N, 2,"),
        ("identity", ["--as", "detections"], "or from an R-CNN"),
        ("identity", ["--features", "y"], "--features BLOB needs -o OUT.npz"),
        ("identity", ["-o", "out"], "classes are not drawn"),
        ("fixed", ["--batch", "3"], "takes 2 images at once and no other number"),
        ("stiff", ["--batch", "3"], "(2, 18) has no row for each of 3 images"),
        ("several", [], "several outputs, a, b: choose one with --blob"),
        ("mean_file", [], "the mean of 'm.binaryproto', a file that is not opened"),
        ("two", [], "needs more than images: z"),
        ("vector", [], "no input of shape (N, 1 or 3, H, W)"),
    ],
)
def test_refusals(
    layers: str,
    options: list[str],
    said: str,
    identity: list[str],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    pool = "pooling_param { pool: AVE global_pooling: true }"
    texts = {
        "identity": Path(identity[0]).read_text(),
        "fixed": net(FIXED % 12, x=(2, 3, 2, 2)),
        "stiff": net(FIXED % -1, x=(2, 3, 2, 2)),
        "several": net(
            f'name: "a" type: "Pooling" bottom: "x" top: "a" {pool}',
            f'name: "b" type: "Pooling" bottom: "x" top: "b" {pool}',
            x=(2, 3, 6, 8),
        ),
        "mean_file": 'layer { name: "x" type: "Data" top: "x" data_param { batch_size: '
        '1 } transform_param { crop_size: 4 mean_file: "m.binaryproto" } }\n'
        'layer { name: "p" type: "Power" bottom: "x" top: "y" }',
        "two": net(
            f'name: "a" type: "Pooling" bottom: "x" top: "a" {pool}',
            'name: "e" type: "Scale" bottom: "a" bottom: "z" top: "e" '
            "scale_param { axis: 0 }",
            x=(2, 3, 6, 8),
            z=(2, 3),
        ),
        "vector": net('name: "p" type: "Power" bottom: "x" top: "y"', x=(2, 3)),
    }
    Path("net.prototxt").write_text(texts[layers])
    before = sorted(tmp_path.iterdir())
    assert main(["predict", "net.prototxt", identity[1], str(folder), *options]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert said in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("shape", "said"),
    [((2, 6, 8), "does not fit images of 3"), ((3, 2, 2, 2), "does not fit images")],
)
def test_mean_arrays_that_do_not_fit(
    shape: tuple[int, ...],
    said: str,
    identity: list[str],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.save(tmp_path / "mean.npy", np.ones(shape, np.float32))
    mean = str(tmp_path / "mean.npy")
    assert main(["predict", *identity, str(folder), "--mean", mean]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [b"", b"no array", b"\x93NUMPY\x01\x00", "objects", "cut"],
    ids=["empty", "text", "magic", "objects", "cut"],
)
def test_damaged_mean_arrays(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "mean.npy"
    if content == "objects":
        np.save(path, np.array([{}], object), allow_pickle=True)
    elif content == "cut":
        np.save(path, np.ones((3, 4, 4)))
        path.write_bytes(path.read_bytes()[:-1])
    else:
        assert isinstance(content, bytes)
        path.write_bytes(content)
    with pytest.raises(ConversionError, match=r"no \.npy file"):
        read_mean(path)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["predict", "n", "w"], "IMAGE"),
        (["predict", "n", "w", "i", "--top", "0"], "'0' is no positive number"),
        (["predict", "n", "w", "i", "--batch", "x"], "'x' is no positive number"),
        (["predict", "n", "w", "i", "--scale", "1/255"], "'1/255' is no number"),
        (["predict", "n", "w", "i", "--resize", "256"], "'256' is not like 256,256"),
        (["predict", "n", "w", "i", "--csv", "--json"], "not allowed with"),
        (["predict", "n", "w", "i", "--channel-order", "GBR"], "invalid choice"),
        (["convert", "n", "--mean", "mean.npy"], "'mean.npy' is not like 104,117,123"),
    ],
)
def test_wrong_usage(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert said in capsys.readouterr().err


def test_the_features_do_not_replace_an_input(
    identity: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = folder / "0.png"
    before = image.read_bytes()
    argv = ["predict", *identity, str(folder), "--features", "y", "-o", str(image)]
    assert main(argv) == 1
    assert "would replace this input" in capsys.readouterr().err
    assert image.read_bytes() == before


def test_convert_writes_preprocess(identity: list[str], tmp_path: Path) -> None:
    argv = ["convert", identity[0], "-o", str(tmp_path / "out"), "--name", "Net"]
    assert main([*argv, "--mean", "104,117,123", "--scale", "0.017"]) == 0
    source = (tmp_path / "out" / "net.py").read_text()
    assert "def preprocess(images: Array) -> Array:" in source
    image = picture(6, 8, 3)[None]
    made = np.asarray(load_class("preprocess", source)(image))
    means = np.array([104, 117, 123], np.float32)
    expected = (image.astype(np.float32) - means) * np.float32(0.017)
    np.testing.assert_array_equal(made, expected)
