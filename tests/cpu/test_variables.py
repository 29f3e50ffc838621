"""Steps of training: functions of Flax objects and of trees of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import Array, lax

import caffe2flax
from caffe2flax.cpu import MismatchError
from tests.cpu.common import distance, filled, numbers


class Net(nnx.Module):
    """LeNet: x (N, 28, 28, 1) -> (N, 10)."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(1, 20, (5, 5), padding="VALID", rngs=rngs)
        self.conv2 = nnx.Conv(20, 50, (5, 5), padding="VALID", rngs=rngs)
        self.norm = nnx.BatchNorm(50, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.ip1 = nnx.Linear(800, 500, rngs=rngs)
        self.ip2 = nnx.Linear(500, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        pool1 = nnx.max_pool(self.conv1(x), (2, 2), (2, 2))
        pool2 = nnx.max_pool(self.norm(self.conv2(pool1)), (2, 2), (2, 2))
        ip1 = nnx.relu(self.ip1(lax.collapse(pool2, 1)))
        return self.ip2(self.drop(ip1))


def objects() -> tuple[Net, nnx.Optimizer[Net]]:
    model: Net = filled(Net)
    nnx.update(model, jax.tree.map(jnp.asarray, nnx.state(model)))
    model.train()
    return model, nnx.Optimizer(model, optax.sgd(0.01, 0.9), wrt=nnx.Param)


BATCH = {"x": numbers(8, 28, 28, 1), "y": np.arange(8, dtype=np.int32)}


def train_step(model: Net, optimizer: Any, batch: dict[str, Any]) -> Array:
    def loss(model: Net) -> Array:
        scores = model(batch["x"])
        each = optax.softmax_cross_entropy_with_integer_labels(scores, batch["y"])
        return each.mean()

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


def numbers_of(*things: Any) -> list[np.ndarray]:
    """All arrays, those of random keys too."""
    leaves = jax.tree.leaves([nnx.to_pure_dict(nnx.state(one)) for one in things])
    return [
        np.asarray(
            jax.random.key_data(x)
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
        )
        for x in leaves
    ]


def nearly_same(ours: list[np.ndarray], plain: list[np.ndarray]) -> bool:
    """A bias before BatchNorm has a gradient of rounding alone."""
    return all(
        np.allclose(a, b, rtol=1e-4, atol=1e-6)
        for a, b in zip(ours, plain, strict=True)
    )


def test_a_step(tier: str) -> None:
    """Weights, averages, momentum and random numbers as by nnx.jit."""
    donated = (0, 1) if tier == "onednn" else ()
    plain, compiled = objects(), objects()
    step = caffe2flax.compile(train_step, donate_argnums=donated)
    whole = nnx.jit(train_step)
    kernel = compiled[0].conv2.kernel[...]
    for _ in range(3):
        losses = step(*compiled, BATCH), whole(*plain, BATCH)
        np.testing.assert_allclose(*losses, rtol=1e-5)
    assert nearly_same(numbers_of(*compiled), numbers_of(*plain))
    assert kernel.is_deleted() == (donated != ())
    said = step.explain(*compiled, BATCH)
    assert said.count("maxima by shifted slices") == 2
    assert ("by oneDNN" in said) == (tier == "onednn")


def test_an_evaluation(tier: str) -> None:
    """Without a derivative: weights are inputs, too, and nothing changes."""
    model, _ = objects()
    model.eval()
    before = numbers_of(model)
    scores = caffe2flax.compile(lambda model, x: model(x))
    ours, plain = scores(model, BATCH["x"]), model(jnp.asarray(BATCH["x"]))
    assert distance(ours, plain) <= 2e-6
    assert all(map(np.array_equal, before, numbers_of(model)))
    assert ("oneDNN" in scores.explain(model, BATCH["x"])) == (tier == "onednn")


def test_training_and_evaluation_of_one_model() -> None:
    """Attributes of modules belong to what is compiled."""
    model, _ = objects()
    run = caffe2flax.compile(lambda model, x: model(x))
    first, second = run(model, BATCH["x"]), run(model, BATCH["x"])
    assert distance(first, second) > 0.01  # dropout draws anew
    model.eval()
    third, fourth = run(model, BATCH["x"]), run(model, BATCH["x"])
    assert distance(third, fourth) == 0
    assert len(run._steps) == 2


class Twice(nnx.Module):
    """One layer under two names, and an array that is no variable."""

    def __init__(self) -> None:
        self.first = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.second = self.first
        self.shift = nnx.data(jnp.ones(4))

    def __call__(self, x: Array) -> Array:
        return self.second(nnx.relu(self.first(x))) + self.shift[None]


def scale(model: Any, x: Array) -> Array:
    model.first.kernel[...] = model.second.kernel[...] * 2
    y: Array = model(x)
    return y


@pytest.mark.parametrize("donated", [(), 0])
def test_shared_variables(donated: Any) -> None:
    ours, plain = Twice(), Twice()
    x = numbers(3, 4)
    step = caffe2flax.compile(scale, donate_argnums=donated)
    for _ in range(2):
        assert distance(step(ours, x), nnx.jit(scale)(plain, x)) <= 2e-6
    assert ours.first is ours.second
    assert distance(ours.first.kernel[...], plain.second.kernel[...]) == 0
    both = caffe2flax.compile(lambda a, b, x: (scale(a, x), b(x)))
    y, z = both(ours, ours, x)
    assert distance(y, z) == 0
    assert not ours.shift.is_deleted()


def grow(model: Any, x: Array) -> Array:
    model.new = nnx.Param(x)
    return x + 1


def replace(model: Any, x: Array) -> Array:
    model.shift = x[0] * 2
    return x + 1


def give_back(model: Any, x: Array) -> Any:
    return {"model": model, "x": x}


@pytest.mark.parametrize("function", [grow, replace, give_back])
def test_more_than_values(function: Callable[..., Any]) -> None:
    """nnx.jit where a call changes attributes or returns variables."""
    ours, plain = Twice(), Twice()
    x = jnp.asarray(numbers(3, 4))
    step = caffe2flax.compile(function)
    y, z = step(ours, x), nnx.jit(function)(plain, x)
    if function is give_back:
        assert y["model"] is ours
        y, z = y["x"], z["x"]
    assert distance(y, z) == 0
    assert "nnx.jit" in step.explain(ours, x) or function is grow
    assert distance(numbers_of(ours), numbers_of(plain)) == 0


def test_objects_that_are_traced() -> None:
    step = caffe2flax.compile(scale)
    ours, plain = Twice(), Twice()
    x = numbers(3, 4)
    whole = nnx.jit(lambda model, x: step(model, x) + 1)
    assert distance(whole(ours, x), scale(plain, x) + 1) <= 2e-6
    assert distance(ours.first.kernel[...], plain.first.kernel[...]) == 0


def functional(params: Any, state: Any, x: Array, momentum: float) -> Any:
    """A step of trees of arrays."""

    def loss(params: Any) -> Array:
        y = lax.conv_general_dilated(
            x, params["w"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.square(nnx.relu(y) + params["b"][None, None, None]).mean()

    value, gradients = jax.value_and_grad(loss)(params)
    state = jax.tree.map(lambda s, g: momentum * s + g, state, gradients)
    params = jax.tree.map(lambda p, s: p - 0.1 * s, params, state)
    return params, state, value


def trees() -> tuple[Any, Any]:
    params = {"w": jnp.asarray(numbers(3, 3, 8, 16)), "b": jnp.zeros(16)}
    return params, jax.tree.map(jnp.zeros_like, params)


@pytest.mark.parametrize("donated", [(), (0, 1)])
def test_trees(donated: Any) -> None:
    x = numbers(2, 13, 13, 8)
    step = caffe2flax.compile(functional, donate_argnums=donated)
    ours, plain = trees(), trees()
    first = ours[0]["w"]
    for _ in range(3):
        *ours, value = step(*ours, x, 0.9)  # type: ignore[assignment]
        *plain, wanted = jax.jit(functional)(*plain, x, 0.9)  # type: ignore[assignment]
        assert distance([ours, value], [plain, wanted]) <= 2e-6
    assert first.is_deleted() == bool(donated)
    assert len(step._programs) == 1


def test_check() -> None:
    """Donated arrays are still there for the comparison."""
    x = numbers(2, 13, 13, 8)
    step = caffe2flax.compile(functional, donate_argnums=(0, 1), check=True)
    step(*trees(), x, 0.9)
    drawing = caffe2flax.compile(lambda model, x: model(x), check=True)
    model, _ = objects()
    drawing(model, BATCH["x"])
    assert issubclass(MismatchError, ArithmeticError)


def test_elsewhere() -> None:
    """The plain function under a mesh."""
    mesh = jax.make_mesh((1,), ("data",))
    step = caffe2flax.compile(scale)
    model, plain = Twice(), Twice()
    with jax.set_mesh(mesh):
        step(model, numbers(3, 4))
        assert "a mesh is set" in step.explain(model, numbers(3, 4))
    scale(plain, jnp.asarray(numbers(3, 4)))
    assert distance(numbers_of(model), numbers_of(plain)) == 0


def unknown(model: Any, x: Array) -> Any:
    """Loops, branches, sorts and factorizations inside the derivative."""

    def loss(model: Any) -> Array:
        y = model(x)
        y, _ = lax.scan(lambda c, _: (jnp.sin(c), None), y, length=3)
        y = lax.cond(y.sum() > 0, jnp.sin, jnp.cos, jnp.sort(y))
        return (
            jnp.linalg.norm(jnp.fft.fft(y))
            + jnp.linalg.slogdet(y.T @ y + jnp.eye(4))[1]
        )

    value, gradients = nnx.value_and_grad(loss)(model)
    model.first.kernel[...] -= 0.1 * gradients.first.kernel[...]
    return value


def test_primitives_without_a_rewrite() -> None:
    ours, plain = Twice(), Twice()
    x = numbers(5, 4)
    assert (
        distance(caffe2flax.compile(unknown)(ours, x), nnx.jit(unknown)(plain, x))
        <= 1e-5
    )
    assert distance(numbers_of(ours), numbers_of(plain)) <= 1e-5
