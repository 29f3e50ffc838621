"""Activations at their kinks and far from them, in every parameter that Caffe reads."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import caffe2flax
from tests.golden import distance

VALUES = np.float32([-100, -30, -5, -1, -0.5, -0.0, 0, 0.5, 1, 5, 30, 88, 100])
POSITIVE = np.float32([1e-4, 0.25, 1, 2.5, 40])


def net(type_: str, parameters: str = "", dims: str = "dim: 13", top: str = "y") -> str:
    return f"""
        layer {{
          name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }}
        }}
        layer {{ name: "l" type: "{type_}" bottom: "x" top: "{top}" {parameters} }}"""


def run(type_: str, parameters: str, x: np.ndarray, **options: Any) -> np.ndarray:
    dims = " ".join(f"dim: {extent}" for extent in x.shape)
    (y,) = caffe2flax.run(
        net(type_, parameters, dims), None, {"x": x}, **options
    ).values()
    return y


def reference(type_: str, parameters: str, x: np.ndarray) -> np.ndarray:
    from caffe2flax.verification.reference import evaluate

    dims = " ".join(f"dim: {extent}" for extent in x.shape)
    conversion = caffe2flax.convert(net(type_, parameters, dims))
    graph = conversion.graph
    return evaluate(graph, conversion.blobs, {"x": x})[graph.outputs[0]]


def slopes(type_: str, parameters: str, x: np.ndarray) -> np.ndarray:
    """dy/dx of the generated module, an element at a time."""
    dims = " ".join(f"dim: {extent}" for extent in x.shape)
    model = caffe2flax.load(net(type_, parameters, dims))
    return np.asarray(jax.grad(lambda x: model(x).sum())(jnp.asarray(x)))


def kink(x: np.ndarray, below: float, at: float, above: float) -> np.ndarray:
    return np.where(x > 0, above, np.where(x < 0, below, at))


E1 = np.float64(VALUES)
TABLE = {
    "relu": ("ReLU", "", np.maximum(E1, 0), kink(E1, 0, 0, 1)),
    "relu_slope": (
        "ReLU",
        "relu_param { negative_slope: 0.25 engine: CUDNN }",
        np.where(E1 > 0, E1, 0.25 * E1),
        kink(E1, 0.25, 0.25, 1),
    ),
    "relu_negative_slope": (
        "ReLU",
        "relu_param { negative_slope: -2 }",
        np.where(E1 > 0, E1, -2 * E1),
        kink(E1, -2, -2, 1),
    ),
    "elu": (
        "ELU",
        "elu_param { alpha: 2.5 }",
        np.where(E1 > 0, E1, 2.5 * np.expm1(np.minimum(E1, 0))),
        np.where(E1 > 0, 1, 2.5 * np.exp(np.minimum(E1, 0))),
    ),
    "elu_negative": (
        "ELU",
        "elu_param { alpha: -1 }",
        np.where(E1 > 0, E1, -np.expm1(np.minimum(E1, 0))),
        np.where(E1 > 0, 1, -np.exp(np.minimum(E1, 0))),
    ),
    "sigmoid": (
        "Sigmoid",
        "sigmoid_param { engine: CAFFE }",
        1 / (1 + np.exp(-E1)),
        np.exp(-E1) / (1 + np.exp(-E1)) ** 2,
    ),
    "tanh": (
        "TanH",
        "tanh_param { engine: 1 }",
        np.tanh(E1),
        1 - np.tanh(E1) ** 2,
    ),
    "absval": ("AbsVal", "", np.abs(E1), np.sign(E1)),
    "bnll": ("BNLL", "", np.logaddexp(E1, 0), 1 / (1 + np.exp(-E1))),
    "swish_0": ("Swish", "swish_param { beta: 0 }", E1 / 2, np.full(13, 0.5)),
    "swish_negative": (
        "Swish",
        "swish_param { beta: -0.5 }",
        E1 / (1 + np.exp(0.5 * E1)),
        1 / (1 + np.exp(0.5 * E1))
        - 0.5 * E1 * np.exp(0.5 * E1) / (1 + np.exp(0.5 * E1)) ** 2,
    ),
    "clip_ends": (
        "Clip",
        "clip_param { min: -1 max: 5 }",
        np.clip(E1, -1, 5),
        np.float64((E1 >= -1) & (E1 <= 5)),
    ),
    "clip_crossed": (
        "Clip",
        "clip_param { min: 3 max: -3 }",
        np.full(13, 3.0),
        np.zeros(13),
    ),
    "threshold": (
        "Threshold",
        "threshold_param { threshold: -0.5 }",
        np.float64(E1 > -0.5),
        np.zeros(13),
    ),
    "dropout": ("Dropout", "dropout_param { dropout_ratio: 0.3 }", E1, np.ones(13)),
    "dropout_0": ("Dropout", "dropout_param { dropout_ratio: 0 }", E1, np.ones(13)),
    "dropout_1": ("Dropout", "dropout_param { dropout_ratio: 1 }", E1, np.ones(13)),
    "dropout_scale_train": (
        "Dropout",
        "dropout_param { dropout_ratio: 0.3 scale_train: false }",
        0.7 * E1,
        np.full(13, 0.7),
    ),
    "power_1": ("Power", "", E1, np.ones(13)),
    "power_affine": (
        "Power",
        "power_param { scale: -2 shift: 0.5 }",
        0.5 - 2 * E1,
        np.full(13, -2.0),
    ),
    "power_2": (
        "Power",
        "power_param { power: 2 shift: -3 }",
        (E1 - 3) ** 2,
        2 * (E1 - 3),
    ),
    "power_3": ("Power", "power_param { power: 3 }", E1**3, 3 * E1**2),
    "power_0": ("Power", "power_param { power: 0 }", np.ones(13), np.zeros(13)),
    "power_0_scale_0": (
        "Power",
        "power_param { power: 3 scale: 0 shift: -2 }",
        np.full(13, -8.0),
        np.zeros(13),
    ),
    "power_constant_infinite": (
        "Power",
        "power_param { power: -1 scale: 0 }",
        np.full(13, np.inf),
        np.zeros(13),
    ),
    "power_constant_nan": (
        "Power",
        "power_param { power: 0.5 scale: 0 shift: -1 }",
        np.full(13, np.nan),
        np.zeros(13),
    ),
    "exp": (
        "Exp",
        "exp_param { base: 2 scale: 0.5 shift: 3 }",
        8 * 2 ** (0.5 * E1),
        8 * 2 ** (0.5 * E1) * 0.5 * np.log(2),
    ),
    "exp_small_base": (
        "Exp",
        "exp_param { base: 0.5 scale: -0.1 }",
        0.5 ** (-0.1 * E1),
        0.5 ** (-0.1 * E1) * -0.1 * np.log(0.5),
    ),
    "exp_scale_0": (
        "Exp",
        "exp_param { scale: 0 shift: 1 }",
        np.full(13, np.e),
        np.zeros(13),
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_values_and_derivatives(name: str) -> None:
    type_, parameters, values, derivatives = TABLE[name]
    assert distance(run(type_, parameters, VALUES), values) <= 1e-5
    assert distance(reference(type_, parameters, VALUES), values) <= 1e-6
    assert distance(slopes(type_, parameters, VALUES), derivatives) <= 1e-5


P1 = np.float64(POSITIVE)
POSITIVE_TABLE = {
    "power_-1": ("Power", "power_param { power: -1 scale: 2 }", 0.5 / P1),
    "power_-0.5": ("Power", "power_param { power: -0.5 }", P1**-0.5),
    "power_0.5": ("Power", "power_param { power: 0.5 }", P1**0.5),
    "power_2.5": ("Power", "power_param { power: 2.5 shift: 1 }", (P1 + 1) ** 2.5),
    "power_20": ("Power", "power_param { power: 20 scale: 0.1 }", (0.1 * P1) ** 20),
    "log": ("Log", "", np.log(P1)),
    "log_2": ("Log", "log_param { base: 2 }", np.log2(P1)),
    "log_10": ("Log", "log_param { base: 10 scale: 3 }", np.log10(3 * P1)),
    "log_half": ("Log", "log_param { base: 0.5 shift: 1 }", -np.log2(P1 + 1)),
    "log_e": ("Log", "log_param { base: -1 scale: 0.5 }", np.log(P1 / 2)),
}


@pytest.mark.parametrize("name", POSITIVE_TABLE)
def test_values_of_positive_numbers(name: str) -> None:
    type_, parameters, values = POSITIVE_TABLE[name]
    assert distance(run(type_, parameters, POSITIVE), values) <= 1e-5
    assert distance(reference(type_, parameters, POSITIVE), values) <= 1e-6


@pytest.mark.parametrize(
    ("type_", "parameters", "values"),
    [
        ("Log", "", [np.nan, -np.inf, -np.inf]),
        ("Power", "power_param { power: -1 }", [-1, -np.inf, np.inf]),
        ("Power", "power_param { power: 0.5 }", [np.nan, 0, 0]),
        ("Power", "power_param { power: -0.5 }", [np.nan, np.inf, np.inf]),
        ("Power", "power_param { power: 1.5 }", [np.nan, 0, 0]),
        ("Exp", "exp_param { scale: -200 shift: -50 }", [np.inf, 0, 0]),
    ],
)
def test_where_there_is_no_number(type_: str, parameters: str, values: Any) -> None:
    """The shift of Exp is a factor, which comes too late to save an overflow."""
    y = run(type_, parameters, np.float32([-1, -0.0, 0]))
    assert distance(y, np.float32(values)) <= 1e-5


def test_nan_passes_as_in_caffe() -> None:
    x = np.float32([np.nan, np.inf])
    assert distance(run("ReLU", "", x), x) == 0
    y = run("Clip", "clip_param { min: -2 max: 2 }", x)
    assert distance(y, np.float32([-2, 2])) == 0
    assert distance(run("Threshold", "", x), np.float32([0, 1])) == 0


REFUSED = {
    "clip without max": ("Clip", "clip_param { min: 0 }", "needs max"),
    "clip without anything": ("Clip", "", "needs min"),
    "exp of base 0": ("Exp", "exp_param { base: 0 }", "base must be positive"),
    "exp of base -2": ("Exp", "exp_param { base: -2 }", "base must be positive"),
    "exp of base inf": ("Exp", "exp_param { base: inf }", "base must be positive"),
    "log of base nan": ("Log", "log_param { base: nan }", "base must be positive"),
    "log of base 1": ("Log", "log_param { base: 1 }", "no logarithm to base 1"),
    "dropout of too much": (
        "Dropout",
        "dropout_param { dropout_ratio: 1.5 }",
        "not between 0 and 1",
    ),
    "prelu on one axis": ("PReLU", "", "2 axes or more"),
    "unknown field": ("ReLU", "relu_param { slope: 1 }", "unknown field slope"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    type_, parameters, message = REFUSED[name]
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(net(type_, parameters))


def test_absval_cannot_work_in_place() -> None:
    with pytest.raises(caffe2flax.ConversionError, match="in place"):
        caffe2flax.convert(net("AbsVal", top="x"))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("shared", [False, True])
def test_prelu_starts_from_its_filler(shape: tuple[int, ...], shared: bool) -> None:
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    parameters = f"channel_shared: {str(shared).lower()}"
    usual = run("PReLU", f"prelu_param {{ {parameters} }}", x)
    assert distance(usual, np.where(x > 0, x, 0.25 * x)) <= 1e-6
    filler = 'filler { type: "constant" value: -0.5 }'
    filled = run("PReLU", f"prelu_param {{ {parameters} {filler} }}", x)
    assert distance(filled, np.where(x > 0, x, -0.5 * x)) <= 1e-6


def test_dropout_in_training() -> None:
    """x * mask / (1 - ratio), or x * mask where `scale_train` is false."""
    x = np.ones(4000, np.float32)
    scaled = run("Dropout", "dropout_param { dropout_ratio: 0.75 }", x, phase="TRAIN")
    assert set(np.unique(scaled)) == {0, 4}
    assert 0.2 < np.mean(scaled > 0) < 0.3
    parameters = "dropout_param { dropout_ratio: 0.75 scale_train: false }"
    plain = run("Dropout", parameters, x, phase="TRAIN")
    assert set(np.unique(plain)) == {0, 1}
    with pytest.raises(caffe2flax.ConversionError, match="leaves nothing"):
        run("Dropout", "dropout_param { dropout_ratio: 1 }", x, phase="TRAIN")


def test_dropout_that_samples_at_test() -> None:
    text = net("Dropout", "dropout_param { sample_weights_test: true }", "dim: 1000")
    conversion = caffe2flax.convert(text)
    assert any("dropout stays on at test" in note for note in conversion.notes)
    model = caffe2flax.load(text)
    y = model(jnp.ones(1000), rngs=nnx.Rngs(1))
    assert set(np.unique(y)) == {0, 2}


def test_activations_follow_bfloat16() -> None:
    for type_, parameters, *_ in TABLE.values():
        model = caffe2flax.load(net(type_, parameters))
        options = {"rngs": nnx.Rngs(0)} if type_ == "Dropout" else {}
        assert model(jnp.zeros(13, jnp.bfloat16), **options).dtype == jnp.bfloat16
