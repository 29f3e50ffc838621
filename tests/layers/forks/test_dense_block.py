"""DenseNet's block as one layer, against its convolutions pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from tests.single import Array, check, normal, single, weights_file

TEXT = (
    "denseblock_param { numTransition: 2 initChannel: 3 growthRate: 2 %s "
    'Filter_Filler { type: "msra" } BN_Scaler_Filler { type: "constant" value: 1 } '
    'BN_Bias_Filler { type: "constant" value: 0 } use_dropout: true }'
)


def turned(x: Array, kernel: Array) -> Array:
    """A filter turned by 180 degrees over x (C, H, W)."""
    outputs, channels, size, _ = kernel.shape
    _, height, width = x.shape
    top = np.zeros((outputs, height, width))
    for o, c, i, j, a, b in np.ndindex(outputs, channels, height, width, size, size):
        y, z = i + size // 2 - a, j + size // 2 - b
        if 0 <= y < height and 0 <= z < width:
            top[o, i, j] += kernel[o, c, a, b] * x[c, y, z]
    return top


def normalized(x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
    parts = [v.reshape(-1, 1, 1).astype(float) for v in (scale, bias, mean, var)]
    scale, bias, mean, var = parts
    return np.maximum(scale * (x - mean) / np.sqrt(var + 1e-5) + bias, 0)


def statistics(channels: list[int]) -> list[Array]:
    """Scales, biases, means and variances of some normalizations."""
    shapes = [(1, c, 1, 1) for c in channels]
    made = [normal(*s) for _ in range(3) for s in shapes]
    return [*made, *(np.abs(normal(*s)) + 0.5 for s in shapes)]


@pytest.mark.parametrize("narrow", [False, True])
def test_dense_block(narrow: bool, tmp_path: Path) -> None:
    x = normal(2, 3, 4, 5)
    inputs = [8, 8] if narrow else [3, 5]
    blobs = [normal(2, c, 3, 3) for c in inputs] + statistics([3, 5])
    if narrow:
        blobs += [normal(8, c, 1, 1) for c in (3, 5)] + statistics([8, 8])
    blobs.append(np.zeros(1, np.float32))
    expected = []
    for image in x.astype(float):
        for i in range(2):
            y = normalized(image, *blobs[2 + i : 10 : 2])
            if narrow:
                y = normalized(turned(y, blobs[10 + i]), *blobs[12 + i : 20 : 2])
            image = np.concatenate([image, turned(y, blobs[i])])
        expected.append(image)
    file = weights_file(tmp_path / "w.caffemodel", {"l": blobs})
    net = single("DenseBlock", TEXT % ("use_BC: true" if narrow else ""), x.shape)
    conversion = check(net, {"x0": x}, {"out": np.array(expected)}, file)
    assert any("on a GPU" in note for note in conversion.notes)


def test_without_weights() -> None:
    text = TEXT % "use_BC: true"
    net = single("DenseBlock", text, (1, 3, 4, 4))
    out = caffe2flax.load(net)(np.ones((1, 4, 4, 3), np.float32))
    assert out.shape == (1, 4, 4, 7)
    assert np.isfinite(np.asarray(out)).all()


REFUSED = [
    ("", (1, 4, 4, 4), "initChannel is 3"),
    ("filter_H: 5", (1, 3, 4, 4), "has 3"),
]


@pytest.mark.parametrize(("text", "shape", "message"), REFUSED)
def test_refusals(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(single("DenseBlock", TEXT % text, shape))
    with pytest.raises(caffe2flax.ConversionError, match="for TEST only"):
        caffe2flax.convert(single("DenseBlock", TEXT % "", shape), phase="TRAIN")
