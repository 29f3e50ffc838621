"""Recurrent layers as Caffe unrolls them.

x is (T, N, ...), T steps of N streams, its axes from the third on taken as one;
x_static (N, ...) goes into every step. The state before a step is multiplied by cont
(T, N): 0 begins a new sequence. States are (1, N, features) as in Caffe, and zeros
where none is given. As in Caffe no gradient goes through a state from call to call, nor
into cont.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype
from jax import Array, lax


class Recurrence(nnx.Module):
    """x input_kernel + input_bias + x_static static_kernel, and a hidden_kernel.

    These kernels make `gates` numbers for each feature.
    """

    gates = 1
    has_output = False

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        static_features: int = 0,
        kernel_init: nnx.Initializer | None = None,
        bias_init: nnx.Initializer | None = None,
        forget_bias: float = 0.0,
        dtype: Dtype | None = None,
        rngs: nnx.Rngs,
    ):
        kernel = kernel_init or nnx.initializers.lecun_normal()
        bias = bias_init or nnx.initializers.zeros_init()
        width = self.gates * features
        self.input_kernel = nnx.Param(kernel(rngs.params(), (in_features, width)))
        self.input_bias = nnx.Param(bias(rngs.params(), (width,)))
        if static_features:
            size = (static_features, width)
            self.static_kernel = nnx.Param(kernel(rngs.params(), size))
        self.hidden_kernel = nnx.Param(kernel(rngs.params(), (features, width)))
        if self.has_output:
            size = (features, features)
            self.output_kernel = nnx.Param(kernel(rngs.params(), size))
            self.output_bias = nnx.Param(bias(rngs.params(), (features,)))
        self.features = features
        self.forget_bias = forget_bias
        self.dtype = dtype

    def project(self, x: Array, x_static: Array | None) -> Array:
        """(T, N, width): what each step gets besides its state."""
        rows = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
        rows = rows.astype(self.dtype or x.dtype)
        z = rows @ self.input_kernel[...].astype(rows.dtype)
        z = z + self.input_bias[...].astype(z.dtype)[None, None]
        if x_static is None:
            return z
        static = x_static.reshape(x_static.shape[0], -1).astype(z.dtype)
        return z + (static @ self.static_kernel[...].astype(z.dtype))[None]

    def start(self, z: Array, state: Array | None) -> Array:
        """(N, features): the state of the call before, or zeros."""
        if state is None:
            return jnp.zeros((z.shape[1], self.features), z.dtype)
        return lax.stop_gradient(state[0]).astype(z.dtype)


class LSTM(Recurrence):
    """z = project(x) + cont h hidden_kernel;  i, f, o, g = z in four;
    c = cont sigmoid(f + forget_bias) c + sigmoid(i) tanh(g);  h = sigmoid(o) tanh(c).

    Returns h of all steps (T, N, features), and h and c of the last one.
    """

    gates = 4

    def __call__(
        self,
        x: Array,
        cont: Array,
        h_0: Array | None = None,
        c_0: Array | None = None,
        *,
        x_static: Array | None = None,
    ) -> tuple[Array, Array, Array]:
        z = self.project(x, x_static)
        if self.forget_bias:
            gates = jnp.array([0, self.forget_bias, 0, 0], z.dtype)
            z = z + jnp.repeat(gates, self.features)[None, None]
        kernel = self.hidden_kernel[...].astype(z.dtype)
        cont = lax.stop_gradient(cont).astype(z.dtype)

        def step(
            state: tuple[Array, Array], given: tuple[Array, Array]
        ) -> tuple[tuple[Array, Array], Array]:
            (h, c), (z, cont) = state, given
            c, h = lstm_unit(c, z + (cont[:, None] * h) @ kernel, cont)
            return (h, c), h

        first = self.start(z, h_0), self.start(z, c_0)
        (h, c), hs = lax.scan(step, first, (z, cont))
        return hs, lax.stop_gradient(h[None]), lax.stop_gradient(c[None])


class RNN(Recurrence):
    """h = tanh(project(x) + cont h hidden_kernel);  o = tanh(h output_kernel + bias).

    Returns o of all steps (T, N, features), and the last h.
    """

    has_output = True

    def __call__(
        self,
        x: Array,
        cont: Array,
        h_0: Array | None = None,
        *,
        x_static: Array | None = None,
    ) -> tuple[Array, Array]:
        z = self.project(x, x_static)
        kernel = self.hidden_kernel[...].astype(z.dtype)
        cont = lax.stop_gradient(cont).astype(z.dtype)

        def step(h: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
            z, cont = given
            h = jnp.tanh(z + (cont[:, None] * h) @ kernel)
            return h, h

        h, hs = lax.scan(step, self.start(z, h_0), (z, cont))
        o = hs @ self.output_kernel[...].astype(z.dtype)
        o = o + self.output_bias[...].astype(z.dtype)[None, None]
        return jnp.tanh(o), lax.stop_gradient(h[None])


def lstm_unit(c: Array, z: Array, cont: Array) -> tuple[Array, Array]:
    """One step of an LSTM: c and h from the c before, z in four (i, f, o, g), and cont.

    c is (..., features), z (..., 4 * features), cont (...).
    """
    i, f, o, g = jnp.split(z, 4, axis=-1)
    cont = jnp.expand_dims(lax.stop_gradient(cont), -1).astype(z.dtype)
    c = forget_gate(f, cont) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return c, jax.nn.sigmoid(o) * jnp.tanh(c)


def forget_gate(f: Array, cont: Array) -> Array:
    """y = cont sigmoid(f), 0 where cont is. The derivative is y (1 - y), which Caffe
    also takes where cont is neither 0 nor 1."""

    @jax.custom_jvp
    def gate(f: Array, cont: Array) -> Array:
        return jnp.where(cont == 0, 0, cont * jax.nn.sigmoid(f))

    @gate.defjvp
    def differential(
        given: tuple[Array, Array], tangents: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        y = gate(*given)
        return y, y * (1 - y) * tangents[0]

    return gate(f, cont)
