"""The learning rate as Python text: one text for training scripts and for the API."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe2flax.training.parameter import SolverParameter

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike

COUNTED = ("step", "multistep")
"""The policies in which Caffe counts steps, in current_step of its solver states."""

_MULTISTEP = '''
STEPVALUE = {stepvalue}


def current_step(i, start=0, step=0):
    """How many of STEPVALUE have passed at iteration i: at most one more an iteration,
    in the order written. `start` and `step` are those of a snapshot to go on from."""
    for value in STEPVALUE[step:]:
        start = max(value, start)
        step = step + (i >= start)
        start = start + 1
    return step


def learning_rate(i, start=0, step=0):
    """lr_policy "multistep"."""
    return {base_lr} * {gamma} ** current_step(i, start, step)
'''
_STEP = '''
def current_step(i):
    """How many steps of the learning rate have passed at iteration i."""
    return i // {stepsize}


def learning_rate(i):
    """lr_policy "step"."""
    return {base_lr} * {gamma} ** current_step(i)
'''
_FORMULA = '''
def learning_rate(i):
    """lr_policy "{lr_policy}"."""
    return {formula}
'''
_FORMULAS = {
    "fixed": "{base_lr}",
    # float32 as in Caffe: i may be large.
    "exp": "{base_lr} * np.float32({gamma}) ** i",
    "inv": "{base_lr} * (1.0 + {gamma} * i) ** -{power}",
    # Whole numbers are subtracted: 1 - i / max_iter loses digits at the end.
    "poly": "{base_lr} * jnp.maximum(({max_iter} - i) / {max_iter}, 0) ** {power}",
    "sigmoid": "{base_lr} / (1 + jnp.exp(-{gamma} * (i - {stepsize})))",
}


def number(value: float) -> str:
    """Python text with the fewest digits that are `value` in float32."""
    if not np.isfinite(value):
        return f'float("{value}")'
    if value == int(value) and abs(value) < 2**24:
        return str(int(value))
    return repr(float(str(np.float32(value))))


def learning_rate_source(solver: SolverParameter) -> str:
    """The text of `def learning_rate(i)`: the rate of the update after i others, for
    an int or an array; it may use `jnp` and `np`.

    For the policies in COUNTED there is `def current_step(i)`, too: the current_step of
    a snapshot after update i. With "multistep" both take `start` and `step`, the
    iteration and the current_step of a snapshot that the run goes on from.
    """
    texts = {name: number(getattr(solver, name)) for name in ("base_lr", "power")}
    gamma = number(solver.gamma)
    if solver.lr_policy in COUNTED and gamma.isdigit():
        gamma += ".0"  # a power of whole numbers would overflow
    texts["gamma"] = gamma
    names = {
        "stepsize": solver.stepsize,
        "max_iter": solver.max_iter,
        "lr_policy": solver.lr_policy,
        "stepvalue": solver.stepvalue,
    }
    known = {**texts, **names}
    if solver.lr_policy == "multistep":
        return _MULTISTEP.format(**known).strip() + "\n"
    if solver.lr_policy == "step":
        return _STEP.format(**known).strip() + "\n"
    formula = _FORMULAS[solver.lr_policy].format(**known)
    return _FORMULA.format(formula=formula, **known).strip() + "\n"


@cache
def rate_functions(source: str) -> dict[str, Callable[..., Any]]:
    """The functions of `learning_rate_source`."""
    import jax.numpy as jnp

    names: dict[str, Any] = {"jnp": jnp, "np": np}
    exec(compile(source, "<learning_rate>", "exec"), names)
    return names


def learning_rate(
    solver: SolverParameter, i: ArrayLike, start: int, step: int
) -> Array:
    """The rate of the update after i others, float32."""
    import jax.numpy as jnp

    function = rate_functions(learning_rate_source(solver))["learning_rate"]
    restored = (start, step) if solver.lr_policy == "multistep" else ()
    return jnp.asarray(function(jnp.asarray(i), *restored), jnp.float32)


def current_step(solver: SolverParameter, updates: int, start: int, step: int) -> int:
    """Caffe's count of steps after so many updates, those before `start` included."""
    if updates <= start or solver.lr_policy not in COUNTED:
        return step
    function = rate_functions(learning_rate_source(solver))["current_step"]
    restored = (start, step) if solver.lr_policy == "multistep" else ()
    return int(function(updates - 1, *restored))
