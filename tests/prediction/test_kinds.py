"""Boxes, label maps, points, images and flow: as Caffe gives them, in pixels of the
photograph, and drawn."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

import caffe2flax
from caffe2flax.cli.main import main
from caffe2flax.cli.predict import KINDS
from caffe2flax.conversion import read_graph
from caffe2flax.errors import ConversionError
from caffe2flax.prediction.decode import Choice, decode_result
from caffe2flax.prediction.images import Recipe
from caffe2flax.prediction.kinds import Kind, Reading, read_as
from caffe2flax.prediction.painting import flow_colours, paint, palette
from caffe2flax.prediction.predict import Prediction, drawn
from caffe2flax.prediction.regions import detect
from caffe2flax.prediction.results import Box, Detections, Labels
from caffe2flax.verification.reference import evaluate
from tests.smallnets import net, numbers, save, single

REAL = Path(__file__).parents[3] / "shared" / "golden" / "real"
BOX = ("score", "left", "top", "right", "bottom")
RNG = np.random.default_rng(3)


def photo(path: Path, height: int, width: int) -> np.ndarray:
    pixels = RNG.integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def rows(argv: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    assert main([*argv, "--csv"]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_the_command_line_knows_the_kinds() -> None:
    assert get_args(Kind) == KINDS


POOL = "pooling_param { pool: AVE global_pooling: true }"
MAPS = (
    'name: "c" type: "Convolution" bottom: "x" top: "c" '
    "convolution_param {{ num_output: {} kernel_size: 1 }}"
)
SOFTMAX = 'name: "p" type: "Softmax" bottom: "{}" top: "p"'
SSD = Path(__file__).parents[2] / "fixtures" / "ssd" / "ssd.prototxt"


@pytest.mark.parametrize(
    ("layers", "kind", "blob"),
    [
        ([MAPS.format(4)], "labels", "c"),
        ([MAPS.format(3)], "image", "c"),
        ([MAPS.format(3), SOFTMAX.format("c")], "labels", "p"),
        (
            [MAPS.format(3), 'name: "a" type: "ArgMax" bottom: "c" top: "a" '
             "argmax_param { axis: 1 }"],
            "labels",
            "a",
        ),
        ([single("Pooling", POOL)], "classes", "y"),
        (
            [
                single("Pooling", POOL),
                SOFTMAX.format("y"),
                'name: "q" type: "Power" bottom: "y" top: "q"',
            ],
            "classes",
            "p",
        ),
        ([single("Nms", "nms_param { num_parts: 3 max_peaks: 2 }")], "keypoints", "y"),
        ("ssd", "detections", "detections"),
    ],
)  # fmt: skip
def test_the_layers_tell(layers: Any, kind: Kind, blob: str) -> None:
    graph = read_graph(SSD if layers == "ssd" else net(*layers, x=(1, 3, 6, 8)))
    found = read_as(graph)
    assert (found.kind, found.blob) == (
        kind,
        graph.outputs[0].blob if layers == "ssd" else blob,
    )
    assert read_as(graph, kind) == found


@pytest.mark.parametrize(
    ("layer", "kind", "said"),
    [
        (
            single("Flatten", "flatten_param { end_axis: 2 }"),
            None,
            "no classes: a score",
        ),
        (single("TanH"), "keypoints", "no keypoints"),
        (single("TanH"), "flow", "no flow: it is (N, 2, H, W)"),
        (single("TanH"), "detections", "no detections: they come from layers such as"),
    ],
)
def test_what_an_output_cannot_be(layer: str, kind: Kind | None, said: str) -> None:
    shape = (1, 3, 4, 4) if kind in (None, "flow", "detections") else (1, 3)
    with pytest.raises(ConversionError) as caught:
        read_as(read_graph(net(layer, x=shape)), kind)
    assert said in str(caught.value)


def test_photographs_of_one_name(tmp_path: Path) -> None:
    """Each has a picture of its own."""
    taken: set[Path] = set()
    for name in ("a/x.png", "b/x.png", "c/x.jpg"):
        path = tmp_path / name
        path.parent.mkdir()
        photo(path, 4, 4)
        made = Prediction(path, (4, 4), Detections(()))
        drawn(made, tmp_path / "out", taken, {})
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["x-2.png", "x-3.png", "x.png"]


def test_a_segmentation_net_of_random_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The map of the photograph is that of the net, each pixel four times."""
    prototxt = tmp_path / "fcn.prototxt"
    prototxt.write_text(net(MAPS.format(5), x=(1, 3, 12, 16)))
    weights = {"c": [numbers(5, 3, 1, 1), 50 * numbers(5, seed=1)]}
    model = str(save(tmp_path / "fcn.caffemodel", weights))
    small = RNG.integers(0, 256, (12, 16, 3), np.uint8)
    large = np.repeat(np.repeat(small, 2, 0), 2, 1)
    path = tmp_path / "street.png"
    Image.fromarray(large).save(path)
    labels = tmp_path / "labels.txt"
    labels.write_text("sky\nroad\n<b>\ncar\ntree\n")
    out = tmp_path / "out"
    argv = ["predict", str(prototxt), model, str(path), "--mean", "1,2,3"]
    argv += ["--labels", str(labels), "-o", str(out)]
    found = rows(argv, capsys)

    x = (small[..., ::-1].transpose(2, 0, 1) - np.c_[1, 2, 3].T[..., None])[None]
    scores = caffe2flax.run(prototxt, model, {"x": x.astype(np.float32)})["c"][0]
    wanted = np.repeat(np.repeat(scores.argmax(0), 2, 0), 2, 1)
    assert len(np.unique(wanted)) > 2
    with Image.open(out / "street.png") as indexed:
        assert indexed.mode == "P"
        np.testing.assert_array_equal(np.asarray(indexed), wanted)
        np.testing.assert_array_equal(
            np.asarray(indexed.convert("RGB")), palette()[wanted]
        )
    with Image.open(out / "street_overlay.png") as overlay:
        assert overlay.height >= 24
        covered = np.asarray(overlay)[:24, :32]
        assert overlay.width > 32  # the legend
    mixed = (large.astype(int) + palette()[wanted]) // 2
    np.testing.assert_array_equal(covered, mixed)
    counts = np.bincount(wanted.ravel(), minlength=5)
    told = {int(row["class"]): int(row["pixels"]) for row in found}
    assert told == {i: n for i, n in enumerate(counts) if n}
    assert {row["label"] for row in found} <= {"sky", "road", "<b>", "car", "tree"}


def reading(kind: Kind, shape: tuple[int, ...]) -> Reading:
    return Reading(kind, "y", shape, range(shape[1]), None)


def test_a_map_covers_the_crop_alone() -> None:
    recipe = Recipe(3, size=(2, 2), before=(4, 4))
    scores = np.eye(4, dtype=np.float32).reshape(1, 4, 2, 2)
    made = decode_result(
        reading("labels", scores.shape), {"y": scores}, recipe, (8, 4), Choice(), 0
    )
    assert isinstance(made, Labels)
    wanted = np.full((8, 4), 255)
    wanted[2:6, 1:3] = np.repeat([[0, 1], [2, 3]], 2, 0)
    np.testing.assert_array_equal(made.numbers, wanted)


@pytest.mark.parametrize(
    ("array", "planar", "wanted"),
    [
        (np.array([[0.25, 0.5, 1, 0]]), False, [(10, 40), (40, 0)]),
        (np.array([[0.25, 1, 0.5, 0]]), True, [(10, 40), (40, 0)]),
        (np.array([[2.5, 10, 10, 0]]), False, [(10, 40), (40, 0)]),
        (np.pad([[[[1.0]], [[9.0]]]], [(0, 0), (0, 0), (3, 0), (1, 2)]), False,
         [(15, 70), (15, 70)]),
    ],
    ids=["parts", "planar", "pixels", "maps"],
)  # fmt: skip
def test_keypoints(
    array: np.ndarray, planar: bool, wanted: list[tuple[float, float]]
) -> None:
    """Of an input of 20 x 10 from a photograph of 80 x 40."""
    recipe = Recipe(3, size=(20, 10), before=(20, 10))
    made: Any = decode_result(
        reading("keypoints", array.shape),
        {"y": array},
        recipe,
        (80, 40),
        Choice(planar=planar),
        0,
    )
    assert [(p.x, p.y) for p in made.points] == wanted
    assert np.isnan([p.score for p in made.points]).all() == (array.ndim == 2)


def test_a_flow_from_each_image_to_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = net(
        'name: "d" type: "Eltwise" bottom: "b" bottom: "a" top: "d" '
        "eltwise_param { operation: SUM coeff: 1 coeff: -1 }",
        'name: "s" type: "Slice" bottom: "d" top: "flow" top: "rest" '
        "slice_param { slice_point: 2 }",
        'name: "q" type: "Silence" bottom: "rest"',
        a=(1, 3, 4, 6),
        b=(1, 3, 4, 6),
    )
    prototxt = tmp_path / "flow.prototxt"
    prototxt.write_text(text)
    model = str(save(tmp_path / "flow.caffemodel", {"unused": [numbers(1)]}))
    frames = [photo(tmp_path / f"{i}.png", 4, 6).astype(float) for i in range(3)]
    (tmp_path / "1b.png").write_text("no image")
    files = [str(tmp_path / f"{name}.png") for name in ("0", "1", "1b", "2")]
    argv = ["predict", str(prototxt), model, "--scale", "0.5", "-o", str(tmp_path)]
    assert main([*argv[:3], *files[:2], files[3], *argv[3:], "--json"]) == 1
    assert "the results would replace this input" in capsys.readouterr().out
    argv[-1] = str(tmp_path / "out")
    assert main([*argv[:3], *files, *argv[3:], "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [p["file"] for p in found["problems"]] == [files[2]]
    assert [Path(image["image"]).name for image in found["images"]] == ["0.png"]
    shifts = (frames[1] - frames[0])[..., :0:-1] / 2  # B and G
    lengths = np.hypot(shifts[..., 0], shifts[..., 1])
    told = found["images"][0]["flow"]
    assert told["largest"] == pytest.approx(lengths.max(), rel=1e-5)
    with Image.open(tmp_path / "out" / "0.png") as picture:
        drawn = np.asarray(picture)
    np.testing.assert_array_equal(drawn, flow_colours(shifts.astype(np.float32)))


def test_the_colours_of_flow() -> None:
    shifts = np.array([[[0, 0], [4, 0], [-4, 0], [2, 0]]], np.float32)
    still, right, left, slow = flow_colours(shifts)[0].astype(int)
    assert tuple(still) == (255, 255, 255)
    assert tuple(right) == (255, 0, 0)
    assert left[0] == 0
    assert tuple(slow) == (255, 127, 127)


def slow_detect(
    regions: np.ndarray, scores: np.ndarray, shifts: np.ndarray, size: tuple[int, int]
) -> list[tuple[float, ...]]:
    """The test of py-faster-rcnn, box by box."""
    height, width = size
    found: list[tuple[float, ...]] = []
    for number in range(1, scores.shape[1]):
        own = number if shifts.shape[1] > 8 else 1
        boxes = []
        for region, score, shift in zip(regions, scores, shifts, strict=True):
            _, x1, y1, x2, y2 = region
            dx, dy, dw, dh = shift[4 * own : 4 * own + 4]
            w, h = x2 - x1 + 1, y2 - y1 + 1
            x, y = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h
            wide, high = w * np.exp(dw), h * np.exp(dh)
            box = [x - wide / 2, y - high / 2, x + wide / 2, y + high / 2]
            limits = [width - 1, height - 1] * 2
            box = [min(max(v, 0), most) for v, most in zip(box, limits, strict=True)]
            boxes.append((float(score[number]), box))
        kept: list[list[float]] = []
        for score, box in sorted(boxes, key=lambda pair: -pair[0]):
            if all(overlap(box, other) <= 0.3 for other in kept):
                kept.append(box)
                parts = np.array(box) / (width, height, width, height)
                found.append((number, score, *parts))
    return found


def overlap(a: list[float], b: list[float]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0]) + 1
    high = min(a[3], b[3]) - max(a[1], b[1]) + 1
    common = max(wide, 0) * max(high, 0)
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return common / (sum(areas) - common)


@pytest.mark.parametrize("agnostic", [False, True])
def test_regions_become_boxes(agnostic: bool) -> None:
    corners = RNG.uniform(0, 40, (30, 2))
    regions = np.concatenate([np.zeros((30, 1)), corners, corners + 15], 1)
    scores = RNG.uniform(size=(30, 4))
    shifts = RNG.normal(0, 0.2, (30, 8 if agnostic else 16))
    found = detect(regions, scores, shifts, (50, 60))
    wanted = slow_detect(regions, scores, shifts, (50, 60))
    assert 3 < len(wanted) < 90
    np.testing.assert_allclose(found, wanted)


RCNN = (
    'name: "s" type: "Convolution" bottom: "x" top: "s" '
    "convolution_param { num_output: 2 kernel_size: 8 stride: 8 }",
    'name: "d" type: "Convolution" bottom: "x" top: "d" '
    "convolution_param { num_output: 4 kernel_size: 8 stride: 8 }",
    'name: "rois" type: "Proposal" bottom: "s" bottom: "d" bottom: "info" top: "rois" '
    "proposal_param { ratio: 1 scale: 1 base_size: 16 feat_stride: 8 min_size: 4 "
    "post_nms_topn: 8 }",
    'name: "pool" type: "ROIPooling" bottom: "x" bottom: "rois" top: "pool" '
    "roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 1 }",
    'name: "cls" type: "InnerProduct" bottom: "pool" top: "cls" '
    "inner_product_param { num_output: 3 }",
    'name: "prob" type: "Softmax" bottom: "cls" top: "prob"',
    'name: "box" type: "InnerProduct" bottom: "pool" top: "box" '
    "inner_product_param { num_output: 12 }",
)


def test_an_r_cnn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told the size of its input; its boxes are in pixels of the photograph."""
    prototxt = tmp_path / "rcnn.prototxt"
    prototxt.write_text(net(*RCNN, x=(1, 3, 32, 48), info=(1, 4)))
    shapes = {"s": (2, 3, 8, 8), "d": (4, 3, 8, 8), "cls": (3, 12), "box": (12, 12)}
    weights = {
        name: [0.001 * numbers(*shape, seed=i), numbers(shape[0], seed=i)]
        for i, (name, shape) in enumerate(shapes.items())
    }
    model = str(save(tmp_path / "rcnn.caffemodel", weights))
    pixels = photo(tmp_path / "a.png", 32, 48)
    argv = [
        "predict",
        str(prototxt),
        model,
        str(tmp_path / "a.png"),
        "--threshold",
        "0",
    ]
    found = rows([*argv, "-o", str(tmp_path / "out")], capsys)
    x = pixels[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)
    info = np.array([[32, 48, 1, 1]], np.float32)
    conversion = caffe2flax.convert(prototxt, model)
    given = {"x": x, "info": info}
    values = evaluate(conversion.graph, conversion.blobs, given)
    blobs = {name: values[value] for name, value in conversion.graph.blobs.items()}
    boxes = detect(blobs["rois"], blobs["prob"], blobs["box"], (32, 48))
    boxes = boxes[np.argsort(-boxes[:, 1], kind="stable")]
    told = [[float(row[k]) for k in ("class", *BOX)]
            for row in found]  # fmt: skip
    np.testing.assert_allclose(
        told, boxes * (1, 1, 48, 32, 48, 32), rtol=1e-4, atol=1e-3
    )
    assert len({row[0] for row in told}) == 2
    assert (tmp_path / "out" / "a.png").exists()
    assert main([*argv, "--batch", "2"]) == 1
    assert "batch" in capsys.readouterr().err


@pytest.mark.parametrize("side", [np.nan, np.inf, 1e30, -1e30])
def test_boxes_from_nowhere_are_drawn_as_far_as_they_go(
    side: float, tmp_path: Path
) -> None:
    photo(tmp_path / "a.png", 20, 30)
    boxes = (Box(1, 1.0, 0, 0, side, 5), Box(2, 0.5, 3, 3, 9, 9))
    (data,) = paint(tmp_path / "a.png", Detections(boxes), {1: "\x1b[31m" * 9}).values()
    with Image.open(io.BytesIO(data)) as drawn:
        assert drawn.size == (30, 20)


def test_labels_beyond_a_byte_are_refused() -> None:
    scores = np.zeros((1, 300, 2, 2))
    scores[0, 299] = 1
    recipe = Recipe(3, (2, 2), (2, 2))
    given = (
        reading("labels", scores.shape),
        {"y": scores},
        recipe,
        (2, 2),
        Choice(),
        0,
    )
    with pytest.raises(ConversionError, match="classes 0 to 254, not 299 to 299"):
        decode_result(*given)


def recorded(name: str, blob: str, folder: Path) -> tuple[Any, list[str]]:
    """What Caffe found, and the command line on its photograph, rounded to bytes."""
    with np.load(REAL / name / "golden.npz") as golden:
        known = dict(golden)
    x = np.rint(known[f"input:{blob}"][0] * 128 + 127.5).astype(np.uint8)
    path = folder / "photo.png"
    pixels = x[0] if len(x) == 1 else x[::-1].transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    files = (REAL / name / end for end in ("deploy.prototxt", "weights.caffemodel"))
    argv = ["predict", *map(str, files), str(path), "--mean", "127.5"]
    return known, [*argv, "--scale", "0.0078125", "-o", str(folder / "out")]


real = pytest.mark.skipif(not REAL.exists(), reason="the trained networks are not here")


@real
def test_faces_that_caffe_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known, argv = recorded("yufacedetectnet_v1", "data", tmp_path)
    found = rows([*argv, "--threshold", "0.3"], capsys)
    wanted = known["output:detection_out"][0, 0]
    wanted = wanted[wanted[:, 2] >= 0.3][:, 2:] * (1, 320, 240, 320, 240)
    told = [[float(row[k]) for k in BOX]
            for row in found]  # fmt: skip
    np.testing.assert_allclose(told, wanted, atol=0.7)
    assert abs(told[0][0] - wanted[0][0]) < 1e-3
    with (
        Image.open(tmp_path / "photo.png") as photo,
        Image.open(tmp_path / "out" / "photo.png") as drawn,
    ):
        changed = (np.asarray(photo) != np.asarray(drawn)).any(-1)
    _, left, top, right, bottom = np.rint(wanted[0]).astype(int)
    assert changed[top + 20 : bottom, [left, right]].mean() > 0.9
    assert not changed[top + 20 : bottom - 3, left + 4 : right - 4].any()


@real
def test_points_of_a_face_that_caffe_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known, argv = recorded("mtcnn_v1_det3", "data", tmp_path)
    options = ["--as", "keypoints", "--blob", "conv6-3", "--points", "xxyy"]
    found = rows([*argv, *options], capsys)
    told = [(float(row["x"]), float(row["y"])) for row in found]
    wanted = known["output:conv6-3"].reshape(2, 5).T * 48
    np.testing.assert_allclose(told, wanted, atol=0.1)
    assert (tmp_path / "out" / "photo.png").exists()


@real
def test_an_image_that_caffe_computed(tmp_path: Path) -> None:
    known, argv = recorded("waifu2x_anime_style_art_noise1", "input", tmp_path)
    assert main(argv) == 0
    with Image.open(tmp_path / "out" / "photo.png") as drawn:
        pixels = np.asarray(drawn).astype(float)
    wanted = (known["output:conv7"][0, 0] * 128 + 127.5).clip(0, 255)
    far = np.abs(pixels - wanted)
    assert np.percentile(far, 99) < 2  # the input was rounded to bytes
    assert far.mean() < 0.3
