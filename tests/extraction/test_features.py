"""`features`: values are those of the reference, or Caffe's where they are recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import caffe2flax
from caffe2flax.conversion import convert
from caffe2flax.verification.reference import evaluate
from tests.golden import FIXTURES, Arrays, distance, part
from tests.smallnets import net, numbers
from tests.test_real import BOUND, REAL

LENET = FIXTURES / "digits" / "deploy.prototxt"
LENET_WEIGHTS = next((FIXTURES / "digits").glob("*.caffemodel"))
RELU = 'name: "relu" type: "ReLU" bottom: "{0}" top: "{0}"'


def conv(name: str, bottom: str, count: int, more: str = "") -> str:
    return (
        f'name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
        f"convolution_param {{ num_output: {count} kernel_size: 3 {more} "
        'weight_filler { type: "xavier" } bias_filler { type: "gaussian" } }'
    )


FCN = net(
    conv("conv1", "data", 8, "pad: 6 stride: 2"),
    RELU.format("conv1"),
    conv("score", "conv1", 5),
    'name: "up" type: "Deconvolution" bottom: "score" top: "up" convolution_param '
    '{ num_output: 5 group: 5 kernel_size: 4 stride: 2 weight_filler { type: "bilinear"'
    " } bias_term: false }",
    'name: "crop" type: "Crop" bottom: "up" bottom: "data" top: "crop" crop_param '
    "{ axis: 2 offset: 2 }",
    data=(1, 3, 18, 20),
)
TWO_HEADS = net(
    conv("conv1", "data", 4),
    RELU.format("conv1"),
    conv("boxes", "conv1", 4),
    conv("score", "conv1", 2),
    'name: "prob" type: "Softmax" bottom: "score" top: "prob"',
    data=(2, 3, 9, 8),
)
CASES = {
    "classifier": (LENET, LENET_WEIGHTS, "conv2 ip1"),
    "fcn": (FCN, None, "score conv1 crop"),
    "two heads": (TWO_HEADS, None, "boxes prob conv1"),
    "ssd": (
        FIXTURES / "ssd" / "ssd.prototxt",
        None,
        "conv4_norm mbox_priorbox mbox_conf_reshape",
    ),
}


def reference(net: Any, weights: Any, inputs: Arrays, **options: Any) -> Arrays:
    done = convert(net, weights, filled=True, taps="all", **options)
    values = evaluate(done.graph, done.blobs, inputs)
    return {value.blob: values[value] for value in done.graph.taps}


def emitted(features: Any, inputs: Arrays) -> list[np.ndarray]:
    """Arrays of four axes as images."""
    given = (inputs[name] for name in features.inputs)
    return [x.transpose(0, 2, 3, 1) if x.ndim == 4 else x for x in given]


def restored(features: Any, found: dict[str, jax.Array]) -> Arrays:
    """In Caffe's axis order."""
    return {
        blob: np.asarray(x).transpose(np.argsort(features.axes[blob]))
        for blob, x in found.items()
    }


@pytest.mark.parametrize("case", CASES)
def test_values(case: str) -> None:
    """At the size of the file, and in the part that takes any, at another; with another
    batch."""
    net, weights, names = CASES[case]
    given = {blob.name: blob.shape for blob in caffe2flax.inspect(net).inputs}
    x = {"data": numbers(*given["data"])}
    features = caffe2flax.features(net, weights, names.split())
    assert features.inputs == ("data",)
    assert features.blobs == tuple(names.split())
    found = restored(features, features(*emitted(features, x)))
    wanted = reference(net, weights, x)
    assert {b: distance(found[b], wanted[b]) < 1e-5 for b in found} == dict.fromkeys(
        names.split(), True
    )


def test_another_size_is_computed_as_caffe_reshapes() -> None:
    """Windows pad as they do at that size; below layers that fix it, the size is
    free, and the weights are held once."""
    layers = (
        conv("conv1", "data", 4, "stride: 2 pad: 1"),
        'name: "p" type: "Pooling" bottom: "conv1" top: "p" pooling_param { pool: MAX '
        "kernel_size: 3 stride: 2 }",
    )
    dense = 'name: "ip" type: "InnerProduct" bottom: "p" top: "ip" inner_product_param '
    features = caffe2flax.features(
        net(*layers, f"{dense} {{ num_output: 2 }}", data=(1, 3, 18, 20)), None, "p"
    )
    larger = {"data": numbers(2, 3, 23, 17)}
    wanted = caffe2flax.run(net(*layers, data=(2, 3, 23, 17)), None, larger)
    found = restored(features, features(*emitted(features, larger)))
    assert distance(found["p"], wanted["p"]) < 1e-5
    features(jnp.zeros((1, 18, 20, 3)))
    models = [model for model, _ in features._runs.values()]
    places = {model.conv1.kernel[...].unsafe_buffer_pointer() for model in models}
    assert (len(models), len(places)) == (2, 1)


def test_under_transformations() -> None:
    features = caffe2flax.features(LENET, LENET_WEIGHTS, ["conv1"])
    x = jnp.asarray(numbers(1, 30, 30, 1))
    traced = jax.jit(lambda x: features(x)["conv1"])(x)
    assert np.array_equal(traced, features(x)["conv1"])
    gradient = jax.grad(lambda x: features(x)["conv1"].sum())(x)
    assert gradient.shape == x.shape
    assert float(abs(gradient).max()) > 0


@pytest.mark.skipif(not hasattr(nnx, "capture"), reason="Flax before 0.12.6")
def test_capture() -> None:
    """As docs/generated-code.md says of it."""
    model = caffe2flax.load(LENET, LENET_WEIGHTS)
    watched = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)
    x = jnp.asarray(numbers(1, 28, 28, 1))
    _, found = watched(x)
    (before,) = found["conv1"]["__call__"]
    after = caffe2flax.features(LENET, LENET_WEIGHTS, "conv1")(x)["conv1"]
    assert float(before.min()) < 0
    np.testing.assert_allclose(nnx.relu(before), after, atol=1e-6)


def test_refusals() -> None:
    with pytest.raises(caffe2flax.ConversionError, match="did you mean ip1"):
        caffe2flax.features(LENET, LENET_WEIGHTS, ["ip11"])
    features = caffe2flax.features(LENET, LENET_WEIGHTS, ["ip1"])
    with pytest.raises(caffe2flax.ConversionError, match="inputs of this size"):
        features(np.zeros((1, 40, 28, 1), np.float32))
    with pytest.raises(ValueError, match="is this N, C, H, W"):
        features(np.zeros((1, 1, 28, 28), np.float32))
    with pytest.raises(TypeError, match="2 arrays are given, not 1: data"):
        features(*[np.zeros((1, 28, 28, 1), np.float32)] * 2)
    with pytest.raises(TypeError, match="there is no option"):
        caffe2flax.features(LENET, LENET_WEIGHTS, ["ip1"], taps="ip1")


@pytest.mark.skipif(not REAL.exists(), reason="no trained networks at hand")
@pytest.mark.parametrize(
    "name", ["mtcnn_v1_det1", "mnist_cogsci", "V1_cifar10_full_everpeace"]
)
def test_trained_networks(name: str) -> None:
    """Every blob that Caffe has, at the recorded places."""
    folder: Path = REAL / name
    with np.load(folder / "golden.npz") as archive:
        golden = dict(archive)
    blobs = [key[5:-6] for key in golden if key.endswith(":value")]
    files = folder / "deploy.prototxt", folder / "weights.caffemodel"
    features = caffe2flax.features(*files, blobs)
    inputs = part(golden, "input:")
    found = restored(features, features(*emitted(features, inputs)))
    for blob, array in found.items():
        assert array.shape == tuple(golden[f"blob:{blob}:shape"])
        low, high = golden[f"blob:{blob}:stats"][2:]
        places = array.ravel()[golden[f"blob:{blob}:index"]]
        far = np.abs(places - golden[f"blob:{blob}:value"]).max()
        assert far <= BOUND * max(abs(low), abs(high), 1e-6), blob
