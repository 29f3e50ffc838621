"""Products with large matrices, whose reading costs more than what is computed."""

import math
from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype
from jax import Array, lax

from caffe2flax.ops.onednn import call_onednn, either


def split_dot(x: Array, kernel: Array, dimension_numbers: Any, **options: Any) -> Array:
    """lax.dot_general, for `nnx.Linear(dot_general=...)`: x (..., k) @ kernel (k, n).

    On CPU a single x is multiplied in pieces of 64 to 200 numbers, and their products
    are summed up: XLA reads the kernel 1.2 to 1.5 times as fast then.
    """

    def dot(x: Array, kernel: Array) -> Array:
        return lax.dot_general(x, kernel, dimension_numbers, **options)

    size, out = kernel.shape
    fitting = [n for n in range(64, 201) if size % n == 0]
    single = all(isinstance(n, int) and n == 1 for n in x.shape[:-1])
    placed = options.get("out_sharding") is not None
    if not single or not fitting or placed or x.dtype.itemsize < 4:
        return dot(x, kernel)
    length = min(fitting, key=lambda n: abs(n - 128))

    def pieces(x: Array, kernel: Array) -> Array:
        rows = x.reshape(-1, length)
        products = lax.dot_general(
            rows,
            kernel.reshape(-1, length, out),
            (((1,), (1,)), ((0,), (0,))),
            precision=options.get("precision"),
            preferred_element_type=options.get("preferred_element_type"),
        )
        return products.sum(0).reshape(*x.shape[:-1], out)

    y: Array = lax.platform_dependent(x, kernel, cpu=pieces, default=dot)
    return y


class RowLinear(nnx.Module):
    """y[..., o] = bias[o] + sum of kernel[o, i] * x[..., i], for modules only run.

    x is (..., in). `kernel` (out, in) has the weights of an output in a row, as Caffe
    has them: on CPU large ones are read 1.3 times as fast as those of nnx.Linear.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = True,
        dtype: Dtype | None = None,
        rngs: nnx.Rngs,
    ):
        shape = (out_features, in_features)
        init = nnx.initializers.lecun_normal(in_axis=1, out_axis=0)
        self.kernel = nnx.Param(init(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(out_features)) if use_bias else None
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        dtype = self.dtype or jnp.result_type(x, self.kernel[...])
        y = row_products(x.astype(dtype), self.kernel[...].astype(dtype))
        if self.bias is None:
            return y
        return y + self.bias[...].astype(dtype).reshape((1,) * (y.ndim - 1) + (-1,))


def row_products(x: Array, kernel: Array) -> Array:
    """x (..., k) @ kernel (n, k)^T, by oneDNN where there are several x on CPU."""
    count = x.shape[:-1]
    several = all(isinstance(n, int) for n in count) and math.prod(count) > 1
    if not several or x.dtype != jnp.float32:
        return native_row_products(x, kernel)
    shape = (*count, len(kernel))
    return either(onednn_row_products, native_row_products, shape, x, kernel)


def native_row_products(x: Array, kernel: Array) -> Array:
    """x (..., k) @ kernel (n, k)^T, by XLA."""
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (1,)), ((), ())))


def onednn_row_products(x: Array, kernel: Array) -> Array:
    """x (..., k) @ kernel (n, k)^T, by oneDNN."""
    columns = x.reshape(-1, x.shape[-1]).T
    shape = len(kernel), columns.shape[1]
    y = call_onednn("matmul", {"onednn_matmul_config": {}}, shape, kernel, columns)
    return y.T.reshape(*x.shape[:-1], len(kernel))
