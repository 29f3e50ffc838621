"""What Caffe's update rules need and optax lacks, as transformations of gradients."""

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array


def by_multipliers(
    rule: Callable[[float, float], optax.GradientTransformation],
    multipliers: Mapping[str, tuple[float, float]],
) -> optax.GradientTransformation:
    """`rule(lr_mult, decay_mult)` for each variable, with the multipliers of the first
    pattern that its path fits."""

    def label(path: tuple[Any, ...], _: Array) -> str:
        name = ".".join(str(part.key) for part in path if hasattr(part, "key"))
        return str(next(m for p, m in multipliers.items() if fnmatchcase(name, p)))

    rules = {str(pair): rule(*pair) for pair in multipliers.values()}
    return optax.partition(rules, lambda w: jax.tree.map_with_path(label, w))


class LastUpdate(NamedTuple):
    """What was added last to the variables."""

    diff: optax.Updates


def keep_last_update() -> optax.GradientTransformation:
    """Changes nothing; its state is the last update, for snapshots with diffs."""

    def update(
        updates: optax.Updates, state: LastUpdate, params: Any = None
    ) -> tuple[optax.Updates, LastUpdate]:
        return updates, LastUpdate(updates)

    return optax.GradientTransformation(
        lambda params: LastUpdate(jax.tree.map(jnp.zeros_like, params)), update
    )


def add_l1_decay(strength: float) -> optax.GradientTransformation:
    """g + strength * sign(w)."""

    def decayed(g: Array, w: Array) -> Array:
        return g + strength * jnp.sign(w)

    return optax.stateless(lambda g, w: jax.tree.map(decayed, g, w))


def scale_by_adagrad(delta: float) -> optax.GradientTransformation:
    """g / (sqrt(h) + delta), h the sum of all g^2; optax has delta inside of the
    root."""

    def init(params: optax.Params) -> optax.ScaleByRssState:
        return optax.ScaleByRssState(jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: optax.Updates, state: optax.ScaleByRssState, params: Any = None
    ) -> tuple[optax.Updates, optax.ScaleByRssState]:
        h = jax.tree.map(lambda h, g: h + g * g, state.sum_of_squares, updates)
        u = jax.tree.map(lambda g, h: g / (jnp.sqrt(h) + delta), updates, h)
        return u, optax.ScaleByRssState(h)

    return optax.GradientTransformation(init, update)


def scale_by_caffe_adam(
    b1: float, b2: float, delta: float
) -> optax.GradientTransformation:
    """sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + delta); optax adds delta to the
    corrected sqrt(v)."""

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        m, v = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), m, v)

    def rest(beta: float, t: Array) -> Array:
        """1 - beta^t, of which float32 would lose digits."""
        return -jnp.expm1(t * (math.log(beta) if beta else -math.inf))

    def update(
        updates: optax.Updates, state: optax.ScaleByAdamState, params: Any = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        t = state.count + 1
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        rate = jnp.sqrt(rest(b2, t)) / rest(b1, t)
        u = jax.tree.map(lambda m, v: rate * m / (jnp.sqrt(v) + delta), m, v)
        return u, optax.ScaleByAdamState(t, m, v)

    return optax.GradientTransformation(init, update)
