"""Layers of forks that move, pad, unpool and scale, against loops written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from tests.single import Array, check, normal, single, weights_file

Expected = Callable[..., Array]


def shuffled(x: Array) -> Array:
    top = np.empty_like(x)
    for i in range(3):
        for j in range(4):
            top[:, j * 3 + i] = x[:, i * 4 + j]
    return top


def reorganized(x: Array) -> Array:
    """Darknet's loops: the top's numbers, one by one."""
    n, c, h, w = x.shape
    flat, top = x.reshape(n, -1), np.empty((n, x[0].size), x.dtype)
    for k in range(c):
        for j in range(h):
            for i in range(w):
                channel, offset = k % (c // 4), k // (c // 4)
                column, row = i * 2 + offset % 2, j * 2 + offset // 2
                source = column + w * 2 * (row + h * 2 * channel)
                top[:, i + w * (j + h * k)] = flat[:, source]
    return top.reshape(n, c * 4, h // 2, w // 2)


def spread(x: Array, depth_first: bool) -> Array:
    n, c, h, w = x.shape
    top = np.empty((n, c // 4, h * 2, w * 2), x.dtype)
    for k in range(c):
        at = (k % (c // 4), k // (c // 4)) if depth_first else (k // 4, k % 4)
        top[:, at[0], at[1] // 2 :: 2, at[1] % 2 :: 2] = x[:, k]
    return top


def last(function: Expected) -> Expected:
    """`function` of images whose channels stand last."""
    return lambda x: function(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)


def gathered(x: Array) -> Array:
    n, c, h, w = x.shape
    top = np.empty((n, c * 4, h // 2, w // 2), x.dtype)
    for offset in range(4):
        top[:, offset * c : offset * c + c] = x[:, :, offset // 2 :: 2, offset % 2 :: 2]
    return top


def batched(x: Array) -> Array:
    x = np.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)))
    pieces = [x[:, row::2, column::3] for row in range(2) for column in range(3)]
    return np.concatenate(pieces)


def unbatched(x: Array) -> Array:
    """x (12, 3, 2, 2) as (2, 6, 6, 2), less a row and two columns."""
    top = np.empty((2, 6, 6, 2), x.dtype)
    for i in range(6):
        top[:, i // 3 :: 2, i % 3 :: 3] = x[2 * i : 2 * i + 2]
    return top[:, 1:, :-2]


ONE_INPUT: dict[str, tuple[str, str, Sequence[int], Expected]] = {
    "shuffle": (
        "ShuffleChannel",
        "shuffle_channel_param { group: 3 }",
        (2, 12, 3, 4),
        shuffled,
    ),
    "shuffle_2d": (
        "ShuffleChannel",
        "shuffle_channel_param { group: 3 }",
        (2, 12),
        shuffled,
    ),
    "reorg": ("Reorg", "reorg_param { stride: 2 }", (2, 8, 4, 6), reorganized),
    "reorg_reverse": (
        "Reorg",
        "reorg_param { stride: 2 reverse: true }",
        (2, 8, 4, 6),
        lambda x: spread(x, True),
    ),
    "pixel_shuffle": (
        "PixelShuffle",
        "pixelshuffle_param { upscale_factor: 2 }",
        (2, 8, 3, 5),
        lambda x: spread(x, False),
    ),
    "depth_to_space": (
        "DepthToSpace",
        "depth_to_space_param { block_size: 2 data_format: 'NCHW' }",
        (2, 8, 3, 5),
        lambda x: spread(x, True),
    ),
    "depth_to_space_crd": (
        "DepthToSpace",
        "depth_to_space_param { block_size: 2 data_format: 'CRD' }",
        (2, 8, 3, 5),
        lambda x: spread(x, False),
    ),
    "depth_to_space_nhwc": (
        "DepthToSpace",
        "depth_to_space_param { block_size: 2 }",
        (2, 3, 5, 8),
        last(lambda x: spread(x, True)),
    ),
    "space_to_depth": (
        "SpaceToDepth",
        "space_to_depth_param { block_size: 2 data_format: 'NCHW' }",
        (2, 3, 4, 6),
        gathered,
    ),
    "space_to_depth_nhwc": (
        "SpaceToDepth",
        "space_to_depth_param { block_size: 2 }",
        (2, 4, 6, 3),
        last(gathered),
    ),
    "tiling": (
        "GSTiling",
        "gs_tiling_param { stride: 2 }",
        (2, 3, 4, 6),
        gathered,
    ),
    "tiling_reversed": (
        "GSTiling",
        "gs_tiling_param { stride: 2 reverse: true }",
        (2, 8, 3, 5),
        lambda x: spread(x, True),
    ),
    "space_to_batch": (
        "SpaceToBatchND",
        "space_to_batch_nd_param { block_shape: 2 block_shape: 3 "
        "paddings: 1 paddings: 0 paddings: 0 paddings: 2 }",
        (2, 5, 4, 3),
        batched,
    ),
    "batch_to_space": (
        "BatchToSpaceND",
        "batch_to_space_nd_param { block_shape: 2 block_shape: 3 "
        "crops: 1 crops: 0 crops: 0 crops: 2 }",
        (12, 3, 2, 2),
        unbatched,
    ),
    "transpose": (
        "Transpose",
        "transpose_param { dim: 3 dim: 0 dim: 2 dim: 1 }",
        (2, 3, 4, 5),
        lambda x: x.transpose(3, 0, 2, 1),
    ),
    "reverse": ("Reverse", "", (3, 2), lambda x: x[::-1]),
    "reverse_axes": (
        "Reverse",
        "reverse_param { axis: 1 axis: -1 }",
        (2, 3, 4, 5),
        lambda x: x[:, ::-1, :, ::-1],
    ),
    "squeeze": (
        "Squeeze",
        "squeeze_param { axis: 2 axis: -1 }",
        (2, 3, 1, 1),
        lambda x: x[:, :, 0, 0],
    ),
    "squeeze_all": ("Squeeze", "", (2, 1, 3, 1), lambda x: x[:, 0, :, 0]),
    "unsqueeze": (
        "Unsqueeze",
        "unsqueeze_param { dim: -1 }",
        (2, 3),
        lambda x: x[..., None],
    ),
    "expand_dims": (
        "ExpandDimsND",
        "expand_dims_nd_param { axis: 1 axis: 2 }",
        (2, 3),
        lambda x: x[:, None, :, None],
    ),
    "pad": (
        "Pad",
        "pad_param { pad_u: 1 pad_r: 2 pad_value: 3 }",
        (2, 3, 4, 5),
        lambda x: np.pad(x, ((0, 0), (0, 0), (1, 0), (0, 2)), constant_values=3),
    ),
    "pad_reflect": (
        "Pad",
        "pad_param { pad_type: REFLECT pad_u: 3 pad_d: 1 pad_l: 2 pad_r: 4 }",
        (2, 3, 4, 5),
        lambda x: np.pad(x, ((0, 0), (0, 0), (3, 1), (2, 4)), mode="reflect"),
    ),
    "pad_replicate": (
        "Pad",
        "pad_param { pad_type: REPLICATE pad_d: 1 pad_l: 2 pad_value: 9 }",
        (2, 3, 4, 5),
        lambda x: np.pad(x, ((0, 0), (0, 0), (0, 1), (2, 0)), mode="edge"),
    ),
    "pad_crops": (
        "Pad",
        "pad_param { pad_u: -1 pad_d: -1 pad_l: -2 pad_r: -1 }",
        (2, 3, 4, 5),
        lambda x: x[:, :, 1:-1, 2:-1],
    ),
    "paddings": (
        "Pad",
        "pad_param { paddings: 0 paddings: 1 paddings: 2 paddings: 0 "
        "constant_values: -1 }",
        (2, 3),
        lambda x: np.pad(x, ((0, 1), (2, 0)), constant_values=-1),
    ),
    "mirror": (
        "MirrorPad",
        "mirror_pad_param { mode: 'REFLECT' paddings: [0, 0, 0, 0, 1, 2, 3, 0] }",
        (1, 2, 3, 4),
        lambda x: np.pad(x, ((0, 0), (0, 0), (1, 2), (3, 0)), mode="reflect"),
    ),
    "mirror_symmetric": (
        "MirrorPad",
        "mirror_pad_param { mode: 'SYMMETRIC' paddings: [0, 0, 0, 0, 1, 3, 4, 0] }",
        (1, 2, 3, 4),
        lambda x: np.pad(x, ((0, 0), (0, 0), (1, 3), (4, 0)), mode="symmetric"),
    ),
    "nearest": (
        "Upsample",
        "upsample_param { scale: 2 }",
        (1, 2, 3, 4),
        lambda x: x.repeat(2, 2).repeat(2, 3),
    ),
    "nearest_1d": (
        "Upsample",
        "upsample_param { scale: 3 dims_num: 3 }",
        (1, 2, 4),
        lambda x: x.repeat(3, 2),
    ),
    "rrelu": (
        "RReLU",
        "rrelu_param { lb: 2 ub: 4 }",
        (2, 3, 4),
        lambda x: np.where(x > 0, x, x * np.log(2) / 2),
    ),
}


@pytest.mark.parametrize("case", ONE_INPUT.values(), ids=ONE_INPUT.keys())
def test_one_input(case: tuple[str, str, Sequence[int], Expected]) -> None:
    type_, text, shape, expected = case
    x = normal(*shape)
    check(single(type_, text, shape), {"x0": x}, {"out": expected(x)})


SEVERAL: dict[str, tuple[str, str, Sequence[Sequence[int]], Expected]] = {
    "axpy": (
        "Axpy",
        "",
        [(2, 3, 1, 1), (2, 3, 4, 5), (2, 3, 4, 5)],
        lambda a, x, y: a * x + y,
    ),
    "axpy_of_two_axes": (
        "Axpy",
        "",
        [(2, 3), (2, 3, 4, 5), (2, 3, 4, 5)],
        lambda a, x, y: a[:, :, None, None] * x + y,
    ),
    "mul": ("Mul", "", [(2, 3, 4, 5), (2, 3, 1, 1)], lambda x, y: x * y),
    "mul_of_fewer_axes": ("Mul", "", [(2, 3, 4), (4,)], lambda x, y: x * y),
    "add": ("Add", "", [(2, 3, 4), (1, 3, 4)], lambda x, y: x + y),
    "add_of_more_axes": ("Add", "", [(3, 1), (2, 3, 4)], lambda x, y: x + y),
    "add_scalar": ("Add", "", [(2, 3), ()], lambda x, y: x + y),
    "channel_scale": (
        "ChannelScale",
        "channel_scale_param { do_backward_feature: false }",
        [(2, 3, 4, 5), (2, 1, 4, 5)],
        lambda x, y: x * y,
    ),
}


@pytest.mark.parametrize("case", SEVERAL.values(), ids=SEVERAL.keys())
def test_several_inputs(
    case: tuple[str, str, Sequence[Sequence[int]], Expected],
) -> None:
    type_, text, shapes, expected = case
    xs = [normal(*shape) for shape in shapes]
    inputs = {f"x{i}": x for i, x in enumerate(xs)}
    check(single(type_, text, *shapes), inputs, {"out": expected(*xs)})


def test_unstack() -> None:
    x = normal(2, 3, 4)
    net = single("Unstack", "unstack_param { axis: 1 }", x.shape, tops="a b c")
    check(net, {"x0": x}, {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2]})


def test_learned_factors(tmp_path: Path) -> None:
    x, scale = normal(2, 3, 4, 5), normal(3, 1, 1)
    net = single("Mul", "mul_param { mul_shape: 3 mul_shape: 1 mul_shape: 1 }", x.shape)
    file = weights_file(tmp_path / "net.caffemodel", {"l": [scale]})
    check(net, {"x0": x}, {"out": x * scale}, file)


@pytest.mark.parametrize("shared", [False, True])
def test_eltwise_affine(tmp_path: Path, shared: bool) -> None:
    x = normal(2, 3, 4, 5)
    slope, bias = (normal() if shared else normal(3) for _ in range(2))
    text = "eltwise_affine_param { channel_shared: true }" if shared else ""
    file = weights_file(tmp_path / "net.caffemodel", {"l": [slope, bias]})
    wide = [blob if shared else blob[:, None, None] for blob in (slope, bias)]
    expected = x * wide[0] + wide[1]
    check(single("EltwiseAffine", text, x.shape), {"x0": x}, {"out": expected}, file)


POOLED = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: [1, 1, %s] } } }
layer { name: "p" type: "Pooling" bottom: "x" top: "p" top: "mask"
  pooling_param { kernel_size: 2 stride: 2 %s } }
layer { name: "u" type: "%s" bottom: "p" bottom: "mask" top: "out" %s_param { %s } }
"""
LOST, MOVED, OTHER = "maxima would be lost", "do not return", "makes 6 x 4, but"
MASKS = {
    "the same": ("5, 4", "", "Upsample", "upsample_h: 5 upsample_w: 4", ""),
    "half of it": ("6, 4", "", "Upsample", "upsample_h: 3 upsample_w: 2", LOST),
    "a row less": ("6, 4", "", "Upsample", "upsample_h: 5 upsample_w: 4", LOST),
    "a row that no window reads": (
        "5, 4",
        "round_mode: FLOOR",
        "Upsample",
        "upsample_h: 4 upsample_w: 4",
        "makes 4 x 4, but",
    ),
    "odd height": ("5, 4", "", "Upsample", "scale: 2", OTHER),
    "odd height, pad_out": ("5, 4", "", "Upsample", "scale: 2 pad_out_h: true", ""),
    "odd width": ("4, 5", "", "Upsample", "scale: 2", MOVED),
    "max_unpool": ("4, 4", "", "MaxUnPool", "dst_h: 4 dst_w: 3", LOST),
    "max_unpool, wider": ("4, 4", "", "MaxUnPool", "dst_h: 4 dst_w: 5", MOVED),
    "unpooling": ("4, 4", "", "Unpooling", "unpool_size: 3", LOST),
}
MESSAGES = {"Upsample": "upsample", "MaxUnPool": "max_unpool", "Unpooling": "unpooling"}


@pytest.mark.parametrize("case", MASKS.values(), ids=MASKS.keys())
def test_masks_fit_their_poolings(case: tuple[str, str, str, str, str]) -> None:
    """A top that is too small for a mask is refused, one of another size noted."""
    size, rounding, type_, fields, text = case
    prototxt = POOLED % (size, rounding, type_, MESSAGES[type_], fields)
    if text == LOST:
        with pytest.raises(caffe2flax.ConversionError, match=r"layer 'u'.*maxima"):
            caffe2flax.convert(prototxt)
        return
    noted = [n for n in caffe2flax.convert(prototxt).notes if "its mask" in n]
    assert len(noted) == bool(text)
    assert all(text in note for note in noted)
    assert caffe2flax.verify(prototxt).ok


def test_a_mask_is_found_behind_layers_that_pass_it_on() -> None:
    prototxt = POOLED % (
        "6, 4",
        "",
        "Upsample",
        "upsample",
        "upsample_h: 3 upsample_w: 2",
    )
    between = """layer { name: "s" type: "Split" bottom: "mask" top: "m1" top: "m2" }
layer { name: "r" type: "Reshape" bottom: "m1" top: "m3"
  reshape_param { shape { dim: [0, 0, 0, 0] } } }
layer { name: "u" """
    prototxt = prototxt.replace('layer { name: "u" ', between).replace(
        'bottom: "mask" top: "out"', 'bottom: "m3" top: "out"'
    )
    with pytest.raises(caffe2flax.ConversionError, match=r"layer 'u'.*maxima"):
        caffe2flax.convert(prototxt)


UNPOOLED = {
    "segnet": ("Upsample", "upsample_param { scale: 2 }", (4, 6)),
    "segnet_by_sides": ("Upsample", "upsample_param { scale_h: 2 scale_w: 3 }", (4, 9)),
    "segnet_less_a_row": (
        "Upsample",
        "upsample_param { scale: 2 pad_out_h: true }",
        (3, 6),
    ),
    "segnet_size": (
        "Upsample",
        "upsample_param { upsample_h: 5 upsample_w: 7 }",
        (5, 7),
    ),
    "max_unpool": ("MaxUnPool", "max_unpool_param { dst_h: 5 dst_w: 6 }", (5, 6)),
    "deconvnet": (
        "Unpooling",
        "unpooling_param { unpool: MAX kernel_size: 2 stride: 2 unpool_size: 6 }",
        (6, 6),
    ),
}


@pytest.mark.parametrize("case", UNPOOLED.values(), ids=UNPOOLED.keys())
def test_unpooling(case: tuple[str, str, tuple[int, int]]) -> None:
    """Several maxima at one pixel: the last one stays; none goes to pixel -1."""
    type_, text, (height, width) = case
    x = normal(2, 3, 2, 3)
    mask = np.random.default_rng(3).integers(-1, height * width, x.shape)
    mask[0, 0, 0] = 1
    expected = np.zeros((2, 3, height * width))
    for n, c, i, j in np.ndindex(*x.shape):
        if mask[n, c, i, j] >= 0:
            expected[n, c, mask[n, c, i, j]] = x[n, c, i, j]
    check(
        single(type_, text, x.shape, x.shape),
        {"x0": x, "x1": mask.astype(np.float32)},
        {"out": expected.reshape(2, 3, height, width)},
    )


REFUSED = {
    "ShuffleChannel": ("shuffle_channel_param { group: 5 }", "no multiple of 5"),
    "Reorg": ("reorg_param { stride: 3 }", "no multiple of 9"),
    "PixelShuffle": ("pixelshuffle_param { upscale_factor: 3 }", "no multiple of 9"),
    "DepthToSpace": ("depth_to_space_param { block_size: 0 }", "must be positive"),
    "SpaceToBatchND": ("space_to_batch_nd_param { block_shape: 2 }", "two numbers"),
    "Transpose": ("transpose_param { dim: 0 dim: 2 }", "each axis once"),
    "Reverse": ("reverse_param { axis: 4 }", "out of range"),
    "Squeeze": ("squeeze_param { axis: 1 }", "extent 8, not 1"),
    "Unsqueeze": ("unsqueeze_param { dim: 6 }", "out of range"),
    "Pad": ("pad_param { pad_u: -1 pad_d: 1 }", "all negative"),
    "MirrorPad": (
        "mirror_pad_param { mode: 'REFLECT' paddings: [0, 0, 0, 0, 4, 0, 0, 0] }",
        "cannot be mirrored",
    ),
    "Upsample": ("upsample_param { scale: 1.5 }", "whole number"),
    "Add": ("", "of the other is unknown"),
    "Mul": ("mul_param { mul_shape: 3 }", "must be equal or 1"),
    "RReLU": ("rrelu_param { lb: 4 ub: 2 }", "below ub"),
    "Unstack": ("unstack_param { num: 2 }", "1 tops"),
}


@pytest.mark.parametrize(("type_", "case"), REFUSED.items(), ids=REFUSED.keys())
def test_refusals(type_: str, case: tuple[str, str]) -> None:
    text, message = case
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(single(type_, text, (2, 8, 4, 4)))


def depthwise(x: Array, weight: Array, bias: Array) -> Array:
    """Stride 2, a border of 1."""
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, columns = (x.shape[2] - 1) // 2 + 1, (x.shape[3] - 1) // 2 + 1
    top = np.empty((*x.shape[:2], rows, columns))
    for i, j in np.ndindex(rows, columns):
        window = wide[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        top[:, :, i, j] = (window * weight[:, 0]).sum((2, 3)) + bias
    return top


@pytest.mark.parametrize(
    ("type_", "group"),
    [
        ("ConvolutionDepthwise", ""),
        ("ConvolutionDepthwise", "group: 3"),
        ("DepthwiseConvolution", "group: 3"),
    ],
)
def test_depthwise(tmp_path: Path, type_: str, group: str) -> None:
    x, weight, bias = normal(2, 3, 5, 6), normal(3, 1, 3, 3), normal(3)
    text = f"num_output: 3 kernel_size: 3 stride: 2 pad: 1 {group}"
    file = weights_file(tmp_path / "net.caffemodel", {"l": [weight, bias]})
    check(
        single(type_, f"convolution_param {{ {text} }}", x.shape),
        {"x0": x},
        {"out": depthwise(x, weight, bias)},
        file,
    )


@pytest.mark.parametrize(
    ("type_", "text", "message"),
    [
        ("DepthwiseConvolution", "num_output: 3 group: 1", "a group for each"),
        ("ConvolutionDepthwise", "num_output: 4", "number of channels, 3"),
        ("DepthwiseConvolution", "num_output: 3", "as many groups as channels"),
    ],
)
def test_depthwise_refusals(type_: str, text: str, message: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(
            single(
                type_, f"convolution_param {{ kernel_size: 3 {text} }}", (1, 3, 5, 5)
            )
        )
