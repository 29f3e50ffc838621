"""Functions of elements, pairs and axes that forks name, against loops written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import caffe2flax
from tests.single import Array, check, normal, single

ELEMENTS = {
    "ceil": ("Ceil", "", math.ceil),
    "floor": ("Floor", "", math.floor),
    "sin": ("Sin", "", math.sin),
    "cosine": ("Cosine", "", math.cos),
    "softplus": ("Softplus", "", lambda v: math.log1p(math.exp(v))),
    "softsign": ("Softsign", "", lambda v: v / (1 + abs(v))),
    "hard_tanh": ("HardTanH", "", lambda v: min(max(v, -1), 1)),
    "scaled_tanh": (
        "ScaledTanH",
        "scaled_tanh_param { alpha: 1.5 beta: 0.5 }",
        lambda v: 1.5 * math.tanh(0.5 * v),
    ),
    "thresholded": ("ThresholdedReLU", "", lambda v: v if v > 1 else 0),
    "thresholded_low": (
        "ThresholdedReLU",
        "thresholded_relu_param { alpha: -2 }",
        lambda v: v if v > -2 else 0,
    ),
    "neg_relu": ("NegReLU", "", lambda v: min(v, 0)),
    "neg_relu_slope": (
        "NegReLU",
        "relu_param { negative_slope: 0.25 }",
        lambda v: v if v < 0 else 0.25 * v,
    ),
    "truncation": ("Truncation", "", lambda v: min(max(v, 0), 5)),
    "truncation_fields": (
        "Truncation",
        "truncation_param { lower_bound: -1 upper_bound: 2 }",
        lambda v: min(max(v, -1), 2),
    ),
    "insanity": ("Insanity", "", lambda v: v if v > 0 else v * math.log(2) / 5),
    "noise": ("Noise", "noise_param { gaussian_std: 0.2 bias: 1 }", lambda v: v),
    "spatial_dropout": (
        "SpatialDropout",
        "spatial_dropout_param { dropout_ratio: 0.2 }",
        lambda v: v,
    ),
}


@pytest.mark.parametrize("case", ELEMENTS.values(), ids=ELEMENTS.keys())
def test_elements(case: tuple) -> None:
    type_, text, function = case
    x = 4 * normal(2, 3, 4, 5)
    expected = np.vectorize(function, otypes=[float])(x.astype(np.float64))
    check(single(type_, text, x.shape), {"x0": x}, {"out": expected})


def test_halves_round_to_even() -> None:
    x = np.array([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.4]], np.float32)
    expected = np.array([[-2, -2, 0, 0, 2, 2, 0]])
    check(single("Round", "", x.shape), {"x0": x}, {"out": expected})


def test_arccos() -> None:
    x = np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5)
    expected = np.vectorize(math.acos)(x.astype(np.float64))
    check(single("Arccos", "", x.shape), {"x0": x}, {"out": expected})


@pytest.mark.parametrize("axis", [1, -1, 0])
def test_log_softmax(axis: int) -> None:
    x = 3 * normal(2, 3, 4)
    expected = np.empty(x.shape)
    for at in np.ndindex(*x.shape):
        along = list(at)
        along[axis] = slice(None)
        total = sum(math.exp(v) for v in x[tuple(along)].astype(np.float64))
        expected[at] = x[at] - math.log(total)
    text = f"log_softmax_param {{ axis: {axis} }}"
    check(single("LogSoftmax", text, x.shape), {"x0": x}, {"out": expected})


PAIRS = {
    "Sub": lambda a, b: a - b,
    "Div": lambda a, b: a / b,
    "Pow": lambda a, b: a**b,
    "Maximum": max,
    "Minimum": min,
}
SHAPES = [
    ((2, 3, 4, 5), (2, 3, 4, 5)),
    ((2, 3, 4, 5), (1, 3, 1, 1)),
    ((2, 1, 4), (3, 1)),
    ((3,), (2, 4, 1)),
    ((2, 3), ()),
]


@pytest.mark.parametrize(
    ("type_", "shapes"),
    list(itertools.product(PAIRS, SHAPES)),
    ids=[f"{t}-{i}" for t in PAIRS for i in range(len(SHAPES))],
)
def test_pairs(type_: str, shapes: tuple) -> None:
    a, b = (np.asarray(np.abs(normal(*s)) + 0.5, np.float32) for s in shapes)
    expected = np.vectorize(PAIRS[type_], otypes=[float])(
        a.astype(np.float64), b.astype(np.float64)
    )
    check(single(type_, "", *shapes), {"x0": a, "x1": b}, {"out": expected})


def log_sum_exp(values: list[float]) -> float:
    return math.log(sum(map(math.exp, values)))


REDUCTIONS = {
    "ReduceSum": ("reduce_sum_param", sum),
    "ReduceMean": ("reduce_mean_param", lambda v: sum(v) / len(v)),
    "ReduceMax": ("reduce_max_param", max),
    "ReduceMin": ("reduce_min_param", min),
    "ReduceProd": ("reduce_prod_param", math.prod),
    "ReduceLogSumExp": ("reduce_logsumexp_param", log_sum_exp),
    "ReduceL1": ("reduce_l1_param", lambda v: sum(map(abs, v))),
    "ReduceL2": ("reduce_l2_param", lambda v: math.hypot(*v)),
}


def reduced(x: Array, function: object, axes: tuple[int, ...], keep: bool) -> Array:
    """Entry by entry: what of x has the same place on the axes that stay."""
    axes = tuple(a % x.ndim for a in axes) or tuple(range(x.ndim))
    groups: dict[tuple[int, ...], list[float]] = {}
    for at in np.ndindex(*x.shape):
        place = tuple(0 if i in axes else p for i, p in enumerate(at))
        groups.setdefault(place, []).append(float(x[at]))
    top = np.empty([1 if i in axes else n for i, n in enumerate(x.shape)])
    for place, values in groups.items():
        top[place] = function(values)
    return top if keep else np.asarray(top.squeeze(axes))


AXES = [((), False), ((1,), False), ((-1, 2), True), ((0, 3), False), ((), True)]


@pytest.mark.parametrize("given", AXES, ids=map(str, AXES))
@pytest.mark.parametrize("type_", REDUCTIONS)
def test_reductions(type_: str, given: tuple) -> None:
    (axes, keep), (message, function) = given, REDUCTIONS[type_]
    x = normal(2, 3, 2, 3)
    name = "axes" if type_ in ("ReduceL1", "ReduceL2") else "axis"
    flag = f"keepdims: {int(keep)}" if name == "axes" else f"keepdims: {keep}".lower()
    text = f"{message} {{ {' '.join(f'{name}: {a}' for a in axes)} {flag} }}"
    expected = reduced(x, function, axes, keep)
    check(single(type_, text, x.shape), {"x0": x}, {"out": expected})


def test_reduced_behind_a_convolution() -> None:
    """Channels stand last there, and the extents that stay keep their order."""
    x = normal(1, 2, 5, 4)
    conv = (
        'layer { name: "c" type: "Convolution" bottom: "x0" top: "c" '
        "convolution_param { num_output: 3 kernel_size: 2 } }\n"
    )
    net = single("ReduceSum", "reduce_sum_param { axis: 3 }", x.shape)
    head, _, tail = net.partition('layer { name: "l"')
    net = head + conv + 'layer { name: "l"' + tail.replace('"x0"', '"c"')
    conversion = caffe2flax.convert(net, taps=["c"])
    ours = caffe2flax.run(net, None, {"x0": x}, blobs="all")
    assert ours["out"].shape == (1, 3, 4)
    np.testing.assert_allclose(ours["out"], ours["c"].sum(3), rtol=1e-5, atol=1e-5)
    assert "transpose" not in conversion.source


REFUSED = [
    ("ReduceSum", "reduce_sum_param { axis: 1 axis: -3 }", "an axis twice"),
    ("ReduceMax", "reduce_max_param { axis: 4 }", "out of range"),
    ("Sub", "", "the shape of the other"),
    ("Noise", "noise_param { lower: 1 }", "unknown field lower"),
    ("Insanity", "insanity_param { lb: 3 ub: 2 }", "below ub"),
    ("ScaledTanH", "scaled_tanh_param { alpha: 3 }", "needs beta"),
]


@pytest.mark.parametrize(("type_", "text", "message"), REFUSED)
def test_refusals(type_: str, text: str, message: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(single(type_, text, (1, 2, 3, 4)))


@pytest.mark.parametrize("type_", ["Noise", "SpatialDropout", "Insanity"])
def test_random_in_training(type_: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=f"{type_} is"):
        caffe2flax.convert(single(type_, "", (1, 2)), phase="TRAIN")
