"""`propagate_down: false` and what overrides it."""

from __future__ import annotations

import pytest

import caffe2flax

HEAD = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a"
  inner_product_param { num_output: 3 } }
"""
STOPPED = """
layer { name: "b" type: "Eltwise" bottom: "a" bottom: "data" top: "b"
  propagate_down: false propagate_down: true }
"""
NORMALIZED = """
layer { name: "n" type: "BatchNorm" bottom: "a" top: "n"
  batch_norm_param { use_global_stats: true } }
layer { name: "s" type: "Scale" bottom: "n" top: "s" propagate_down: false }
"""

CASES = {
    "in training": (HEAD + STOPPED, "TRAIN", ["lax.stop_gradient(a)"]),
    "at test": (HEAD + STOPPED, "TEST", []),
    "overridden": ("force_backward: true" + HEAD + STOPPED, "TRAIN", []),
    "between what would fold": (HEAD + NORMALIZED, "TRAIN", ["lax.stop_gradient(n)"]),
    "all true": (HEAD + STOPPED.replace("false", "true"), "TRAIN", []),
    "in place": (
        HEAD + 'layer { name: "r" type: "ReLU" bottom: "a" top: "a" '
        "propagate_down: false }",
        "TRAIN",
        ["lax.stop_gradient(self.a(data))"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_stops(name: str) -> None:
    net, phase, stops = CASES[name]
    source = caffe2flax.convert(net, phase=phase).source
    assert source.count("stop_gradient") == len(stops)
    assert all(stop in source for stop in stops)


def test_one_for_each_bottom() -> None:
    net = HEAD + STOPPED.replace("propagate_down: true", "")
    with pytest.raises(caffe2flax.ConversionError, match="once for each bottom"):
        caffe2flax.convert(net)
