"""lr_mult and decay_mult of every variable, and the blob that it is."""

import pytest

import caffe2flax
from caffe2flax import ConversionError
from caffe2flax.training.blobs import learnable_blobs

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


def test_shared_blobs_are_trained_in_one_way() -> None:
    one = CONV % ("a", "data", "a", 'param { name: "w" lr_mult: 3 }')
    other = CONV % ("b", "a", "b", 'param { name: "w" lr_mult: 1 }')
    with pytest.raises(ConversionError, match="lr_mult"):
        caffe2flax.convert(NET % (one + other, "b"), phase="TRAIN")
