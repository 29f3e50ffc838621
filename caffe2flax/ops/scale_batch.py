"""Batch normalization without running statistics."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from caffe2flax.ops.scale import Scale


class BatchScale(Scale):
    """(x - mean) / sqrt(var + epsilon) * scale + bias, whose mean and var are those of
    the batch in eval mode, too; `broadcast` lists the axes that they are taken over."""

    def __call__(self, x: Array, epsilon: float = 1e-9) -> Array:
        wide = x.astype(np.promote_types(x.dtype, np.float32))
        rest = wide - wide.mean(self.broadcast, keepdims=True)
        var = jnp.square(rest).mean(self.broadcast, keepdims=True)
        return super().__call__((rest / jnp.sqrt(var + epsilon)).astype(x.dtype))
