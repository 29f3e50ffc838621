"""`num_classes` for all kinds of nets: the module made for another number is that of
the prototxt with this number in it."""

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
from caffe2flax.runner import load_class
from tests.extraction.test_features import FCN, RELU, conv
from tests.golden import FIXTURES
from tests.smallnets import net

FC = 'name: "{0}" type: "InnerProduct" bottom: "{1}" top: "{0}" inner_product_param '


def dense(name: str, bottom: str, count: int) -> str:
    filler = 'weight_filler { type: "xavier" }'
    return FC.format(name, bottom) + f"{{ num_output: {count} {filler} }}"


def softmax(bottom: str, top: str) -> str:
    return f'name: "{top}" type: "Softmax" bottom: "{bottom}" top: "{top}"'


def loss(bottom: str, top: str) -> str:
    return (
        f'name: "{top}" type: "SoftmaxWithLoss" bottom: "{bottom}" bottom: "label" '
        f'top: "{top}"'
    )


SUM = 'name: "s" type: "Eltwise" bottom: "a" bottom: "b" top: "s"'
SSD = (FIXTURES / "ssd" / "ssd.prototxt").read_text()
SSD_CLASSES = {
    "num_output: 12": "num_output: 28",
    "dim: -1 dim: 3": "dim: -1 dim: 7",
    "num_classes: 3": "num_classes: 7",
}
CASES: dict[str, tuple[str, dict[str, str], str]] = {
    "two heads of equal width": (
        net(
            dense("a", "x", 5),
            dense("b", "x", 5),
            softmax("a", "pa"),
            softmax("b", "pb"),
            x=(2, 4),
        ),
        {"num_output: 5": "num_output: 7"},
        "`a` and `b` start fresh",
    ),
    "one head scores, one does not": (
        net(dense("a", "x", 5), dense("b", "x", 10), softmax("a", "p"), x=(2, 4)),
        {"num_output: 5": "num_output: 7"},
        "`a` starts fresh",
    ),
    "a sum of two maps": (
        net(
            conv("a", "x", 5), conv("b", "x", 5), SUM, softmax("s", "p"), x=(1, 3, 7, 6)
        ),
        {"num_output: 5": "num_output: 7"},
        "`a` and `b` start fresh",
    ),
    "fcn": (
        FCN,
        {"num_output: 5": "num_output: 7", "group: 5": "group: 7"},
        "`score` starts fresh, `up` from bilinear interpolation",
    ),
    "ssd": (
        SSD,
        SSD_CLASSES,
        "`conv4_norm_mbox_conf` and `conv5_mbox_conf` start fresh",
    ),
    "boxes of each class": (
        SSD.replace("share_location: true", "share_location: false").replace(
            'num_output: 16 kernel_size: 3 pad: 1\n    weight_filler { type: "g',
            'num_output: 48 kernel_size: 3 pad: 1\n    weight_filler { type: "g',
        ),
        SSD_CLASSES | {"num_output: 48": "num_output: 112"},
        "`conv4_norm_mbox_loc`, `conv4_norm_mbox_conf`, `conv5_mbox_loc` and "
        "`conv5_mbox_conf` start fresh",
    ),
    "training": (
        net(
            dense("a", "x", 5),
            dense("b", "x", 5),
            loss("a", "la"),
            loss("b", "lb"),
            'name: "acc" type: "Accuracy" bottom: "b" bottom: "label" top: "acc"',
            x=(2, 4),
            label=(2,),
        ),
        {"num_output: 5": "num_output: 7"},
        "`a` and `b` start fresh",
    ),
    "losses that are left out": (
        "layer { name: 'd' type: 'Data' top: 'x' top: 'label' data_param { source: 'd' "
        "batch_size: 2 } transform_param { crop_size: 6 } }\n"
        + net(conv("a", "x", 5), loss("a", "l")),
        {"num_output: 5": "num_output: 7"},
        "`a` starts fresh",
    ),
    "with taps": (
        net(dense("a", "x", 4), RELU.format("a"), dense("b", "a", 5), x=(2, 4)),
        {"num_output: 5": "num_output: 7"},
        "`b` starts fresh",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_as_if_written_with_that_number(case: str) -> None:
    text, changes, told = CASES[case]
    options: Any = {"phase": "TRAIN"} if case == "training" else {}
    options |= {"taps": "a"} if case == "with taps" else {}
    conversion = caffe2flax.convert(text, **options)
    assert told in " ".join(conversion.source.split())
    changed = text
    for old, new in changes.items():
        assert old in changed
        changed = changed.replace(old, new)
    other = caffe2flax.convert(changed, **options)
    make: Any = load_class(other.name, other.source)
    wanted = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    cls: Any = load_class(conversion.name, conversion.source)
    model = nnx.eval_shape(lambda: cls(num_classes=7, rngs=nnx.Rngs(0)))
    assert shapes(model) == shapes(wanted)
    graph = conversion.graph
    inputs = [jnp.zeros(graph.operand(value).emitted) for value in graph.arguments]
    assert traced(model, inputs) == traced(wanted, inputs)


def shapes(model: nnx.Module) -> dict[Any, tuple[int, ...]]:
    return {path: leaf.shape for path, leaf in nnx.to_flat_state(nnx.state(model))}


def traced(model: Any, inputs: list[jax.Array]) -> str:
    """What the module computes; its variables are arguments."""
    definition, state = nnx.split(model)
    call = jax.make_jaxpr(lambda state, *x: nnx.merge(definition, state)(*x))
    return str(call(state, *inputs))


def test_upsampling_starts_from_interpolation(tmp_path: Path) -> None:
    conversion = convert(FCN, filled=True)
    path, file = conversion.write(tmp_path)
    cls: Any = load_class(conversion.name, path.read_text())
    known, wider = cls.from_pretrained(file), cls.from_pretrained(file, num_classes=8)
    assert wider.up.kernel.shape == (4, 4, 1, 8)
    np.testing.assert_array_equal(
        wider.up.kernel[...], np.repeat(known.up.kernel[...][..., :1], 8, -1)
    )
    assert float(jnp.std(wider.score.kernel[...])) > 0


def test_heads_of_several_widths_have_an_argument_each(tmp_path: Path) -> None:
    layers = [dense("a", "x", 5), dense("b", "x", 6), softmax("a", "pa")]
    text = net(*layers, softmax("b", "pb"), x=(2, 4))
    conversion = convert(text, filled=True)
    path, file = conversion.write(tmp_path)
    cls: Any = load_class(conversion.name, path.read_text())
    model = cls.from_pretrained(file, b_classes=9)
    assert (model.a.kernel.shape, model.b.kernel.shape) == ((4, 5), (4, 9))
    told = "with another `b_classes`, `b` starts fresh"
    assert told in " ".join(cls.from_pretrained.__doc__.split())


NONE = {
    "weights behind the scores": net(
        dense("a", "x", 5), softmax("a", "p"), dense("b", "p", 3), SUM, x=(2, 4)
    ).replace('bottom: "a" bottom: "b"', 'bottom: "b" bottom: "b"'),
    "an image": net(conv("a", "x", 3), x=(1, 3, 7, 6)),
    "a regression against values": net(
        dense("a", "x", 5),
        'name: "l" type: "EuclideanLoss" bottom: "a" bottom: "y" top: "l"',
        x=(2, 4),
        y=(2, 5),
    ),
    "a regression whose loss is left out": (
        "layer { name: 'd' type: 'Data' top: 'x' top: 'y' data_param { source: 'd' "
        "batch_size: 2 } transform_param { crop_size: 6 } }\n"
        + net(
            conv("a", "x", 5),
            'name: "l" type: "EuclideanLoss" bottom: "a" bottom: "y" top: "l"',
        )
    ),
    "a sum with something of that width": net(
        dense("a", "x", 4),
        'name: "s" type: "Eltwise" bottom: "a" bottom: "x" top: "s"',
        softmax("s", "p"),
        x=(2, 4),
    ),
}


@pytest.mark.parametrize("case", NONE)
def test_no_number_of_classes(case: str) -> None:
    source = caffe2flax.convert(NONE[case]).source
    assert "classes: int" not in source.replace("b_classes: int = 3", "")
