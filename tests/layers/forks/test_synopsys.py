"""Pads for each side, and the other fields of Synopsys' fork."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from tests.single import single, weights_file

SHAPE = (1, 2, 7, 6)
X = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def given(**fields: object) -> str:
    return " ".join(f"{name}: {value}" for name, value in fields.items())


def test_negative_pads_cut_off(tmp_path: Path) -> None:
    """A convolution sees the rest of its image, a deconvolution's top grows."""
    noise = np.random.default_rng(1)
    blobs = [noise.normal(size=(2, 2, 3, 3)), np.array([0.5, -1.0])]
    file = weights_file(tmp_path / "net.caffemodel", {"l": blobs})
    fields = given(num_output=2, kernel_size=3)
    sides = " pad_t: -1 pad_b: 2 pad_l: 1 pad_r: -2"

    def run(type_: str, sides: str, x: np.ndarray) -> np.ndarray:
        text = single(type_, f"convolution_param {{ {fields}{sides} }}", x.shape)
        return caffe2flax.run(text, file, {"x0": x})["out"]

    seen = np.pad(X[:, :, 1:, :-2], ((0, 0), (0, 0), (0, 2), (1, 0)))
    cut, whole = run("Convolution", sides, X), run("Convolution", "", seen)
    np.testing.assert_allclose(cut, whole, rtol=1e-5, atol=1e-6)
    grown, plain = run("Deconvolution", sides, X), run("Deconvolution", "", X)
    # One row more above and two columns more at the right, which hold the bias alone.
    wide = np.pad(plain, ((0, 0), (0, 0), (1, 0), (0, 2)))
    wide[:, :, :1], wide[..., -2:] = (blobs[1].reshape(1, 2, 1, 1),) * 2
    np.testing.assert_allclose(grown, wide[:, :, :-2, 1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["AVE", "AVE_EXC_PAD", "MAX"])
def test_uneven_pads_of_poolings(method: str) -> None:
    """Sizes round up; AVE counts the pads, but not what is behind them."""
    kernel, stride, (low, high) = 3, 2, (1, 2)
    fields = f"pad_t: {low} pad_b: {high} pad_l: {low} pad_r: {high}"
    fields += f" kernel_size: {kernel} stride: {stride} pool: {method}"
    x = np.abs(X)
    ours = caffe2flax.run(
        single("Pooling", f"pooling_param {{ {fields} }}", SHAPE), None, {"x0": x}
    )["out"]
    outs = [-(-(size + low + high - kernel) // stride) + 1 for size in SHAPE[2:]]
    outs = [
        out - ((out - 1) * stride >= size + low)
        for out, size in zip(outs, SHAPE[2:], strict=True)
    ]
    top = np.zeros((*SHAPE[:2], *outs))
    for i, j in product(*map(range, outs)):
        starts = np.array([i, j]) * stride - low
        ends = np.minimum(starts + kernel, np.array(SHAPE[2:]) + high)
        (a, b), (c, d) = np.maximum(starts, 0), np.minimum(ends, SHAPE[2:])
        window = x[:, :, a:c, b:d]
        counted = (ends - starts).prod() if method == "AVE" else window[0, 0].size
        total = window.max((2, 3)) if method == "MAX" else window.sum((2, 3)) / counted
        top[:, :, i, j] = total
    np.testing.assert_allclose(ours, top, rtol=1e-5)


CONVOLVED = "num_output: 2 kernel_size: 3 "


@pytest.mark.parametrize(
    ("type_", "text", "words"),
    [
        ("Convolution", CONVOLVED + "pad_l: 1 pad: 1", "each side or pad, not both"),
        ("Convolution", CONVOLVED + "pad_type: 1 pad: 1", "pad_type or pad, not both"),
        ("Convolution", CONVOLVED + "pad_type: 2", "pad_type is 0 or 1"),
        ("Convolution", CONVOLVED + "pad_type: 1 dilation: 2", "as if there were none"),
        ("Convolution", CONVOLVED + "input_scale: 0.5", r"quantised .* \[unsupported"),
        ("Deconvolution", CONVOLVED + "pad_type: 1", "outside its buffers"),
        ("Pooling", "kernel_size: 2 pad_l: -1", "cannot be negative"),
        ("Pooling", "kernel_size: 2 pad_t: 9 pool: AVE_EXC_PAD", "has no pixel"),
        ("Pooling", "global_pooling: true pad_l: 1", "takes no pad"),
        ("ReLU", "relu6: true saturate: Signed", "quantised arithmetic"),
        ("Reshape", "pixelshuffler: 0", "must be positive"),
        ("Reshape", "pixelshuffler: 2", "no multiple of 4"),
        ("Eltwise", "operation: DIV", "at least 2 bottom"),
    ],
)
def test_refusals(type_: str, text: str, words: str) -> None:
    own = {"Deconvolution": "convolution"}.get(type_, type_.lower())
    with pytest.raises(caffe2flax.ConversionError, match=words):
        caffe2flax.convert(single(type_, f"{own}_param {{ {text} }}", SHAPE))


def test_a_second_bottom_limits_where_it_is_positive() -> None:
    text = single("ReLU", "relu_param { negative_slope: 0.5 }", SHAPE, (2,))
    for limit, expected in ((0.25, 0.25), (-1.0, np.inf)):
        ours = caffe2flax.run(text, None, {"x0": X, "x1": np.array([limit, 9.0])})
        leaky = np.where(X > 0, X, 0.5 * X)
        np.testing.assert_allclose(ours["out"], np.minimum(leaky, expected), rtol=1e-6)
