"""The reference of Convolution, in as many pieces as fit into little memory."""

from __future__ import annotations

import numpy as np
import pytest

from caffe2flax.layers import _convolved
from caffe2flax.layers._fields import Sliding
from caffe2flax.layers.convolution import Convolution


@pytest.mark.parametrize("numbers", [1, 40, 100, 400, 2000])
@pytest.mark.parametrize(
    ("shape", "sliding", "group"),
    [
        ((2, 4, 9, 7), Sliding((3, 3), (2, 1), (1, 0), (1, 2)), 2),
        ((1, 3, 11), Sliding((5,), (3,), (2,), (1,)), 1),
        ((2, 4), Sliding((), (), (), ()), 2),
        ((1, 4, 5, 6, 4), Sliding((2, 3, 1), (1, 2, 2), (0, 1, 0)), 4),
    ],
    ids=["2 axes", "1 axis", "no axis", "3 axes"],
)
def test_pieces(
    shape: tuple[int, ...],
    sliding: Sliding,
    group: int,
    numbers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = Convolution(8, sliding, group)
    noise = np.random.default_rng(numbers)
    x = noise.normal(size=shape)
    blobs = [noise.normal(size=blob.shape) for blob in layer.blobs(shape)]
    whole = layer.reference(blobs, x)
    monkeypatch.setattr(_convolved, "MATRIX", numbers)
    np.testing.assert_allclose(layer.reference(blobs, x), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [5, 2**31 - 1])
def test_a_stride_beyond_the_image(stride: int) -> None:
    """One window, whose missing pixels are zero; no array as long as the stride."""
    x = np.random.default_rng(1).normal(size=(1, 1, 3))
    layer = Convolution(1, Sliding((4,), (stride,), (0,), (1,)), bias=False)
    blobs = [np.arange(4.0).reshape(1, 1, 4)]
    expected = (x[0, 0] * np.arange(3.0)).sum()
    assert layer.reference(blobs, x).item() == pytest.approx(expected)
