"""Batch normalization with Caffe's running statistics."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax


class MovingBatchNorm(nnx.Module):
    """(x - mean) / sqrt(var + epsilon), for each entry of `axis`.

    In training, mean and var are the batch's, and the running statistics take part of
    them: `mean`, `var` and `factor` are sums over all batches, each batch worth
    `momentum` times the one after it; `factor` counts the batches so. In eval mode
    mean / factor and var / factor take the batch's place.
    """

    def __init__(
        self,
        num_features: int,
        *,
        axis: int = -1,
        momentum: float = 0.999,
        epsilon: float = 1e-5,
    ):
        self.mean = nnx.BatchStat(jnp.zeros(num_features))
        self.var = nnx.BatchStat(jnp.zeros(num_features))
        self.factor = nnx.BatchStat(jnp.zeros(1))
        self.num_features = num_features
        self.axis = axis
        self.momentum = momentum
        self.epsilon = epsilon
        self.use_running_average = False

    def __call__(self, x: Array, use_running_average: bool | None = None) -> Array:
        if use_running_average is None:
            use_running_average = self.use_running_average
        others = tuple(i for i in range(x.ndim) if i != self.axis % x.ndim)
        wide = x.astype(np.promote_types(x.dtype, np.float32))
        if use_running_average:
            factor = self.factor[...]
            inverse = jnp.where(factor == 0, 0, 1 / jnp.where(factor == 0, 1, factor))
            mean, var = self.mean[...] * inverse, self.var[...] * inverse
        else:
            mean = wide.mean(others)
            var = jnp.square(wide - jnp.expand_dims(mean, others)).mean(others)
            self._remember(mean, var, x)
        deviation = jnp.sqrt(jnp.expand_dims(var, others) + self.epsilon)
        y = (wide - jnp.expand_dims(mean, others)) / deviation
        return y.astype(x.dtype)

    def _remember(self, mean: Array, var: Array, x: Array) -> None:
        """Adds a batch's statistics, its variance made unbiased."""
        count = jnp.asarray(x.size // self.num_features, var.dtype)
        unbiased = var * count / jnp.maximum(count - 1, 1)
        for total, new in ((self.mean, mean), (self.var, unbiased), (self.factor, 1)):
            total[...] = self.momentum * total[...] + lax.stop_gradient(new)
