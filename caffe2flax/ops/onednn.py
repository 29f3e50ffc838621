"""Convolutions by oneDNN, which XLA carries along for x86 processors but does not call
by itself. x is (N, *spatial, C), kernel is (*window, C / groups, out)."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array


def either(
    library: Callable[..., Array],
    native: Callable[..., Array],
    shape: Sequence[int],
    *args: Array,
    **given: Any,
) -> Array:
    """`library(*args, **given)` in programs for this process's CPU that may call
    oneDNN; `native(*args, **given)`, which is the same, wherever it is differentiated,
    mapped or compiled for something else. All is float32, or native. The shape is told
    because to trace `native` for it takes long."""
    call = onednn_primitive()
    if call is None or any(array.dtype != np.float32 for array in args):
        return native(*args, **given)
    params = {"library": library, "native": native, "given": tuple(given.items())}
    y: Array = call.bind(*args, shape=tuple(shape), **params)
    return y


def conv_sizes(
    sizes: Sequence[int],
    extents: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> list[int]:
    """How often a window fits along each axis."""
    each = zip(sizes, extents, strides, pads, strict=True)
    return [(n + low + high - e) // s + 1 for n, e, s, (low, high) in each]


@functools.cache
def onednn_primitive() -> Any:
    """What `either` is to JAX; None where oneDNN is not to be called at all.

    That is no public interface of XLA, and what it gets is not checked: only releases
    of JAX are asked with which it has been tried.
    """
    import platform

    tried = ("0.10.0", "0.10.1", "0.10.2")
    release = getattr(jax.lib, "__version__", "")
    here = platform.system(), platform.machine()
    if release not in tried or here != ("Linux", "x86_64"):
        return None

    from jax.extend.core import Primitive
    from jax.interpreters import ad, batching, mlir

    call: Any = Primitive("onednn_or_native")

    def plain(
        native: Callable[..., Array], given: Any, **params: Any
    ) -> Callable[..., Array]:
        return functools.partial(native, **dict(given))

    @functools.cache
    def compiled(**params: Any) -> Callable[..., Array]:
        return jax.jit(functools.partial(call.bind, **params))

    def run(*args: Array, **params: Any) -> Array:
        config: Any = jax.config
        return (plain if config.jax_disable_jit else compiled)(**params)(*args)

    def abstract(*args: Any, shape: tuple[int, ...], **params: Any) -> Any:
        return jax.core.ShapedArray(shape, np.float32)

    def derivative(primals: Any, tangents: Any, **params: Any) -> Any:
        tangents = tuple(map(ad.instantiate_zeros, tangents))
        return jax.jvp(plain(**params), primals, tangents)

    def mapped(args: Any, axes: Any, **params: Any) -> Any:
        return jax.vmap(plain(**params), tuple(axes))(*args), 0

    def lowered(context: Any, *args: Any, **params: Any) -> Any:
        made = plain(**params)
        return mlir.lower_fun(made, multiple_results=False)(context, *args)

    def lowered_on_cpu(context: Any, *args: Any, **params: Any) -> Any:
        if may_call_onednn(context.module_context):
            params["native"] = params["library"]
        return lowered(context, *args, **params)

    call.def_impl(run)
    call.def_abstract_eval(abstract)
    ad.primitive_jvps[call] = derivative
    batching.primitive_batchers[call] = mapped
    mlir.register_lowering(call, lowered)
    mlir.register_lowering(call, lowered_on_cpu, platform="cpu")
    return call


def may_call_onednn(context: Any) -> bool:
    """Whether what JAX lowers in this context may call oneDNN: programs that do cannot
    be exported, kept in JAX's persistent cache, or spread over devices."""
    return (
        tuple(context.platforms) == ("cpu",)
        and getattr(context.axis_context, "num_devices", 0) == 1
        and not context.lowering_parameters.for_export
        and not keeps_programs()
    )


def keeps_programs() -> bool:
    """Whether JAX's persistent cache is on."""
    config: Any = jax.config
    folder = config.jax_compilation_cache_dir
    return bool(config.jax_enable_compilation_cache and folder)


def onednn_conv(
    x: Array,
    kernel: Array,
    *others: Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    feature_group_count: int = 1,
    rhs_dilation: Sequence[int] | None = None,
    biased: bool = False,
    relu: bool = False,
    **options: Any,
) -> Array:
    """The convolution of `conv_by_onednn`, by oneDNN itself."""
    *window, channels, out = kernel.shape
    spatial = range(1, x.ndim - 1)
    dilation = rhs_dilation or (1,) * len(window)
    extents = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    added = ["BINARY_ADD"] * (len(others) - biased)
    fusions = {"ops": ["BIAS"] * biased + added + ["RELU"] * relu}
    if math.prod(window) == feature_group_count == 1 and not np.any(padding):
        x = x[:, *(slice(None, None, stride) for stride in strides)]
        rows = [other.reshape(-1, out) for other in others]
        matrices = x.reshape(-1, channels), kernel.reshape(channels, out)
        y = call_onednn(
            "matmul",
            {"onednn_matmul_config": {"fusions": fusions}},
            (math.prod(x.shape[:-1]), out),
            *matrices,
            *rows,
        )
        return y.reshape(*x.shape[:-1], out)
    data = {"batch_dim": 0, "feature_dim": x.ndim - 1, "spatial_dims": [*spatial]}
    filters = {
        "input_feature_dim": x.ndim - 2,
        "output_feature_dim": x.ndim - 1,
        "spatial_dims": [axis - 1 for axis in spatial],
    }
    config: dict[str, Any] = {
        "dims": x.ndim,
        "input": {"dims": x.ndim, "data": data},
        "kernel": {"dims": x.ndim, "filter": filters},
        "output": {"dims": x.ndim, "data": data},
        "window": {
            "strides": [*strides],
            "pad_left": [low for low, _ in padding],
            "pad_right": [high for _, high in padding],
            "window_dilations": [*dilation],
        },
        "fusions": fusions,
        "feature_groups": feature_group_count,
    }
    sizes = conv_sizes(x.shape[1:-1], extents, strides, padding)
    shape = (x.shape[0], *sizes, out)
    return call_onednn(
        "convolution", {"onednn_conv_config": config}, shape, x, kernel, *others
    )


def onednn_products(x: Array, kernel: Array) -> Array:
    """x (batch, m, k) @ kernel (batch, k, n), by oneDNN itself."""
    shape = (*x.shape[:-1], kernel.shape[-1])
    return call_onednn("matmul", {"onednn_matmul_config": {}}, shape, x, kernel)


def call_onednn(target: str, config: Any, shape: Sequence[int], *args: Array) -> Array:
    """One of XLA's calls of oneDNN, which gives float32 of this shape."""
    import json

    result: Any = jax.ShapeDtypeStruct
    call: Any = jax.ffi.ffi_call(
        f"__onednn${target}",
        result(tuple(shape), np.float32),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps(config),
    )
    y: Array = call(*args)
    return y
