"""caffe2flax: trained Caffe networks as readable Flax NNX modules, exactly."""

from typing import TYPE_CHECKING

from caffe2flax.api import (
    convert,
    data,
    draw,
    export,
    features,
    inspect,
    load,
    run,
    upgrade,
    verify,
    where,
)
from caffe2flax.conversion import VERSION, Conversion
from caffe2flax.cpu import compile
from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.frontend.solverstate import SolverState, read_solverstate
from caffe2flax.ir.registry import layer
from caffe2flax.limits import Limits, limited
from caffe2flax.training.blobs import multipliers
from caffe2flax.training.snapshots import save_caffemodel
from caffe2flax.training.solver import Solver, read_solver

if TYPE_CHECKING:
    from caffe2flax.prediction.photographs import predict
else:

    def __getattr__(name: str) -> object:
        """`predict`, whose modules nothing else needs: without them --help is quick."""
        if name != "predict":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from caffe2flax.prediction.photographs import predict

        return predict


__version__ = VERSION

__all__ = [
    "Conversion",
    "ConversionError",
    "Limits",
    "Problem",
    "Solver",
    "SolverState",
    "Span",
    "__version__",
    "compile",
    "convert",
    "data",
    "draw",
    "export",
    "features",
    "inspect",
    "layer",
    "limited",
    "load",
    "multipliers",
    "predict",
    "read_solver",
    "read_solverstate",
    "run",
    "save_caffemodel",
    "upgrade",
    "verify",
    "where",
]
