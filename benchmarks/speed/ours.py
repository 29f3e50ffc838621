"""caffe2flax's own modules, called as docs/performance.md says."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

import caffe2flax
from speed.networks import WORK, Network

Array = NDArray[np.float32]
Run = Callable[[Array], Array]


def model(network: Network) -> Any:
    """The converted network, loaded as a user would load it."""
    return written(network).from_pretrained()


def written(network: Network) -> Any:
    """The class that `convert` wrote, out of its file."""
    conversion = caffe2flax.convert(network.prototxt, network.weights)
    folder = WORK / "modules"
    folder.mkdir(parents=True, exist_ok=True)
    path, *_ = conversion.write(folder, force=True)
    spec = importlib.util.spec_from_file_location(conversion.name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, conversion.name)


def called(model: Any, form: str) -> Run:
    """`model` by `caffe2flax.compile` ("compiled") or jax.jit ("jitted"): images are
    (N, H, W, C)."""
    if form == "compiled":
        forward = caffe2flax.compile(model)
        return lambda images: np.asarray(forward(images))
    jitted = jax.jit(lambda model, images: model(images))
    return lambda images: np.asarray(jitted(model, images))
