"""Recurrent layers against explicit loops, and the state from one call to the next."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import caffe2flax
from caffe2flax.codegen.module import emit
from caffe2flax.conversion import Conversion
from caffe2flax.ops.recurrent import LSTM, RNN, lstm_unit
from caffe2flax.runner import execute, instantiate
from caffe2flax.verification import reference
from caffe2flax.weights.variables import Variables, initial
from tests.golden import cases, distance, part

Array = np.ndarray[Any, Any]
TWICE = [case for case in cases("layers") if case.facts.get("twice")]
GAUSS = 'weight_filler { type: "gaussian" std: 0.8 } bias_filler { type: "uniform" }'


def inputs(shapes: dict[str, tuple[int, ...]]) -> str:
    return "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        + " ".join(f"dim: {dim}" for dim in shape)
        + " } } }\n"
        for name, shape in shapes.items()
    )


def recurrent(
    type_: str,
    shapes: dict[str, tuple[int, ...]],
    text: str = "",
    *,
    tops: tuple[str, ...] = ("out",),
) -> str:
    bottoms = " ".join(f'bottom: "{name}"' for name in shapes)
    made = " ".join(f'top: "{top}"' for top in tops)
    param = f"recurrent_param {{ num_output: 4 {GAUSS} {text} }}"
    if "num_output" in text:
        param = f"recurrent_param {{ {text} }}"
    own = param if type_ != "LSTMUnit" else ""
    layer = f'layer {{ name: "r" type: "{type_}" {bottoms} {made} {own} }}'
    return inputs(shapes) + layer


def fed(shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """Markers with restarts in the middle, and streams that go on from the start."""
    rng = np.random.default_rng(3)
    arrays = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    cont = np.ones(shapes["cont"], np.float32)
    cont[cont.shape[0] // 2, 0] = 0
    cont[-1, -1] = 0.25
    return arrays | {"cont": cont}


def weighted(conversion: Conversion) -> Conversion:
    """With the fillers' values as its weights."""
    graph = conversion.graph
    weights = [weight for node in graph.nodes for weight in node.weights]
    blobs = {(weight.owner, weight.index): initial(weight) for weight in weights}
    module = emit(graph, conversion.name, initialise=False, origin="", version="")
    named = Variables(graph, module, blobs)
    return replace(conversion, weights=named, blobs=blobs)


def loop(type_: str, blobs: list[Array], data: dict[str, Array]) -> list[Array]:
    """Outputs, and the last states; `data` in the order of the bottoms."""
    x, cont, *others = (array.astype(np.float64) for array in data.values())
    static = others.pop(0).ravel() if "static" in data else None
    steps, streams = cont.shape
    w, b, *rest = (blob.astype(np.float64) for blob in blobs)
    w_static = rest.pop(0) if static is not None else None
    features = rest[0].shape[1]
    h, c = (np.zeros((streams, features)) for _ in range(2))
    if others:
        h, *exposed_c = (state[0].copy() for state in others)
        c = exposed_c[0] if exposed_c else c
    out = np.zeros((steps, streams, features))
    for t in range(steps):
        for n in range(streams):
            z = w @ x[t, n].ravel() + b + rest[0] @ (cont[t, n] * h[n])
            if static is not None and w_static is not None:
                z += w_static @ static.reshape(streams, -1)[n]
            if type_ == "RNN":
                h[n] = np.tanh(z)
                out[t, n] = np.tanh(rest[1] @ h[n] + rest[2])
                continue
            i, f, o = (1 / (1 + np.exp(-gate)) for gate in np.split(z[:-features], 3))
            c[n] = cont[t, n] * f * c[n] + i * np.tanh(z[-features:])
            out[t, n] = h[n] = o * np.tanh(c[n])
    return [out, h[None], *([c[None]] if type_ == "LSTM" else [])]


SHAPES: list[dict[str, tuple[int, ...]]] = [
    {"x": (5, 2, 3), "cont": (5, 2)},
    {"x": (1, 1, 1), "cont": (1, 1)},
    {"x": (4, 3, 2, 2), "cont": (4, 3)},
    {"x": (4, 2, 2, 1, 3), "cont": (4, 2), "static": (2, 2, 2, 2)},
    {"x": (4, 2, 3), "cont": (4, 2), "static": (2, 5)},
]


@pytest.mark.parametrize("type_", ["LSTM", "RNN"])
@pytest.mark.parametrize("exposed", [False, True])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_against_loops(
    type_: str, exposed: bool, shapes: dict[str, tuple[int, ...]]
) -> None:
    """All tops, with states given and without."""
    names = (("h", "c") if type_ == "LSTM" else ("h",)) if exposed else ()
    shapes = shapes | dict.fromkeys(names, (1, shapes["x"][1], 4))
    text = recurrent(
        type_,
        shapes,
        "expose_hidden: true" if exposed else "",
        tops=("out", *(f"{name}_T" for name in names)),
    )
    conversion = weighted(caffe2flax.convert(text))
    blobs = list(conversion.blobs.values())
    data = fed(shapes)
    expected = loop(type_, blobs, data)[: 1 + len(names)]
    graph = conversion.graph
    values = reference.evaluate(graph, conversion.blobs, data)
    made = [values[value] for value in graph.nodes[-1].outputs]
    assert all(distance(a, b) < 1e-9 for a, b in zip(made, expected, strict=True))
    ours = execute(conversion, data, ["outputs"])
    emitted = [ours[value.blob] for value in graph.nodes[-1].outputs]
    assert all(distance(a, b) < 1e-5 for a, b in zip(emitted, expected, strict=True))


@pytest.mark.parametrize("case", TWICE, ids=[case.name for case in TWICE])
def test_second_forward(case: Any) -> None:
    """Caffe's second forward pass continues from the first; `step` does with a
    state."""
    arrays = case.arrays()
    model = instantiate(case.convert())
    step = jax.jit(lambda model, given, state: model.step(*given, state))
    state: dict[str, Any] = {}
    for given, wanted in (("input:", "output:"), ("input2:", "output2:")):
        out, state = step(model, list(part(arrays, given).values()), state)
        assert distance(np.asarray(out), arrays[f"{wanted}out"]) < 1e-5
    alone = model(*part(arrays, "input2:").values())
    assert distance(np.asarray(alone), arrays["output2:out"]) > 1e-3


@pytest.mark.parametrize("type_", ["LSTM", "RNN"])
def test_pieces(type_: str) -> None:
    """A sequence in pieces is the sequence, for two layers and under vmap and bfloat16;
    no gradient goes back into an earlier piece."""
    first = recurrent(type_, {"x": (6, 2, 3), "cont": (6, 2)}, tops=("mid",))
    second = f"""
    layer {{ name: "r" type: "{type_}" bottom: "mid" bottom: "cont" top: "again"
            recurrent_param {{ num_output: 2 {GAUSS} }} }}
    layer {{ name: "out" type: "ReLU" bottom: "again" top: "again" }}"""
    model = caffe2flax.load(first + second)
    data = fed({"x": (6, 2, 3), "cont": (6, 2)})
    x, cont = jnp.asarray(data["x"]), jnp.asarray(data["cont"])
    whole = model(x, cont)
    head, state = model.step(x[:4], cont[:4], {})
    tail, last = model.step(x[4:], cont[4:], state)
    assert sorted(last) == ["r", "r_2"]
    assert distance(np.concatenate([head, tail]), np.asarray(whole)) < 1e-6

    def tail_of(x: Any) -> Any:
        _, state = model.step(x[:4], cont[:4], {})
        return model.step(x[4:], cont[4:], state)[0].sum()

    gradient = jax.grad(tail_of)(x)
    assert not gradient[:4].any()
    assert gradient[4:].any()
    many = jax.vmap(lambda x: model.step(x, cont, {})[0])(jnp.stack([x, -x]))
    assert distance(np.asarray(many[0]), np.asarray(whole)) < 1e-6
    assert model(x.astype("bfloat16"), cont.astype("int8")).dtype == jnp.bfloat16


@pytest.mark.parametrize("cls", [LSTM, RNN])
def test_symbolic_streams(cls: Any) -> None:
    """Any number of streams, in steps of any number."""
    from flax import nnx

    model = cls(3, 4, static_features=2, rngs=nnx.Rngs(0))
    t, n = export.symbolic_shape("t, n")

    def call(x: Any, cont: Any, static: Any) -> Any:
        return model(x, cont, x_static=static)

    wanted = [
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in ((t, n, 3), (t, n), (n, 2))
    ]
    exported = export.export(jax.jit(call))(*wanted)
    given = (jnp.ones((5, 2, 3)), jnp.ones((5, 2)), jnp.ones((2, 2)))
    assert (
        distance(*map(np.asarray, (exported.call(*given)[0], call(*given)[0]))) < 1e-6
    )


@pytest.mark.parametrize("cont", [0.0, 1.0, 0.3])
def test_unit_gradient(cont: float) -> None:
    """Caffe's derivatives, for markers between 0 and 1 too."""
    rng = np.random.default_rng(5)
    c, z = rng.normal(size=(1, 1, 2)), rng.normal(size=(1, 1, 8))
    seeds = rng.normal(size=(2, 1, 1, 2))
    args = [jnp.asarray(a, jnp.float32) for a in (c, z, np.full((1, 1), cont))]
    _, pull = jax.vjp(lstm_unit, *args)
    of_c, of_z, of_cont = pull(tuple(jnp.asarray(s, jnp.float32) for s in seeds))
    for d in range(2):
        i, f, o = (1 / (1 + math.exp(-z[0, 0, gate * 2 + d])) for gate in range(3))
        f, g, before = cont * f, math.tanh(z[0, 0, 6 + d]), c[0, 0, d]
        tanh_c = math.tanh(f * before + i * g)
        term = seeds[0, 0, 0, d] + seeds[1, 0, 0, d] * o * (1 - tanh_c**2)
        expected = [
            term * g * i * (1 - i),
            term * before * f * (1 - f),
            seeds[1, 0, 0, d] * tanh_c * o * (1 - o),
            term * i * (1 - g * g),
        ]
        assert of_z[0, 0, d::2] == pytest.approx(expected, abs=1e-5)
        assert float(of_c[0, 0, d]) == pytest.approx(term * f, abs=1e-5)
    assert not of_cont.any()


def test_fillers() -> None:
    """Both the converter's own values and the initializers follow the prototxt."""
    shapes = {"x": (2, 2, 300), "cont": (2, 2)}
    filler = 'weight_filler { type: "xavier" } bias_filler { value: 0.5 }'
    text = recurrent("RNN", shapes, f"num_output: 100 {filler}")
    model = caffe2flax.load(text)
    bound = math.sqrt(3 / 300)
    kernel = model.r.input_kernel[...]
    assert bound * 0.99 < float(abs(kernel).max()) <= bound
    assert (model.r.input_bias[...] == 0.5).all()
    assert (model.r.output_bias[...] == 0.5).all()
    plain = caffe2flax.load(recurrent("LSTM", shapes, "num_output: 3"))
    assert plain.r.hidden_kernel[...].any()  # Flax's, as nothing is asked for
    assert not plain.r.input_bias[...].any()


def test_shared_weights() -> None:
    """Two layers with one set of weights: one module, two states."""
    params = " ".join(f'param {{ name: "{name}" }}' for name in ("w", "b", "u"))
    shapes = {"x": (3, 2, 3), "cont": (3, 2), "y": (3, 2, 3)}
    layers = "".join(
        f'layer {{ name: "{name}" type: "LSTM" bottom: "{bottom}" bottom: "cont" '
        f'top: "{name}" {params} recurrent_param {{ num_output: 4 {GAUSS} }} }}'
        for name, bottom in (("a", "x"), ("b", "y"))
    )
    model = caffe2flax.load(inputs(shapes) + layers)
    data = fed(shapes)
    args = [jnp.asarray(data[name]) for name in ("x", "cont", "x")]
    out, state = model.step(*args, {})
    assert not hasattr(model, "b")
    assert sorted(state) == ["a", "b"]
    assert (out["a"] == out["b"]).all()


GOOD = {"x": (4, 2, 3), "cont": (4, 2)}
STATE = (1, 2, 4)
EXPOSED = "expose_hidden: true"
REFUSED = [
    ("LSTM", GOOD, "num_output: 0", ("out",), "num_output"),
    ("LSTM", GOOD, "num_output: 3 hidden: 2", ("out",), "unknown field"),
    ("LSTM", {"x": (4, 2), "cont": (4, 2)}, "", ("out",), "steps"),
    ("RNN", {"x": (4, 2, 3), "cont": (4, 3)}, "", ("out",), "cont"),
    ("RNN", {"x": (4, 2, 3), "cont": (4, 2, 1)}, "", ("out",), "cont"),
    ("RNN", {**GOOD, "s": (3, 3)}, "", ("out",), "static"),
    ("LSTM", {**GOOD, "s": (2,)}, "", ("out",), "static"),
    ("LSTM", {**GOOD, "s": (2, 3), "t": (2, 3)}, "", ("out",), "bottoms"),
    ("LSTM", GOOD, "", ("out", "h"), "tops"),
    ("LSTM", {**GOOD, "h": STATE}, EXPOSED, ("out", "a", "b"), "bottoms"),
    ("LSTM", {**GOOD, "h": STATE, "c": STATE}, EXPOSED, ("out", "a"), "tops"),
    ("RNN", {**GOOD, "h": (2, 4)}, EXPOSED, ("out", "a"), "state"),
    ("LSTMUnit", {"c": (1, 2, 3), "z": (1, 2, 9), "k": (1, 2)}, "", ("c1", "h"), "4 D"),
    ("LSTMUnit", {"c": (2, 2, 3), "z": (2, 2, 12), "k": (2, 2)}, "", ("d", "h"), "4 D"),
    ("LSTMUnit", {"c": (), "z": (1,), "k": (1, 2)}, "", ("d", "h"), "4 D"),
]


@pytest.mark.parametrize(("type_", "shapes", "text", "tops", "message"), REFUSED)
def test_refused(
    type_: str, shapes: Any, text: str, tops: tuple[str, ...], message: str
) -> None:
    with pytest.raises(caffe2flax.ConversionError) as refused:
        caffe2flax.convert(recurrent(type_, shapes, text, tops=tops))
    assert message in str(refused.value)
