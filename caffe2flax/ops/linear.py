"""Products with large matrices, for modules that are only run."""

import math

import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype
from jax import Array, lax

from caffe2flax.ops.onednn import call_onednn, either


class RowLinear(nnx.Module):
    """y[..., o] = bias[o] + sum of kernel[o, i] * x[..., i].

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
        return y if self.bias is None else y + self.bias[...].astype(dtype)


def row_products(x: Array, kernel: Array) -> Array:
    """x (..., k) @ kernel (n, k)^T, by oneDNN where there are several x on CPU."""
    count = x.shape[:-1]
    several = all(isinstance(n, int) for n in count) and math.prod(count) > 1
    if not several or x.dtype != jnp.float32:
        return native_row_products(x, kernel)
    return either(onednn_row_products, native_row_products, x, kernel)


def native_row_products(x: Array, kernel: Array) -> Array:
    """x (..., k) @ kernel (n, k)^T, by XLA."""
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (1,)), ((), ())))


def onednn_row_products(x: Array, kernel: Array) -> Array:
    """x (..., k) @ kernel (n, k)^T, by oneDNN."""
    columns = x.reshape(-1, x.shape[-1]).T
    shape = len(kernel), columns.shape[1]
    y = call_onednn("matmul", {"onednn_matmul_config": {}}, shape, kernel, columns)
    return y.T.reshape(*x.shape[:-1], len(kernel))
