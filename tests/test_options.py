"""Options of which one value may be given by itself."""

from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from caffe2flax.errors import ConversionError

NET = """
layer { name: "d" type: "Input" top: "x" input_param { shape { dim: [1, 3, 4, 4] } } }
layer { name: "r" type: "ReLU" bottom: "x" top: "r" }
layer { name: "s" type: "AbsVal" bottom: "r" top: "s" include { stage: "go" } }
"""


def test_one_stage() -> None:
    assert (
        caffe2flax.convert(NET, stages="go").source
        == caffe2flax.convert(NET, stages=["go"]).source
    )


@pytest.mark.parametrize("mean", [104, 104.0, "104", [104], np.array([104.0])])
def test_one_mean(mean: object) -> None:
    made = caffe2flax.convert(NET, mean=mean)  # type: ignore[arg-type]
    assert made.graph.transforms["x"].mean_value == (104.0,)


def test_a_mean_for_each_channel() -> None:
    made = caffe2flax.convert(NET, mean=np.array([1.0, 2, 3]))  # type: ignore[arg-type]
    assert made.graph.transforms["x"].mean_value == (1, 2, 3)


def test_one_plugin(tmp_path: Path) -> None:
    missing = tmp_path / "layers.py"
    for given in (missing, str(missing)):
        with pytest.raises(ConversionError, match=r"layers\.py: .*cannot be read"):
            caffe2flax.convert(NET, plugins=given)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="no option 'nam'; did you mean name"):
        caffe2flax.convert(NET, nam="X")  # type: ignore[call-arg]
