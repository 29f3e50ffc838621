"""Learning rates: the seven policies of Caffe."""

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from caffe2flax import read_solver
from caffe2flax.training.rates import learning_rate_source
from tests.golden import FIXTURES

RECORDED = [
    path
    for path in sorted((FIXTURES / "solver").glob("*.npz"))
    if "lr" in np.load(path).files
]


@pytest.fixture(autouse=True)
def standard() -> Iterator[None]:
    """As training scripts run."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_rates_are_those_that_caffe_printed(path: Path) -> None:
    solver = read_solver(path.with_suffix(".solver.prototxt"))
    recorded = np.load(path)
    rates = [solver.learning_rate(i) for i in range(20)]
    np.testing.assert_allclose(rates, recorded["lr"], rtol=5e-6)  # 6 digits
    if "current_step" in recorded.files:
        assert solver.current_step(20) == recorded["current_step"]
        assert solver.current_step(0) == 0


SOLVER = """net: "n" max_iter: 450000 base_lr: 0.01 lr_policy: "%s" gamma: %s power: %s
stepsize: 1000 stepvalue: 1000 stepvalue: 5000"""
BASE = np.float64(np.float32(0.01))

Formula = Callable[[np.ndarray, np.float64], np.ndarray]
FORMULAS: dict[tuple[str, float, float], Formula] = {
    ("fixed", 0, 0): lambda i, g: BASE + 0 * i,
    ("step", 0.96, 0): lambda i, g: BASE * g ** (i // 1000),
    ("step", 0, 0): lambda i, g: BASE * (i < 1000),
    ("exp", 0.99999, 0): lambda i, g: BASE * g**i,
    ("exp", 0, 0): lambda i, g: BASE * (i == 0),
    ("inv", 0.0001, 0.75): lambda i, g: BASE * (1 + g * i) ** -0.75,
    ("inv", 1, 2): lambda i, g: BASE * (1 + g * i) ** -2,
    ("multistep", 0.5, 0): lambda i, g: BASE * g ** (1.0 * (i >= 1000) + (i >= 5000)),
    ("poly", 0, 0.75): lambda i, g: BASE * (1 - i / 450000) ** 0.75,
    ("sigmoid", 0.001, 0): lambda i, g: BASE / (1 + np.exp(-g * (i - 1000))),
}


@pytest.mark.parametrize("policy", FORMULAS, ids=str)
def test_rates_are_the_formulas_in_long_runs(policy: tuple[str, float, float]) -> None:
    i = np.unique([*range(0, 450_000, 997), *range(990, 1010), 4999, 5000, 449_999])
    rates = jax.jit(read_solver(SOLVER % policy).learning_rate)(i)
    assert rates.dtype == np.float32
    wanted = FORMULAS[policy](i.astype(float), np.float64(np.float32(policy[1])))
    np.testing.assert_allclose(rates, wanted, rtol=3e-7, atol=1e-30)


def caffes_steps(stepvalue: list[int], start: int, step: int) -> list[int]:
    """current_step at iterations start, start + 1, ..., as Caffe counts it."""
    counted = []
    for i in range(start, 20):
        if step < len(stepvalue) and i >= stepvalue[step]:
            step += 1
        counted.append(step)
    return counted


@pytest.mark.parametrize("stepvalue", [[], [0], [4, 4, 4], [9, 4, 15], [3, 5, 11, 12]])
@pytest.mark.parametrize(("start", "step"), [(0, 0), (10, 0), (10, 2), (7, 4)])
def test_steps_go_on_from_a_snapshot(
    stepvalue: list[int], start: int, step: int
) -> None:
    text = (
        f'net: "n" base_lr: 1 lr_policy: "multistep" gamma: 0.5 stepvalue: {stepvalue}'
    )
    solver = read_solver(text)
    counted = caffes_steps(stepvalue, start, step)
    iterations = range(start, 20)
    found = [solver.current_step(i + 1, start, step) for i in iterations]
    assert found == counted
    rates = [solver.learning_rate(i, start, step) for i in iterations]
    np.testing.assert_array_equal(rates, [0.5**k for k in counted])
    assert solver.current_step(start, start, step) == step


def test_a_policy_without_steps_keeps_those_of_a_snapshot() -> None:
    solver = read_solver('net: "n" lr_policy: "fixed"')
    assert solver.current_step(20, 10, 3) == 3


def test_the_text_is_short() -> None:
    solver = read_solver('net: "n" base_lr: 0.01 lr_policy: "inv" gamma: 1e-4 power: 1')
    assert learning_rate_source(solver) == (
        "def learning_rate(i):\n"
        '    """lr_policy "inv"."""\n'
        "    return 0.01 * (1.0 + 0.0001 * i) ** -1\n"
    )
