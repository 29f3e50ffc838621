"""DenseNet's block as one layer."""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike


class NormConv(nnx.Module):
    """BatchNorm, ReLU and a convolution that keeps the size; x is (N, H, W, C)."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        size: int,
        *,
        kernel_init: nnx.Initializer,
        scale_init: nnx.Initializer,
        bias_init: nnx.Initializer,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.norm = nnx.BatchNorm(
            channels,
            epsilon=1e-5,
            scale_init=scale_init,
            bias_init=bias_init,
            dtype=dtype,
            rngs=rngs,
        )
        self.conv = nnx.Conv(
            channels,
            outputs,
            (size, size),
            use_bias=False,
            kernel_init=kernel_init,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: Array) -> Array:
        y: Array = self.conv(nnx.relu(self.norm(x)))
        return y


class DenseBlock(nnx.Module):
    """Each of `count` steps appends `growth` channels: (N, H, W, C + count * growth).

    With `narrow`, a 1 x 1 filter to 4 * growth channels stands before the 3 x 3 one.
    """

    def __init__(
        self,
        channels: int,
        count: int,
        growth: int,
        *,
        narrow: bool = False,
        kernel_init: nnx.Initializer = nnx.nn.linear.default_kernel_init,
        scale_init: nnx.Initializer = nnx.initializers.ones,
        bias_init: nnx.Initializer = nnx.initializers.zeros,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.count = count
        self.narrow = narrow
        for i in range(count):
            sizes = [(channels + i * growth, growth, 3)]
            if narrow:
                sizes = [(sizes[0][0], 4 * growth, 1), (4 * growth, growth, 3)]
            for name, size in zip(("grow", "narrow"), reversed(sizes), strict=False):
                step = NormConv(
                    *size,
                    kernel_init=kernel_init,
                    scale_init=scale_init,
                    bias_init=bias_init,
                    dtype=dtype,
                    rngs=rngs,
                )
                setattr(self, f"{name}{i}", step)

    def __call__(self, x: Array) -> Array:
        for i in range(self.count):
            y = getattr(self, f"narrow{i}")(x) if self.narrow else x
            x = jnp.concatenate([x, getattr(self, f"grow{i}")(y)], -1)
        return x
