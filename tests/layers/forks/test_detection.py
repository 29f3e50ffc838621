"""SSD's layers beyond what was recorded: every option against plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from caffe2flax.verification import reference
from tests.golden import FIXTURES, distance

ROOT = Path(__file__).parents[3]
REAL = ROOT.parent / "shared" / "golden" / "real" / "yufacedetectnet_v1"
PRIORS, CLASSES = 24, 4


def net(type_: str, shapes: dict[str, tuple[int, ...]], parameters: str) -> str:
    """One layer after an Input for each of its bottoms."""
    text = ""
    for blob, shape in shapes.items():
        dims = " ".join(f"dim: {extent}" for extent in shape)
        text += f'layer {{ name: "{blob}" type: "Input" top: "{blob}" '
        text += f"input_param {{ shape {{ {dims} }} }} }}\n"
    bottoms = " ".join(f'bottom: "{blob}"' for blob in shapes)
    return (
        text
        + f'layer {{ name: "l" type: "{type_}" {bottoms} top: "out" {parameters} }}'
    )


def by_reference(prototxt: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
    graph = caffe2flax.convert(prototxt).graph
    return reference.evaluate(graph, {}, inputs)[graph.outputs[0]]


def predictions(images: int, located: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """Offsets, scores of many ties, and priors of many sizes."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0.2, 0.8, (PRIORS, 2))
    half = rng.uniform(0.05, 0.3, (PRIORS, 2))
    corners = np.concatenate([centre - half, centre + half], 1)
    variances = rng.uniform(0.05, 0.3, (PRIORS, 4))
    scores = rng.dirichlet(np.ones(CLASSES), (images, PRIORS))
    return {
        "loc": rng.normal(0, 0.6, (images, PRIORS * located * 4)).astype(np.float32),
        "conf": scores.reshape(images, -1).astype(np.float32),
        "prior": np.stack([corners.ravel(), variances.ravel()])[None].astype(
            np.float32
        ),
    }


OPTIONS = [
    "keep_top_k: 7",
    "keep_top_k: 0",
    "keep_top_k: 100000",
    "nms_param { nms_threshold: 0.45 }",
    "nms_param { nms_threshold: 0 top_k: 3 } keep_top_k: 5",
    "nms_param { nms_threshold: 0.9 eta: 0.7 top_k: 20 }",
    "nms_param { nms_threshold: 1 eta: 0.5 } keep_top_k: 9",
    "code_type: CORNER variance_encoded_in_target: true",
    "code_type: CENTER_SIZE variance_encoded_in_target: true keep_top_k: 4",
    "code_type: CORNER_SIZE confidence_threshold: 0.2",
    "code_type: 3 variance_encoded_in_target: true",
    "code_type: CENTER_SIZE background_label_id: -1 keep_top_k: 30",
    "background_label_id: 3 confidence_threshold: 0.6",
    "background_label_id: 17 confidence_threshold: 0.999 keep_top_k: 2",
    "share_location: false code_type: CENTER_SIZE keep_top_k: 6",
    "share_location: false background_label_id: 2 nms_param { top_k: 4 }",
]


@pytest.mark.parametrize("options", OPTIONS)
def test_detections(options: str) -> None:
    """Rows, their order, and no detections."""
    inputs = predictions(2, CLASSES if "false" in options else 1)
    shapes = {name: array.shape for name, array in inputs.items()}
    parameters = f"detection_output_param {{ num_classes: {CLASSES} {options} }}"
    prototxt = net("DetectionOutput", shapes, parameters)
    (ours,) = caffe2flax.run(prototxt, None, inputs).values()
    assert distance(ours, by_reference(prototxt, inputs)) < 1e-5


def moved(prior: np.ndarray, shift: np.ndarray) -> list[float]:
    """A box by CENTER_SIZE, written out."""
    x0, y0, x1, y1 = prior
    w, h = x1 - x0, y1 - y0
    cx, cy = (x0 + x1) / 2 + shift[0] * w, (y0 + y1) / 2 + shift[1] * h
    w, h = w * np.exp(shift[2]), h * np.exp(shift[3])
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


REFINED = [
    ("code_type: CENTER_SIZE", 5),
    ("code_type: CENTER_SIZE objectness_score: 0.5 keep_top_k: 6", 5),
    ("code_type: CENTER_SIZE objectness_score: 0.5 keep_top_k: 6", 4),
]


@pytest.mark.parametrize(("options", "bottoms"), REFINED)
def test_refined_detections(options: str, bottoms: int) -> None:
    """RefineDet's: as the detections of priors that were moved, and of scores that
    were weeded out, one image after the other."""
    inputs = predictions(2)
    rng = np.random.default_rng(4)
    objects = rng.uniform(0, 1, (2, PRIORS * 2)).astype(np.float32)
    shifts = rng.normal(0, 0.5, (2, PRIORS * 4)).astype(np.float32)
    all_inputs = {**inputs, "objects": objects, "shifts": shifts}
    given = dict(list(all_inputs.items())[:bottoms])
    shapes = {name: array.shape for name, array in given.items()}
    parameters = f"detection_output_param {{ num_classes: {CLASSES} {options} }}"
    prototxt = net("DetectionOutput", shapes, parameters)
    (ours,) = caffe2flax.run(prototxt, None, given).values()
    assert distance(ours, by_reference(prototxt, given)) < 1e-5

    threshold = 0.5 if "0.5" in options else 0.01
    plain = parameters.replace("objectness_score: 0.5", "")
    expected = []
    for image in range(2):
        conf = inputs["conf"][image].reshape(PRIORS, CLASSES).copy()
        conf[objects[image, 1::2] < threshold] = [1, 0, 0, 0]
        boxes, variances = inputs["prior"][0].reshape(2, PRIORS, 4)
        if bottoms == 5:
            offsets = shifts[image].reshape(PRIORS, 4) * variances
            boxes = np.array([moved(*p) for p in zip(boxes, offsets, strict=True)])
        prior = np.stack([boxes.ravel(), variances.ravel()])[None].astype(np.float32)
        one = {
            "loc": inputs["loc"][image : image + 1],
            "conf": conf.reshape(1, -1),
            "prior": prior,
        }
        text = net("DetectionOutput", {k: v.shape for k, v in one.items()}, plain)
        rows = by_reference(text, one)[0, 0]
        rows[:, 0] = image
        expected.append(rows)
    assert distance(ours, np.concatenate(expected)[None, None]) < 1e-5


def test_objectness_needs_its_scores() -> None:
    inputs = predictions(1)
    shapes = {name: array.shape for name, array in inputs.items()}
    text = "detection_output_param { num_classes: 4 objectness_score: 0.1 }"
    conversion = caffe2flax.convert(net("DetectionOutput", shapes, text))
    assert any("objectness_score has no meaning" in n for n in conversion.notes)


def test_unfilled_rows_stand_last() -> None:
    inputs = predictions(2)
    shapes = {name: array.shape for name, array in inputs.items()}
    parameters = "num_classes: 4 keep_top_k: 30 confidence_threshold: 0.4"
    text = net("DetectionOutput", shapes, f"detection_output_param {{ {parameters} }}")
    model = caffe2flax.load(text)
    top = np.asarray(model(*inputs.values()))
    (rows,) = caffe2flax.run(text, None, inputs).values()
    found = rows.shape[2]
    assert top.shape == (1, 1, 60, 7)
    assert 0 < found < 60
    np.testing.assert_allclose(top[:, :, :found], rows, rtol=1e-5)
    assert (top[:, :, found:] == -1).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_detections_of_small_floats_are_float32(dtype: str) -> None:
    import jax.numpy as jnp

    inputs = predictions(1)
    shapes = {name: array.shape for name, array in inputs.items()}
    parameters = "num_classes: 4 keep_top_k: 30 confidence_threshold: 0.4"
    text = net("DetectionOutput", shapes, f"detection_output_param {{ {parameters} }}")
    model = caffe2flax.load(text)
    top = model(*(jnp.asarray(x, dtype) for x in inputs.values()))
    assert top.dtype == jnp.float32
    assert (np.asarray(top)[0, 0, :, 0] >= 0).any()


def test_gradients_stop() -> None:
    import jax

    inputs = predictions(1)
    shapes = {name: array.shape for name, array in inputs.items()}
    text = net("DetectionOutput", shapes, "detection_output_param { num_classes: 4 }")
    model = caffe2flax.load(text)
    gradient = jax.grad(lambda x: model(x, inputs["conf"], inputs["prior"]).sum())
    assert not np.asarray(gradient(inputs["loc"])).any()


BOXES = [
    "min_size: 6",
    "min_size: 6.9 max_size: 12.9",
    "min_size: 6 min_size: 9 max_size: 12 max_size: 20 aspect_ratio: 2 flip: false",
    "min_size: 4 aspect_ratio: 2 aspect_ratio: 0.5 aspect_ratio: 3 aspect_ratio: 2",
    "min_size: 4 aspect_ratio: 2 aspect_ratio: 0.5 flip: false",
    "min_size: 4 aspect_ratio: 1.0000001 variance: 0.2",
    "min_size: 30 clip: true variance: 0.1 variance: 0.2 variance: 0.3 variance: 0.4",
    "min_size: 6 step: 8 offset: 0",
    "min_size: 6 step_h: 7 step_w: 9.5 offset: 0.25",
    "min_size: 6 img_size: 50",
    "min_size: 6 img_h: 50 img_w: 70 clip: true",
    "min_size: 6 max_size: 12 reduce_boxes: true",
]


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        *((options, (2, 5, 3, 4)) for options in BOXES),
        (BOXES[2], (1, 2, 3)),
        (BOXES[2], (4, 2)),
    ],
)
def test_prior_boxes(options: str, shape: tuple[int, ...]) -> None:
    shapes = {"feat": shape, "img": (1, 3, 30, 40)}
    prototxt = net("PriorBox", shapes, f"prior_box_param {{ {options} }}")
    inputs = {blob: np.zeros(shape, np.float32) for blob, shape in shapes.items()}
    (ours,) = caffe2flax.run(prototxt, None, inputs).values()
    expected = by_reference(prototxt, inputs)
    assert (
        ours.shape
        == caffe2flax.convert(prototxt).graph.shapes[
            caffe2flax.convert(prototxt).graph.outputs[0]
        ]
    )
    assert distance(ours, expected) < 1e-6


def test_prior_boxes_follow_the_image() -> None:
    """Their sizes are read from the arrays: other images give other boxes."""
    import jax.numpy as jnp

    shapes = {"feat": (1, 2, 3, 4), "img": (1, 3, 30, 40)}
    model = caffe2flax.load(net("PriorBox", shapes, "prior_box_param { min_size: 6 }"))
    boxes = model(jnp.zeros((1, 5, 2, 2)), jnp.zeros((1, 50, 20, 3)))
    assert boxes.shape == (1, 2, 5 * 2 * 4)
    np.testing.assert_allclose(boxes[0, 0, :4], [0.1, 0.04, 0.4, 0.16], rtol=1e-6)


REFUSED = [
    ("PriorBox", "prior_box_param { }", "min_size"),
    ("PriorBox", "prior_box_param { min_size: 0 }", "positive"),
    ("PriorBox", "prior_box_param { min_size: 6 max_size: 6 }", "greater"),
    ("PriorBox", "prior_box_param { min_size: 6 max_size: 7 max_size: 8 }", "one each"),
    ("PriorBox", "prior_box_param { min_size: 6 variance: 1 variance: 2 }", "1 or 4"),
    ("PriorBox", "prior_box_param { min_size: 6 variance: 0 }", "positive"),
    ("PriorBox", "prior_box_param { min_size: 6 img_size: 5 img_h: 5 }", "not both"),
    ("PriorBox", "prior_box_param { min_size: 6 img_h: 5 }", "both"),
    ("PriorBox", "prior_box_param { min_size: 6 step: 0 }", "positive"),
    ("PriorBox", "prior_box_param { min_size: 6 aspect_ratio: -1 }", "positive"),
    ("PriorBox", "prior_box_param { min_size: 6 sizes: 3 }", "unknown field"),
    ("Permute", "permute_param { order: 0 order: 0 }", "twice"),
    ("Permute", "permute_param { order: 4 }", "lacks"),
    ("Permute", "permute_param { order: -1 }", "from 0"),
    ("Normalize", "", "several meanings"),
    ("Normalize", "norm_param { } normalize_param { }", "several meanings"),
    ("Normalize", "norm_param { eps: -1 }", "eps"),
    ("Normalize", 'normalize_param { normalize_type: "L3" }', "L1 or L2"),
    ("DetectionOutput", "detection_output_param { }", "num_classes"),
    ("DetectionOutput", "detection_output_param { num_classes: 1 }", "beside"),
    ("DetectionOutput", "detection_output_param { num_classes: 5 }", "scores of"),
    (
        "DetectionOutput",
        "detection_output_param { num_classes: 4 share_location: false }",
        "locations of",
    ),
    (
        "DetectionOutput",
        "detection_output_param { num_classes: 4 code_type: 0 }",
        "code_type",
    ),
    (
        "DetectionOutput",
        "detection_output_param { num_classes: 4 nms_param { eta: 0 } }",
        "eta",
    ),
    (
        "DetectionOutput",
        "detection_output_param { num_classes: 4 nms_param { nms_threshold: -1 } }",
        "nms_threshold",
    ),
]
SHAPES = {
    "PriorBox": {"feat": (1, 2, 3, 4), "img": (1, 3, 30, 40)},
    "Permute": {"data": (2, 3, 5, 4)},
    "Normalize": {"data": (2, 3, 5, 4)},
    "DetectionOutput": {"loc": (2, 96), "conf": (2, 96), "prior": (1, 2, 96)},
}


@pytest.mark.parametrize(("type_", "parameters", "why"), REFUSED)
def test_refusals(type_: str, parameters: str, why: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=why):
        caffe2flax.convert(net(type_, SHAPES[type_], parameters))


@pytest.mark.parametrize("norm", ["L1", "L2"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 3), (2, 3, 5)])
def test_normalize_of_caffe_windows(norm: str, shape: tuple[int, ...]) -> None:
    """The other meaning of the name: no scale, 1e-6 below the root."""
    parameters = f'normalize_param {{ normalize_type: "{norm}" }}'
    prototxt = net("Normalize", {"data": shape}, parameters)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    (ours,) = caffe2flax.run(prototxt, None, {"data": x}).values()
    x = x.astype(np.float64).reshape(*shape, *(1,) * (4 - len(shape)))
    total = (np.abs(x) if norm == "L1" else x**2).sum(1, keepdims=True) + 1e-6
    assert distance(ours, x / (total if norm == "L1" else np.sqrt(total))) < 1e-6


@pytest.mark.parametrize("meaning", ["ssd", "happynear"])
def test_the_caller_may_say_which_normalize(meaning: str) -> None:
    prototxt = net("Normalize", {"data": (2, 3, 5, 4)}, "")
    source = caffe2flax.convert(prototxt, dialect={"Normalize": meaning}).source
    assert ("Normalize(" in source) is (meaning == "ssd")
    assert ("unit_l2(" in source) is (meaning == "happynear")


def test_a_whole_head_moves_no_data() -> None:
    """Permute, Flatten, Concat, Reshape, Softmax and Flatten: no transpose."""
    conversion = caffe2flax.convert(FIXTURES / "fork_layers" / "ssd_mini.prototxt")
    body = conversion.source.partition("\n\n\ndef ")[0]
    assert "transpose" not in body
    assert "to_caffe_order" not in body


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (0, 3, 1, 2), (1, 0), (0, 2, 1, 3)])
def test_permuted_outputs_leave_in_a_documented_order(order: tuple[int, ...]) -> None:
    """Caffe's, or channels last: nobody could guess another."""
    orders = " ".join(f"order: {axis}" for axis in order)
    prototxt = net("Permute", SHAPES["Permute"], f"permute_param {{ {orders} }}")
    graph = caffe2flax.convert(prototxt).graph
    (value,) = graph.outputs
    assert graph.layouts[value].axes in ((0, 1, 2, 3), (0, 2, 3, 1))
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    (ours,) = caffe2flax.run(prototxt, None, {"data": x}).values()
    rest = (axis for axis in range(4) if axis not in order)
    np.testing.assert_array_equal(ours, x.transpose(*order, *rest))


TRAINING = """
layer {
  name: "data" type: "AnnotatedData" top: "data" top: "label"
  transform_param { mean_value: 104 resize_param { prob: 1 resize_mode: WARP height: 30
    width: 40 interp_mode: LINEAR } distort_param { hue_prob: 0.5 } emit_constraint {
    emit_type: CENTER } }
  data_param { source: "lmdb" batch_size: 2 backend: LMDB }
  annotated_data_param { batch_sampler { max_sample: 1 } label_map_file: "map" }
}
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
  convolution_param { num_output: 2 kernel_size: 3 stride: 8 } }
layer { name: "p" type: "PriorBox" bottom: "c" bottom: "data" top: "p"
  prior_box_param { min_size: 8 } }
"""
LOSS = """
layer { name: "loc" type: "InnerProduct" bottom: "c" top: "loc"
  inner_product_param { num_output: 80 } }
layer { name: "conf" type: "InnerProduct" bottom: "c" top: "conf"
  inner_product_param { num_output: 60 } }
layer { name: "loss" type: "MultiBoxLoss" bottom: "loc" bottom: "conf" bottom: "p"
  bottom: "label" top: "loss" multibox_loss_param { num_classes: 3 } }
"""
SCORE = """
layer { name: "score" type: "DetectionEvaluate" bottom: "p" bottom: "label" top: "score"
  detection_evaluate_param { num_classes: 3 } }
"""


@pytest.mark.parametrize("metric", [LOSS, SCORE])
def test_training_layers_are_left_out_at_test(metric: str) -> None:
    graph = caffe2flax.convert(TRAINING + metric).graph
    assert [value.blob for value in graph.arguments] == ["data"]
    assert graph.shapes[graph.arguments[0]] == (2, 3, 30, 40)
    assert "p" in [value.blob for value in graph.outputs]
    assert len(graph.remarks.dropped) == 1


@pytest.mark.parametrize("metric", [LOSS, SCORE])
def test_training_layers_are_left_out_in_training_with_a_note(metric: str) -> None:
    conversion = caffe2flax.convert(TRAINING + metric, phase="TRAIN")
    assert [value.blob for value in conversion.graph.arguments] == ["data"]
    assert any("is left out" in note for note in conversion.notes)


MISCOUNTED = {
    "boxes": (
        "min_size: 8",
        "min_size: 8 min_size: 9",
        "40 prior boxes need locations",
    ),
    "locations": ("num_output: 80", "num_output: 84", r"locations of shape \(2, 80\)"),
    "locations of each class": (
        "num_classes: 3",
        "num_classes: 3 share_location: false",
        r"locations of shape \(2, 240\)",
    ),
    "classes": ("num_classes: 3", "num_classes: 4", r"scores of shape \(2, 80\)"),
    "other bottoms": ('bottom: "p"', 'bottom: "conf"', "prior boxes are a blob"),
    "bottoms": ('bottom: "p"', "", "at least 4 bottom"),
    "no classes": ("num_classes: 3", "", "num_classes"),
}


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize(
    ("old", "new", "error"), MISCOUNTED.values(), ids=MISCOUNTED.keys()
)
def test_priors_are_counted_in_training_too(
    phase: str, old: str, new: str, error: str
) -> None:
    """MultiBoxLoss is left out, but its bottoms must be what it could read."""
    assert old in TRAINING + LOSS
    with pytest.raises(caffe2flax.ConversionError, match=error):
        caffe2flax.convert((TRAINING + LOSS).replace(old, new), phase=phase)


@pytest.mark.skipif(not REAL.exists(), reason="third-party files, not in the checkout")
def test_a_face_detector() -> None:
    """A trained detector, row by row."""
    golden = np.load(REAL / "golden.npz")
    (ours,) = caffe2flax.run(
        REAL / "deploy.prototxt",
        REAL / "weights.caffemodel",
        {"data": golden["input:data"]},
    ).values()
    caffe = golden["output:detection_out"]
    assert ours.shape == caffe.shape
    for mine, theirs in zip(ours[0, 0], caffe[0, 0], strict=True):
        np.testing.assert_array_equal(mine[:2], theirs[:2])
        np.testing.assert_allclose(mine[2:], theirs[2:], atol=1e-4)


def test_sizes_are_cut_as_in_caffe() -> None:
    conversion = caffe2flax.convert(
        net("PriorBox", SHAPES["PriorBox"], "prior_box_param { min_size: 6.9 }")
    )
    assert "min_sizes=(6,)" in conversion.source
    assert any("whole pixels" in note for note in conversion.notes)
