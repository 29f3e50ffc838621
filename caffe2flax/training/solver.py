"""A solver: what its file says, its learning rate and its optimizer."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from caffe2flax.errors import optional
from caffe2flax.frontend import prototxt
from caffe2flax.frontend.source import PathOrText, PipedText, at_hand, is_text
from caffe2flax.training.optimizer import optimizer, parameter_multipliers
from caffe2flax.training.parameter import SolverParameter
from caffe2flax.training.rates import current_step, learning_rate
from caffe2flax.training.reading import read_fields

if TYPE_CHECKING:
    import optax
    from jax import Array
    from jax.typing import ArrayLike

    from caffe2flax.conversion import Conversion

_BEGINS_AS_TEXT = re.compile(r"\s*[A-Za-z_]\w+\s*:")


@dataclass(frozen=True, slots=True)
class Solver(SolverParameter):
    """A solver as Caffe reads it; see SolverParameter for its fields."""

    def learning_rate(self, i: ArrayLike, start: int = 0, step: int = 0) -> Array:
        """The rate of the update after i others, float32 in the shape of i, which may
        be traced.

        start, step: the iteration and the current_step of a snapshot that the run goes
        on from. With lr_policy "multistep" Caffe counts on from there.
        """
        return learning_rate(self, i, start, step)

    def current_step(self, updates: int, start: int = 0, step: int = 0) -> int:
        """The current_step of a snapshot after so many updates in all."""
        return current_step(self, updates, start, step)

    def optimizer(
        self, conversion: Conversion, start: int = 0, step: int = 0
    ) -> optax.GradientTransformation:
        """Caffe's update as a transformation of optax, for the gradients and the values
        of the module's `nnx.Param` state.

        With iter_size n it takes the gradients of n passes, one at a time, and changes
        weights at the last. start, step: see `learning_rate`. Raises ConversionError
        where optax is not installed.
        """
        with optional("an optimizer", "optax", "train"):
            import optax  # noqa: F401
        return optimizer(self, parameter_multipliers(conversion), start, step)


def read_solver(source: PathOrText) -> Solver:
    """The solver of a prototxt: `source` is a path, or the text itself.

    A solver read from a file has a snapshot_prefix, as in Caffe: by default the path
    without its extension; for one that is a folder, that name in it. No net that it
    names is opened. Raises ConversionError with every problem.
    """
    source = at_hand(source)
    if isinstance(source, str) and _is_text(source):
        name = source.file if isinstance(source, PipedText) else "<solver>"
        return Solver(**read_fields(prototxt.parse(str(source), name)))
    fields = {**read_fields(prototxt.read(source)), "file": fspath(source)}
    fields["snapshot_prefix"] = _prefix(source, fields["snapshot_prefix"])
    return Solver(**fields)


def _is_text(source: str) -> bool:
    """Unlike a net's, the text of a solver may be one line without a brace."""
    if is_text(source):
        return True
    return bool(_BEGINS_AS_TEXT.match(source)) and not os.path.exists(source)


def _prefix(source: PathOrText | PathLike[str], given: str) -> str:
    path = Path(source)
    if not given:
        return str(path.with_suffix(""))
    return str(Path(given) / path.stem) if os.path.isdir(given) else given
