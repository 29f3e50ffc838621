"""Products and convolutions by oneDNN: right, or an error before it is called."""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from caffe2flax.cpu import onednn, probe
from tests.cpu import sweep

THINGS: tuple[probe.What, ...] = get_args(probe.What)
WINDOW: dict[str, Any] = {
    "strides": (1, 1),
    "padding": ((1, 1), (1, 1)),
    "rhs_dilation": (1, 1),
    "feature_group_count": 1,
}
PLAIN: dict[str, Any] = {"biased": False, "relu": False}


@pytest.fixture(autouse=True, scope="module")
def asked() -> None:
    """Results of `available` that tests replace are restored."""
    onednn.prepare().result()


@pytest.fixture
def called(request: pytest.FixtureRequest) -> None:
    missing = [what for what in THINGS if not onednn.available(what)]
    if missing:
        pytest.skip(f"by oneDNN not to be had here: {', '.join(missing)}")


@pytest.fixture
def asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_answer", None)


def numbers(*shape: int, seed: int = 0) -> Array:
    drawn = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return jnp.asarray(drawn)


@pytest.mark.usefixtures("called")
@pytest.mark.parametrize("first", range(0, 240, 80))
def test_random_convolutions(first: int) -> None:
    cases = [sweep.draw(0, i, convs_only=True) for i in range(first, first + 80)]
    for case, off in zip(cases, sweep.measure(cases, first), strict=True):
        assert off <= sweep.TOLERANCE, case


@pytest.mark.usefixtures("called")
@pytest.mark.parametrize("kind", ["product", "products", "packed"])
def test_random_products(kind: str) -> None:
    r = random.Random(kind)
    behind = [(True, 1, True), (False, 0, False), (True, 2, False), (False, 1, True)]
    cases = [
        sweep.Case(kind, None, sweep.draw_sizes(r), *behind[i % 4]) for i in range(60)
    ]
    if kind == "products":
        cases = [sweep.Case(kind, None, c.sizes, False, 0, False) for c in cases]
    for case, off in zip(cases, sweep.measure(cases, 0), strict=True):
        assert off <= sweep.TOLERANCE, case


FORMS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "a pixel": ((2, 9, 11, 5), (1, 1, 5, 7), {}),
    "a pixel with strides": ((2, 22, 21, 5), (1, 1, 5, 7), {"strides": (2, 3)}),
    "a pixel with padding": ((1, 9, 9, 3), (1, 1, 3, 4), {"padding": ((1, 1), (2, 0))}),
    "one number": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "a dense layer": ((4, 6, 6, 16), (6, 6, 16, 40), {}),
    "a row": ((2, 1, 1, 5), (1, 1, 5, 7), {}),
    "dilated": ((1, 23, 20, 3), (3, 3, 3, 8), {"rhs_dilation": (2, 3)}),
    "grouped": ((1, 13, 13, 8), (3, 3, 4, 6), {"feature_group_count": 2}),
    "depthwise": ((1, 29, 31, 32), (3, 3, 1, 32), {"feature_group_count": 32}),
    "multiplied": ((1, 29, 31, 32), (3, 3, 1, 64), {"feature_group_count": 32}),
    "a line": ((2, 130, 4), (3, 4, 6), {}),
    "frames": ((1, 6, 9, 9, 4), (3, 3, 3, 4, 6), {"strides": (1, 2, 2)}),
    "one column, stride 1": ((1, 9, 3, 1), (3, 3, 1, 8), {}),
    "one column of two channels": ((1, 9, 4, 2), (3, 3, 2, 8), {"strides": (1, 2)}),
}


def window_of(axes: int, given: dict[str, Any]) -> dict[str, Any]:
    usual = {
        "strides": (1,) * axes,
        "padding": ((0, 0),) * axes,
        "rhs_dilation": (1,) * axes,
        "feature_group_count": 1,
    }
    return usual | given


@pytest.mark.usefixtures("called")
@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    """Each with everything behind it."""
    x, kernel, given = FORMS[name]
    window = window_of(len(x) - 2, given)
    assert onednn.suits_conv(x, kernel, **window)
    form = onednn.form_of(x, kernel, **window)
    behind = [(False, 0, False), (True, 0, False), (False, 1, True), (True, 2, True)]
    cases = [sweep.Case("conv", form, (0, 0, 0), *each) for each in behind]
    for case, off in zip(cases, sweep.measure(cases, 0), strict=True):
        assert off <= sweep.TOLERANCE, case


EXAMPLES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "negative padding": ((1, 9, 9, 4), (3, 3, 4, 8), {"padding": ((-1, 0), (0, 0))}),
    "one column": ((2, 19, 5, 1), (3, 4, 1, 44), {"strides": (1, 4)}),
}


@pytest.mark.parametrize("name", onednn.EXCLUDED)
def test_excluded(name: str) -> None:
    """Refused: an example, and whatever else is drawn."""
    x, kernel, given = EXAMPLES[name]
    example = onednn.form_of(x, kernel, **window_of(len(x) - 2, given))
    assert example is not None
    assert onednn.EXCLUDED[name](example)
    r = random.Random(0)
    drawn = [sweep.draw_form(r, onednn.EXCLUDED[name]) for _ in range(20)]
    for form in (example, *drawn):
        window = sweep.window_of(form)
        assert not onednn.suits_conv(form.x, form.kernel, **window)
        with pytest.raises(ValueError, match="no convolution for oneDNN"):
            onednn.conv(numbers(*form.x), numbers(*form.kernel), **window, **PLAIN)


@pytest.mark.usefixtures("called")
def test_relu_makes_nan_zero() -> None:
    """max(0, NaN) is NaN to JAX. Without ReLU oneDNN keeps it, too."""
    x = numbers(1, 5, 5, 3).at[0, 2, 2, 1].set(np.nan)
    kernel = numbers(3, 3, 3, 4)
    for relu in (False, True):
        y = onednn.conv(x, kernel, **WINDOW, biased=False, relu=relu)
        rows, matrix = x.reshape(25, 3), kernel[0, 0]
        packed = jnp.asarray(onednn.pack(np.asarray(matrix)))
        given: dict[str, Any] = {"biased": False, "relu": relu}
        z = onednn.product(rows, matrix, **given)
        p = onednn.packed_product(rows, packed, out=4, **given)
        for result in (y, z, p):
            assert bool(jnp.isnan(result).any()) != relu
        assert not relu or float(p[12].max()) == float(z[12].max()) == 0


@pytest.mark.usefixtures("called")
@pytest.mark.parametrize(("rows", "out"), [(1, 70), (5, 1), (1, 1), (2, 2)])
def test_packed_rows_and_columns_alone(rows: int, out: int) -> None:
    kernel = np.asarray(numbers(35, out))
    x, packed = numbers(rows, 35), jnp.asarray(onednn.pack(kernel))
    run = jax.jit(partial(onednn.packed_product, out=out, **PLAIN))
    np.testing.assert_allclose(run(x, packed), x @ kernel, rtol=1e-4, atol=1e-5)


def test_unpack() -> None:
    kernel = np.arange(35 * 130, dtype=np.float32).reshape(35, 130)
    packed = jnp.asarray(onednn.pack(kernel))
    assert packed.shape == (3 * 3 * 16 * 64,)
    np.testing.assert_array_equal(onednn.unpack(packed, 35, 130), kernel)


X, KERNEL, MATRIX = numbers(2, 8, 8, 4), numbers(3, 3, 4, 6), numbers(5, 7)
conv: Callable[..., Array] = partial(onednn.conv, **PLAIN)
product: Callable[..., Array] = partial(onednn.product, **PLAIN)
packed_product: Callable[..., Array] = partial(onednn.packed_product, **PLAIN)
PACKED = jnp.asarray(onednn.pack(np.ones((7, 9), np.float32)))
REFUSED: dict[str, Callable[[], Any]] = {
    "channels": lambda: conv(X, numbers(3, 3, 5, 6), **WINDOW),
    "too many channels": lambda: conv(numbers(2, 8, 8, 64), KERNEL, **WINDOW),
    "N, C, H, W": lambda: conv(numbers(2, 4, 8, 8), KERNEL, **WINDOW),
    "no batch": lambda: conv(X[0], KERNEL, **WINDOW),
    "an axis more": lambda: conv(X[None], KERNEL, **WINDOW),
    "a number": lambda: conv(X[0, 0, 0, 0], KERNEL, **WINDOW),
    "an empty batch": lambda: conv(X[:0], KERNEL, **WINDOW),
    "no rows": lambda: conv(X[:, :0], KERNEL, **WINDOW),
    "no channels": lambda: conv(X[..., :0], KERNEL[:, :, :0], **WINDOW),
    "nothing out": lambda: conv(X, KERNEL[..., :0], **WINDOW),
    "an empty window": lambda: conv(X, KERNEL[:0], **WINDOW),
    "too small": lambda: conv(X, numbers(11, 11, 4, 6), **WINDOW),
    "stride 0": lambda: conv(X, KERNEL, **WINDOW | {"strides": (0, 1)}),
    "one stride": lambda: conv(X, KERNEL, **WINDOW | {"strides": (1,)}),
    "dilation 0": lambda: conv(X, KERNEL, **WINDOW | {"rhs_dilation": (1, 0)}),
    "one pair": lambda: conv(X, KERNEL, **WINDOW | {"padding": ((1, 1),)}),
    "groups": lambda: conv(X, KERNEL, **WINDOW | {"feature_group_count": 3}),
    "group 0": lambda: conv(X, KERNEL, **WINDOW | {"feature_group_count": 0}),
    "uneven groups": lambda: conv(
        X, numbers(3, 3, 1, 6), **WINDOW | {"feature_group_count": 4}
    ),
    "a bias": lambda: onednn.conv(
        X, KERNEL, numbers(5), **WINDOW, biased=True, relu=False
    ),
    "no bias": lambda: onednn.conv(X, KERNEL, **WINDOW, biased=True, relu=False),
    "a bias of two axes": lambda: onednn.conv(
        X, KERNEL, numbers(1, 6), **WINDOW, biased=True, relu=False
    ),
    "a blob": lambda: conv(X, KERNEL, numbers(2, 8, 8, 5), **WINDOW),
    "a blob of one image": lambda: conv(X, KERNEL, numbers(1, 8, 8, 6), **WINDOW),
    "columns": lambda: product(MATRIX, numbers(8, 9)),
    "three axes": lambda: product(MATRIX[None], numbers(7, 9)),
    "an empty matrix": lambda: product(MATRIX[:0], numbers(7, 9)),
    "empty columns": lambda: product(MATRIX, numbers(7, 0)),
    "nothing to sum": lambda: product(MATRIX[:, :0], numbers(0, 9)),
    "rows added": lambda: product(MATRIX, numbers(7, 9), numbers(4, 9)),
    "batches": lambda: onednn.products(numbers(2, 3, 4), numbers(3, 4, 5)),
    "matrices": lambda: onednn.products(numbers(3, 4), numbers(4, 5)),
    "empty matrices": lambda: onednn.products(numbers(2, 0, 4), numbers(2, 4, 5)),
    "packed columns": lambda: packed_product(MATRIX, PACKED, out=65),
    "packed rows": lambda: packed_product(numbers(5, 17), PACKED, out=9),
    "packed no rows": lambda: packed_product(MATRIX[:0], PACKED, out=9),
    "packed nothing": lambda: packed_product(MATRIX, PACKED[:0], out=0),
    "not packed": lambda: packed_product(MATRIX, numbers(7, 9), out=9),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^(no|nothing|these cannot) "):
        REFUSED[name]()


def test_a_process_lives_on() -> None:
    """All that is refused, in one process that oneDNN could end."""
    code = (
        "from tests.cpu.test_onednn import REFUSED\n"
        "for name, refused in REFUSED.items():\n"
        "    try:\n"
        "        refused()\n"
        "    except ValueError:\n"
        "        print(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == [*REFUSED], done.stderr


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32", "complex64"])
def test_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(TypeError, match="not float32"):
        conv(X.astype(dtype), KERNEL, **WINDOW)
    with pytest.raises(TypeError, match="not float32"):
        product(MATRIX, jnp.ones((7, 9), dtype))


def test_sizes_that_are_not_known_do_not_suit() -> None:
    batch: Any
    (batch,) = jax.export.symbolic_shape("b")
    assert onednn.suits_conv(X.shape, KERNEL.shape, **WINDOW)
    assert not onednn.suits_conv((batch, *X.shape[1:]), KERNEL.shape, **WINDOW)


def raising(*args: Any) -> Array:
    raise jax.errors.JaxRuntimeError("UNIMPLEMENTED: no such target")


CALLS: dict[str, Callable[..., Any]] = {
    "raises": raising,
    "zeros": lambda target, config, shape, *args: jnp.zeros(shape),
    "nan": lambda target, config, shape, *args: jnp.full(shape, np.nan),
    "another shape": lambda target, config, shape, *args: jnp.zeros((*shape, 2)),
}


@pytest.mark.parametrize("what", THINGS)
@pytest.mark.parametrize("name", CALLS)
def test_wrong_numbers_are_told(
    name: str, what: probe.What, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "call", CALLS[name])
    assert not probe.right(what)


@pytest.mark.usefixtures("called")
@pytest.mark.parametrize("what", THINGS)
def test_one_wrong_number_is_told(
    what: probe.What, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert probe.right(what)
    true = probe.call

    def a_little_off(target: str, config: Any, shape: Any, *args: Array) -> Array:
        y = true(target, config, shape, *args)
        return y.at[(0,) * y.ndim].add(1e-2)

    monkeypatch.setattr(probe, "call", a_little_off)
    assert not probe.right(what)


@pytest.mark.usefixtures("called")
def test_other_columns_packed_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the order of another processor would be."""
    true = probe.pack
    monkeypatch.setattr(probe, "pack", lambda kernel: true(kernel[:, ::-1]))
    assert not probe.right("packed")
    assert probe.right("product")


@pytest.mark.usefixtures("asked_again")
@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        ("print('product', flush=True)\nimport os\nos.abort()", ["product"]),
        ("import os\nos.kill(os.getpid(), 4)", []),
        ("raise SystemExit(1)", []),
        ("import time\ntime.sleep(60)", []),
    ],
)
def test_that_process_may_end(
    program: str, wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results printed before count."""
    path = tmp_path / "program.py"
    path.write_text(program)
    monkeypatch.setattr(probe, "__file__", str(path))
    monkeypatch.setattr(probe, "TIMEOUT", 60 if "sleep" not in program else 0.5)
    assert [what for what in THINGS if onednn.available(what)] == wanted


@pytest.mark.usefixtures("asked_again")
@pytest.mark.parametrize(
    ("name", "value"), [("executable", ""), ("executable", "/no/python"), ("frozen", 1)]
)
def test_no_interpreter(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, name, value, raising=False)
    assert not any(map(onednn.available, THINGS))


@pytest.mark.usefixtures("called")
def test_persistent_cache(tmp_path: Path) -> None:
    """Programs with these calls cannot be stored there: looked at each time."""
    config: Any = jax.config
    config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        assert not any(map(onednn.available, THINGS))
        config.update("jax_enable_compilation_cache", False)
        assert all(map(onednn.available, THINGS))
    finally:
        config.update("jax_enable_compilation_cache", True)
        config.update("jax_compilation_cache_dir", None)
    assert all(map(onednn.available, THINGS))


@pytest.mark.usefixtures("called")
@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (platform, "system", "Darwin"),
        (platform, "machine", "aarch64"),
        (jax, "default_backend", "gpu"),
    ],
)
def test_other_machines(
    module: Any, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, lambda: value)
    assert not any(map(onednn.available, THINGS))


@pytest.mark.usefixtures("asked_again")
def test_threads_ask_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def run(*args: Any, **options: Any) -> Any:
        runs.append(args)
        return subprocess.CompletedProcess(args, 0, b"product\n", b"")

    monkeypatch.setattr(subprocess, "run", run)
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(onednn.available, ["product", "packed"] * 20)]
    assert found == [platform.machine() == "x86_64", False] * 20
    assert len(runs) <= 1


def test_an_older_processor() -> None:
    """Where oneDNN may use AVX2 alone, what is right by its trial is right elsewhere:
    packed kernels are in another order there, for some counts of columns or for all."""
    code = (
        "from caffe2flax.cpu import probe\n"
        "from tests.cpu.sweep import Case, TOLERANCE, draw, measure\n"
        "packed = [\n"
        "    Case('packed', None, (5, 17, out), False, 0, False)\n"
        "    for out in range(2, 700, 7)\n"
        "]\n"
        "convs = [draw(1, i, convs_only=True) for i in range(40)]\n"
        "for what, cases in {'packed': packed, 'convolution': convs}.items():\n"
        "    if probe.right(what):\n"
        "        assert max(measure(cases, 0)) <= TOLERANCE, what\n"
    )
    env = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.usefixtures("asked_again", "called")
def test_variables_of_jax_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setenv("JAX_DISABLE_JIT", "1")
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    assert all(map(onednn.available, THINGS))


@pytest.mark.usefixtures("called")
def test_threads_multiply() -> None:
    run = jax.jit(partial(onednn.conv, **WINDOW, **PLAIN))
    inputs = [numbers(2, 30, 30, 4, seed=i) for i in range(8)]
    wanted = [np.asarray(run(x, KERNEL)) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda x: np.asarray(run(x, KERNEL)), inputs * 10)]
    for y, true in zip(found, wanted * 10, strict=True):
        np.testing.assert_array_equal(y, true)
