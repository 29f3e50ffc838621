"""caffe2flax: trained Caffe networks as readable Flax NNX modules, exactly."""

from caffe2flax.api import convert, data, inspect, load, run, verify, where
from caffe2flax.conversion import VERSION, Conversion
from caffe2flax.cpu import compile
from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.ir.registry import layer
from caffe2flax.limits import Limits, limited

__version__ = VERSION

__all__ = [
    "Conversion",
    "ConversionError",
    "Limits",
    "Problem",
    "Span",
    "__version__",
    "compile",
    "convert",
    "data",
    "inspect",
    "layer",
    "limited",
    "load",
    "run",
    "verify",
    "where",
]
