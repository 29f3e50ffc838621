"""Compiles a Flax module, or a function of JAX, for inference on this CPU.

This folder stands by itself: it imports no other part of the package. JAX is imported
when something is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from caffe2flax.cpu.errors import ChangingModelError, MismatchError

if TYPE_CHECKING:
    from caffe2flax.cpu.compiled import Compiled

__all__ = ["ChangingModelError", "MismatchError", "compile"]


def compile(
    model: Callable[..., Any], *, check: bool = False, thorough: bool = False
) -> Compiled:
    """`model` with the weights it has now, as a function for inference.

    model: an nnx module in eval mode, a bound method of one (`model.logits`), or any
    function of arrays, whose own weights are those of its first call for each shape.
    The result takes and gives what `model` does, any trees of arrays; it is compiled at
    its first call for each shape. On this process's CPU, in float32, layers are put
    together and computed in faster ways, within 2e-5 of the largest number of an
    output; `explain(*inputs)` of the result says which. Wherever that cannot be it is
    `jax.jit(model)`: on GPU and TPU, for inputs that are traced, sharded, or on another
    device, under `jax.disable_jit`, `jax_debug_nans`, `jax_enable_x64` or a mesh.

    check: runs the plain function once beside the first call for each shape.
    thorough: Winograd's algorithm wherever it pays at run time; compiling may take
    several times as long.

    Numbers that are not finite may come out otherwise: where oneDNN computes a ReLU it
    makes NaN 0 (to leave the ReLU to XLA takes 1 to 4 percent longer), and Winograd's
    algorithm and merged groups let NaN and infinity reach their neighbours.

    The result holds the model's arrays, large ones as copies in memory that is read
    sooner, and weights that were put into another form for a program, which all shapes
    share. It cannot be pickled.

    Raises, when it is called:
        ChangingModelError: the call changes the model's variables, as BatchNorm and
            Dropout do before `model.eval()`.
        MismatchError: `check` found another result than that of the plain function.
        What `jax.jit(model)` raises for the same inputs.
    """
    from caffe2flax.cpu.compiled import Compiled

    return Compiled(model, check=check, thorough=thorough)
