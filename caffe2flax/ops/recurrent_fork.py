"""The LSTM of Caffe's forks for text and sequences."""

import math

import jax.numpy as jnp
from jax import Array

from caffe2flax.ops.recurrent import LSTM


class Lstm(LSTM):
    """`LSTM` of x (T, N, ...), or of x (T * streams, ...) where all streams of a step
    stand one behind the other.

    cont[t + n] tells whether step t goes on with stream n's state; without cont a call
    is one sequence a stream. Returns h in the order of x, and h and c of the last step.
    """

    def __call__(
        self,
        x: Array,
        cont: Array | None = None,
        h_0: Array | None = None,
        c_0: Array | None = None,
        *,
        x_static: Array | None = None,
        streams: int | None = None,
    ) -> tuple[Array, Array, Array]:
        count = x.shape[1] if streams is None else streams
        steps = x.shape[0] if streams is None else x.shape[0] // streams
        rest = x.shape[2:] if streams is None else x.shape[1:]
        rows = x.reshape(steps, count, math.prod(rest))
        t, n = jnp.arange(steps)[:, None], jnp.arange(count)[None]
        goes_on = t + 0 * n > 0 if cont is None else cont.reshape(-1)[t + n] != 0
        hs, h, c = super().__call__(
            rows, goes_on.astype(x.dtype), h_0, c_0, x_static=x_static
        )
        top = hs if streams is None else hs.reshape(steps * count, self.features)
        return top, h, c
