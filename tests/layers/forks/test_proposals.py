"""Proposals and what follows from them, against the loops of the forks."""

from __future__ import annotations

import numpy as np
import pytest

import caffe2flax
from tests.golden import distance
from tests.layers.forks.test_detection import by_reference, net

RNG = np.random.default_rng(0)
PYTHON = """python_param {{ module: "rpn.proposal_layer" layer: "ProposalLayer"
  param_str: "{}" }}"""
NINE = [
    [-83, -39, 100, 56],
    [-175, -87, 192, 104],
    [-359, -183, 376, 200],
    [-55, -55, 72, 72],
    [-119, -119, 136, 136],
    [-247, -247, 264, 264],
    [-35, -79, 52, 96],
    [-79, -167, 96, 184],
    [-167, -343, 184, 360],
]
"""The anchors of Faster R-CNN as they are published, pixels counted from 1."""


def rpn(anchors: int, info: list[float], images: int = 1) -> dict[str, np.ndarray]:
    """Predictions on 5 x 7 cells whose scores are all different."""
    cells = images * 2 * anchors * 35
    scores = RNG.permutation(cells).reshape(images, 2 * anchors, 5, 7) / cells
    deltas = RNG.normal(0, 0.4, (images, 4 * anchors, 5, 7))
    arrays = {"scores": scores, "deltas": deltas, "info": np.array([info])}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def settings(**options: object) -> str:
    given = {"ratio": 1, "scale": 2, "base_size": 16, "feat_stride": 8} | options
    values = (
        f"{name}: {value}"
        for name, found in given.items()
        for value in (found if isinstance(found, list) else [found])
    )
    return f"proposal_param {{ {' '.join(values)} }}"


CPP = [
    (settings(ratio=[0.5, 1, 2], scale=[2, 4], min_size=4), 6),
    (settings(min_size=30, pre_nms_topn=20), 1),
    (settings(nms_thresh=0.2, post_nms_topn=7, min_size=1), 1),
    (settings(ratio=[0.667, 1.5], scale=[3, 6, 9], feat_stride=16, min_size=0), 6),
]


def shapes(inputs: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in inputs.items()}


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize(("parameters", "anchors"), CPP)
def test_proposals(parameters: str, anchors: int, images: int) -> None:
    """Caffe's rows, of all images one behind the other."""
    inputs = rpn(anchors, [40, 56, 1.5, 0.75], images)
    prototxt = net("Proposal", shapes(inputs), parameters)
    (ours,) = caffe2flax.run(prototxt, None, inputs).values()
    expected = by_reference(prototxt, inputs)
    small = "min_size: 30" in parameters
    # Regions that are too small have score 0 all alike: their order is anyone's.
    rows = slice(0, 3) if small else slice(None)
    assert distance(ours[rows], expected[rows]) < 1e-5


@pytest.mark.parametrize(
    ("option", "anchors"),
    [
        ("'feat_stride': 16", 9),
        ("{'feat_stride': 8, 'scales': [2, 4]}", 6),
        ("feat_stride: 4\\nscales: [1, 2, 4]", 9),
        (r"{\'feat_stride\': 8, \'ratios\': (0.5, 1), \'scales\': [3]}", 2),
    ],
)
def test_proposals_of_py_faster_rcnn(option: str, anchors: int) -> None:
    inputs = rpn(anchors, [40, 56, 0.5])
    prototxt = net("Python", shapes(inputs), PYTHON.format(option))
    (ours,) = caffe2flax.run(prototxt, None, inputs).values()
    assert 0 < len(ours) < 300
    assert distance(ours, by_reference(prototxt, inputs)) < 1e-5


def test_anchors_of_py_faster_rcnn() -> None:
    inputs = rpn(9, [40, 56, 1])
    text = net("Python", shapes(inputs), PYTHON.format("'feat_stride': 16"))
    (node,) = caffe2flax.convert(text).graph.nodes
    np.testing.assert_array_equal(node.layer.anchors, np.array(NINE) - 1)


def test_rows_behind_the_last_region_repeat_it() -> None:
    import jax

    inputs = rpn(1, [40, 56, 1, 1])
    text = net("Proposal", shapes(inputs), settings(nms_thresh=0.1, min_size=1))
    text = text.replace('top: "out"', 'top: "out" top: "best"')
    found = caffe2flax.run(text, None, inputs)
    model = caffe2flax.load(text)
    layouts = caffe2flax.convert(text).graph
    args = [
        inputs[v.blob].transpose(layouts.layouts[v].axes) for v in layouts.arguments
    ]
    tops = jax.jit(lambda m, x: m(*x))(model, args)
    count = len(found["out"])
    assert len(found["best"]) == count
    assert 0 < count < len(tops["out"]) == 35
    rest = np.asarray(tops["out"])[count - 1 :]
    assert (rest == rest[0]).all()
    assert (tops["best"][count:] == -1).all()


def test_nothing_large_enough() -> None:
    inputs = rpn(9, [40, 56, 100])
    text = net("Python", shapes(inputs), PYTHON.format("'feat_stride': 16"))
    (rois,) = caffe2flax.run(text, None, inputs).values()
    assert not rois.any()


BOXES = [
    "fg_thr: -1 iou_thr: 0.5",
    "fg_thr: -5 iou_thr: 0.3 max_nms_num: 20 field_whr: 1.5 field_xyr: 4",
    "fg_thr: 0.5 iou_thr: 0.4 nms_type: 'IOMU' max_post_nms_num: 6 min_size: 2",
    "fg_thr: -3 iou_thr: 0.6 nms_type: 'IOFU' max_nms_num: 40 max_post_nms_num: 9",
    "fg_thr: 1000",
]
NORMAL = " bbox_reg_param { bbox_mean: 0.1 bbox_mean: 0 bbox_mean: 0 bbox_mean: -0.2 "
NORMAL += "bbox_std: 0.1 bbox_std: 0.1 bbox_std: 0.2 bbox_std: 0.2 }"


@pytest.mark.parametrize("options", BOXES)
@pytest.mark.parametrize("normal", ["", NORMAL])
def test_box_output(options: str, normal: str) -> None:
    inputs = {
        name: RNG.normal(0, 1, (2, 7, *size)).astype(np.float32)
        for name, size in (("a", (5, 6)), ("b", (3, 3)))
    }
    maps = "field_w: 24 field_w: 40 field_h: 30 field_h: 50"
    maps += " downsample_rate: 8 downsample_rate: 16"
    parameters = f"box_output_param {{ {maps} {options} }}{normal}"
    text = net("BoxOutput", shapes(inputs), parameters)
    text = text.replace('top: "out"', 'top: "out" top: "scored"')
    found = caffe2flax.run(text, None, inputs)
    graph = caffe2flax.convert(text).graph
    from caffe2flax.verification import reference

    expected = reference.evaluate(graph, {}, inputs)
    for value in graph.outputs:
        assert distance(found[value.blob], expected[value]) < 1e-5, value


def test_of_equal_boxes_the_later_cell_comes_first() -> None:
    inputs = {"a": np.zeros((1, 6, 4, 4), np.float32)}
    parameters = "box_output_param { field_w: 20 field_h: 20 downsample_rate: 16 }"
    (ours,) = caffe2flax.run(
        net("BoxOutput", shapes(inputs), parameters), None, inputs
    ).values()
    assert ours[0, 1, 0, 0] > ours[-1, 1, 0, 0]


@pytest.mark.parametrize("normal", ["", NORMAL])
def test_decode_boxes(normal: str) -> None:
    corners = np.sort(RNG.uniform(0, 50, (9, 2, 2)), 1).reshape(9, 4)
    rois = np.concatenate([RNG.integers(0, 3, (9, 1)), corners], 1)
    inputs = {
        "deltas": RNG.normal(size=(9, 8)).astype(np.float32),
        "rois": rois.astype(np.float32)[..., None, None],
    }
    prototxt = net("DecodeBBox", shapes(inputs), normal)
    (ours,) = caffe2flax.run(prototxt, None, inputs).values()
    assert distance(ours, by_reference(prototxt, inputs)) < 1e-5


@pytest.mark.parametrize("bottoms", [2, 4])
@pytest.mark.parametrize("sigma", [1, 3])
def test_smooth_l1(bottoms: int, sigma: int) -> None:
    """The value and, by differences, the gradient, on both sides of the kink."""
    import jax

    inputs = {
        name: RNG.normal(0, 1, (3, 4, 2, 2)).astype(np.float32)
        for name in "abio"[:bottoms]
    }
    given = shapes(inputs) | {"b": (3, 4, 2, 2)}
    parameters = f"smooth_l1_loss_param {{ sigma: {sigma} }}"
    prototxt = net("SmoothL1Loss", given, parameters)
    (ours,) = caffe2flax.run(prototxt, None, inputs).values()
    assert distance(ours, by_reference(prototxt, inputs)) < 1e-5
    model = caffe2flax.load(prototxt)
    a, *rest = (x.transpose(0, 2, 3, 1) for x in inputs.values())
    gradient = jax.jit(jax.grad(lambda a: model(a, *rest)))(a)
    step = np.zeros_like(inputs["a"])
    step[1, 2, 0, 1] = 1e-3
    high, low = (
        by_reference(prototxt, inputs | {"a": inputs["a"] + sign * step})
        for sign in (1, -1)
    )
    np.testing.assert_allclose(gradient[1, 0, 1, 2], (high - low) / 2e-3, rtol=2e-2)


def python(module: str, name: str, rest: str = "") -> str:
    return f'python_param {{ module: "{module}" layer: "{name}" {rest} }}'


REFUSED = [
    ("Proposal", "", [(1, 2, 5, 7), (1, 4, 5, 7), (1, 4)], "ratio"),
    ("Proposal", settings(ratio=0), [(1, 2, 5, 7), (1, 4, 5, 7), (1, 4)], "positive"),
    ("Proposal", settings(), [(1, 4, 5, 7), (1, 4, 5, 7), (1, 4)], "1 anchors"),
    ("Proposal", settings(), [(1, 2, 5, 7), (1, 4, 5, 7), (1, 2)], "3 numbers"),
    ("Python", "", [(1, 3)], "module"),
    ("Python", python("os", "system"), [(1, 3)], "not imported"),
    ("Python", python("rpn.proposal_layer", "Other"), [(1, 3)], "plug-in"),
    (
        "Python",
        PYTHON.format("'feat_stride': 16, 'size': 3"),
        [(1, 18, 5, 7), (1, 36, 5, 7), (1, 3)],
        "unknown option size",
    ),
    (
        "Python",
        PYTHON.format("__import__('os').system('true')"),
        [(1, 18, 5, 7), (1, 36, 5, 7), (1, 3)],
        "not understood",
    ),
    (
        "Python",
        PYTHON.format("{'feat_stride': -1}"),
        [(1, 18, 5, 7), (1, 36, 5, 7), (1, 3)],
        "positive",
    ),
    (
        "Python",
        PYTHON.format("'feat_stride': 16"),
        [(2, 18, 5, 7), (2, 36, 5, 7), (1, 3)],
        "one image",
    ),
    ("BoxOutput", "", [(1, 6, 5, 7)], "field_w"),
    (
        "BoxOutput",
        "box_output_param { field_w: 9 field_h: 9 downsample_rate: 8 }",
        [(1, 5, 5, 7)],
        "two classes",
    ),
    ("DecodeBBox", "", [(4, 4), (4, 5)], "R, 8"),
    (
        "DecodeBBox",
        "bbox_reg_param { bbox_mean: 1 bbox_std: 0 }",
        [(4, 8), (4, 5)],
        "4",
    ),
    ("SmoothL1Loss", "", [(4, 8), (4, 7)], "one shape"),
]


@pytest.mark.parametrize(("type_", "parameters", "bottoms", "why"), REFUSED)
def test_refusals(
    type_: str, parameters: str, bottoms: list[tuple[int, ...]], why: str
) -> None:
    given = {f"b{i}": shape for i, shape in enumerate(bottoms)}
    with pytest.raises(caffe2flax.ConversionError, match=why):
        caffe2flax.convert(net(type_, given, parameters))


@pytest.mark.parametrize("p", ["0.01", "0.5"])
def test_spatial_dropout_scales_at_test_too(p: str) -> None:
    option = f"param_str: \"{{'phase': 'TEST', 'p': '{p}'}}\""
    text = python("spatial_dropout", "SpatialDropoutLayer", option)
    x = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    (ours,) = caffe2flax.run(
        net("Python", {"x": x.shape}, text), None, {"x": x}
    ).values()
    np.testing.assert_allclose(ours, x / (1 - float(p)), rtol=1e-6)


def test_spatial_dropout_leaves_out_whole_channels() -> None:
    option = "param_str: \"{'phase': 'TRAIN', 'p': '0.5'}\""
    text = python("spatial_dropout", "SpatialDropoutLayer", option)
    x = np.ones((4, 8, 4, 5), np.float32)
    prototxt = net("Python", {"x": x.shape}, text)
    (ours,) = caffe2flax.run(prototxt, None, {"x": x}, phase="TRAIN").values()
    assert set(np.unique(ours)) == {0, 2}
    assert (ours == ours[:, :, :1, :1]).all()
    with pytest.raises(caffe2flax.ConversionError, match="these layers are random"):
        caffe2flax.verify(prototxt, phase="TRAIN")


TRAINING = """
layer { name: "input" type: "Python" top: "data" top: "im_info" top: "gt_boxes"
  python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer"
    param_str: "'num_classes': 4" } }
layer { name: "rpn_cls_score" type: "Convolution" bottom: "data" top: "rpn_cls_score"
  convolution_param { num_output: 2 kernel_size: 3 stride: 8 pad: 1 } }
layer { name: "rpn_bbox_pred" type: "Convolution" bottom: "data" top: "rpn_bbox_pred"
  convolution_param { num_output: 4 kernel_size: 3 stride: 8 pad: 1 } }
layer { name: "rpn-data" type: "Python" bottom: "rpn_cls_score" bottom: "gt_boxes"
  bottom: "im_info" bottom: "data" top: "rpn_labels" top: "rpn_bbox_targets"
  top: "rpn_inside" top: "rpn_outside"
  python_param { module: "rpn.anchor_target_layer" layer: "AnchorTargetLayer"
    param_str: "'feat_stride': 8" } }
layer { name: "rpn_loss_bbox" type: "SmoothL1Loss" bottom: "rpn_bbox_pred"
  bottom: "rpn_bbox_targets" bottom: "rpn_inside" bottom: "rpn_outside"
  top: "rpn_loss_bbox" loss_weight: 1 }
layer { name: "proposal" type: "Python" bottom: "rpn_cls_score" bottom: "rpn_bbox_pred"
  bottom: "im_info" top: "rpn_rois"
  python_param { module: "rpn.proposal_layer" layer: "ProposalLayer"
    param_str: "{'feat_stride': 8, 'ratios': [1], 'scales': [2]}" } }
layer { name: "roi-data" type: "Python" bottom: "rpn_rois" bottom: "gt_boxes"
  top: "rois" top: "labels" top: "bbox_targets" top: "bbox_inside" top: "bbox_outside"
  python_param { module: "rpn.proposal_target_layer" layer: "ProposalTargetLayer"
    param_str: "'num_classes': 4" } }
layer { name: "pool" type: "ROIPooling" bottom: "data" bottom: "rois" top: "pool"
  roi_pooling_param { pooled_h: 2 pooled_w: 2 } }
layer { name: "cls_score" type: "InnerProduct" bottom: "pool" top: "cls_score"
  inner_product_param { num_output: 4 } }
layer { name: "loss_cls" type: "SoftmaxWithLoss" bottom: "cls_score" bottom: "labels"
  top: "loss_cls" }
"""


def test_training_targets_are_the_callers_part() -> None:
    """What is sampled by ground truth comes in, the proposals go out, losses stay."""
    conversion = caffe2flax.convert(
        TRAINING, phase="TRAIN", input_shapes={"data": (1, 3, 64, 96)}
    )
    graph = conversion.graph
    taken = {v.blob: graph.shapes[v] for v in graph.arguments}
    assert taken == {
        "data": (1, 3, 64, 96),
        "im_info": (1, 3),
        "rpn_bbox_targets": (1, 4, 8, 12),
        "rpn_inside": (1, 4, 8, 12),
        "rpn_outside": (1, 4, 8, 12),
        "rois": (128, 5),
        "labels": (128,),
    }
    given = [v.blob for v in graph.outputs]
    assert given == ["rpn_loss_bbox", "loss_cls", "rpn_rois"]
    assert sum("caller's part" in note for note in conversion.notes) == 2
    inputs = {blob: np.zeros(shape, np.float32) for blob, shape in taken.items()}
    found = caffe2flax.run(
        TRAINING, None, inputs, phase="TRAIN", input_shapes={"data": (1, 3, 64, 96)}
    )
    assert found["loss_cls"] == pytest.approx(np.log(4))


def test_training_targets_are_left_out_at_test() -> None:
    graph = caffe2flax.convert(TRAINING, input_shapes={"data": (1, 3, 64, 96)}).graph
    assert [v.blob for v in graph.arguments] == ["data", "im_info"]
    assert {v.blob for v in graph.outputs} == {"rpn_rois"}


@pytest.mark.parametrize("own", [False, True])
def test_numbers_that_tell_the_size_of_an_image(own: bool) -> None:
    """Three of them, unless the caller says that each axis has its scale."""
    text = TRAINING
    if own:
        start = text.index('layer { name: "proposal"')
        end = text.index('layer { name: "roi-data"')
        text = (
            text[:start]
            + """layer { name: "proposal" type: "Proposal" bottom: "rpn_cls_score"
  bottom: "rpn_bbox_pred" bottom: "im_info" top: "rpn_rois"
  proposal_param { feat_stride: 8 ratio: 1 scale: 2 } }
"""
            + text[end:]
        )
    graph = caffe2flax.convert(text).graph
    shapes = {v.blob: graph.shapes[v] for v in graph.arguments}
    assert shapes["im_info"] == (1, 3)
    told = caffe2flax.convert(text, input_shapes={"im_info": (1, 4)}).graph
    assert {v.blob: told.shapes[v] for v in told.arguments}["im_info"] == (1, 4)
