"""Parameters shared by name: one parameter in the module for all its layers."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import caffe2flax
from caffe2flax.codegen.arrangement import is_whole, rearrangement, view_of
from caffe2flax.ir.layout import Merged
from caffe2flax.verification import reference
from tests import wireformat as wire

XAVIER = "weight_filler { type: 'xavier' }"


def data(*shape: int) -> str:
    dims = " ".join(f"dim: {dim}" for dim in shape)
    return (
        "layer { name: 'data' type: 'Input' top: 'data' "
        f"input_param {{ shape {{ {dims} }} }} }}"
    )


def layer(
    name: str, type_: str, params: str, *shares: str, bottom: str = "data"
) -> str:
    specs = " ".join(f"param {{ {share} }}" for share in shares)
    return (
        f"layer {{ name: {name!r} type: {type_!r} bottom: {bottom!r} top: {name!r} "
        f"{specs} {params} }}"
    )


def conv(name: str, params: str, *shares: str, bottom: str = "data") -> str:
    params = f"convolution_param {{ {params} {XAVIER} }}"
    return layer(name, "Convolution", params, *shares, bottom=bottom)


def dense(name: str, params: str, *shares: str, bottom: str = "data") -> str:
    params = f"inner_product_param {{ {params} {XAVIER} }}"
    return layer(name, "InnerProduct", params, *shares, bottom=bottom)


def tower(norm: str, scale: str, shares: tuple[str, ...]) -> tuple[str, str]:
    """BatchNorm and Scale, which share by these param messages."""
    return (
        layer(norm, "BatchNorm", "", *shares[:3]),
        layer(
            scale, "Scale", "scale_param { bias_term: true }", *shares[3:], bottom=norm
        ),
    )


STATISTICS = tuple(f"name: {name!r} lr_mult: 0" for name in "mvf")
W, B = "name: 'w'", "name: 'b'"
LOOSE = "name: 'w' share_mode: PERMISSIVE"

IMAGE = data(2, 4, 3, 5)
FLAT = data(2, 6)
NETS = {
    "equal": (
        IMAGE,
        conv("zz", "num_output: 3 kernel_size: 3", W, B),
        conv("aa", "num_output: 3 kernel_size: 3", W, B),
    ),
    "only the weight": (
        IMAGE,
        conv("zz", "num_output: 3 kernel_size: 3", W),
        conv("aa", "num_output: 3 kernel_size: 3", W),
    ),
    "only the bias": (
        IMAGE,
        conv("zz", "num_output: 3 kernel_size: 3", "", B),
        conv("aa", "num_output: 3 kernel_size: 1", "lr_mult: 2", B),
    ),
    "another stride": (
        IMAGE,
        conv("zz", "num_output: 3 kernel_size: 3 pad: 1", W, B),
        conv("aa", "num_output: 3 kernel_size: 3 stride: 2", W, B),
    ),
    "bias of one, weight of another": (
        IMAGE,
        conv("zz", "num_output: 4 kernel_size: 3 pad: 1", W),
        conv("yy", "num_output: 4 kernel_size: 3 pad: 1", "", B),
        conv("aa", "num_output: 4 kernel_size: 3 stride: 2", W, B),
    ),
    "in a chain": (
        IMAGE,
        conv("one", "num_output: 4 kernel_size: 3 pad: 1", W, B),
        conv("two", "num_output: 4 kernel_size: 3 pad: 1", W, B, bottom="one"),
        conv("three", "num_output: 4 kernel_size: 3", W, bottom="two"),
    ),
    "without a bias": (
        FLAT,
        dense("zz", "num_output: 3", W),
        dense("aa", "num_output: 3 bias_term: false", W),
    ),
    "transposed": (
        FLAT,
        dense("encode", "num_output: 3", W),
        dense("decode", "num_output: 6 transpose: true", W, bottom="encode"),
    ),
    "transposed and square": (
        FLAT,
        dense("encode", "num_output: 6", W),
        dense("decode", "num_output: 6 transpose: true", W, bottom="encode"),
    ),
    "statistics and all": (
        IMAGE,
        *tower("b1", "s1", (*STATISTICS, W, B)),
        *tower("b2", "s2", (*STATISTICS, W, B)),
    ),
    "only the scale": (
        IMAGE,
        *tower("b1", "s1", ("", "", "", W, B)),
        *tower("b2", "s2", ("", "", "", W, B)),
    ),
    "only the statistics": (
        IMAGE,
        *tower("b1", "s1", (*STATISTICS, "", "")),
        *tower("b2", "s2", (*STATISTICS, "", "")),
    ),
    "rows in another order": (
        IMAGE,
        layer("id", "Power", "power_param { scale: 2 }"),
        dense("encode", "num_output: 3", W, bottom="id"),
        layer("flat", "Flatten", ""),
        dense("again", "num_output: 3 bias_term: false", W, bottom="flat"),
        layer("shift", "Power", "power_param { shift: 2 }", bottom="encode"),
        dense("decode", "num_output: 60 transpose: true", W, bottom="shift"),
    ),
    "permissive": (
        IMAGE,
        conv("zz", "num_output: 3 kernel_size: 1", W),
        layer("pool", "Pooling", "pooling_param { global_pooling: true }"),
        dense("aa", "num_output: 3", LOOSE, bottom="pool"),
    ),
    "permissive, other factors": (
        data(2, 6, 4, 4),
        conv("zz", "num_output: 3 kernel_size: 2", W),
        layer("pool", "Pooling", "pooling_param { global_pooling: true }"),
        dense("aa", "num_output: 12", LOOSE, bottom="pool"),
    ),
    "a learned blob": (
        FLAT,
        "layer { name: 'p' type: 'Parameter' top: 'p' param { name: 'w' } "
        "parameter_param { shape { dim: 3 dim: 6 } } }",
        dense("aa", "num_output: 3", W),
    ),
}


def text(name: str) -> str:
    return "\n".join(NETS[name])


def entry(name: str, *blobs: np.ndarray) -> bytes:
    """A layer of a weights file."""
    encoded = (
        wire.dims(*blob.shape) + wire.chunk(5, wire.floats(*blob.ravel()))
        for blob in blobs
    )
    return wire.layer(*encoded, name=name)


def weighted(name: str, path: Path) -> caffe2flax.Conversion:
    """The net with random weights from a file with the blobs of all layers."""
    graph = caffe2flax.convert(text(name)).graph
    rng = np.random.default_rng(0)
    layers = (
        entry(name, *(np.abs(rng.standard_normal(w.shape)) for w in slots))
        for name, slots in graph.layer_weights.items()
        if slots
    )
    path.write_bytes(b"".join(layers))
    return caffe2flax.convert(text(name), path)


@pytest.mark.parametrize("name", NETS, ids=list(NETS))
def test_one_parameter(name: str, tmp_path: Path) -> None:
    """Values as in the reference, through a written module; every parameter once, under
    names that agree; training keeps it so."""
    conversion = weighted(name, tmp_path / "net.caffemodel")
    model = imported(conversion, tmp_path)
    assert conversion.weights is not None
    state = nnx.to_flat_state(nnx.state(model))
    held = {".".join(map(str, key)): value[...] for key, value in state}
    assert held.keys() == conversion.weights.keys()
    shared = {w: None for node in conversion.graph.nodes for w in node.weights}
    # BatchNorm's factor, of one element, goes into the others.
    sizes = [np.prod(w.shape) for w in shared]
    assert sum(x.size for x in held.values()) == sum(n for n in sizes if n > 1)

    graph = conversion.graph
    shape = graph.shapes[graph.arguments[0]]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    wanted = reference.evaluate(graph, conversion.blobs, {"data": x})
    moved = jnp.asarray(x.transpose(graph.layouts[graph.arguments[0]].axes))

    def outputs(model: Any, x: jax.Array) -> dict[str, jax.Array]:
        found = model(x)
        return found if isinstance(found, dict) else {graph.outputs[0].blob: found}

    compare(graph, jax.jit(outputs)(model, moved), wanted)

    def loss(model: Any) -> jax.Array:
        return sum(jnp.sum(y**2) for y in outputs(model, moved).values())

    own = {".".join(map(str, k)) for k, _ in nnx.to_flat_state(parameters(model))}
    for gradient in (jax.grad(loss)(model), nnx.grad(loss)(model)):
        flat = nnx.to_flat_state(parameters(gradient))
        assert {".".join(map(str, key)) for key, _ in flat} == own
    optimizer = nnx.Optimizer(model, optax.sgd(1e-3), wrt=nnx.Param)
    optimizer.update(model, nnx.grad(loss)(model))
    trained = {".".join(map(str, k)): v for k, v in nnx.to_flat_state(nnx.state(model))}
    assert trained.keys() == held.keys()
    assert any(bool((trained[key][...] != held[key]).any()) for key in held)


def parameters(model: Any) -> Any:
    return nnx.state(model, nnx.Param)


def imported(conversion: caffe2flax.Conversion, folder: Path) -> Any:
    """The module as its user gets it."""
    source, _ = conversion.write(folder)
    spec = importlib.util.spec_from_file_location(source.stem, source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, conversion.name).from_pretrained()


def compare(graph: Any, ours: dict[str, jax.Array], wanted: Any) -> None:
    for value in graph.outputs:
        axes = np.argsort(graph.layouts[value].axes)
        found = np.asarray(ours[value.blob]).transpose(axes)
        np.testing.assert_allclose(found, wanted[value], rtol=1e-4, atol=1e-4)


AXES = st.permutations(range(4))
CUT = st.integers(0, 4)


@given(st.tuples(*[st.integers(1, 4)] * 4), AXES, AXES, CUT, CUT, st.booleans())
def test_rearrangements(
    dims: tuple[int, ...],
    first: list[int],
    second: list[int],
    a: int,
    b: int,
    turned: bool,
) -> None:
    """Whatever a reshape, a transpose and a reshape do is found again, also where both
    variables are turned around."""
    blob = np.arange(np.prod(dims), dtype=np.float32)
    split = blob.reshape(dims)
    if turned:
        split = split[:, ::-1]
    variables = []
    for axes, cut in ((first, a), (second, b)):
        view = split.transpose(axes)
        kept = view.shape[:cut]
        variables.append(Merged(view, (*kept, view.size // int(np.prod(kept)))))
    source, target = (view_of(variable, [blob]) for variable in variables)
    assert source is not None
    assert target is not None
    assert is_whole(source, blob.size)
    assert is_whole(target, blob.size)
    view = rearrangement(source, target)
    assert view is not None
    before, after = map(np.asarray, variables)
    assert np.array_equal(eval(f"before{view}", {"before": before}), after)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_rearrangements_by_the_blobs_own_order(a: int, b: int, c: int, d: int) -> None:
    """Of factors that do not divide one another."""
    blob = np.arange(a * b * c * d, dtype=np.float32)
    before = blob.reshape(a * b, c * d).T
    after = blob.reshape(a * c, b * d).T
    source, target = view_of(before, [blob]), view_of(after, [blob])
    assert source is not None
    assert target is not None
    view = rearrangement(source, target)
    assert view is not None
    assert np.array_equal(eval(f"before{view}", {"before": before}), after)


def test_what_no_view_can_give() -> None:
    blob = np.arange(7, dtype=np.float32)
    straight, turned = view_of(blob, [blob]), view_of(blob[::-1], [blob])
    assert straight is not None
    assert turned is not None
    assert rearrangement(straight, turned) is None
    assert rearrangement(turned, straight) is None
    assert view_of(blob[[0, 2, 1, 3, 4, 5, 6]], [blob]) is None
    for part in (blob[1:], blob[:6], blob[::2], np.broadcast_to(blob[:1], 7)):
        view = view_of(part, [blob])
        assert view is not None
        assert not is_whole(view, blob.size)


def test_copies_can_be_shared_with_their_equals(tmp_path: Path) -> None:
    """Rows that follow two flattened blobs are no view of Caffe's, but the same copy in
    both layers."""
    branches = [
        layer(name, "Flatten", "", bottom=bottom)
        for name, bottom in (("f1", "p1"), ("f2", "p2"))
    ]
    joined = (
        "layer { name: 'join' type: 'Concat' bottom: 'f1' bottom: 'f2' top: 'join' }"
    )
    NETS["two rows"] = (
        IMAGE,
        conv("p1", "num_output: 2 kernel_size: 1"),
        conv("p2", "num_output: 3 kernel_size: 1"),
        *branches,
        joined,
        dense("zz", "num_output: 3 bias_term: false", W, bottom="join"),
        dense("aa", "num_output: 3", W, bottom="join"),
    )
    try:
        made = weighted("two rows", tmp_path / "net.caffemodel")
        assert made.weights is not None
        assert [name for name in made.weights if "zz" in name or "aa" in name] == [
            "zz.kernel",
            "aa.bias",
        ]
        test_one_parameter("two rows", tmp_path)
    finally:
        del NETS["two rows"]


LARGE = (
    data(1, 512, 7, 7),
    dense("x", "num_output: 4096", W, B),
    layer("half", "Power", "power_param { scale: 2 }"),
    dense("y", "num_output: 4096", W, B, bottom="half"),
    dense("z", "num_output: 4096 bias_term: false", W, bottom="half"),
)


def test_large_sharers_cost_nothing() -> None:
    """10^8 weights, of which none is looked at."""
    code = (
        "import re, sys, time, caffe2flax\n"
        "begin = time.process_time()\n"
        "source = caffe2flax.convert(sys.argv[1]).source\n"
        "assert source.count('self.x.kernel[...]') == 1, source\n"
        "used = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())\n"
        "print(time.process_time() - begin, used[1])"
    )
    command = [sys.executable, "-c", code, "\n".join(LARGE)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, kilobytes = map(float, printed.stdout.split())
    assert seconds < 3
    assert kilobytes < 200_000, "the blob alone takes 400 MB"


REFUSED = {
    "another shape": (
        (
            FLAT,
            dense("a", "num_output: 3", W),
            dense("b", "num_output: 4", W),
        ),
        "its shape is (3, 6), not (4, 6)",
    ),
    "another count, permissive": (
        (
            FLAT,
            dense("a", "num_output: 3", LOOSE),
            dense("b", "num_output: 4", LOOSE),
        ),
        "its shape is (3, 6), not (4, 6)",
    ),
    "another learning rate": (
        (
            FLAT,
            dense("a", "num_output: 3", "name: 'w' lr_mult: 1"),
            dense("b", "num_output: 3", "name: 'w'"),
            dense("c", "num_output: 3", "name: 'w' lr_mult: 2"),
        ),
        "lr_mult 1.0 elsewhere, not 2.0",
    ),
    "another weight decay": (
        (
            FLAT,
            dense("a", "num_output: 3", "name: 'w'"),
            dense("b", "num_output: 3", "name: 'w' decay_mult: 0"),
            dense("c", "num_output: 3", "name: 'w' decay_mult: 1"),
        ),
        "decay_mult 0.0 elsewhere, not 1.0",
    ),
    "statistics with another eps": (
        (
            IMAGE,
            layer("a", "BatchNorm", "", *STATISTICS),
            layer("b", "BatchNorm", "batch_norm_param { eps: 1 }", *STATISTICS),
        ),
        "layer 'b' shares its blob 0 with layer 'a', but a BatchNorm layer can share",
    ),
    "more than there are": (
        (FLAT, dense("a", "num_output: 3 bias_term: false", W, B)),
        "2 param messages for 1 weight blobs",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    layers, message = REFUSED[name]
    with pytest.raises(caffe2flax.ConversionError) as refused:
        caffe2flax.convert("\n".join(layers))
    assert message in str(refused.value)
    assert all(problem.line for problem in refused.value.problems)


def test_the_last_of_the_sharers_wins(tmp_path: Path) -> None:
    """As Caffe loads: one blob, whichever entries of the file there are."""
    net = "\n".join(
        (
            FLAT,
            dense("a", "num_output: 3 bias_term: false", W),
            dense("b", "num_output: 3 bias_term: false", W),
        )
    )
    first, last = (np.full((3, 6), x, np.float32) for x in (1, 2))
    path = tmp_path / "net.caffemodel"
    for entries, wanted in (
        ({"a": first, "b": last}, last),
        ({"b": last, "a": first}, first),
        ({"a": first}, first),
        ({"b": last}, last),
    ):
        path.write_bytes(b"".join(entry(*item) for item in entries.items()))
        weights = caffe2flax.convert(net, path).weights
        assert weights is not None
        assert [*weights] == ["a.kernel"]
        assert np.array_equal(weights["a.kernel"], wanted.T)
