"""Normalization by neighbours, and by a blob's own mean and deviation."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array


def lrn(x: Array, *, size: int, alpha: float, beta: float, k: float = 1.0) -> Array:
    """x / (k + alpha / size * sum of x^2 over `size` neighbouring channels) ** beta."""
    wide = x.astype(np.promote_types(x.dtype, np.float32))  # squares are large
    beside = [(0, 0)] * (x.ndim - 1) + [(size // 2, size // 2)]
    squares = jnp.pad(jnp.square(wide), beside)
    near = sum(squares[..., i : i + x.shape[-1]] for i in range(size))
    return (wide * (k + alpha / size * near) ** -beta).astype(x.dtype)


def lrn_in_place(
    x: Array, *, size: int, alpha: float, beta: float, k: float = 1.0
) -> Array:
    """scale^(-2 beta), scale = k + alpha / size * sum of x^2 as in lrn.

    It is what Caffe leaves where LRN overwrites its input before it has read it. So is
    the gradient, which knows nothing of the layers behind.
    """

    def near(x: Array) -> Array:
        padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(size // 2, size // 2)])
        return sum(
            (padded[..., i : i + x.shape[-1]] for i in range(size)), jnp.zeros_like(x)
        )

    def scale_of(x: Array) -> Array:
        wide = x.astype(np.promote_types(x.dtype, np.float32))
        return k + alpha / size * near(jnp.square(wide))

    def forward(x: Array) -> tuple[Array, Array]:
        return (scale_of(x) ** (-2 * beta)).astype(x.dtype), scale_of(x)

    def backward(scale: Array, g: Array) -> tuple[Array]:
        y = scale ** (-2 * beta)
        around = near(jnp.square(y) / scale)
        return ((y - 2 * alpha * beta / size * y * around).astype(g.dtype),)

    y = jax.custom_vjp(lambda x: forward(x)[0])
    y.defvjp(forward, backward)
    return y(x)


def lrn_within_channel(x: Array, *, size: int, alpha: float, beta: float) -> Array:
    """x * (1 + alpha * mean of x^2 over size x size pixels around)^-beta.

    x is (N, *spatial, C), size is odd; the zeros beyond its edges count in the mean.
    """
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    mean: Array = nnx.avg_pool(jnp.square(wide), (size,) * (x.ndim - 2), padding="SAME")
    return (wide * (1 + alpha * mean) ** -beta).astype(x.dtype)


def subtract_mean(x: Array, axes: tuple[int, ...]) -> Array:
    """x - mean over `axes`."""
    wide = x.astype(np.promote_types(x.dtype, np.float32))
    return (wide - wide.mean(axes, keepdims=True)).astype(x.dtype)


def mvn(x: Array, axes: tuple[int, ...], eps: float = 1e-9) -> Array:
    """(x - mean) / (std + eps) over `axes`.

    Its derivative is Caffe's: as if eps were part of the deviation, which need not be
    positive then.
    """

    def parts(x: Array) -> tuple[Array, Array]:
        wide = x.astype(np.promote_types(x.dtype, np.float32))
        centred = wide - wide.mean(axes, keepdims=True)
        return centred, jnp.sqrt(jnp.square(centred).mean(axes, keepdims=True)) + eps

    def normalize(x: Array) -> Array:
        centred, deviation = parts(x)
        return (centred / deviation).astype(x.dtype)

    def derivative(
        primals: tuple[Array], tangents: tuple[Array]
    ) -> tuple[Array, Array]:
        (x,), (t,) = primals, tangents
        centred, deviation = parts(x)
        y, t = centred / deviation, t.astype(centred.dtype)
        slope = t - t.mean(axes, keepdims=True) - y * (y * t).mean(axes, keepdims=True)
        return y.astype(x.dtype), (slope / deviation).astype(x.dtype)

    y = jax.custom_jvp(normalize)
    y.defjvp(derivative)
    return y(x)
