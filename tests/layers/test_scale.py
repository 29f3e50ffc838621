"""Scale and Bias on any axes, learned or from a second bottom."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import caffe2flax
from tests.golden import distance
from tests.smallnets import expected, lying, net, numbers, run, save, single

CONVOLUTION = """name: "c" type: "Convolution" bottom: "x" top: "c"
    convolution_param { num_output: 6 kernel_size: 2 bias_term: false }"""

COVERS = [
    ((4,), "axis: 0", 0, 1),
    ((4,), "axis: -1 num_axes: 0", 0, 0),
    ((2, 3), "", 1, 2),
    ((2, 3), "axis: 0 num_axes: -1", 0, 2),
    ((2, 3, 4), "axis: -1", 2, 3),
    ((2, 3, 4), "axis: -2 num_axes: -1", 1, 3),
    ((2, 3, 4, 5), "axis: 3", 3, 4),
    ((2, 3, 4, 5), "axis: 0 num_axes: 3", 0, 3),
    ((2, 3, 4, 5), "axis: 2 num_axes: 0", 2, 2),
    ((2, 3, 4, 5), "axis: 1 num_axes: 3", 1, 4),
    ((2, 3, 2, 2, 2), "axis: 1", 1, 2),
    ((2, 3, 2, 2, 2), "axis: 2 num_axes: 2", 2, 4),
]


@pytest.mark.parametrize(("shape", "fields", "start", "end"), COVERS)
def test_scale_and_bias_on_any_axes(
    shape: tuple[int, ...], fields: str, start: int, end: int, tmp_path: Path
) -> None:
    x, covered = numbers(*shape), shape[start:end]
    scale, bias = numbers(*covered, seed=1), numbers(*covered, seed=2)
    scale_at, bias_at = lying(scale, x, start), lying(bias, x, start)
    weights = save(tmp_path / "scale", {"l": [scale, bias]})
    text = net(single("Scale", f"scale_param {{ bias_term: true {fields} }}"), x=shape)
    assert distance(run(text, weights, x=x), x * scale_at + bias_at) <= 1e-6

    weights = save(tmp_path / "bias", {"l": [bias]})
    text = net(single("Bias", f"bias_param {{ {fields} }}"), x=shape)
    assert distance(run(text, weights, x=x), x + bias_at) <= 1e-6


SECONDS = [
    ((2, 3, 4, 5), (2,), "axis: 0", 0),
    ((2, 3, 4, 5), (2, 3), "axis: 0", 0),
    ((2, 3, 4, 5), (3, 4), "", 1),
    ((2, 3, 4, 5), (3, 4, 5), "axis: -3", 1),
    ((2, 3, 4, 5), (2, 3, 4, 5), "axis: 0", 0),
    ((2, 3, 4, 5), (5,), "axis: -1 num_axes: 7", 3),
    ((2, 3, 4, 5), (), "axis: 9", 0),
    ((2, 3), (3,), "", 1),
    ((4,), (), "", 0),
    ((), (), "", 0),
    ((2, 3, 2, 2, 2), (2, 2), "axis: 2", 2),
]


@pytest.mark.parametrize(("shape", "other", "fields", "start"), SECONDS)
def test_second_bottoms(
    shape: tuple[int, ...], other: tuple[int, ...], fields: str, start: int
) -> None:
    """num_axes says nothing then, nor does the axis of a scalar."""
    x, b = numbers(*shape), numbers(*other, seed=1)
    for type_, wanted in (("Scale", x * lying(b, x, start)), ("Bias", None)):
        wanted = x + lying(b, x, start) if wanted is None else wanted
        parameters = f"{type_.lower()}_param {{ {fields} }}"
        text = net(single(type_, parameters, "b"), x=shape, b=other)
        assert distance(run(text, x=x, b=b), wanted) <= 1e-6


def test_a_bias_behind_a_second_bottom(tmp_path: Path) -> None:
    """The learned bias has the axes of the second bottom."""
    x, b, bias = numbers(2, 3, 4, 5), numbers(4, 5, seed=1), numbers(4, 5, seed=2)
    text = net(
        single("Scale", "scale_param { axis: 2 bias_term: true }", "b"),
        x=x.shape,
        b=b.shape,
    )
    weights = save(tmp_path / "w", {"l": [bias]})
    assert distance(run(text, weights, x=x, b=b), x * b + bias) <= 1e-6


@pytest.mark.parametrize(
    ("second", "axis", "other"),
    # (N, C), as in squeezed blocks; (N, C, H, W); (C, H); and the bottom itself.
    [("b", 0, (2, 6)), ("b", 0, (2, 6, 3, 4)), ("b", 1, (6, 3)), ("c", 0, ())],
)
def test_second_bottoms_of_a_convolution(
    second: str, axis: int, other: tuple[int, ...], tmp_path: Path
) -> None:
    text = net(
        CONVOLUTION,
        f"""name: "l" type: "Scale" bottom: "c" bottom: "{second}" top: "y"
            scale_param {{ axis: {axis} }}""",
        x=(2, 3, 4, 5),
        b=other,
    )
    weights = save(tmp_path / "w", {"c": [numbers(6, 3, 2, 2)]})
    inputs = {"x": numbers(2, 3, 4, 5, seed=1), "b": numbers(*other, seed=2)}
    y = caffe2flax.run(text, weights, inputs)["y"]
    assert distance(y, expected(text, weights, inputs)["y"]) <= 1e-5


TYPES = ["Scale", "Bias", "BatchNorm", "PReLU", "Softmax", "MVN"]


@pytest.mark.parametrize(
    ("type_", "second"),
    [*((type_, False) for type_ in TYPES), ("Scale", True), ("Bias", True)],
)
def test_entries_stored_in_another_order(
    type_: str, second: bool, tmp_path: Path
) -> None:
    """Flatten leaves a convolution's output in H, W, C order along axis 1."""
    bottoms = 'bottom: "f" bottom: "b"' if second else 'bottom: "f"'
    text = net(
        CONVOLUTION,
        'name: "f" type: "Flatten" bottom: "c" top: "f"',
        f'name: "l" type: "{type_}" {bottoms} top: "l"',
        """name: "i" type: "InnerProduct" bottom: "l" top: "y"
           inner_product_param { num_output: 3 bias_term: false }""",
        x=(2, 3, 4, 5),
        **({"b": (72,)} if second else {}),
    )
    blobs = [numbers(72, seed=3)]
    if type_ == "BatchNorm":
        blobs += [np.abs(numbers(72, seed=4)) + 1, np.float32([2])]
    weights = save(
        tmp_path / "w",
        {
            "c": [numbers(6, 3, 2, 2)],
            "l": [] if second or type_ in ("Softmax", "MVN") else blobs,
            "i": [numbers(3, 72, seed=5)],
        },
    )
    inputs = {"x": numbers(2, 3, 4, 5, seed=1)}
    if second:
        inputs["b"] = numbers(72, seed=2)
    y = caffe2flax.run(text, weights, inputs)["y"]
    assert distance(y, expected(text, weights, inputs)["y"]) <= 1e-5


def test_scale_starts_from_its_fillers() -> None:
    fillers = """bias_term: true filler { type: "constant" value: 3 }
                 bias_filler { type: "constant" value: -1 }"""
    text = net(single("Scale", f"scale_param {{ {fillers} }}"), x=(2, 3))
    assert np.array_equal(caffe2flax.load(text)(jnp.ones((2, 3))), np.full((2, 3), 2))
    text = net(single("Scale"), x=(2, 3))
    assert np.array_equal(caffe2flax.load(text)(jnp.ones((2, 3))), np.ones((2, 3)))
    filler = 'bias_param { filler { type: "constant" value: 5 } }'
    text = net(single("Bias", filler), x=(2, 3))
    assert np.array_equal(caffe2flax.load(text)(jnp.ones((2, 3))), np.full((2, 3), 6))
    folded = net(
        single("BatchNorm", top="b"),
        f'name: "s" type: "Scale" bottom: "b" top: "y" scale_param {{ {fillers} }}',
        x=(2, 3),
    )
    y = caffe2flax.load(folded)(jnp.ones((2, 3)))
    assert distance(np.asarray(y), np.full((2, 3), 2.0)) <= 1e-4


REFUSED = [
    ("Scale", "", (4,), "axis 1 is out of range"),
    ("Scale", "scale_param { axis: 1 num_axes: 2 }", (2, 3), "exceed a blob"),
    ("Scale", "scale_param { num_axes: -2 }", (2, 3), "num_axes must be -1 or more"),
    ("Scale", "scale_param { axis: -3 }", (2, 3), "axis -3 is out of range"),
    ("Bias", "bias_param { axis: 1 num_axes: 2 }", (2, 3), "exceed a blob"),
    ("Bias", "", (), "axis 1 is out of range"),
]


@pytest.mark.parametrize(("type_", "parameters", "shape", "message"), REFUSED)
def test_refusals(
    type_: str, parameters: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(net(single(type_, parameters), x=shape))


@pytest.mark.parametrize(
    ("other", "parameters", "message"),
    [
        ((4,), "", "does not fit"),
        ((3, 4, 5, 6), "", "exceed a blob"),
        ((), "scale_param { axis: 4 bias_term: true }", "axis 4 is out of range"),
        ((3,), "scale_param { axis: 4 }", "axis 4 is out of range"),
    ],
)
def test_second_bottoms_that_do_not_fit(
    other: tuple[int, ...], parameters: str, message: str
) -> None:
    text = net(single("Scale", parameters, "b"), x=(2, 3, 4, 5), b=other)
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(text)
