"""oneDNN computes the same, and is called only where that is safe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array, lax

from caffe2flax.ops.conv import Conv, conv_by_onednn, conv_padding
from caffe2flax.ops.onednn import onednn_primitive
from tests.golden import distance
from tests.smallnets import here, numbers

CALL = "__onednn$"
AXES = {1: "W", 2: "HW", 3: "DHW"}
PADS = ((1, 1), (1, 1))


def native(
    x: Array,
    kernel: Array,
    *others: Array,
    strides: Any,
    padding: Any,
    relu: bool = False,
    biased: bool = False,
    **options: Any,
) -> Array:
    axes = AXES[x.ndim - 2]
    layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    y = lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=layout, **options
    )
    for other in others:
        y = y + other.reshape((1,) * (y.ndim - other.ndim) + other.shape)
    return jnp.maximum(y, 0) if relu else y


def program(f: Callable[..., Array], *args: Array) -> str:
    return jax.jit(f).lower(*args).as_text()


def same(arrays: list[Array], **settings: Any) -> None:
    ours, true = (
        partial(conv_by_onednn, native, **settings),
        partial(native, **settings),
    )
    assert CALL in program(ours, *arrays)
    y = np.asarray(jax.jit(ours)(*arrays))
    assert distance(y, np.asarray(jax.jit(true)(*arrays))) < 1e-5


CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "pixel": ((2, 9, 11, 5), (1, 1, 5, 7), {}),
    "pixel_strided": ((2, 22, 21, 5), (1, 1, 5, 7), {"strides": (2, 3)}),
    "pixel_padded": ((1, 9, 9, 3), (1, 1, 3, 4), {"rhs_dilation": (2, 2)}),
    "one": ((1, 1, 1, 5), (1, 1, 5, 7), {}),
    "single": ((1, 9, 9, 1), (1, 1, 1, 1), {}),
    "window": ((1, 12, 10, 3), (3, 3, 3, 8), {"padding": PADS}),
    "uneven": ((1, 23, 20, 3), (5, 4, 3, 8), {"padding": ((2, 1), (0, 3))}),
    "same": ((1, 23, 20, 3), (3, 3, 3, 8), {"padding": "SAME", "strides": (2, 2)}),
    "dilated": ((1, 23, 20, 3), (3, 3, 3, 8), {"rhs_dilation": (2, 3)}),
    "grouped": ((1, 13, 13, 8), (3, 3, 4, 6), {"feature_group_count": 2}),
    "depthwise": ((1, 99, 101, 32), (3, 3, 1, 32), {"feature_group_count": 32}),
    "multiplied": ((1, 99, 101, 32), (3, 3, 1, 64), {"feature_group_count": 32}),
    "tiled": ((1, 52, 60, 64), (3, 3, 64, 66), {"padding": PADS}),
    "tiled_one_by_one": ((3, 150, 156, 64), (3, 3, 64, 64), {}),
    "tiled_finely": ((2, 53, 53, 256), (3, 3, 256, 64), {"padding": ((1, 2), (0, 1))}),
    "line": ((2, 130, 4), (3, 4, 6), {"strides": (1,), "padding": ((1, 1),)}),
    "frames": ((1, 6, 9, 9, 4), (3, 3, 3, 4, 6), {"strides": (1, 2, 2)}),
}


@here
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("behind", ["", "bias", "bias other relu", "other", "relu"])
def test_numbers(name: str, behind: str) -> None:
    shape, kernel, options = CASES[name]
    options = {"strides": (1,) * (len(shape) - 2), "padding": "VALID"} | options
    arrays = [jnp.asarray(numbers(*shape)), jnp.asarray(numbers(*kernel, seed=1))]
    y = jax.eval_shape(partial(native, **options), *arrays)
    if "bias" in behind:
        arrays.append(jnp.asarray(numbers(kernel[-1], seed=2)))
    if "other" in behind:
        arrays.append(jnp.asarray(numbers(*y.shape, seed=3)))
    same(arrays, biased="bias" in behind, relu="relu" in behind, **options)


@here
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_window(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    groups = draw(1, 3)
    window, dilation = (draw(1, 4), draw(1, 4)), (draw(1, 2), draw(1, 2))
    extents = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    pads = tuple((draw(0, e - 1), draw(0, e - 1)) for e in extents)
    sizes = [draw(e, e + 9) for e in extents]
    channels = groups * draw(1 if groups == 1 else 2, 3)
    x = numbers(draw(1, 3), *sizes, channels, seed=draw(0, 9))
    kernel = numbers(*window, x.shape[-1] // groups, groups * draw(1, 3))
    same(
        [jnp.asarray(x), jnp.asarray(kernel)],
        strides=(draw(1, 3), draw(1, 3)),
        padding=pads,
        rhs_dilation=dilation,
        feature_group_count=groups,
    )


@here
@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((1, 9, 9, 4), (3, 3, 4, 8), {"padding": ((3, 0), (0, 0))}),
        ((1, 9, 9, 4), (3, 3, 4, 8), {"padding": ((-1, 0), (0, 0))}),
        ((1, 9, 9, 4), (3, 3, 4, 8), {"lhs_dilation": (2, 2), "padding": PADS}),
        ((1, 5, 5, 64), (3, 3, 64, 96), {}),
        ((1, 13, 13, 8), (3, 3, 1, 16), {"feature_group_count": 8}),
        ((0, 9, 9, 4), (3, 3, 4, 8), {}),
    ],
)
def test_unusual_windows_stay_with_xla(
    shape: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, Any]
) -> None:
    options = {"strides": (1, 1), "padding": "VALID"} | options
    arrays = [jnp.asarray(numbers(*shape)), jnp.asarray(numbers(*kernel, seed=1))]
    ours = partial(conv_by_onednn, native, **options)
    assert CALL not in program(ours, *arrays)
    y = jax.jit(ours)(*arrays)
    true = native(*arrays, **options)
    np.testing.assert_allclose(y, true, rtol=1e-4, atol=1e-5)


@pytest.fixture
def call() -> tuple[Callable[..., Array], Array, Array]:
    conv = partial(conv_by_onednn, native, strides=(1, 1), padding=PADS)
    return (
        conv,
        jnp.asarray(numbers(2, 12, 12, 4)),
        jnp.asarray(numbers(3, 3, 4, 8, seed=1)),
    )


def test_exported_programs_are_portable(call: Any) -> None:
    conv, x, kernel = call
    for platforms in (["cpu"], ["cpu", "cuda", "tpu"]):
        exported = jax.export.export(jax.jit(conv), platforms=platforms)(x, kernel)
        assert CALL not in exported.mlir_module()
    (batch,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    exported = jax.export.export(jax.jit(conv))(shape, kernel)
    true = native(x, kernel, strides=(1, 1), padding=PADS)
    assert distance(np.asarray(exported.call(x, kernel)), np.asarray(true)) < 1e-5


def test_the_persistent_cache_keeps_no_such_program(call: Any, tmp_path: Path) -> None:
    conv, x, kernel = call
    with jax.enable_checks(False):
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        try:
            assert CALL not in program(conv, x, kernel)
        finally:
            jax.config.update("jax_compilation_cache_dir", None)


def test_derivatives_and_maps(call: Any) -> None:
    conv, x, kernel = call
    plain = partial(native, strides=(1, 1), padding=PADS)

    def grads(f: Any) -> Any:
        return jax.jit(jax.grad(lambda *args: (f(*args) ** 2).sum(), (0, 1)))(x, kernel)

    for ours, true in zip(grads(conv), grads(plain), strict=True):
        assert distance(np.asarray(ours), np.asarray(true)) < 1e-5
    for axes in ((0, None), (None, 3), (0, 3)):
        args = [x[None] if axes[0] == 0 else x]
        args.append(jnp.stack([kernel, 2 * kernel], 3) if axes[1] == 3 else kernel)
        args[0] = jnp.concatenate([args[0]] * 2) if axes == (0, 3) else args[0]
        ours = jax.jit(jax.vmap(conv, axes))(*args)
        true = jax.vmap(plain, axes)(*args)
        assert distance(np.asarray(ours), np.asarray(true)) < 1e-5
    half = [array.astype(jnp.bfloat16) for array in (x, kernel)]
    assert CALL not in program(conv, *half)
    assert conv(x, kernel).shape == jax.checkpoint(conv)(x, kernel).shape
    with jax.disable_jit():
        assert (
            distance(np.asarray(conv(x, kernel)), np.asarray(plain(x, kernel))) < 1e-5
        )


@pytest.fixture
def other_release(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    onednn_primitive.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(jax.lib, "__version__", "99.0", raising=False)
        yield
    onednn_primitive.cache_clear()


def test_unknown_releases_are_not_asked(other_release: None, call: Any) -> None:
    conv, x, kernel = call
    assert onednn_primitive() is None
    assert CALL not in program(conv, x, kernel)


def native_path(conv: Conv) -> Callable[..., Array]:
    """The module without oneDNN, as in what is exported."""

    def run(x: Array) -> Array:
        exported = jax.export.export(jax.jit(conv))(x)
        y: Array = exported.call(x)
        return y

    return run


@pytest.mark.parametrize(
    "given",
    [
        {"padding": "SAME"},
        {"padding": 1, "kernel_dilation": 2},
        {"padding": (1, 2), "use_bias": False},
        {"padding": ((1, 2), (0, 3)), "feature_group_count": 2},
        {"padding": "CIRCULAR"},
        {"padding": 1, "input_dilation": 2},
        {"padding": 1, "mask": jnp.tri(9, 32).reshape(3, 3, 4, 8)},
    ],
)
def test_conv_is_flax_conv(given: dict[str, Any]) -> None:
    """Whatever Flax takes, with the same weights."""
    padding, given = given["padding"], {"strides": (1, 2), "rngs": nnx.Rngs(0)} | given
    ours, true = Conv(4, 8, (3, 3), **given), nnx.Conv(4, 8, (3, 3), **given)
    nnx.update(true, nnx.state(ours, nnx.Param))
    x = jnp.asarray(numbers(2, 14, 14, 4))
    assert distance(np.asarray(ours(x)), np.asarray(true(x))) < 1e-5
    more = x[None]
    assert distance(np.asarray(ours(more)), np.asarray(true(more))) < 1e-5
    assert distance(np.asarray(true(x)), np.asarray(native_path(ours)(x))) < 1e-5
    pads = conv_padding(padding, 2)
    assert pads == padding or len(pads) == 2
