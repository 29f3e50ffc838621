"""caffe2flax's own modules, called as the README says, and other ways to run them."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

import caffe2flax
from speed.networks import WORK, Network

Array = NDArray[np.float32]
Run = Callable[[Array], Array]

OPTIMIZES = "optimize" in inspect.signature(caffe2flax.convert).parameters
FORMS = ("default", "optimized") if OPTIMIZES else ("default",)


def model(network: Network, form: str = "default") -> Any:
    """The converted network, loaded as a user would load it.

    form: "default", "optimized" (`convert --optimize`) or "plain", the default one with
    every convolution as XLA has it.
    """
    return written(network, form).from_pretrained()


def written(network: Network, form: str) -> Any:
    """The class that `convert` wrote, out of its file."""
    options = {"optimize": True} if form == "optimized" else {}
    conversion = caffe2flax.convert(network.prototxt, network.weights, **options)
    folder = WORK / form
    folder.mkdir(parents=True, exist_ok=True)
    path, *_ = conversion.write(folder, force=True)
    name = f"{form}_{conversion.name}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if form == "plain":
        module.Conv = plain_conv  # type: ignore[attr-defined]
    return getattr(module, conversion.name)


def plain_conv(*args: Any, **options: Any) -> nnx.Conv:
    """nnx.Conv, which asks XLA for a convolution."""
    way = {"conv_general_dilated": jax.lax.conv_general_dilated}
    return nnx.Conv(*args, **options | way)


def jitted(model: Any, images: Array) -> tuple[Any, list[Any]]:
    """What `model.compile()` calls with weights and such images, and those weights."""
    program = model.compile().program(images)
    (weights,) = program.args
    return program.func, weights


def called(model: Any) -> Run:
    """`model` called as the README says: images (N, H, W, C)."""
    forward = model.compile()
    return lambda images: np.asarray(forward(images))


def bare(model: Any, images: Array) -> Run:
    """The executable that XLA made for `images`, with nothing around it."""
    function, weights = jitted(model, images)
    executable = function.lower(weights, images).compile()
    return lambda images: np.asarray(executable(weights, images))
