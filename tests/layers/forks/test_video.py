"""Convolution and pooling of frames, as C3D has them, against loops written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from tests.single import check, normal, single, weights_file


@pytest.mark.parametrize("newer", [False, True])
def test_convolution(tmp_path: Path, newer: bool) -> None:
    x, weight, bias = normal(1, 2, 5, 6, 7), normal(3, 2, 3, 2, 2), normal(3)
    name = "convolution3d_param" if newer else "convolution_param"
    text = "num_output: 3 kernel_size: 2 kernel_depth: 3 temporal_pad: 1 stride: 2"
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0), (0, 0)))
    expected = np.empty((1, 3, 5, 3, 3))
    for o, i, j, k in np.ndindex(3, 5, 3, 3):
        window = wide[0, :, i : i + 3, 2 * j : 2 * j + 2, 2 * k : 2 * k + 2]
        expected[0, o, i, j, k] = (window * weight[o]).sum() + bias[o]
    file = weights_file(tmp_path / "net.caffemodel", {"l": [weight, bias]})
    net = single("Convolution3D", f"{name} {{ {text} }}", x.shape)
    check(net, {"x0": x}, {"out": expected}, file)


@pytest.mark.parametrize("type_", ["Deconvolution3D", "DECONVOLUTION3D"])
def test_deconvolution(tmp_path: Path, type_: str) -> None:
    x, weight, bias = normal(2, 2, 3, 4, 5), normal(2, 3, 4, 2, 2), normal(3)
    text = (
        "num_output: 3 kernel_size: 2 kernel_depth: 4 temporal_stride: 2 "
        "temporal_pad: 1 stride: 2"
    )
    wide = np.zeros((2, 3, 8, 8, 10))
    for c, i, j, k in np.ndindex(2, 3, 4, 5):
        window = np.s_[:, :, 2 * i : 2 * i + 4, 2 * j : 2 * j + 2, 2 * k : 2 * k + 2]
        wide[window] += x[:, c, i, j, k][:, None, None, None, None] * weight[c]
    expected = wide[:, :, 1:-1] + bias[:, None, None, None]
    file = weights_file(tmp_path / "net.caffemodel", {"l": [weight, bias]})
    net = single(type_, f"convolution_param {{ {text} }}", x.shape)
    check(net, {"x0": x}, {"out": expected}, file)


POOLED = {
    "max": ("kernel_size: 2 kernel_depth: 1 stride: 2", 2, 1, 2, 1, 0, (5, 3, 4)),
    "max_of_frames": (
        "kernel_size: 3 kernel_depth: 2 stride: 2 temporal_stride: 2",
        *(3, 2, 2, 2, 0, (3, 3, 3)),
    ),
    "mean": (
        "pool: AVE kernel_size: 3 kernel_depth: 2 stride: 2 pad: 1",
        *(3, 2, 2, 1, 1, (4, 4, 4)),
    ),
}


@pytest.mark.parametrize("case", POOLED.values(), ids=POOLED.keys())
def test_pooling(case: tuple) -> None:
    text, size, depth, stride, between, pad, shape = case
    x = normal(1, 2, 5, 6, 7)
    expected = np.empty((1, 2, *shape))
    for c, i, j, k in np.ndindex(2, *shape):
        ends, area = [], 1
        for place, step, w, border, n in (
            (i, between, depth, 0, 5),
            (j, stride, size, pad, 6),
            (k, stride, size, pad, 7),
        ):
            start = place * step - border
            end = min(start + w, n + border)
            area *= end - start
            ends.append(slice(max(start, 0), min(end, n)))
        window = x[(0, c, *ends)]
        expected[0, c, i, j, k] = window.sum() / area if "AVE" in text else window.max()
    net = single("Pooling3D", f"pooling3d_param {{ {text} }}", x.shape)
    check(net, {"x0": x}, {"out": expected})


OLDER = """
layers { name: "data" type: VIDEO_DATA top: "data" top: "label"
  image_data_param { source: "x" batch_size: 2 new_length: 8 crop_size: 16 } }
layers { name: "conv" type: CONVOLUTION3D bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 kernel_depth: 3 pad: 1 } }
layers { name: "pool" type: POOLING3D bottom: "conv" top: "pool"
  pooling_param { kernel_size: 2 kernel_depth: 2 stride: 2 temporal_stride: 2 } }
"""


def test_the_older_format() -> None:
    graph = caffe2flax.convert(OLDER, input_shapes={"label": (2,)}).graph
    shapes = {v.blob: graph.shapes[v] for v in (*graph.arguments, *graph.outputs)}
    assert shapes == {"data": (2, 3, 8, 16, 16), "pool": (2, 4, 3, 8, 8)}


def test_frames_with_a_truth_for_each_voxel() -> None:
    net = """
layers { name: "data" type: VIDEO_WITH_VOXEL_TRUTH_DATA top: "data" top: "truth"
  image_data_param { batch_size: 2 crop_size: 8 num_truth_channels: 2 } }
layers { name: "conv" type: CONVOLUTION3D bottom: "data" top: "conv"
  convolution_param { num_output: 2 kernel_size: 1 kernel_depth: 1 } }
layers { name: "loss" type: EUCLIDEAN_LOSS bottom: "conv" bottom: "truth" top: "loss" }
"""
    graph = caffe2flax.convert(net).graph
    assert [graph.shapes[v] for v in graph.arguments] == [(2, 3, 16, 8, 8)]


def test_windows_over_three_axes_stand_below_no_image() -> None:
    """Crop asks where windows lie in an image, and is not misled by others."""
    net = single(
        "Convolution",
        "convolution_param { num_output: 2 kernel_size: [1, 3, 3] }",
        (1, 2, 4, 6, 6),
    )
    graph = caffe2flax.convert(net).graph
    assert [graph.shapes[v] for v in graph.outputs] == [(1, 2, 4, 4, 4)]


@pytest.mark.parametrize(
    ("type_", "text", "message"),
    [
        (
            "Deconvolution3D",
            "convolution_param { num_output: 2 kernel_size: 1 kernel_depth: 1 }",
            "5 axes",
        ),
        (
            "Deconvolution3D",
            "convolution_param { num_output: 2 kernel_size: 1 kernel_depth: 1 "
            "filter_group: 2 }",
            "nothing certain with filter_group",
        ),
        ("Convolution3D", "convolution3d_param { num_output: 2 }", "needs kernel_size"),
        (
            "Pooling3D",
            "pooling3d_param { kernel_size: 2 kernel_depth: 2 pad: 1 }",
            "only AVE",
        ),
        ("Pooling3D", "pooling3d_param { kernel_size: 2 kernel_depth: 2 }", "5 axes"),
    ],
)
def test_refusals(type_: str, text: str, message: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(single(type_, text, (1, 2, 4, 4)))
