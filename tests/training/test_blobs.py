"""lr_mult and decay_mult of every variable, and the blob that it is."""

from typing import Any

import numpy as np
import pytest

import caffe2flax
from caffe2flax import ConversionError
from caffe2flax.conversion import convert
from caffe2flax.ir.graph import Graph
from caffe2flax.layers.dense import InnerProduct
from caffe2flax.training.blobs import learnable_blobs
from caffe2flax.training.library.snapshots import to_blob, to_variable
from caffe2flax.training.table import blob_table, entry_of
from caffe2flax.weights.matching import Blobs
from tests.golden import FIXTURES

NET = """
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
%s
layer { name: "ip" type: "InnerProduct" bottom: "%s" top: "ip"
  param { lr_mult: 10 } inner_product_param { num_output: 4 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""

CONV = """layer { name: "%s" type: "Convolution" bottom: "%s" top: "%s" %s
  convolution_param { num_output: 3 kernel_size: 3 pad: 1 } }"""

NETS = {
    "given": (
        CONV % ("c", "data", "c", "param { lr_mult: 0.5 } param { decay_mult: 0 }"),
        "c",
        {"c.kernel": (0.5, 1), "c.bias": (1, 0)},
    ),
    "shared": (
        CONV % ("a", "data", "a", 'param { name: "w" } param { name: "b" }')
        + CONV
        % (
            "b",
            "a",
            "b",
            'param { name: "w" lr_mult: 7 } param { name: "b" decay_mult: 0 }',
        ),
        "b",
        {"a.kernel": (7, 1), "a.bias": (1, 0)},
    ),
    "BatchNorm": (
        'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" }',
        "bn",
        {"bn.mean": (0, 0), "bn.var": (0, 0), "bn.factor": (0, 0)},
    ),
    "frozen statistics": (
        """layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn"
          batch_norm_param { use_global_stats: true } }
        layer { name: "s" type: "Scale" bottom: "bn" top: "s" param { lr_mult: 3 }
          scale_param { bias_term: true } }""",
        "s",
        {"bn.mean": (0, 0), "bn.var": (0, 0), "bn.scale": (3, 1), "bn.bias": (1, 1)},
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_multipliers(name: str) -> None:
    layers, last, expected = NETS[name]
    text = NET % (layers, last)
    conversion = caffe2flax.convert(text, phase="TRAIN")
    found = caffe2flax.multipliers(conversion)
    assert found == expected | {"ip.kernel": (10, 1), "ip.bias": (1, 1)}


def test_the_spelling_of_v1() -> None:
    text = """input: "data" input_dim: [1, 6, 1, 1]
        layers { name: "ip" type: INNER_PRODUCT bottom: "data" top: "ip"
          blobs_lr: 3 blobs_lr: 6 weight_decay: 1 weight_decay: 0
          inner_product_param { num_output: 4 } }"""
    conversion = caffe2flax.convert(text, phase="TRAIN")
    found = caffe2flax.multipliers(conversion)
    assert found == {"ip.kernel": (3, 1), "ip.bias": (6, 0)}


def test_learnable_blobs_are_in_the_order_of_the_history() -> None:
    layers, last, _ = NETS["frozen statistics"]
    conversion = caffe2flax.convert(NET % (layers, last), phase="TRAIN")
    blobs = learnable_blobs(conversion)
    named = [(b.layer, b.index, b.variable, b.shape) for b in blobs]
    assert named == [
        ("bn", 0, "bn.mean", (3,)),
        ("bn", 1, "bn.var", (3,)),
        ("bn", 2, "", (1,)),
        ("s", 0, "bn.scale", (3,)),
        ("s", 1, "bn.bias", (3,)),
        ("ip", 0, "ip.kernel", (4, 192)),
        ("ip", 1, "ip.bias", (4,)),
    ]


@pytest.mark.parametrize("rates", ["", "param { lr_mult: 2 }"])
def test_a_variable_of_several_blobs(
    rates: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Well where they are trained alike."""
    monkeypatch.setattr(
        InnerProduct,
        "weights",
        lambda self, blobs, at: {"kernel": np.vstack([blobs[0].T, blobs[1]])},
    )
    conversion = caffe2flax.convert(
        """input: "data" input_shape { dim: 1 dim: 6 }
        layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" RATES
          inner_product_param { num_output: 4 } }""".replace("RATES", rates)
    )
    if not rates:
        assert caffe2flax.multipliers(conversion) == {"ip.kernel": (1, 1)}
        return
    with pytest.raises(ConversionError, match=r"ip\.kernel is made of blobs"):
        caffe2flax.multipliers(conversion)


def joined(*branches: str) -> str:
    """A classifier of what these layers make of `data`, flattened and joined."""
    flat = "".join(
        f'layer {{ name: "f{i}" type: "Flatten" bottom: "x{i}" top: "f{i}" }}'
        for i in range(len(branches))
    )
    bottoms = "".join(f'bottom: "f{i}" ' for i in range(len(branches)))
    return "".join(
        (
            'input: "data" input_shape { dim: 2 dim: 3 dim: 8 dim: 8 }',
            *branches,
            flat,
            f'layer {{ name: "j" type: "Concat" {bottoms} top: "j" }}',
            """layer { name: "ip" type: "InnerProduct" bottom: "j" top: "ip"
              inner_product_param { num_output: 4 } }""",
        )
    )


def convolved(i: int, width: int, stride: int = 1) -> str:
    return f"""layer {{ name: "x{i}" type: "Convolution" bottom: "data" top: "x{i}"
      convolution_param {{ num_output: {width} kernel_size: 3 stride: {stride} }} }}"""


DENSE = """layer { name: "x%d" type: "InnerProduct" bottom: "data" top: "x%d"
  inner_product_param { num_output: 7 } }"""
DECONVOLUTION = """layer { name: "x0" type: "Deconvolution" bottom: "data" top: "x0"
  convolution_param { num_output: 6 kernel_size: 3 stride: 2 group: 3 } }"""

WAYS = {
    "one map": joined(convolved(0, 5)),
    "two maps": joined(convolved(0, 5), convolved(1, 5)),
    "two maps of two sizes": joined(convolved(0, 5), convolved(1, 2, 2)),
    "a map and a vector": joined(convolved(0, 5), DENSE % (1, 1)),
    "a vector and a map": joined(DENSE % (0, 0), convolved(1, 5)),
    "vectors and maps": joined(
        DENSE % (0, 0),
        convolved(1, 5),
        DENSE % (2, 2),
        convolved(3, 1),
        convolved(4, 2, 2),
    ),
    "a deconvolution": joined(DECONVOLUTION, convolved(1, 5)),
}
WEIGHTED = (
    "bias_all", "bias_axis2", "bn_3d", "bn_train", "conv_depthwise_mult2",
    "conv_group2", "deconv_1d", "deconv_3d", "deconv_group2", "embed_4d",
    "ip_after_conv_pool", "ip_axis0", "ip_transpose_4d", "lstm_static", "parameter",
    "prelu_3d", "prelu_shared", "residual", "rnn_static", "rnn_x4d", "scale_allaxes",
    "scale_axis1_n2", "shared_conv", "train_lenet_mini", "train_siamese",
)  # fmt: skip


def blobs_of(graph: Graph) -> Blobs:
    random = np.random.default_rng(0)
    return {
        (w.owner, w.index): random.random(w.shape, np.float32)
        for node in graph.nodes
        for w in node.weights
    }


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("name", [*WAYS, *WEIGHTED])
def test_ways(name: str, phase: str) -> None:
    """A variable becomes its blob, and a blob its variable."""
    path = FIXTURES / "layers" / f"{name}.prototxt"
    net = WAYS.get(name, path)
    conversion = convert(net, phase=phase, default_blobs=blobs_of, filled=True)
    assert conversion.weights is not None
    names = set()
    for blob in learnable_blobs(conversion):
        if not blob.variable:
            assert blob.statistic
            continue
        names.add(blob.variable)
        if blob.divisor:
            continue
        variable, array = conversion.weights[blob.variable], conversion.blobs[blob.key]
        entry: Any = entry_of(blob)
        path, shape, *how = entry
        assert (path, shape) == (blob.variable, array.shape)
        np.testing.assert_array_equal(to_blob(variable, shape, *how), array)
        restored = to_variable(array, blob.variable_shape, *how)
        np.testing.assert_array_equal(restored, variable)
    assert names == {*conversion.weights}


def test_parts_of_rows() -> None:
    """Each map stands for itself in the table of a script."""
    conversion = caffe2flax.convert(WAYS["a vector and a map"])
    entries = {
        entry[0]: entry[1:] for _, _, row in blob_table(conversion) for entry in row
    }
    axes, *dims = (2, 1, 0), (1, 7, 4), (36, 5, 4)
    assert entries["ip.kernel"] == ((4, 187), axes, *dims)


REFUSED = {
    "lr_mult": (
        'param { name: "w" lr_mult: 3 decay_mult: 1 }',
        'param { name: "w" lr_mult: 1 decay_mult: 1 }',
        6,
        "param 'w' has lr_mult 3.0 elsewhere, not 1.0",
    ),
    "decay_mult": (
        'param { name: "w" decay_mult: 0 }',
        'param { name: "w" lr_mult: 1 decay_mult: 1 }',
        6,
        "param 'w' has decay_mult 0.0 elsewhere, not 1.0",
    ),
    "shape": (
        'param { name: "w" lr_mult: 1 }',
        'param { name: "w" }',
        4,
        r"cannot share param 'w' of layer 'a': its shape is \(4, 6\), not \(6, 4\)",
    ),
}
"""What Caffe refuses of shared blobs: golden/solver/errors.json."""


@pytest.mark.parametrize("name", REFUSED)
def test_shared_blobs_that_differ(name: str) -> None:
    first, second, width, message = REFUSED[name]
    text = f"""input: "data" input_shape {{ dim: 2 dim: 6 }}
        layer {{ name: "a" type: "InnerProduct" bottom: "data" top: "a" {first}
          inner_product_param {{ num_output: {width} }} }}
        layer {{ name: "b" type: "InnerProduct" bottom: "a" top: "b" {second}
          inner_product_param {{ num_output: 6 }} }}"""
    with pytest.raises(ConversionError, match=message):
        caffe2flax.convert(text, phase="TRAIN")
