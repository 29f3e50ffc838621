"""Colours of images in another space."""

import jax.numpy as jnp
import numpy as np
from jax import Array


def lab_colours(x: Array, *, bgr: bool = False) -> Array:
    """CIE Lab, white D65, of sRGB images (N, H, W, 3) of 0 to 255."""
    v = x.astype(np.promote_types(x.dtype, np.float32)) / 255
    v = v[..., ::-1] if bgr else v
    # The power of a negative number is not taken: where it would be, it is not used.
    linear = ((jnp.maximum(v, 0) + 0.055) / 1.055) ** 2.4
    v = jnp.where(v <= 0.04045, v / 12.92, linear)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    white = np.array([0.95074, 1.0, 1.08883])
    matrix = jnp.asarray((to_xyz / white[:, None]).T, v.dtype)
    xyz = jnp.matmul(v, matrix, precision="highest")
    f = jnp.where(xyz > 0.008867, jnp.cbrt(xyz), (903.3 * xyz + 16) / 116)
    fx, fy, fz = f[..., 0], f[..., 1], f[..., 2]
    lab = jnp.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], -1)
    return lab.astype(x.dtype)
