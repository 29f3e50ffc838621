"""Batches as the data layers of a net give them: a grain dataset, and the text of it in
a training script."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from caffe2flax.frontend.message import Message
from caffe2flax.frontend.source import PathOrText
from caffe2flax.ir.layout import Shape
from caffe2flax.training.data_layers import data_layers
from caffe2flax.training.data_plan import Override, blamed, plan_of

if TYPE_CHECKING:
    import grain
    from numpy.typing import NDArray


def data(
    prototxt: PathOrText | Message,
    phase: str = "TRAIN",
    source: Override = None,
    *,
    level: int = 0,
    stages: Sequence[str] | str = (),
    shuffle: bool | None = None,
    seed: int = 0,
    axes: Mapping[str, Sequence[int]] | None = None,
    share: tuple[int, int] | None = None,
    threads: int = 4,
    workers: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> grain.IterDataset[dict[str, NDArray[np.float32]]]:
    """See `caffe2flax.data`."""
    plan = plan_of(prototxt, phase, source, level, stages, input_shapes)
    text = plan.text("net_batches", axes)
    with blamed(plan.feeds[0][0]):
        call = plan.function(
            text,
            "net_batches",
            batches={"share": share} if share else {},
            read_ahead={"threads": threads},
        )
        options = {} if shuffle is None else {"shuffle": shuffle}
        return call(seed=seed, workers=workers, **options)


def data_shapes(
    prototxt: PathOrText | Message,
    phase: str = "TRAIN",
    source: Override = None,
    *,
    level: int = 0,
    stages: Sequence[str] | str = (),
    folder: str | os.PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Shape]:
    """The shapes of a batch by blob, in Caffe's axis order, from the first record of
    each source. Arguments and errors are those of `data`; folder: where relative paths
    of a Message or a text begin."""
    plan = plan_of(prototxt, phase, source, level, stages, input_shapes, folder)
    return plan.shapes()


def data_notes(
    prototxt: PathOrText | Message,
    phase: str = "TRAIN",
    *,
    level: int = 0,
    stages: Sequence[str] | str = (),
) -> tuple[str, ...]:
    """What the data layers of a net say that has no effect."""
    layers = data_layers(prototxt, phase, level=level, stages=stages)
    return tuple(note for layer in layers for note in layer.notes)


def data_source(
    prototxt: PathOrText | Message,
    phase: str = "TRAIN",
    source: Override = None,
    *,
    name: str = "train_batches",
    level: int = 0,
    stages: Sequence[str] | str = (),
    axes: Mapping[str, Sequence[int]] | None = None,
    blobs: Collection[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    script: Path | None = None,
) -> str:
    """The definition of a function that returns these batches, for a training script:
    `def train_batches(source=..., *, seed=0, shuffle=False, workers=0)`.

    It calls functions and classes of `caffe2flax.training.library`. blobs: those that
    are wanted, by default all. script: the folder of that script, which the text may
    call HERE. Other arguments and errors: see `data`, `data_shapes`.
    """
    wanted = None if blobs is None else frozenset(blobs)
    given = prototxt, phase, source, level, stages, input_shapes, folder, wanted
    plan = plan_of(*given, script)
    return plan.text(name, axes)
