"""The ops hold Caffe's numbers on every path, and do what a generated module needs."""

import ast
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array, lax

from caffe2flax.ops.convolution import (
    depthwise_conv,
    fast,
    grouped_conv,
    narrow_grouped_conv,
    pad_spatial,
)
from caffe2flax.ops.normalization import lrn, lrn_within_channel
from caffe2flax.ops.pooling import avg_pool, max_pool
from caffe2flax.ops.shape import flatten, to_caffe_order

ROOT = Path(__file__).parents[1]
LAYERS = ROOT / "fixtures" / "layers"
PLATFORMS = ("cpu", "cuda", "tpu")
AXES = {
    1: ("NWC", "WIO", "NWC"),
    2: ("NHWC", "HWIO", "NHWC"),
    3: ("NDHWC", "DHWIO", "NDHWC"),
}
CONVOLUTIONS = {
    grouped_conv: 2,
    narrow_grouped_conv: 3,
    depthwise_conv: 6,
    fast: 1,
}
"""With the groups to try them in, of 6 channels."""
CORRUPT_GRADIENTS = {"pool_max_k1s3_ceil", "pool_max_k2s3_nopad"}
"""A window without a pixel has the mask -1: Caffe then writes its gradient outside the
channel, and aborts on a corrupted heap."""
LOWEST = float(np.finfo(np.float32).min)

Op = Callable[..., Array]
Pairs = tuple[tuple[int, int], ...]


def cases(*patterns: str) -> list[Any]:
    """The prototxts so named that Caffe runs; the others have no arrays."""
    paths = [p for name in patterns for p in sorted(LAYERS.glob(f"{name}.prototxt"))]
    return [pytest.param(p, id=p.stem) for p in paths if p.with_suffix(".npz").exists()]


def fields(path: Path) -> dict[str, str]:
    """The scalar fields of the one *_param of a case."""
    body = re.search(r"(?:pooling|lrn)_param \{(.*)\}", path.read_text(), re.DOTALL)
    return dict(re.findall(r"(\w+): (\S+)", body[1])) if body else {}


def last(x: np.ndarray) -> Array:
    """N, C, H, W -> N, H, W, C."""
    return jnp.asarray(np.moveaxis(x, 1, -1))


def close(actual: Array, expected: Any, bound: float = 1e-5) -> None:
    """Equal but for rounding; NaN and infinities where they are expected."""
    ours, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(ours[~finite], expected[~finite])
    scale = max(1e-6, float(np.abs(expected[finite]).max(initial=0)))
    worst = float(np.abs(ours[finite] - expected[finite]).max(initial=0))
    assert worst <= bound * scale, f"off by {worst / scale}"


def paths(op: Op, monkeypatch: pytest.MonkeyPatch) -> tuple[Op, Op]:
    """op as CPUs run it, and as every other platform does."""

    def elsewhere(*args: Any) -> Array:
        def chosen(*args: Any, cpu: Op, default: Op) -> Array:
            return default(*args)

        with monkeypatch.context() as patch:
            patch.setattr(lax, "platform_dependent", chosen)
            return op(*args)

    return op, elsewhere


def with_gradients(*ops: Op) -> Callable[..., Any]:
    """(top gradient, args) -> [(top, argument gradients)] of all ops, compiled once."""

    @jax.jit
    def run(g: Array, *args: Array) -> list[tuple[Array, tuple[Array, ...]]]:
        results = []
        for op in ops:
            y, pull = jax.vjp(op, *args)
            results.append((y, pull(g)))
        return results

    return run


def check_against_caffe(
    path: Path, op: Op, top: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tops and gradients, on both paths."""
    arrays = np.load(path.with_suffix(".npz"))
    x, y = last(arrays["input:data"]), arrays[f"output:{top}"]
    if path.stem in CORRUPT_GRADIENTS:
        for run in paths(op, monkeypatch):
            close(run(x), last(y))
        return
    grads = np.load(path.with_suffix(".grad.npz"))
    run = with_gradients(*paths(op, monkeypatch))
    for ours, (gradient,) in run(last(grads[f"topdiff:{top}"]), x):
        close(ours, last(y))
        close(gradient, last(grads["indiff:data"]))


@pytest.mark.parametrize("path", cases("pool_*"))
def test_pooling_is_caffes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    param = fields(path)
    arrays = np.load(path.with_suffix(".npz"))
    sizes, outs = (arrays[f"{k}"].shape[2:] for k in ("input:data", "output:out"))

    def per_axis(name: str, short: str, default: int) -> tuple[int, ...]:
        both = param.get(name, default)
        return tuple(int(param.get(f"{short}_{axis}", both)) for axis in "hw")

    window: tuple[int, ...] = sizes
    strides: tuple[int, ...] = (1, 1)
    pads: tuple[int, ...] = (0, 0)
    if "global_pooling" not in param:
        window = per_axis("kernel_size", "kernel", 0)
        strides = per_axis("stride", "stride", 1)
        pads = per_axis("pad", "pad", 0)
    ends = [(o - 1) * s + w for o, s, w in zip(outs, strides, window, strict=True)]
    beyond = [e - n - p for e, n, p in zip(ends, sizes, pads, strict=True)]
    if param.get("pool", "MAX") == "MAX":
        pairs = tuple(zip(pads, beyond, strict=True))
        op = partial(max_pool, window=window, strides=strides, padding=pairs)
    else:
        over = tuple(max(0, b - p) for b, p in zip(beyond, pads, strict=True))
        op = partial(avg_pool, window=window, strides=strides, pad=pads, overhang=over)
    check_against_caffe(path, op, "out", monkeypatch)


@pytest.mark.parametrize("path", cases("lrn_*"))
def test_lrn_is_caffes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    param = fields(path)
    if param.get("norm_region") == "WITHIN_CHANNEL":
        base: Op = lrn_within_channel
    else:
        base = partial(lrn, k=float(param.get("k", 1)))
    op = partial(
        base,
        size=int(param.get("local_size", 5)),
        alpha=float(param.get("alpha", 1)),
        beta=float(param.get("beta", 0.75)),
    )
    if path.stem == "lrn_inplace":  # Caffe loses its input: scale^(-2 beta)
        arrays = np.load(path.with_suffix(".npz"))
        x = last(arrays["input:data"])
        close((op(x) / x) ** 2, last(arrays["output:data"]))
        return
    check_against_caffe(path, op, "out", monkeypatch)


def convolve(
    x: np.ndarray,
    kernel: np.ndarray,
    strides: tuple[int, ...],
    pads: Pairs,
    groups: int,
) -> np.ndarray:
    """The definition, in float64: x (N, *spatial, C), kernel (*window, C/g, out)."""
    x = np.pad(x.astype(np.float64), [(0, 0), *pads, (0, 0)])
    window, out = kernel.shape[:-2], kernel.shape[-1]
    sizes = [
        (n - w) // s + 1 for n, w, s in zip(x.shape[1:-1], window, strides, strict=True)
    ]
    y = np.zeros((len(x), *sizes, out))
    inside = kernel.shape[-2]
    for at in np.ndindex(*sizes):
        cut = [
            slice(i * s, i * s + w) for i, s, w in zip(at, strides, window, strict=True)
        ]
        for o in range(out):
            group = o // (out // groups)
            seen = x[:, *cut, group * inside : (group + 1) * inside]
            y[:, *at, o] = (seen * kernel[..., o]).reshape(len(x), -1).sum(1)
    return y


@st.composite
def windowed(draw: st.DrawFn, deepest: int) -> tuple[Any, ...]:
    """Sizes, window, strides and pads of 1 to `deepest` axes, and a seed."""
    rank = draw(st.integers(1, deepest))
    window = [draw(st.integers(1, 3)) for _ in range(rank)]
    sizes = [draw(st.integers(w, 6)) for w in window]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    pads = [(draw(st.integers(0, w - 1)), draw(st.integers(0, w - 1))) for w in window]
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    return tuple(sizes), tuple(window), tuple(strides), tuple(pads), rng


@given(
    windowed(3),
    st.sampled_from(["grouped", "narrow", "depthwise", "pointwise", "fast", "few"]),
)
@settings(max_examples=25, deadline=None)
def test_convolutions_by_definition(drawn: Any, kind: str) -> None:
    sizes, window, strides, pads, rng = drawn
    op, groups, inside = {
        "grouped": (grouped_conv, 2, 3),
        "narrow": (narrow_grouped_conv, 4, 9),
        "depthwise": (depthwise_conv, 4, 1),
        "pointwise": (fast, 1, 4),
        "fast": (fast, 1, 3),
        "few": (fast, 1, 5),
    }[kind]
    if kind == "pointwise":
        window = (1,) * len(window)
    x = rng.standard_normal((2, *sizes, groups * inside), np.float32)
    kernel = rng.standard_normal((*window, inside, 8), np.float32)
    numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, AXES[len(sizes)])
    run = jax.jit(
        partial(
            op,
            strides=strides,
            padding=pads,
            feature_group_count=groups,
            dimension_numbers=numbers,
        )
    )
    close(run(x, kernel), convolve(x, kernel, strides, pads, groups))


def pool_by_loop(
    x: np.ndarray, window: tuple[int, ...], strides: tuple[int, ...], pads: Pairs
) -> tuple[np.ndarray, np.ndarray]:
    """Caffe's loop: the maximum, and x's gradient of their sum."""
    low = np.pad(x.astype(np.float64), [(0, 0), *pads, (0, 0)], constant_values=-np.inf)
    sizes = [
        (n - w) // s + 1
        for n, w, s in zip(low.shape[1:-1], window, strides, strict=True)
    ]
    top = np.full((len(x), *sizes, x.shape[-1]), LOWEST)
    gradient = np.zeros(low.shape)
    for n, *at, c in np.ndindex(*top.shape):
        best = None
        for offset in np.ndindex(*window):
            where = [i * s + o for i, s, o in zip(at, strides, offset, strict=True)]
            if low[n, *where, c] > top[n, *at, c]:
                top[n, *at, c], best = low[n, *where, c], where
        if best is not None:
            gradient[n, *best, c] += 1
    inside = [slice(a, a + n) for (a, _), n in zip(pads, x.shape[1:-1], strict=True)]
    return top, gradient[:, *inside]


@given(windowed(3))
@settings(max_examples=10, deadline=None)
def test_max_pool_by_loop(drawn: Any) -> None:
    """Also where maxima tie, and where there is nothing, NaN or -inf to choose from."""
    sizes, window, strides, pads, rng = drawn
    values = np.array([0, 0, 0, 1, 2, -1, LOWEST, -np.inf, np.inf, np.nan], np.float32)
    x = rng.choice(values, (2, *sizes, 2))
    with pytest.MonkeyPatch.context() as monkeypatch:
        op = partial(max_pool, window=window, strides=strides, padding=pads)
        expected, gradient = pool_by_loop(x, window, strides, pads)
        ones = np.ones(expected.shape, np.float32)
        for y, (ours,) in with_gradients(*paths(op, monkeypatch))(ones, x):
            np.testing.assert_array_equal(y, expected)
            np.testing.assert_array_equal(ours, gradient)


def test_max_pool_of_wide_windows() -> None:
    x = np.random.default_rng(0).integers(0, 9, (1, 12, 11, 2)).astype(np.float32)
    op = partial(max_pool, window=(10, 9), strides=(1, 2), padding=((1, 0), (0, 0)))
    expected, gradient = pool_by_loop(x, (10, 9), (1, 2), ((1, 0), (0, 0)))
    ((y, (ours,)),) = with_gradients(op)(np.ones(expected.shape, np.float32), x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(ours, gradient)


@given(windowed(3), st.integers(0, 2))
@settings(max_examples=20, deadline=None)
def test_avg_pool_by_loop(drawn: Any, over: int) -> None:
    sizes, window, strides, pairs, rng = drawn
    pad = tuple(low for low, _ in pairs)
    x = rng.standard_normal((2, *sizes, 2), np.float32)
    ends = [n + 2 * p for n, p in zip(sizes, pad, strict=True)]
    outs = [
        (e + over - w) // s + 1 for e, w, s in zip(ends, window, strides, strict=True)
    ]
    padded = np.pad(x.astype(np.float64), [(0, 0), *((p, p) for p in pad), (0, 0)])
    expected = np.zeros((2, *outs, 2))
    for at in np.ndindex(*outs):
        starts = [i * s for i, s in zip(at, strides, strict=True)]
        stops = [min(a + w, e) for a, w, e in zip(starts, window, ends, strict=True)]
        cut = tuple(map(slice, starts, stops))
        size = np.float64(np.prod(np.subtract(stops, starts)))
        total = padded[:, *cut].reshape(2, -1, 2).sum(1)
        with np.errstate(invalid="ignore"):
            expected[:, *at] = total / size
    op = partial(avg_pool, window=window, strides=strides, pad=pad)
    close(jax.jit(partial(op, overhang=(over,) * len(pad)))(x), expected)


def conv(op: Op | None, window: tuple[int, ...], groups: int, **options: Any) -> Any:
    """nnx.Conv of 6 channels with op, or as it is, as a function of (x, kernel)."""
    if op is not None:
        options["conv_general_dilated"] = op
    module = nnx.eval_shape(
        lambda: nnx.Conv(
            6,
            12,
            window,
            feature_group_count=groups,
            use_bias=False,
            **options,
            rngs=nnx.Rngs(0),
        )
    )
    definition, state = nnx.split(module)  # of one leaf, the kernel

    def call(x: Array, kernel: Array) -> Array:
        y: Array = nnx.merge(definition, jax.tree.map(lambda _: kernel, state))(x)
        return y

    rng = np.random.default_rng(2)
    return call, jnp.asarray(rng.standard_normal(module.kernel.shape), jnp.float32)


@pytest.mark.parametrize(
    ("op", "sizes", "window", "groups", "options"),
    [
        (grouped_conv, (5, 6), (3, 2), 2, {"strides": 2, "kernel_dilation": 2}),
        (grouped_conv, (7,), 3, 3, {"padding": ((2, 0),)}),
        (grouped_conv, (5, 4, 3), (3, 2, 1), 3, {"padding": "VALID"}),
        (narrow_grouped_conv, (5, 6), (3, 2), 3, {"strides": 2, "kernel_dilation": 2}),
        (depthwise_conv, (6, 7), (3, 3), 6, {"kernel_dilation": (1, 2)}),
        (depthwise_conv, (6, 7), (3, 2), 6, {"strides": (2, 3), "padding": 2}),
        (depthwise_conv, (7,), 3, 6, {"input_dilation": 2, "padding": 1}),
        (
            depthwise_conv,
            (4, 4, 5),
            (2, 2, 2),
            6,
            {"padding": ((0, 1), (1, 1), (2, 0))},
        ),
        (fast, (5, 6), (1, 1), 1, {"strides": (2, 3)}),
        (fast, (5, 6), (1, 1), 1, {"padding": ((1, 0), (0, 2))}),
        (fast, (5,), 1, 1, {"input_dilation": 2, "padding": 1}),
        (fast, (2, 3, 4), (1, 1, 1), 1, {"padding": "VALID"}),
        (fast, (5, 6), (3, 3), 1, {}),
        (fast, (5, 6), (3, 2), 1, {"padding": ((1, 1), (0, 1))}),
        (fast, (5, 6), (3, 3), 1, {"padding": "VALID"}),
        (fast, (5, 6), (3, 3), 1, {"strides": 2, "padding": 1}),
        (fast, (5, 6), (3, 3), 1, {"kernel_dilation": 2}),
    ],
)
def test_nnx_conv_with_op(
    op: Op, sizes: tuple[int, ...], window: Any, groups: int, options: dict[str, Any]
) -> None:
    """Tops and the gradients of x and kernel are those of Flax's own convolution."""
    ours, kernel = conv(op, window, groups, **options)
    native, _ = conv(None, window, groups, **options)
    x = jnp.asarray(
        np.random.default_rng(0).standard_normal((2, *sizes, 6)), jnp.float32
    )
    shape = jax.eval_shape(native, x, kernel).shape
    g = jnp.asarray(np.random.default_rng(1).standard_normal(shape), jnp.float32)
    mine, flaxs = with_gradients(ours, native)(g, x, kernel)
    jax.tree.map(lambda a, b: close(a, b), mine, flaxs)


@pytest.mark.parametrize("path", cases("conv_group2", "conv_depthwise_mult2"))
def test_convolution_is_caffes(path: Path) -> None:
    arrays, grads = (np.load(path.with_suffix(s)) for s in (".npz", ".grad.npz"))
    kernel = jnp.asarray(arrays["param:l:0"].transpose(2, 3, 1, 0))
    op, groups, pad = {
        "conv_group2": (grouped_conv, 2, 1),
        "conv_depthwise_mult2": (depthwise_conv, 4, 0),
    }[path.stem]
    bias = np.zeros(kernel.shape[-1])
    if "param:l:1" in arrays:
        bias = arrays["param:l:1"]
    run = with_gradients(
        partial(
            op,
            strides=(1, 1),
            padding=((pad, pad), (pad, pad)),
            feature_group_count=groups,
            dimension_numbers=AXES[2],
        )
    )
    x, g = last(arrays["input:data"]), last(grads["topdiff:out"])
    ((y, (x_gradient, kernel_gradient)),) = run(g, x, kernel)
    close(y, np.asarray(last(arrays["output:out"])) - bias)
    close(x_gradient, np.asarray(last(grads["indiff:data"])))
    close(kernel_gradient, grads["paramdiff:l:0"].transpose(2, 3, 1, 0))


IMAGE = (5, 6, 6)
OPS: dict[str, Op] = {
    "grouped_conv": conv(grouped_conv, (3, 3), 2)[0],
    "narrow_grouped_conv": conv(narrow_grouped_conv, (3, 3), 3)[0],
    "depthwise_conv": conv(depthwise_conv, (3, 3), 6, strides=2)[0],
    "pointwise_conv": conv(fast, (1, 1), 1, strides=2)[0],
    "wide_conv": conv(fast, (3, 3), 1)[0],
    "row_conv": lambda x, kernel: fast(
        x[..., :3], kernel, (2, 2), "SAME", dimension_numbers=AXES[2]
    ),
    "max_pool": partial(max_pool, window=(3, 3), strides=(2, 2), padding="SAME"),
    "max_pool_wide": partial(max_pool, window=(5, 9), strides=(1, 1), padding="SAME"),
    "avg_pool": partial(
        avg_pool, window=(3, 6), strides=(2, 1), pad=(1, 0), overhang=(1, 0)
    ),
    "lrn": partial(lrn, size=3, alpha=0.5, beta=0.75),
    "lrn_pow": partial(lrn, size=5, alpha=0.5, beta=0.6, k=2.0, axis=-3),
    "lrn_within_channel": partial(lrn_within_channel, size=3, alpha=0.5, beta=0.75),
    "flatten": flatten,
    "to_caffe_order": partial(
        to_caffe_order, axis=-1, segments=(((2, 2), (1, 0)), ((2,), (0,)))
    ),
}
KERNELS = {
    "grouped_conv": (3, 3, 3, 12),
    "narrow_grouped_conv": (3, 3, 2, 12),
    "depthwise_conv": (3, 3, 1, 12),
    "pointwise_conv": (1, 1, 6, 12),
    "wide_conv": (3, 3, 6, 12),
    "row_conv": (3, 3, 3, 12),
}


def arguments(name: str, dtype: Any) -> list[Array]:
    rng = np.random.default_rng(0)
    shapes = [(2, *IMAGE)] + ([KERNELS[name]] if name in KERNELS else [])
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


@pytest.mark.parametrize("name", OPS)
def test_export_for_any_batch_and_platform(name: str) -> None:
    """Top and gradients, lowered once for every platform."""
    x, *kernel = arguments(name, jnp.float32)

    def both(*args: Array) -> Any:
        y, pull = jax.vjp(OPS[name], *args)
        return y, pull(y)

    (batch,) = jax.export.symbolic_shape("b")
    specs = [jax.ShapeDtypeStruct((batch, *IMAGE), x.dtype), *kernel]
    exported = jax.export.export(jax.jit(both), platforms=PLATFORMS)(*specs)
    direct = jax.jit(both)(x, *kernel)
    jax.tree.map(lambda a, b: close(a, b), exported.call(x, *kernel), direct)


@pytest.mark.parametrize("name", OPS)
def test_half_precision_and_vmap(name: str) -> None:
    """bfloat16 in and out, rounded once; vmap is a loop."""
    x, *kernel = arguments(name, jnp.bfloat16)
    wide = [a.astype(jnp.float32) for a in (x, *kernel)]
    pair = jnp.stack([wide[0], wide[0][::-1]])

    @jax.jit
    def run(x: Array, pair: Array, *kernel: Array) -> Any:
        op = OPS[name]
        g = jax.grad(lambda x: op(x, *kernel).sum())(x)
        stacked = jax.vmap(lambda one: op(one, *wide[1:]))(pair)
        return op(x, *kernel), g, op(*wide), stacked

    half, gradient, full, stacked = run(x, pair, *kernel)
    assert half.dtype == gradient.dtype == jnp.bfloat16
    close(half, full, 2.0**-7)
    close(stacked[0], full)
    close(stacked[1][::-1], full)


@pytest.mark.parametrize("op", CONVOLUTIONS)
def test_only_cpus_take_the_other_way(op: Op) -> None:
    groups = CONVOLUTIONS[op]
    window = (1, 1) if op is fast else (3, 3)
    call, kernel = conv(op, window, groups)
    traced = jax.jit(call).trace(jnp.zeros((2, *IMAGE)), kernel)
    attribute = f"feature_group_count = {groups}"
    cpu, gpu = (
        traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "cuda")
    )
    assert attribute in gpu
    assert attribute not in cpu


@pytest.mark.parametrize("op", CONVOLUTIONS)
@pytest.mark.parametrize(
    ("given", "preferred"),
    [(jnp.float32, None), (jnp.bfloat16, None), (jnp.bfloat16, jnp.float32)],
)
def test_result_type_is_that_of_xla(op: Op, given: Any, preferred: Any) -> None:
    groups = CONVOLUTIONS[op]
    options = {} if preferred is None else {"preferred_element_type": preferred}
    calls = [conv(f, (1, 1), groups, **options)[0] for f in (op, None)]
    x, kernel = jnp.zeros((1, *IMAGE), given), jnp.zeros((1, 1, 6 // groups, 12), given)
    ours, native = (jax.eval_shape(call, x, kernel).dtype for call in calls)
    assert ours == native


def test_flatten_of_an_empty_batch() -> None:
    assert flatten(jnp.zeros((0, 2, 3))).shape == (0, 6)


@given(
    st.lists(
        st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=3
    ),
    st.randoms(use_true_random=False),
    st.integers(-3, 2),
)
@settings(max_examples=20, deadline=None)
def test_to_caffe_order_undoes_what_was_stored(
    dims: list[list[int]], random: Any, axis: int
) -> None:
    perms = [tuple(random.sample(range(len(d)), len(d))) for d in dims]
    lengths = [int(np.prod(d)) for d in dims]
    indices = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
    stored = np.concatenate(
        [
            i.reshape(d).transpose(p).ravel()
            for i, d, p in zip(indices, dims, perms, strict=True)
        ]
    )
    shape = [2, 3, 2]
    shape[axis] = sum(lengths)
    caffe = np.arange(np.prod(shape)).reshape(shape)
    segments = tuple((tuple(d), p) for d, p in zip(dims, perms, strict=True))
    run = jax.jit(partial(to_caffe_order, axis=axis, segments=segments))
    ours = run(jnp.asarray(np.take(caffe, stored, axis)))
    np.testing.assert_array_equal(ours, caffe)


def test_segments_must_fill_the_axis() -> None:
    with pytest.raises(ValueError, match=r"segments of \[4\] do not fill axis 1"):
        to_caffe_order(jnp.zeros((2, 5)), 1, (((2, 2), (1, 0)),))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: max_pool(x, (3, 6), (1, 1)),
        lambda x: avg_pool(x, (8, 2), (1, 1), (1, 1)),
        lambda x: pad_spatial(x, 0, (1, 9), (1, 1), ((0, 0), (1, 1))),
    ],
)
def test_a_window_must_fit(call: Op) -> None:
    with pytest.raises(ValueError, match="exceeds"):
        call(jnp.zeros((1, 5, 5, 2)))


def test_sources_can_be_copied() -> None:
    """Modules of imports, functions and classes, under names that are unique."""
    names = []
    for path in sorted((ROOT / "caffe2flax" / "ops").glob("*.py")):
        source = ast.parse(path.read_text())
        for node in source.body[ast.get_docstring(source) is not None :]:
            kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
            assert isinstance(node, kinds), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"
                names.append(node.name)
    assert len(names) == len(set(names))
