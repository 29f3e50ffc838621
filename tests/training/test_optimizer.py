"""The update of a solver: its text, and cases that no trajectory has."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caffe2flax import convert, read_solver
from caffe2flax.training.library.moments import last_update
from caffe2flax.training.optimizer import (
    optimizer,
    optimizer_source,
    parameter_multipliers,
)
from tests.golden import FIXTURES

GROUPS = {"a.kernel": (1.0, 1.0), "a.bias": (2.0, 0.0), "b.kernel": (0.0, 1.0)}
WEIGHTS = {"a": {"kernel": [1.0, -2.0], "bias": [0.5]}, "b": {"kernel": [3.0]}}


@pytest.fixture(autouse=True)
def standard() -> Iterator[None]:
    """As training scripts run."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def update(text: str, gradients: list[Any], groups: Any = GROUPS) -> Any:
    """The weights after the gradients, each a number for all weights."""
    solver = read_solver(f'net: "n" lr_policy: "fixed" base_lr: 1 {text}')
    made = optimizer(solver, groups)
    leaf = lambda x: isinstance(x, list)  # noqa: E731
    weights = jax.tree.map(lambda w: jnp.array(w, jnp.float32), WEIGHTS, is_leaf=leaf)
    state = made.init(weights)
    for gradient in gradients:
        every = jax.tree.map(lambda w, g=gradient: jnp.full_like(w, g), weights)
        updates, state = made.update(every, state, weights)
        weights = jax.tree.map(lambda w, u: w + u, weights, updates)
    return jax.tree.map(np.asarray, weights)


def test_a_bound_of_zero_stops_all() -> None:
    for gradient in (0.0, 1.0):
        found = update("clip_gradients: 0", [gradient])
        np.testing.assert_array_equal(found["a"]["kernel"], [1, -2])


def test_the_norm_leaves_frozen_weights_out() -> None:
    found = update("clip_gradients: 1", [1.0])
    np.testing.assert_allclose(found["a"]["kernel"], [1 - 3**-0.5, -2 - 3**-0.5])
    np.testing.assert_array_equal(found["b"]["kernel"], [3])


def test_the_sum_of_several_passes_is_clipped() -> None:
    found = update("clip_gradients: 1 iter_size: 2", [1.0, 3.0])
    moved = 0.5 * 3**-0.5  # the sum clipped to norm 1, divided by the passes
    np.testing.assert_allclose(found["a"]["kernel"], [1 - moved, -2 - moved], rtol=1e-6)


def test_l1_decay_of_zero_is_zero() -> None:
    found = update('weight_decay: 0.25 regularization_type: "L1"', [0.0])
    np.testing.assert_array_equal(found["a"]["kernel"], [0.75, -1.75])
    np.testing.assert_array_equal(found["a"]["bias"], [0.5])


def test_adam_without_moments() -> None:
    """The corrections of beta 0 are 1."""
    found = update('type: "Adam" momentum2: 0 delta: 1', [3.0])
    np.testing.assert_allclose(found["a"]["kernel"], [1 - 3 / 4, -2 - 3 / 4])


def test_the_last_update_is_kept_for_snapshots_with_diffs() -> None:
    solver = read_solver(
        'net: "n" lr_policy: "fixed" base_lr: 1 momentum: 0.9 type: "Nesterov" '
        "snapshot_diff: true iter_size: 2 clip_gradients: 9"
    )
    made = optimizer(solver, {"a": (1.0, 1.0), "b": (0.0, 1.0)})
    weights = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([3.0])}
    state = made.init(weights)
    for gradient in (1.0, 2.0):
        every = jax.tree.map(lambda w, g=gradient: jnp.full_like(w, g), weights)
        updates, state = made.update(every, state, weights)
    kept = last_update(SimpleNamespace(opt_state=state))
    assert kept["a"].all()
    for name, update in updates.items():
        np.testing.assert_array_equal(kept[name], 0 - update)


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "AdaDelta", "Adam"])
def test_frozen_weights_stay(kind: str) -> None:
    found = update(f'type: "{kind}" momentum: 0.9 weight_decay: 0.1', [1.0, 2.0])
    np.testing.assert_array_equal(found["b"]["kernel"], [3])
    assert (found["a"]["kernel"] < [1, -2]).all()


def test_multipliers_are_grouped_by_patterns() -> None:
    groups = {
        f"{layer}.{kind}": pair
        for layer in ("c1", "c2", "c3")
        for kind, pair in {"kernel": (1.0, 1.0), "bias": (2.0, 0.0)}.items()
    }
    groups |= {"c1.kernel": (0.0, 0.0), "c1.bias": (0.0, 0.0), "c3.bias": (20.0, 0.0)}
    solver = read_solver('net: "n" lr_policy: "fixed"')
    text = optimizer_source(solver, groups, freeze=["d*"])
    names: dict[str, Any] = {}
    exec(text[: text.index("\n\n")], names)
    assert names["MULTIPLIERS"] == {
        "d*": (0, 0),
        "c1.*": (0, 0),
        "c3.bias": (20, 0),
        "*.bias": (2, 0),
        "*": (1, 1),
    }


def test_statistics_of_batchnorm_are_no_parameters() -> None:
    net = FIXTURES / "solver/bn_scale_mom_l2.net.prototxt"
    found = parameter_multipliers(convert(net, phase="TRAIN"))
    assert "bn1.mean" not in found
    assert found["sc1.scale"] == (1, 1)


def test_the_text_reads_like_an_example() -> None:
    solver = read_solver(
        'net: "n" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005'
    )
    assert (
        optimizer_source(solver, {"a.kernel": (1, 1), "a.bias": (2, 0)})
        == '''\
MULTIPLIERS = {  # lr_mult, decay_mult: those of the first pattern that fits
    "*.bias": (2, 0),
    "*": (1, 1),
}


def make_optimizer(rate=learning_rate):
    """SGD as in Caffe; its state is that of a snapshot."""

    def sgd(lr_mult, decay_mult):
        if lr_mult == 0:
            return optax.set_to_zero()
        return optax.chain(
            optax.add_decayed_weights(0.0005 * decay_mult),
            optax.scale_by_schedule(lambda i: lr_mult * rate(i)),  # before the momentum
            optax.trace(0.9),
            optax.scale(-1),
        )

    return by_multipliers(sgd, MULTIPLIERS)
'''
    )
