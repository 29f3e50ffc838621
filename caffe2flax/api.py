"""The public functions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from caffe2flax import conversion
from caffe2flax.conversion import Conversion, Weights, read_graph, weight_paths
from caffe2flax.files.atomic import write_text
from caffe2flax.frontend import caffemodel
from caffe2flax.frontend.message import Message
from caffe2flax.frontend.prototxt import read_text
from caffe2flax.frontend.source import (
    PathOrText,
    PipedText,
    at_hand,
    carries_weights,
    is_text,
    text_of,
)
from caffe2flax.options import ConversionOptions, NetOptions, check_options, one_or_more
from caffe2flax.weights.safetensors import Progress
from caffe2flax.weights.variables import collect

if TYPE_CHECKING:
    import grain
    from flax import nnx

    from caffe2flax.drawing.drawing import Drawing
    from caffe2flax.exports.export import Export
    from caffe2flax.extraction.features import Features
    from caffe2flax.inspection.net import Inspection
    from caffe2flax.inspection.weights import WeightsInspection
    from caffe2flax.inspection.where import LayerLocation
    from caffe2flax.verification.report import Report

Array = NDArray[Any]

__all__ = [
    "convert",
    "data",
    "draw",
    "export",
    "features",
    "inspect",
    "load",
    "run",
    "upgrade",
    "verify",
    "where",
]


def convert(
    prototxt: PathOrText,
    weights: Weights | None = None,
    **options: Unpack[ConversionOptions],
) -> Conversion:
    """Converts a net: `prototxt` is a path or the text itself, `weights` a path or
    several. A weights file that contains its net can be given as `prototxt`.

    Options: see `caffe2flax.options`. Raises ConversionError with every problem of the
    files.
    """
    return conversion.convert(prototxt, weights, **options)


def verify(
    prototxt: PathOrText,
    weights: Weights | None = None,
    *,
    inputs: Mapping[str, Array] | str | os.PathLike[str] | None = None,
    image: str | os.PathLike[str] | None = None,
    against: str = "reference",
    tolerance: float = 1e-4,
    module: str | os.PathLike[str] | None = None,
    compiled: bool = False,
    progress: Progress | None = None,
    **options: Unpack[ConversionOptions],
) -> Report:
    """Runs the generated module and a reference on the same input, and compares what
    every layer computes.

    inputs: arrays, or an .npz of them, in Caffe's names and axis order. image: a photo
    for the input that is an image. Other inputs are noise, the same at every call.
    against: "reference" (numpy, float64), "caffe" (an installed pycaffe) or "opencv"
    (below 5). tolerance: the largest allowed difference, relative to the largest number
    of its blob. module: the .py of an earlier conversion, which may have been edited;
    it is run, with the .safetensors beside it, instead of what `convert` would write
    now. compiled: also compares the outputs of the program that `caffe2flax.compile`
    returns for the module. progress: called with the number of layers that the
    reference has computed, and of all. Options: see `caffe2flax.options`. Raises
    ConversionError.
    """
    from caffe2flax.verification.verify import verify

    return verify(
        at_hand(prototxt),
        weights,
        inputs=inputs,
        image=image,
        against=against,
        tolerance=tolerance,
        module=module,
        compiled=compiled,
        progress=progress,
        **options,
    )


def export(
    prototxt: PathOrText,
    weights: Weights | None = None,
    *,
    to: str,
    path: str | os.PathLike[str] | None = None,
    batch: int | str | None = None,
    bundle: bool = False,
    verify: bool = False,
    force: bool = False,
    labels: Sequence[str] | str | os.PathLike[str] = (),
    resize: tuple[int, int] | None = None,
    channel_order: str | None = None,
    **options: Unpack[NetOptions],
) -> Export:
    """Writes a net for other programs.

    to: "onnx" is a model in Caffe's names and axis order, "stablehlo" a program of the
    module that runs without Flax, "hub" a folder to publish: module, weights,
    config.json, preprocessing, README.md and a test. path: the file of the model, else
    the folder; by default it has the name of the net. batch: a number, "dynamic" for
    any, or None for any where the layers allow it. bundle: whether a program contains
    its weights. verify: runs what was written, and compares what it computes with the
    reference; for "hub" the module always is. force: whether files are replaced.
    Without weights the fillers give them, but for "hub".

    For "hub": labels are the names of the classes, or a file with one a line; images
    are resized to `resize` (height, width) and cropped; channel_order is "BGR" (the
    default) or "RGB". Options: see `caffe2flax.options`. Raises ConversionError, which
    names all layers that the form cannot say exactly, and FileExistsError.
    """
    from caffe2flax.exports.export import export
    from caffe2flax.exports.hub import Images

    check_options(options, NetOptions)
    return export(
        at_hand(prototxt),
        weights,
        to=to,
        path=path,
        batch=batch,
        bundle=bundle,
        verify=verify,
        force=force,
        images=Images(labels, resize, channel_order),
        **options,
    )


def inspect(
    prototxt: PathOrText,
    weights: Weights | None = None,
    **options: Unpack[ConversionOptions],
) -> Inspection | WeightsInspection:
    """The layers of a net and what they cost, or the contents of a weights file.
    Options: see `caffe2flax.options`. Raises ConversionError with every problem,
    unsupported layers included."""
    from caffe2flax.inspection.net import inspect_graph
    from caffe2flax.inspection.weights import inspect_weights

    prototxt = at_hand(prototxt)
    if weights is None and carries_weights(prototxt):
        check_options(options)
        return inspect_weights(caffemodel.read(prototxt), prototxt)
    graph = read_graph(prototxt, **options)
    files = [caffemodel.read(path) for path in weight_paths(weights)]
    notes = collect(graph, files)[1] if files else ()
    return inspect_graph(
        graph, (*(note for file in files for note in file.notes), *notes)
    )


def where(
    prototxt: PathOrText,
    query: str,
    weights: Weights | None = None,
    **options: Unpack[ConversionOptions],
) -> tuple[LayerLocation, ...]:
    """The lines of a layer in the prototxt and in the generated module. `query` is the
    name of a layer or a blob, a line of the module that `convert` writes for the same
    arguments ("123"), or one of the prototxt ("net.prototxt:57"). Options: see
    `caffe2flax.options`. Raises ConversionError where there is no such layer."""
    from caffe2flax.inspection.where import locate

    prototxt = at_hand(prototxt)
    converted = conversion.convert(prototxt, weights, **options)
    return locate(converted, text_of(prototxt), query)


def load(
    prototxt: PathOrText,
    weights: Weights | None = None,
    **options: Unpack[ConversionOptions],
) -> nnx.Module:
    """The converted net as an nnx module with its weights, in eval mode. Options: see
    `caffe2flax.options`. Raises ConversionError."""
    from caffe2flax.runner import instantiate

    model: nnx.Module = instantiate(conversion.convert(prototxt, weights, **options))
    return model


def draw(
    prototxt: PathOrText,
    output: str | os.PathLike[str] | None = None,
    *,
    force: bool = False,
    **options: Unpack[NetOptions],
) -> Drawing:
    """The net as a picture, which a notebook shows; `write` and `render` make svg, png,
    pdf and dot of it, by Graphviz.

    output: where it is written to, in the format of its ending. force: whether to
    replace a file. Options: see `caffe2flax.options`. Raises ConversionError;
    FileExistsError where `output` exists and `force` is not given; OSError.
    """
    from caffe2flax.drawing.drawing import draw
    from caffe2flax.drawing.picture import DRAWN

    drawing = draw(read_graph(prototxt, passes=DRAWN, **options))
    if output is not None:
        drawing.write(output, force)
    return drawing


def upgrade(
    prototxt: PathOrText,
    output: str | os.PathLike[str] | None = None,
    *,
    force: bool = False,
) -> str:
    """The text of a prototxt, or a solver, in Caffe's current format; comments stay
    where they can.

    output: where it is written to. force: whether to replace a file. Raises
    ConversionError; FileExistsError where `output` exists and `force` is not given;
    OSError.
    """
    from caffe2flax.frontend.upgrade.rewrite import upgraded_text

    source = at_hand(prototxt)
    if isinstance(source, PipedText):
        text = upgraded_text(str(source), source.file)
    elif is_text(source):
        text = upgraded_text(str(source))
    else:
        text = upgraded_text(read_text(source), os.fspath(source))
    if output is not None:
        write_text(Path(output), text, force)
    return text


def features(
    prototxt: PathOrText,
    weights: Weights | None,
    blobs: Sequence[str] | str,
    **options: Unpack[NetOptions],
) -> Features:
    """A function of images (N, H, W, C) that returns these blobs, by Caffe's names, and
    computes nothing behind the last of them.

        features = caffe2flax.features("net.prototxt", "net.caffemodel", ["conv5"])
        features(images)["conv5"]  # (N, H, W, C)

    Values are those of Caffe when its net has run: behind layers that work in place.
    Images may have any size that this part of the net takes. Options: see
    `caffe2flax.options`. Raises ConversionError.
    """
    from caffe2flax.extraction.features import features

    return features(prototxt, weights, blobs, **options)


def run(
    prototxt: PathOrText,
    weights: Weights | None,
    inputs: Mapping[str, Array],
    *,
    blobs: Sequence[str] | str = "outputs",
    **options: Unpack[NetOptions],
) -> dict[str, Array]:
    """Runs the generated module under jit on `inputs`, all arrays in Caffe's names and
    axis order.

    blobs: "outputs", "all", or the names of blobs. Options: see `caffe2flax.options`.
    Raises ConversionError.
    """
    from caffe2flax.runner import execute

    check_options(options, NetOptions)
    wanted = list(one_or_more(blobs))
    if wanted == ["outputs"]:
        taps: Sequence[str] | str = ()
    else:
        taps = "all" if wanted == ["all"] else wanted
    converted = conversion.convert(
        prototxt,
        weights,
        array_shapes={blob: np.shape(array) for blob, array in inputs.items()},
        filled=True,
        taps=taps,
        **options,
    )
    return execute(converted, inputs, wanted)


def data(
    prototxt: PathOrText | Message,
    phase: str = "TRAIN",
    source: str | os.PathLike[str] | Mapping[str, Array] | None = None,
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
    """Batches of the data layers of a net, without an end: float32 arrays by blob,
    images channels last (N, H, W, C), labels (N,), as generated modules take them.

    The order is that of the database or list, unless a layer or `shuffle` says
    otherwise; the record behind the last is the first. The state of the dataset's
    iterator is the place in the data.

    source: what to read in place of what the net names: a database or list, or arrays
    by blob in Caffe's axis order, as a dict or an .npz, for data and Input layers; they
    are taken as they are, without `transform_param`. level, stages: as in conversions.
    axes: by blob, which of Caffe's axes stands at each place; (0, 2, 3, 1) where there
    are four. share: (index, count) of this process; by default as JAX has it. threads,
    workers: threads and processes that prepare batches. input_shapes: by blob, where a
    layer does not say its batch size. Raises ConversionError; in iterating ValueError,
    with the file and the record.
    """
    from caffe2flax.training.data import data

    return data(
        prototxt,
        phase,
        source,
        level=level,
        stages=stages,
        shuffle=shuffle,
        seed=seed,
        axes=axes,
        share=share,
        threads=threads,
        workers=workers,
        input_shapes=input_shapes,
    )
