"""caffe2flax: trained Caffe networks as readable Flax NNX modules, exactly."""

from caffe2flax.api import Conversion, convert, inspect, load, run, verify, where
from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.registry import layer

__version__ = "0.1.0"

__all__ = [
    "Conversion",
    "ConversionError",
    "Problem",
    "Span",
    "__version__",
    "convert",
    "inspect",
    "layer",
    "load",
    "run",
    "verify",
    "where",
]
