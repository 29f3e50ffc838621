"""Compiles a Flax module, or a function of JAX, a training step too, for this CPU.

This folder imports no other part of the package. JAX is imported when something is
compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from caffe2flax.cpu.errors import ChangingModelError, MismatchError

if TYPE_CHECKING:
    from caffe2flax.cpu.compiled import Compiled

__all__ = ["ChangingModelError", "MismatchError", "compile"]


def compile(
    model: Callable[..., Any],
    *,
    check: bool = False,
    thorough: bool = False,
    donate_argnums: int | Sequence[int] = (),
) -> Compiled:
    """`model` with its current weights, as a function for inference; or a function that
    differentiates, as a training step does.

    model: an nnx module in eval mode, a bound method of one (`model.logits`), or any
    function of arrays, whose own weights are those of its first call for each shape.
    A function of Flax objects (models, optimizers) updates them, as under `nnx.jit`;
    where a call changes more than values of variables, or returns these, it is
    `nnx.jit(model)`.
    The result takes and returns the same trees of arrays as `model`; it is compiled at
    its first call for each shape. On this process's CPU, in float32, layers are fused
    and computed by faster methods, within 2e-5 of the largest number of an output;
    `explain(*inputs)` of the result lists them. Elsewhere the result is
    `jax.jit(model)`: on GPU and TPU, for inputs that are traced, sharded, or on another
    device, under `jax.disable_jit`, `jax_debug_nans`, `jax_enable_x64` or a mesh.

    In a function that differentiates, or that takes Flax objects, convolutions whose
    kernels are inputs are computed by faster methods, too, with their gradients and
    those of maxima over windows: each within 2e-6. A whole step may differ by more, as
    rounding can make another number of a window the largest. Bodies of `lax.scan` and
    `lax.cond` stay as they are. Numbers of a weak type come back as float32.

    donate_argnums: positional arguments whose arrays the call may overwrite, as in
    `jax.jit`: a training step then takes no second copy of its weights. Of Flax objects
    the arrays of variables that the call changes.
    check: compares with the plain function at the first call for each shape; not meant
    for training steps, see above.
    thorough: uses Winograd's algorithm wherever it is faster at run time; compiling may
    take several times as long.

    Results that are not finite may differ: a ReLU computed by oneDNN turns NaN into 0
    (a ReLU by XLA takes 1 to 4 percent longer), and with Winograd's algorithm and
    merged groups, NaN and infinity spread to their neighbours.

    The result keeps the model's arrays, large ones as copies in memory that is read
    faster, and weights in the form that programs need, shared by all shapes. It cannot
    be pickled.

    Raises, when it is called:
        ChangingModelError: the call changes the model's variables, as BatchNorm and
            Dropout do before `model.eval()`.
        MismatchError: with `check`, the result differs from the plain function's.
        What `jax.jit(model)` raises for the same inputs.
    """
    from caffe2flax.cpu.compiled import Compiled
    from caffe2flax.cpu.sources import is_function
    from caffe2flax.cpu.variables import CompiledFunction

    given = (donate_argnums,) if isinstance(donate_argnums, int) else donate_argnums
    kind = CompiledFunction if is_function(model) else Compiled
    return kind(model, check=check, thorough=thorough, donated=tuple(given))
