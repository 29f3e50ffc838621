"""Losses and accuracy against Caffe's loops written out, gradients included."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import caffe2flax
from caffe2flax.runner import instantiate
from caffe2flax.verification import reference
from tests.golden import cases, distance

Array = np.ndarray[Any, Any]
FLT_MIN = float(np.finfo(np.float32).tiny)
RNG = np.random.default_rng(7)


def net(type_: str, shapes: dict[str, tuple[int, ...]], text: str = "") -> str:
    """A layer of `type_` on inputs of these shapes; its first top is `loss`."""
    inputs = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        + " ".join(f"dim: {dim}" for dim in shape)
        + " } } }\n"
        for name, shape in shapes.items()
    )
    bottoms = " ".join(f'bottom: "{name}"' for name in shapes)
    return f'{inputs}layer {{ name: "l" type: "{type_}" {bottoms} top: "loss" {text} }}'


def value_and_gradients(prototxt: str, inputs: dict[str, Array]) -> tuple[Any, ...]:
    """The first output of the generated module and its gradients by the float inputs,
    all in Caffe's axis order; and the float64 reference's output."""
    conversion = caffe2flax.convert(prototxt)
    graph = conversion.graph
    model = instantiate(conversion)
    orders = [graph.layouts[v].axes for v in graph.arguments]
    args = [
        jnp.asarray(inputs[v.blob].transpose(axes))
        for v, axes in zip(graph.arguments, orders, strict=True)
    ]
    floats = [i for i, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.floating)]

    def loss(*args: Any) -> Any:
        out = model(*args)
        return out[graph.outputs[0].blob] if isinstance(out, dict) else out

    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=floats))(*args)
    named = {
        graph.arguments[i].blob: np.asarray(g).transpose(np.argsort(orders[i]))
        for i, g in zip(floats, gradients, strict=True)
    }
    values = reference.evaluate(graph, {}, inputs)
    return np.asarray(value), named, values[graph.outputs[0]]


def divisor(mode: str, outer: int, inner: int, valid: int) -> int:
    counts = {"FULL": outer * inner, "VALID": valid, "BATCH_SIZE": outer, "NONE": 1}
    return max(1, counts[mode])


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max())
    return powers / powers.sum()


def softmax_rows(
    x: Array, y: Array, axis: int, row: Callable[[Array, int], tuple[float, Array]]
) -> tuple[Array, Array, int, int]:
    """`row(p, label)` for every label: the losses (outer, inner) and gradients."""
    axis %= x.ndim
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    rows = x.astype(np.float64).reshape(outer, x.shape[axis], inner)
    losses, gradient = np.zeros((outer, inner)), np.zeros_like(rows)
    for i in range(outer):
        for j in range(inner):
            label = int(y.flat[i * inner + j])
            losses[i, j], gradient[i, :, j] = row(softmax(rows[i, :, j]), label)
    return losses, gradient.reshape(x.shape), outer, inner


def averaged(
    x: Array, y: Array, axis: int, ignore: int | None, mode: str, row: Any
) -> tuple[float, Array]:
    def masked(p: Array, label: int) -> tuple[float, Array]:
        return (0.0, np.zeros_like(p)) if label == ignore else row(p, label)

    losses, gradient, outer, inner = softmax_rows(x, y, axis, masked)
    valid = sum(int(label) != ignore for label in y.flat)
    by = divisor(mode, outer, inner, valid)
    return losses.sum() / by, gradient / by


def cross_entropy(p: Array, label: int) -> tuple[float, Array]:
    return -math.log(max(p[label], FLT_MIN)), p - np.eye(len(p))[label]


def gain(h: Array) -> Any:
    def row(p: Array, label: int) -> tuple[float, Array]:
        weights = h.reshape(len(p), len(p))[label].astype(np.float64)
        loss = -weights @ np.log(np.maximum(p, 1e-20))
        return loss, p * weights.sum() - weights

    return row


SOFTMAX: list[tuple[str, tuple[int, ...], tuple[int, ...], str, int, int | None, str]]
SOFTMAX = [
    (f"{mode}{ignore}", (2, 3, 2, 2), (2, 2, 2), f"{given} {left}", 1, ignore, mode)
    for mode in ("FULL", "VALID", "BATCH_SIZE", "NONE")
    for given in (f"normalization: {mode}",)
    for ignore, left in ((None, ""), (0, "ignore_label: 0"))
] + [
    ("number", (3, 4), (3,), "normalization: 3", 1, None, "NONE"),
    (
        "normalize_false",
        (2, 3, 2),
        (2, 1, 2),
        "normalize: false",
        1,
        None,
        "BATCH_SIZE",
    ),
    ("axis0", (3, 3), (3, 1), "normalization: BATCH_SIZE", 0, None, "BATCH_SIZE"),
    ("axis2", (2, 2, 3), (2, 2), "normalization: BATCH_SIZE", 2, None, "BATCH_SIZE"),
    ("axis-2", (2, 3, 2, 2), (2, 3, 2), "", -2, None, "VALID"),
    ("axis3", (2, 2, 2, 3), (2, 2, 2), "", 3, None, "VALID"),
    ("five", (2, 3, 2, 1, 2), (2, 1, 2, 1, 2), "ignore_label: 1", 1, 1, "VALID"),
    ("ignored_is_no_class", (4, 3), (4,), "ignore_label: 255", 1, 255, "VALID"),
    ("negative", (4, 3), (4,), "ignore_label: -1", 1, -1, "VALID"),
]


@pytest.mark.parametrize("type_", ["SoftmaxWithLoss", "InfogainLoss"])
@pytest.mark.parametrize("row", SOFTMAX, ids=[row[0] for row in SOFTMAX])
def test_softmax(type_: str, row: tuple[Any, ...]) -> None:
    _, shape, label_shape, given, axis, ignore, mode = row
    if type_ == "InfogainLoss":
        given = given.replace("normalize: false", "normalization: BATCH_SIZE")
    own = "softmax_param" if type_ == "SoftmaxWithLoss" else "infogain_loss_param"
    classes = shape[axis]
    shapes = {"x": shape, "y": label_shape}
    labels = RNG.integers(0, classes, label_shape)
    if ignore is not None:
        labels.flat[0] = ignore
    scores = RNG.normal(size=shape).astype(np.float32)
    scores.flat[0] = 300.0  # what is not the label falls below the smallest float
    inputs = {"x": scores, "y": labels.astype(np.float32)}
    expected = cross_entropy
    if type_ == "InfogainLoss":
        shapes["h"] = (1, classes, classes)
        inputs["h"] = RNG.random(shapes["h"]).astype(np.float32)
        expected = gain(inputs["h"])
    text = net(type_, shapes, f"{own} {{ axis: {axis} }} loss_param {{ {given} }}")
    value, gradients, ours = value_and_gradients(text, inputs)
    loss, gradient = averaged(scores, labels, axis, ignore, mode, expected)
    assert distance(value, np.float64(loss)) < 1e-5
    assert distance(ours, np.asarray(loss)) < 1e-6
    assert distance(gradients["x"], gradient) < 1e-5
    assert not any(gradients[name].any() for name in gradients if name != "x")


SIGMOID = [
    (f"{mode}{ignore}", f"normalization: {mode} {left}", ignore, mode)
    for mode in ("FULL", "VALID", "BATCH_SIZE", "NONE")
    for ignore, left in ((None, ""), (1, "ignore_label: 1"))
] + [
    ("normalize", "normalize: true ignore_label: 0", 0, "VALID"),
    ("default", "", None, "BATCH_SIZE"),
]


@pytest.mark.parametrize("row", SIGMOID, ids=[row[0] for row in SIGMOID])
def test_sigmoid(row: tuple[Any, ...]) -> None:
    _, given, ignore, mode = row
    x = RNG.normal(size=(3, 2, 2, 2)).astype(np.float32) * 4
    x.flat[:4] = 0, 90, -90, 5
    t = RNG.choice([0, 1, 0.25, 1.5, -0.5], (3, 8)).astype(np.float32)
    t.flat[:4] = 1, 1, 0, 1
    text = net(
        "SigmoidCrossEntropyLoss",
        {"x": x.shape, "t": t.shape},
        f"loss_param {{ {given} }}",
    )
    value, gradients, ours = value_and_gradients(text, {"x": x, "t": t})
    loss, gradient, valid = 0.0, np.zeros(x.size), 0
    for i, (a, b) in enumerate(zip(x.flat, t.flat, strict=True)):
        if int(b) == ignore:
            continue
        a, b = float(a), float(b)
        positive = a >= 0
        loss -= a * (b - positive) - math.log1p(math.exp(a - 2 * a * positive))
        gradient[i] = 1 / (1 + math.exp(-a)) - b
        valid += 1
    by = divisor(mode, 3, 8, valid)
    assert distance(value, np.float64(loss / by)) < 1e-5
    assert distance(ours, np.asarray(loss / by)) < 1e-6
    assert distance(gradients["x"], gradient.reshape(x.shape) / by) < 1e-5
    assert not gradients["t"].any()


@pytest.mark.parametrize("norm", ["L1", "2"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 2, 2, 2), (2, 6, 1, 1), (3, 2, 2)])
def test_hinge(norm: str, shape: tuple[int, ...]) -> None:
    x = RNG.normal(size=shape).astype(np.float32)
    x.flat[1:3] = -1, 1  # kinks: no gradient there
    classes = math.prod(shape[1:])
    labels = RNG.integers(0, classes, (shape[0], 1))
    labels[0] = 2
    text = net(
        "HingeLoss",
        {"x": shape, "y": labels.shape},
        f"hinge_loss_param {{ norm: {norm} }}",
    )
    inputs = {"x": x, "y": labels.astype(np.float32)}
    value, gradients, ours = value_and_gradients(text, inputs)
    sign = np.ones((shape[0], classes))
    sign[np.arange(shape[0]), labels[:, 0]] = -1
    margins = np.maximum(0, 1 + sign * x.reshape(shape[0], -1))
    power = int(norm[-1])
    slope = np.sign(margins) if power == 1 else 2 * margins
    loss = (margins**power).sum() / shape[0]
    assert distance(value, np.float64(loss)) < 1e-5
    assert distance(ours, np.asarray(loss)) < 1e-6
    gradient = (sign * slope / shape[0]).reshape(shape)
    assert distance(gradients["x"], gradient) < 1e-5


@pytest.mark.parametrize("shape", [(3, 4), (2, 2, 2, 1), (2, 3, 2)])
def test_multinomial(shape: tuple[int, ...]) -> None:
    p = RNG.random(shape).astype(np.float32)
    classes = math.prod(shape[1:])
    labels = RNG.integers(0, classes, (shape[0], 1, 1))
    p.reshape(shape[0], -1)[0, labels[0, 0, 0]] = 0
    inputs = {"x": p, "y": labels.astype(np.float32)}
    text = net("MultinomialLogisticLoss", {"x": shape, "y": labels.shape})
    value, gradients, ours = value_and_gradients(text, inputs)
    loss, gradient = 0.0, np.zeros((shape[0], classes))
    for n, label in enumerate(labels.flat):
        floored = max(float(p.reshape(shape[0], -1)[n, label]), 1e-20)
        loss -= math.log(floored) / shape[0]
        gradient[n, label] = -1 / shape[0] / floored
    assert distance(value, np.float64(loss)) < 1e-5
    assert distance(ours, np.asarray(loss)) < 1e-6
    assert distance(gradients["x"], gradient.reshape(shape)) < 1e-5


@pytest.mark.parametrize("other", [(3, 2, 2), (3, 4), (3, 1, 2, 2, 1)])
def test_euclidean(other: tuple[int, ...]) -> None:
    a = RNG.normal(size=(3, 1, 2, 2)).astype(np.float32)
    b = RNG.normal(size=other).astype(np.float32)
    text = net("EuclideanLoss", {"a": a.shape, "b": b.shape})
    value, gradients, ours = value_and_gradients(text, {"a": a, "b": b})
    difference = (a - b.reshape(a.shape)).astype(np.float64)
    loss = np.square(difference).sum() / 6
    assert distance(value, np.float64(loss)) < 1e-5
    assert distance(ours, np.asarray(loss)) < 1e-6
    assert distance(gradients["a"], difference / 3) < 1e-5
    assert distance(gradients["b"], (-difference / 3).reshape(other)) < 1e-5


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("margin", [1.0, 2.5])
@pytest.mark.parametrize("tail", [(), (1, 1)])
def test_contrastive(legacy: bool, margin: float, tail: tuple[int, ...]) -> None:
    similar = np.array([0, 1, 0, 2, -1, 0.5, 0, 0], np.float32)
    a = RNG.normal(size=(8, 3, *tail)).astype(np.float32)
    b = (a + RNG.normal(size=a.shape) * 0.4).astype(np.float32)
    b[0], b[6] = a[0], a[6] + 9  # no distance at all, and beyond the margin
    text = net(
        "ContrastiveLoss",
        {"a": a.shape, "b": (8, 3), "s": (8, 1)},
        f"contrastive_loss_param {{ margin: {margin} "
        f"legacy_version: {str(legacy).lower()} }}",
    )
    inputs = {"a": a, "b": b.reshape(8, 3), "s": similar.reshape(8, 1)}
    value, gradients, ours = value_and_gradients(text, inputs)
    loss, gradient = 0.0, np.zeros((8, 3))
    for n in range(8):
        v = (a - b).astype(np.float64).reshape(8, 3)[n]
        square = v @ v
        room = margin - (square if legacy else math.sqrt(square))
        if int(similar[n]):
            loss, gradient[n] = loss + square, v
        elif room > 0:
            loss += room if legacy else room**2
            gradient[n] = -v * (1 if legacy else room / (math.sqrt(square) + 1e-4))
    assert distance(value, np.float64(loss / 16)) < 1e-5
    assert distance(ours, np.asarray(loss / 16)) < 1e-6
    assert distance(gradients["a"], (gradient / 8).reshape(a.shape)) < 1e-4
    assert distance(gradients["b"], -gradient / 8) < 1e-4


ACCURACY: list[tuple[str, tuple[int, ...], tuple[int, ...], str, int, int, int | None]]
ACCURACY = [
    ("plain", (6, 4), (6,), "", 1, 1, None),
    ("top2", (6, 4), (6, 1, 1, 1), "top_k: 2", 1, 2, None),
    ("all", (6, 4), (6,), "top_k: 4", 1, 4, None),
    ("none", (6, 4), (6,), "top_k: 0", 1, 0, None),
    ("spatial", (2, 3, 2, 2), (2, 2, 2), "ignore_label: 1", 1, 1, 1),
    ("axis0", (4, 3), (3,), "axis: 0 top_k: 2", 0, 2, None),
    ("axis2", (2, 3, 4), (6,), "axis: -1", 2, 1, None),
    ("five", (2, 3, 2, 1, 2), (2, 1, 4), "ignore_label: 2 top_k: 2", 1, 2, 2),
    ("no_class", (6, 4), (6,), "ignore_label: 255", 1, 1, 255),
]


@pytest.mark.parametrize("row", ACCURACY, ids=[row[0] for row in ACCURACY])
def test_accuracy(row: tuple[Any, ...]) -> None:
    """Both tops: the share of hits, and that of each class."""
    _, shape, label_shape, given, axis, top_k, ignore = row
    x = RNG.integers(0, 3, shape).astype(np.float32)  # many ties
    x.flat[0] = np.nan
    classes = shape[axis]
    labels = RNG.integers(0, classes - 1, label_shape)
    if ignore is not None:
        labels.flat[-1] = ignore
    text = net(
        "Accuracy",
        {"x": shape, "y": label_shape},
        f'top: "each" accuracy_param {{ {given} }}',
    )
    inputs = {"x": x, "y": labels.astype(np.float32)}
    found = caffe2flax.run(text, None, inputs)
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    rows = x.reshape(outer, classes, inner)
    hits, numbers = np.zeros(classes), np.zeros(classes)
    for place, label in enumerate(labels.flat):
        if label == ignore:
            continue
        scores = rows[place // inner, :, place % inner]
        hits[label] += (scores >= scores[label]).sum() - 1 < top_k
        numbers[label] += 1
    assert distance(found["loss"], hits.sum() / max(1, numbers.sum())) < 1e-6
    assert distance(found["each"], hits / np.maximum(1, numbers)) < 1e-6
    graph = caffe2flax.convert(text).graph
    values = reference.evaluate(graph, {}, inputs)
    assert [distance(values[v], found[v.blob]) < 1e-6 for v in graph.outputs] == [1, 1]


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bfloat16"])
@pytest.mark.parametrize("scores", ["float32", "bfloat16"])
def test_dtypes(dtype: str, scores: str) -> None:
    """Labels of any type; losses are float32 at least, and one of a batch is itself."""
    text = net("SoftmaxWithLoss", {"x": (3, 4), "y": (3,)})
    model = caffe2flax.load(text)
    x = jnp.asarray(RNG.normal(size=(3, 4)), scores)
    y = jnp.asarray([0, 3, 2], dtype)
    loss = model(x, y)
    assert loss.dtype == jnp.float32
    each = jax.vmap(lambda x, y: model(x[None], y[None]))(x, y)
    assert distance(np.asarray(each.mean()), np.asarray(loss)) < 1e-6
    assert np.isnan(model(x, jnp.asarray([0, 4, 2], dtype)))


def test_spatial_loss_behind_a_convolution() -> None:
    """Channels last between the two: nothing is transposed."""
    text = """
    layer { name: "data" type: "Input" top: "data"
            input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } } }
    layer { name: "label" type: "Input" top: "label"
            input_param { shape { dim: 2 dim: 1 dim: 4 dim: 5 } } }
    layer { name: "score" type: "Convolution" bottom: "data" top: "score"
            convolution_param { num_output: 6 kernel_size: 1
                                weight_filler { type: "xavier" } } }
    layer { name: "l" type: "SoftmaxWithLoss" bottom: "score" bottom: "label"
            top: "loss" loss_param { ignore_label: 2 } }
    """
    conversion = caffe2flax.convert(text)
    assert "transpose" not in conversion.source.split("# Operations")[0]


NAMED = {"x": (3, 4), "y": (3,)}
REFUSED = [
    ("SoftmaxWithLoss", {"x": (3, 4), "y": (4,)}, "", "first extent"),
    ("SoftmaxWithLoss", {"x": (3, 4, 2), "y": (3,)}, "", "labels"),
    ("SoftmaxWithLoss", NAMED, "softmax_param { axis: 2 }", "axis"),
    ("SoftmaxWithLoss", NAMED, 'top: "p"', "second top"),
    ("SoftmaxWithLoss", NAMED, 'top: "p" loss_weight: 1 loss_weight: 0', "second top"),
    ("SoftmaxWithLoss", NAMED, "loss_weight: 1 loss_weight: 0", "loss_weight"),
    ("SoftmaxWithLoss", NAMED, "loss_param { normalization: ALL }", "FULL, VALID"),
    ("SoftmaxWithLoss", NAMED, "loss_param { normalisation: FULL }", "normalization"),
    ("SoftmaxWithLoss", {"x": (3, 4)}, "", "exactly 2"),
    ("InfogainLoss", NAMED, "", "third bottom"),
    ("InfogainLoss", {**NAMED, "h": (4, 3)}, "", "4 x 4"),
    ("InfogainLoss", {**NAMED, "h": (4, 4)}, 'top: "p"', "loss_weight"),
    (
        "InfogainLoss",
        {**NAMED, "h": (4, 4)},
        "loss_param { normalize: true }",
        "normalization",
    ),
    ("InfogainLoss", NAMED, 'infogain_loss_param { source: "x" }', "another blob"),
    ("HingeLoss", {"x": (3, 4), "y": (3, 2)}, "", "one label"),
    ("HingeLoss", NAMED, "hinge_loss_param { norm: 0 }", "L1, L2"),
    ("HingeLoss", {"x": (3, 1, 1, 1, 4), "y": (3,)}, "", "axes"),
    ("MultinomialLogisticLoss", {"x": (3, 4), "y": (3, 1, 2)}, "", "one label"),
    ("EuclideanLoss", {"a": (3, 4), "b": (3, 5)}, "", "size"),
    ("EuclideanLoss", {"a": (3, 4), "b": (4, 3)}, "", "first extent"),
    ("EuclideanLoss", {"a": (1, 1, 1, 1, 1), "b": (1,)}, "", "axes"),
    ("SigmoidCrossEntropyLoss", {"a": (3, 4), "b": (3,)}, "", "size"),
    ("ContrastiveLoss", {"a": (3, 4), "b": (3, 4), "s": (2,)}, "", "one label"),
    ("ContrastiveLoss", {"a": (3, 4, 2), "b": (3, 8), "s": (3,)}, "", "(N, C)"),
    ("ContrastiveLoss", {"a": (3, 4), "b": (3, 4)}, "", "exactly 3"),
    ("Accuracy", NAMED, "accuracy_param { top_k: 5 }", "top_k"),
    ("Accuracy", {"x": (3, 4), "y": (2,)}, "", "labels"),
    ("Accuracy", NAMED, 'top: "a" top: "b"', "1 to 2"),
]


@pytest.mark.parametrize(("type_", "shapes", "text", "message"), REFUSED)
def test_refused(type_: str, shapes: Any, text: str, message: str) -> None:
    with pytest.raises(caffe2flax.ConversionError) as refused:
        caffe2flax.convert(net(type_, shapes, text))
    assert message in str(refused.value)
    assert all(problem.line for problem in refused.value.problems)


@pytest.mark.parametrize("name", ["softmaxloss_weight", "two_losses", "softmaxloss"])
def test_total(name: str) -> None:
    """In TRAIN a note lists what Caffe minimises, unless the module returns just
    that."""
    case = next(case for case in cases("layers") if case.name == name)
    model = caffe2flax.load(case.prototxt, case.weights, phase="TRAIN")
    outputs = model(*case.inputs().values())
    assert hasattr(model, "total_loss") == (name != "softmaxloss")
    total = model.total_loss(outputs) if hasattr(model, "total_loss") else outputs
    assert distance(np.asarray(total), case.arrays()["__total_loss__"]) < 1e-6


def test_loss_without_top() -> None:
    """In training its value is an output called like the layer; at test it is none."""
    text = net("EuclideanLoss", {"a": (2, 3), "b": (2, 3)}).replace('top: "loss"', "")
    text += 'layer { name: "m" type: "ReLU" bottom: "a" top: "l" } '
    text += 'layer { name: "n" type: "ReLU" bottom: "b" top: "n" }'
    inputs = {"a": np.ones((2, 3)), "b": np.zeros((2, 3))}
    trained = caffe2flax.run(text, None, inputs, phase="TRAIN")
    assert sorted(trained) == ["l", "l_loss", "n"]
    assert trained["l_loss"] == 1.5
    assert sorted(caffe2flax.run(text, None, inputs)) == ["l", "n"]


def test_weights_of_other_tops() -> None:
    """loss_weight on any layer counts, over all entries of the top."""
    text = net("Power", {"x": (2, 3)}, "loss_weight: -0.5 power_param { scale: 2 }")
    model = caffe2flax.load(text, phase="TRAIN")
    x = jnp.arange(6.0).reshape(2, 3)
    assert float(model.total_loss(model(x))) == -15.0


def test_normalization_wins() -> None:
    """The deprecated `normalize` is ignored beside it."""
    given = "loss_param {{ normalize: {} normalization: NONE }}"
    sources = {
        caffe2flax.convert(net("SoftmaxWithLoss", NAMED, given.format(word))).source
        for word in ("true", "false")
    }
    assert len(sources) == 1
    assert 'softmax_loss(x, y, normalization="NONE")' in sources.pop()


def test_shared_files() -> None:
    """Layers that name one file take one input; a file of two sizes is refused."""
    first = net(
        "InfogainLoss", {"x": (3, 4), "y": (3,)}, 'infogain_loss_param { source: "H" }'
    )
    second = (
        'layer { name: "m" type: "InfogainLoss" bottom: "x" bottom: "y" top: "again" '
        'infogain_loss_param { source: "H" } }'
    )
    inputs = {
        "x": RNG.normal(size=(3, 4)),
        "y": np.array([1, 0, 3]),
        "H": RNG.random((4, 4)),
    }
    found = caffe2flax.run(first + second, None, inputs)
    assert found["loss"] == found["again"]
    other = second.replace('"x"', '"z"')
    wide = net("Input", {}, 'top: "z" input_param { shape { dim: 3 dim: 5 } }')
    with pytest.raises(caffe2flax.ConversionError, match="another blob"):
        caffe2flax.convert(first + wide.replace('top: "loss"', "") + other)


@pytest.mark.parametrize(
    ("fields", "function"),
    [
        ("", "infogain_of_probabilities("),
        ("infogain_loss_param { axis: 1 }", "infogain_loss("),
        (
            'infogain_loss_param { axis: 1 } top: "p" loss_weight: [1, 0]',
            "infogain_loss(",
        ),
    ],
)
def test_what_only_caffe_1_has_tells_the_kind_of_infogain(
    fields: str, function: str
) -> None:
    """Behind a Softmax it is the older one, unless it has what that had not."""
    softmax = 'layer { name: "s" type: "Softmax" bottom: "x" top: "s" }'
    text = net("InfogainLoss", {"x": (3, 4), "y": (3,), "h": (4, 4)}, fields)
    text = text.replace('layer { name: "l"', f'{softmax}\nlayer {{ name: "l"')
    text = text.replace('"InfogainLoss" bottom: "x"', '"InfogainLoss" bottom: "s"')
    assert f" {function}" in caffe2flax.convert(text).source
    assert caffe2flax.verify(text).ok
