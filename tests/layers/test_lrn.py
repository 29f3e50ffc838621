"""LRN over more neighbours than there are."""

import numpy as np
import pytest

import caffe2flax
from tests.single import check, single


@pytest.mark.parametrize("size", [9, 101, 2147483647])
@pytest.mark.parametrize("place", ["", "in place"])
def test_lrn_over_more_channels_than_there_are(size: int, place: str) -> None:
    """All channels count, and `local_size` divides all the same."""
    x = np.random.default_rng(3).normal(size=(2, 3, 4, 4)).astype(np.float32)
    alpha = 0.5 * size  # else nothing of it would be left
    net = single("LRN", f"lrn_param {{ local_size: {size} alpha: {alpha} }}", x.shape)
    if place:
        net = net.replace('top: "out"', 'top: "x0"')
    scale = 1 + 0.5 * np.square(x.astype(np.float64)).sum(1, keepdims=True)
    expected = scale**-1.5 if place else x * scale**-0.75
    name = "x0" if place else "out"
    check(net, {"x0": x}, {name: np.broadcast_to(expected, x.shape)})


def test_lrn_within_a_window_that_caffe_cannot_pad() -> None:
    own = "lrn_param { local_size: 2147483647 norm_region: WITHIN_CHANNEL }"
    with pytest.raises(caffe2flax.ConversionError, match="exceeds what Caffe can pad"):
        caffe2flax.convert(single("LRN", own, (1, 2, 3, 3)))


def test_lrn_within_a_window_larger_than_the_image() -> None:
    """Pixels beyond it are zeros, and are not added one by one."""
    text = "lrn_param { local_size: 9999 alpha: 2e5 norm_region: WITHIN_CHANNEL }"
    assert caffe2flax.verify(single("LRN", text, (1, 2, 4, 3))).ok
    assert "size=7" in caffe2flax.convert(single("LRN", text, (1, 2, 4, 3))).source
