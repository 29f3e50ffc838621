"""ReLUs inside of other layers."""

import re

import numpy as np
import pytest

import caffe2flax
from tests.single import normal, single

CONV = "num_output: 2 kernel_size: 1 weight_filler { type: 'xavier' }"
BATCHNORM = "use_global_stats: false"
FORMS = {
    "a flag": (f"convolution_param {{ {CONV} relu: true }}", 0.0),
    "a slope beside it": (
        f"convolution_param {{ {CONV} relu: true negative_slope: 0.5 }}",
        0.5,
    ),
    "a slope of the layer": (
        f"convolution_param {{ {CONV} relu: true }} relu_param {{ negative_slope: 2 }}",
        2.0,
    ),
    "none": (f"convolution_param {{ {CONV} relu: false }}", None),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_relu_inside_of_a_convolution(name: str) -> None:
    """It comes after the convolution, and has no blobs."""
    text, slope = FORMS[name]
    conversion = caffe2flax.convert(single("Convolution", text, (1, 3, 2, 2)))
    types = [node.type for node in conversion.graph.nodes]
    assert types == ["Convolution", *["ReLU"] * (slope is not None)]
    said = any("ReLU inside of this layer" in note for note in conversion.notes)
    assert said is (slope is not None)
    assert [v.blob for v in conversion.graph.outputs] == ["out"]
    if slope:
        assert re.search(rf"leaky_relu\(.*, {slope}\)", conversion.source)


def test_a_relu_inside_of_a_batch_norm() -> None:
    net = single("BatchNorm", f"batch_norm_param {{ {BATCHNORM} relu: true }}", (4, 2))
    x = normal(4, 2)
    (found,) = caffe2flax.run(net, None, {"x0": x}).values()
    wanted = np.maximum((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), 0)
    assert np.allclose(found, wanted, atol=1e-5)
