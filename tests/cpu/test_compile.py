"""What compile accepts, where it calls the plain function, and its errors."""

from __future__ import annotations

import copy
import functools
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array, lax
from jax.experimental import io_callback

import caffe2flax
from caffe2flax.cpu import ChangingModelError, MismatchError, onednn, rewrites
from caffe2flax.cpu import compiled as compiled_module
from tests.cpu.common import distance, filled, numbers, same


class Net(nnx.Module):
    """x (N, 12, 12, 4) -> (N, 5)."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(4, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.fc = nnx.Linear(6, 5, rngs=rngs)

    def __call__(self, x: Array, scale: Any = 1.0) -> Array:
        return nnx.softmax(self.logits(x)) * scale

    def logits(self, x: Array) -> Array:
        y = nnx.relu(self.norm(self.conv(x)))
        y = nnx.max_pool(y, (2, 2), (2, 2)).max((1, 2))
        return self.fc(self.drop(y))


X = numbers(2, 12, 12, 4)


@pytest.fixture
def net() -> Net:
    made: Net = filled(Net)
    return made


def is_plain(forward: Any, *inputs: Any) -> str:
    """Why the plain function is called."""
    said: str = forward.explain(*inputs)
    head, _, reason = said.partition(": ")
    assert head == "jax.jit of the plain function"
    assert "\n" not in reason
    return reason


def test_modules_methods_and_functions(net: Net, tier: str) -> None:
    for model in (net, net.logits, lambda x: net(x) + 1, functools.partial(net, X)):
        inputs = () if isinstance(model, functools.partial) else (X,)
        said = same(model, *inputs).explain(*inputs)
        if inputs:
            assert "convolution with what follows" in said


def test_trees(tier: str) -> None:
    w = jnp.asarray(numbers(4, 3))

    def model(inputs: dict[str, Any], *, more: tuple[Any, ...]) -> dict[str, Any]:
        a, b = inputs["a"] @ w, more[0] @ w
        return {"sum": a + b, "both": [a, b], "none": None, "w": w, "same": more[0]}

    forward = caffe2flax.compile(model)
    given = {"a": numbers(2, 4), "b": None}
    more = (jnp.asarray(numbers(2, 4, seed=1)), 3)
    ours = forward(given, more=more)
    assert distance(ours, jax.jit(model)(given, more=more)) <= 2e-5
    assert forward.explain(given, more=more).count("dense layer") == 2


@pytest.mark.parametrize("number", [2, 2.5, True, np.float32(2), np.int32(3), 1 + 2j])
def test_numbers_are_inputs(number: Any) -> None:
    for model in (lambda x, n: x * n, lambda x, n: n):
        with jax.numpy_dtype_promotion("standard"):
            plain = jax.jit(model)(X, number)
            ours = caffe2flax.compile(model)(X, number)
        assert ours.weak_type == plain.weak_type
        assert distance(ours, plain) <= 2e-5


def said(error: Exception) -> str:
    """The first line of an error's message, without the name of the function."""
    line = str(error).splitlines()[0]
    return re.escape(line.partition("argument to")[0])


@pytest.mark.parametrize(
    "wrong",
    [
        np.float32(1),
        numbers(12),
        numbers(12, 12),
        numbers(2, 12, 12),
        numbers(2, 12, 12, 4, 1),
        numbers(2, 12, 12, 3),
        numbers(2, 12, 12, 8),
        numbers(2, 12, 12, 1),
        numbers(2, 4, 12, 12),
        "image",
        [["image"]],
        np.array(["image"]),
        np.array([None]),
        None,
        object(),
    ],
    ids=lambda x: str(getattr(x, "shape", type(x).__name__)),
)
def test_what_the_plain_model_refuses(wrong: Any, net: Net, tier: str) -> None:
    forward = caffe2flax.compile(net)
    try:
        plain = jax.jit(net)(wrong)
    except Exception as error:
        for _ in range(2):
            with pytest.raises(type(error), match=said(error)):
                forward(wrong)
    else:
        assert distance(forward(wrong), plain) <= 2e-5


@pytest.mark.parametrize(
    "dtype", ["int32", "int8", "bool", "float16", "bfloat16", "float64", "complex64"]
)
def test_other_types(dtype: str, net: Net, tier: str) -> None:
    x = (X * 3).astype(jnp.dtype(dtype))
    forward = caffe2flax.compile(net)
    with jax.numpy_dtype_promotion("standard"):
        try:
            plain = jax.jit(net)(x)
        except Exception as error:
            with pytest.raises(type(error)):
                forward(x)
        else:
            assert distance(forward(x), plain) <= 2e-5


@pytest.mark.parametrize("shape", [(0, 12, 12, 4), (2, 0, 12, 4), (2, 1, 1, 4)])
def test_empty(shape: tuple[int, ...], net: Net, tier: str) -> None:
    model = nnx.Conv(4, 6, (3, 3), rngs=nnx.Rngs(0))
    same(model, numbers(*shape))
    if shape[1] == 12:
        same(net, numbers(*shape))


def test_bfloat16_stays_as_it_is(tier: str) -> None:
    rngs = nnx.Rngs(0)
    model = nnx.Conv(4, 6, (3, 3), rngs=rngs, dtype=jnp.bfloat16)
    assert "oneDNN" not in same(model, X).explain(X)
    model = nnx.Conv(4, 6, (3, 3), rngs=rngs, param_dtype=jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):
        assert distance(caffe2flax.compile(model)(X), jax.jit(model)(X)) <= 2e-5


def test_weights_are_those_of_the_time_of_compile(net: Net) -> None:
    before = np.asarray(net(X))
    forward = caffe2flax.compile(net)
    net.fc.kernel[...] = net.fc.kernel[...] * 2
    assert distance(forward(X), before) <= 2e-5
    assert distance(forward(X[:1]), before[:1]) <= 2e-5
    assert distance(caffe2flax.compile(net)(X), np.asarray(net(X))) <= 2e-5


def test_training_mode(tier: str) -> None:
    model = Net()
    for forward in (
        caffe2flax.compile(model),
        caffe2flax.compile(lambda x: model(x)),
        caffe2flax.compile(model.logits),
    ):
        for _ in range(2):
            with pytest.raises(ChangingModelError, match=r"model\.eval\(\)"):
                forward(X)
    with pytest.raises(ChangingModelError, match=r"norm\.mean"):
        caffe2flax.compile(model)(X)
    drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    with pytest.raises(ChangingModelError, match="count"):
        caffe2flax.compile(drop)(X)
    with pytest.raises(ChangingModelError, match=r"model\.eval\(\)"):
        caffe2flax.compile(drop).explain(X)
    model.eval()
    same(model, X)


class Noting(nnx.Module):
    def __call__(self, x: Array) -> Array:
        self.seen = nnx.Intermediate(x)
        return x + 1


def test_a_model_that_notes() -> None:
    with pytest.raises(ChangingModelError, match="seen"):
        caffe2flax.compile(Noting())(X)


class Shared(nnx.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        self.first = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.second = self.first

    def __call__(self, x: Array) -> Array:
        return self.second(nnx.relu(self.first(x)))


def test_shared_layers(tier: str) -> None:
    forward = same(Shared(), X)
    assert len(forward._source.weights) == 2
    assert len(forward._prepared) == 2


def test_random_functions(tier: str) -> None:
    def model(key: Array, x: Array) -> Array:
        return x + jax.random.normal(key, x.shape) + jax.random.normal(KEY, x.shape)

    forward = same(model, jax.random.key(1), X)
    assert "random_bits" in forward.explain(jax.random.key(1), X)
    same(model, jax.random.PRNGKey(1), X)
    assert distance(forward(jax.random.key(1), X), forward(jax.random.key(2), X)) > 0.1


KEY = jax.random.key(7)


def loops(x: Array) -> Any:
    w = jnp.asarray(numbers(4, 4)) / 4
    y = lax.scan(lambda c, _: (jnp.sin(c @ w), c.sum()), x, length=3)
    z = lax.while_loop(lambda c: c.sum() < 9, lambda c: c + 1, y[0])
    return y, z, lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x)


@jax.custom_vjp
def twice(x: Array) -> Array:
    return x * 2


twice.defvjp(lambda x: (x * 2, None), lambda _, g: (g * 2,))


def derivatives(x: Array) -> Any:
    conv = nnx.Conv(4, 6, (3, 3), strides=2, rngs=nnx.Rngs(0))

    def loss(x: Array) -> Array:
        y = nnx.max_pool(nnx.relu(conv(x)), (2, 2), (2, 2))
        return jnp.square(twice(y)).sum()

    return jax.grad(loss)(x), jax.vjp(loss, x)[0], jax.vmap(loss)(x[:, None])


def unusual(x: Array) -> Any:
    y = jax.checkpoint(jnp.sin)(x)
    z = jnp.linalg.svd(x[0, 0], full_matrices=False)
    return y, z[1], jnp.fft.fft(x), jnp.sort(x), jnp.argmax(x, -1), x.at[0].add(1)


def calls_back(x: Array) -> Array:
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    y: Array = jax.pure_callback(np.sin, shape, x, vmap_method="sequential")
    return y


@pytest.mark.parametrize(
    "model", [loops, derivatives, unusual, calls_back], ids=lambda f: f.__name__
)
def test_anything_inside(model: Callable[..., Any], tier: str) -> None:
    same(model, X)


def test_side_effects(tier: str) -> None:
    seen: list[Any] = []

    def printing(x: Array) -> Array:
        jax.debug.callback(lambda n: seen.append(("debug", float(n))), x.sum())
        return x + 1

    def writing(x: Array) -> Array:
        io_callback(lambda n: seen.append(1), None, x.sum(), ordered=True)
        io_callback(lambda n: seen.append(2), None, x.sum(), ordered=True)
        return x + 1

    for model in (printing, writing):
        forward = caffe2flax.compile(model)
        assert is_plain(forward, X) == "it has side effects"
        for count in (1, 2):
            seen.clear()
            jax.block_until_ready(forward(X))
            jax.effects_barrier()
            assert len(seen) == 3 - 2 * (model is printing) - (model is writing), count


def test_transformations(net: Net, tier: str) -> None:
    forward = caffe2flax.compile(net)
    for transform in (
        lambda f: jax.jit(f),
        lambda f: jax.vmap(lambda x: f(x[None])[0]),
        lambda f: jax.grad(lambda x: f(x)[0, 0]),
        lambda f: jax.jit(lambda x: f(x) + f(X)),
        lambda f: lambda x: jax.jvp(f, (x,), (x,)),
    ):
        ours, plain = transform(forward)(X), transform(jax.jit(net))(X)
        assert distance(ours, plain) <= 2e-5


def test_called_with_numbers_while_another_function_is_traced(net: Net) -> None:
    forward = caffe2flax.compile(net)

    @jax.jit
    def model(x: Array) -> Array:
        return x + forward(X).sum()

    assert np.isfinite(np.asarray(model(X))).all()
    assert distance(forward(X), jax.jit(net)(X)) <= 2e-5


def test_model_that_is_traced(net: Net) -> None:
    graphdef, state = nnx.split(net)

    @jax.jit
    def model(state: Any) -> Array:
        return caffe2flax.compile(nnx.merge(graphdef, state))(X)  # type: ignore[no-any-return]

    assert distance(model(state), net(X)) <= 2e-5


def test_export_with_a_symbolic_batch(net: Net) -> None:
    forward = caffe2flax.compile(net)
    (batch,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((batch, 12, 12, 4), jnp.float32)
    exported = jax.export.export(jax.jit(forward), platforms=("cpu", "cuda", "tpu"))
    program = exported(shape)
    assert "onednn" not in program.mlir_module()
    assert distance(program.call(X), jax.jit(net)(X)) <= 2e-5


@contextmanager
def cached(folder: Path) -> Iterator[None]:
    """JAX's persistent cache, in `folder`."""
    from jax.experimental.compilation_cache import compilation_cache

    names = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in names.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def test_persistent_cache(net: Net, tmp_path: Path) -> None:
    forward = caffe2flax.compile(net)
    plain = jax.jit(net)(X)
    forward(X)
    with cached(tmp_path):
        for fresh in (forward, caffe2flax.compile(net)):
            assert distance(fresh(X), plain) <= 2e-5
            assert "oneDNN" not in fresh.explain(X)
            assert "convolution with what follows" in fresh.explain(X)
    assert list(tmp_path.iterdir())


SETTINGS: list[Callable[[], Any]] = [
    jax.disable_jit,
    lambda: jax.debug_nans(True),
    lambda: jax.debug_infs(True),
    lambda: jax.enable_x64(True),
    lambda: jax.default_device(jax.devices()[0]),
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_that_want_the_plain_function(
    setting: Callable[[], Any], net: Net
) -> None:
    forward = caffe2flax.compile(net)
    forward(X)
    with setting():
        assert is_plain(forward, X).endswith("is set")
        assert distance(forward(X), jax.jit(net)(X)) <= 2e-5
    assert "convolution with what follows" in forward.explain(X)


def test_nans_are_found() -> None:
    forward = caffe2flax.compile(lambda x: jnp.log(x))
    assert np.isnan(np.asarray(forward(-(X[0] ** 2) - 1))).all()
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        forward(-(X[0] ** 2) - 1)


def test_double_precision(net: Net) -> None:
    with jax.enable_x64(True):
        w = jnp.asarray(numbers(4, 3), jnp.float64)
        x = np.float64(numbers(2, 4))
        y = caffe2flax.compile(lambda x: x @ w)(x)
        assert y.dtype == np.float64
        np.testing.assert_allclose(y, x @ np.asarray(w), rtol=1e-14)


@pytest.mark.parametrize("precision", ["highest", "high", "default", "float32"])
def test_precision(precision: str, net: Net, tier: str) -> None:
    forward = caffe2flax.compile(net)
    with jax.default_matmul_precision(precision):
        assert "convolution with what follows" in forward.explain(X)
        assert distance(forward(X), jax.jit(net)(X)) <= 2e-5


def test_settings_that_change_the_trace() -> None:
    """A program is compiled again for each."""
    forward = caffe2flax.compile(lambda x: x + jnp.arange(4, dtype=jnp.int8))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        forward(X)
    with pytest.raises(Exception, match="dtypes"):
        forward(X)
    wide = caffe2flax.compile(lambda x: x + jnp.arange(4, dtype=jnp.float32))
    with jax.numpy_rank_promotion("allow"):
        wide(X)
    with pytest.raises(ValueError, match="rank"):
        wide(X)


def test_programs_are_known_by_shapes_types_and_trees(net: Net) -> None:
    forward = caffe2flax.compile(net)
    for count, args in enumerate(
        [
            ((X,), {}),
            ((X[:1],), {}),
            ((X, 1.0), {}),
            ((X,), {"scale": 1.0}),
            ((X, np.float32(1)), {}),
            ((jnp.asarray(X),), {}),
        ]
    ):
        for _ in range(2):
            forward(*args[0], **args[1])
        assert len(forward._programs) == count + 1


def test_shapes_share_weights(net: Net, tier: str) -> None:
    forward = caffe2flax.compile(nnx.Linear(64, 80, rngs=nnx.Rngs(0)))
    forward(numbers(2, 64))
    held = dict(forward._prepared)
    assert len(held) == 2
    forward(numbers(5, 64))
    assert forward._prepared.keys() == held.keys()
    assert all(forward._prepared[key] is held[key] for key in held)


def test_arrays_of_a_function_that_are_made_anew() -> None:
    """Keys must differ from those of deleted arrays."""
    made = iter(range(100))

    def model(x: Array) -> Array:
        return x @ jnp.asarray(numbers(40, 30, seed=next(made)))

    forward = caffe2flax.compile(model)
    for rows in range(1, 9):
        x = numbers(rows, 40)
        ours = np.asarray(forward(x))
        seed = next(made) - 1
        np.testing.assert_allclose(ours, x @ numbers(40, 30, seed=seed), atol=1e-4)


def test_pickle(net: Net) -> None:
    forward = caffe2flax.compile(net)
    for way in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="pickle or save the model itself"):
            way(forward)


def test_what_cannot_be_called() -> None:
    with pytest.raises(TypeError, match="cannot be called"):
        caffe2flax.compile(3)  # type: ignore[arg-type]


def test_names(net: Net) -> None:
    assert repr(caffe2flax.compile(net)) == "<Net, compiled by caffe2flax>"
    assert "Net.logits" in repr(caffe2flax.compile(net.logits))


def test_check(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    same(net, X, check=True)

    def wrong(x: Array, **params: Any) -> Array:
        return right(x, **params) + np.float32(1e-3)

    right = rewrites.kernels.combined_windows
    monkeypatch.setattr(rewrites.kernels, "combined_windows", wrong)
    caffe2flax.compile(net)(X)
    forward = caffe2flax.compile(net, check=True)
    for _ in range(2):
        with pytest.raises(MismatchError, match="output 0 differs by"):
            forward(X)


@pytest.mark.parametrize(
    ("ours", "plain", "fits"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, 2.00003], [1.0, 2.0], True),
        ([1.0, 2.00005], [1.0, 2.0], False),
        ([np.nan, 2.0], [np.nan, 2.0], True),
        ([np.nan, 2.0], [1.0, 2.0], False),
        ([1.0, 2.0], [np.nan, 2.0], False),
        ([np.inf, 2.0], [np.inf, 2.0], True),
        ([-np.inf, 2.0], [np.inf, 2.0], False),
        ([], [], True),
        ([3], [4], False),
    ],
)
def test_compare(ours: list[Any], plain: list[Any], fits: bool) -> None:
    if fits:
        compiled_module.compare(np.array(ours), np.array(plain))
        return
    with pytest.raises(MismatchError):
        compiled_module.compare([np.array(ours)], [np.array(plain)])


def test_threads(net: Net, tier: str) -> None:
    forward = caffe2flax.compile(net)
    plain = jax.jit(net)(X)
    start = threading.Barrier(4)

    def run(_: int) -> Any:
        start.wait()
        return forward(X)

    with ThreadPoolExecutor(4) as pool:
        for ours in pool.map(run, range(4)):
            assert distance(ours, plain) <= 2e-5
    assert len(forward._programs) == 1


def test_nan_before_a_relu(tier: str) -> None:
    """It passes, as it does in jax.nn.relu, but where oneDNN computes the ReLU."""
    conv = nnx.Conv(4, 6, (3, 3), rngs=nnx.Rngs(0))
    x = X.copy()
    x[0, 5, 5, 0] = np.nan
    y = np.asarray(caffe2flax.compile(lambda x: nnx.relu(conv(x)))(x))
    around = y[0, 4:7, 4:7]
    assert (around == 0).all() if tier == "onednn" else np.isnan(around).all()


def test_onednn_is_asked_at_the_first_call(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = caffe2flax.compile(net)
    monkeypatch.setattr(onednn, "available", lambda what: False)
    assert "oneDNN" not in forward.explain(X)
