"""Products and convolutions by oneDNN give what NumPy gives."""

import numpy as np
import pytest

from caffe2flax.cpu import onednn, probe


@pytest.mark.parametrize("what", ["product", "convolution", "packed"])
def test_right_here(what: probe.What) -> None:
    assert onednn.available(what) == probe.right(what)


def test_unpack() -> None:
    kernel = np.arange(35 * 130, dtype=np.float32).reshape(35, 130)
    np.testing.assert_array_equal(onednn.unpack(onednn.pack(kernel), 35, 130), kernel)
