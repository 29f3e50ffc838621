"""The converter as a function: files in, a module and its weights out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.build import build
from caffe2flax.codegen.format import format_source
from caffe2flax.codegen.library import library
from caffe2flax.codegen.module import emit
from caffe2flax.codegen.names import Namespace, module_stem
from caffe2flax.codegen.places import Places
from caffe2flax.codegen.preprocess import NAME
from caffe2flax.codegen.safetensors import Progress
from caffe2flax.codegen.weights import Blobs, Variables, bare, collect
from caffe2flax.dialects import check_dialects
from caffe2flax.errors import Problem
from caffe2flax.frontend import caffemodel
from caffe2flax.frontend.caffemodel import WeightFile
from caffe2flax.frontend.lending import lend_inputs
from caffe2flax.frontend.prototxt import read_text
from caffe2flax.frontend.rules import select
from caffe2flax.frontend.snapshot import as_written
from caffe2flax.frontend.sniff import is_binary
from caffe2flax.frontend.upgrade import inline_net, upgrade
from caffe2flax.ir import Graph
from caffe2flax.layers import register_all
from caffe2flax.layers.stub import Stub
from caffe2flax.layout import Shape
from caffe2flax.output import write_files
from caffe2flax.passes import PASSES, Pass, run_passes
from caffe2flax.plugins import load_entry_points, load_plugins
from caffe2flax.preparation import with_transform
from caffe2flax.sources import (
    PathOrText,
    carries_weights,
    is_text,
    origin,
    read_net,
)

if TYPE_CHECKING:
    from flax import nnx

    from caffe2flax.inspection import Inspection, WeightsInspection
    from caffe2flax.verification import Report
    from caffe2flax.whereabouts import Whereabouts

Array = NDArray[Any]
Weights = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
VERSION = "0.1.0"
STAND_IN = "no weights are given: random ones stand in"


@dataclass(frozen=True, slots=True)
class Conversion:
    """A converted net.

    name: the class. source: its module. weights: variable -> float32 array, None
    without a weights file. graph: the net as it was emitted. notes: what the user
    should know. blobs: the weights as Caffe holds them, by (owner's number, index).
    places: where the module has each node, by its number.
    """

    name: str
    source: str
    weights: Variables | None
    graph: Graph
    blobs: Blobs
    notes: tuple[str, ...]
    places: Places = field(default_factory=dict)

    @property
    def layer_count(self) -> int:
        """Layers of the net that the module holds."""
        return len(self.graph.slots)

    @property
    def parameter_count(self) -> int:
        """Numbers in the weight blobs, as Caffe counts them."""
        weights = {w for node in self.graph.nodes for w in node.weights}
        return sum(prod(weight.shape) for weight in weights)

    def write(
        self,
        directory: str | os.PathLike[str] = ".",
        force: bool = False,
        progress: Progress | None = None,
    ) -> tuple[Path, ...]:
        """Writes `<name in lower case>.py` and, with weights, `.safetensors` beside it;
        `<name>_net` where Python or JAX has a module of that name.

        Both appear whole or not at all. FileExistsError where one exists already and
        `force` is not given; OSError where the folder cannot be written.
        """
        stem = module_stem(self.name)
        return write_files(
            Path(directory), stem, self.source, self.weights, force, progress
        )


def convert(
    prototxt: PathOrText,
    weights: Weights | None = None,
    *,
    name: str | None = None,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    taps: Sequence[str] | str = (),
    dialect: Mapping[str, str] | None = None,
    mean: Sequence[float] = (),
    scale: float | None = None,
    flat: bool = False,
    plugins: Sequence[str | os.PathLike[str]] = (),
    stub_unsupported: bool = False,
) -> Conversion:
    """Converts a net: `prototxt` is a path or the text itself, `weights` a path or
    several. A weights file alone will do where it carries its net.

    phase, level, stages choose among the net's layers as Caffe does. input_shapes (in
    Caffe's axis order) replace those of the file. taps are blobs that the module
    returns beside its output; "all" is every blob. dialect says what a layer type with
    several meanings means ({"Crop": "auto"}) where the file leaves that open. mean (one
    number, or one for each channel) and scale go into the module's `preprocess`, in
    place of those in the file's transform_param. flat writes repeated blocks out
    instead of making classes of them. plugins are Python files that are run for the
    layers they register. stub_unsupported makes a method to be filled in of each layer
    of unknown type. Raises ConversionError with every problem of the files.
    """
    return _convert(
        prototxt,
        weights,
        name,
        phase=phase,
        level=level,
        stages=stages,
        input_shapes=input_shapes,
        taps=taps,
        dialect=dialect,
        mean=mean,
        scale=scale,
        flat=flat,
        plugins=plugins,
        stub_unsupported=stub_unsupported,
    )


def _convert(
    prototxt: PathOrText,
    weights: Weights | None,
    name: str | None = None,
    *,
    filled: bool = False,
    stand_in: Callable[[Graph], Blobs] | None = None,
    **net: Any,
) -> Conversion:
    """`filled` makes weights of the fillers where there is no file; `stand_in` gives
    others."""
    graph = read_graph(prototxt, **net)
    if weights is None and carries_weights(prototxt):
        weights = prototxt
    files = [caffemodel.read(path) for path in _paths(weights)]
    if graph.assumed and files:
        graph = read_graph(prototxt, held=_held(files), **net)
    blobs, notes = collect(graph, files) if files or filled else ({}, bare(graph))
    if stand_in is not None and not files:
        blobs, notes = stand_in(graph), (STAND_IN,)
    reserved = {*library().definitions, NAME}
    class_name = Namespace(reserved).claim(name or graph.name)
    module = emit(
        graph,
        class_name,
        initialise=not files,
        origin=origin(prototxt),
        version=VERSION,
    )
    return Conversion(
        class_name,
        format_source(module.source),
        Variables(graph, module, blobs, files) if files or filled else None,
        graph,
        blobs,
        (*graph.notes, *(note for file in files for note in file.notes), *notes),
        module.places,
    )


def _held(files: Sequence[WeightFile]) -> dict[str, tuple[Shape, ...]]:
    """The shapes of the blobs in weight files, by layer."""
    return {
        layer.name: tuple(blob.shape for blob in layer.blobs)
        for file in files
        for layer in file.layers
    }


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
    **options: Any,
) -> Report:
    """Runs the generated module and a reference on the same input, and compares what
    every layer makes.

    inputs: arrays, or the .npz that holds them, in Caffe's names and axis order. image:
    a picture for the first input that is an image. What neither gives is noise, the
    same every time. against: "reference" (numpy, float64), "caffe" (an installed
    pycaffe) or "opencv" (below 5). tolerance: of a difference relative to the largest
    number of its blob. module: the .py of an earlier conversion, edited since perhaps,
    which is run with the .safetensors beside it in place of what `convert` would write
    now. compiled: compares the outputs of the program that `caffe2flax.compile` makes
    of the module, too. Other options as for `convert`. Raises ConversionError.
    """
    from caffe2flax.feeding import noise, noise_blobs, photo, read_arrays
    from caffe2flax.rereading import observe_edited, told, with_module
    from caffe2flax.runner import check_compiles, forward, observe
    from caffe2flax.verification import Watch, verify_conversion, with_compiled

    arrays = read_arrays(inputs)
    at_hand = {blob: np.shape(array) for blob, array in arrays.items()}
    conversion = _convert(
        prototxt,
        weights,
        at_hand=at_hand,
        filled=True,
        stand_in=noise_blobs,
        **options,
    )
    graph = conversion.graph
    carried = carries_weights(prototxt)
    own = [os.fspath(prototxt)] if carried else []
    if compiled:
        check_compiles(graph)
    if image is not None:
        arrays = {**photo(graph, image), **arrays}
    stops: list[Problem] = []
    watch: Watch = observe
    if module is not None:
        watch = partial(observe_edited, path=Path(module), stops=stops)
        conversion = with_module(
            conversion, Path(module), weighted=bool(weights or own)
        )
    report = verify_conversion(
        conversion,
        noise(graph, arrays),
        watch,
        files=(os.fspath(prototxt), [os.fspath(x) for x in _paths(weights)] or own),
        against=against,
        tolerance=tolerance,
        level=options.get("level", 0),
        stages=options.get("stages", ()),
        notes=[note for note in conversion.notes if note == STAND_IN],
    )
    report = told(report, stops)
    if compiled and not stops:
        report = with_compiled(report, forward(conversion, strict=True)(report.inputs))
    return report


def inspect(
    prototxt: PathOrText, weights: Weights | None = None, **options: Any
) -> Inspection | WeightsInspection:
    """What a net is made of and costs, or what a weights file alone holds. Options as
    for `convert`. Raises ConversionError with every problem, unsupported layers among
    them."""
    from caffe2flax.inspection import inspect_graph, inspect_weights

    if weights is None and carries_weights(prototxt):
        return inspect_weights(caffemodel.read(prototxt), prototxt)
    graph = read_graph(prototxt, **options)
    files = [caffemodel.read(path) for path in _paths(weights)]
    notes = collect(graph, files)[1] if files else ()
    return inspect_graph(
        graph, (*(note for file in files for note in file.notes), *notes)
    )


def where(
    prototxt: PathOrText, query: str, weights: Weights | None = None, **options: Any
) -> tuple[Whereabouts, ...]:
    """The lines of the prototxt and of the generated module that belong together:
    `query` is the name of a layer or a blob, a line of the module that `convert` writes
    of the same arguments ("123"), or one of the prototxt ("net.prototxt:57"). Raises
    ConversionError where nothing is found."""
    from caffe2flax.whereabouts import locate

    conversion = _convert(prototxt, weights, **options)
    text = str(prototxt) if is_text(prototxt) else None
    if text is None and not is_binary(prototxt):
        text = read_text(prototxt)
    return locate(conversion, text, query)


def load(
    prototxt: PathOrText, weights: Weights | None = None, **options: Any
) -> nnx.Module:
    """The converted net as a live module in eval mode; options as for `convert`."""
    from caffe2flax.runner import instantiate

    model: nnx.Module = instantiate(convert(prototxt, weights, **options))
    return model


def run(
    prototxt: PathOrText,
    weights: Weights | None,
    inputs: Mapping[str, Array],
    *,
    blobs: Sequence[str] | str = "outputs",
    **options: Any,
) -> dict[str, Array]:
    """Runs the generated module under jit on `inputs`, all arrays in Caffe's names and
    axis order.

    blobs: "outputs", "all", or the names of blobs. Other options as for `convert`.
    """
    from caffe2flax.runner import execute

    wanted = [blobs] if isinstance(blobs, str) else list(blobs)
    if wanted == ["outputs"]:
        taps: Sequence[str] | str = ()
    else:
        taps = "all" if wanted == ["all"] else wanted
    at_hand = {blob: np.shape(array) for blob, array in inputs.items()}
    conversion = _convert(
        prototxt, weights, taps=taps, at_hand=at_hand, filled=True, **options
    )
    return execute(conversion, inputs, wanted)


def read_graph(
    source: PathOrText,
    *,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    at_hand: Mapping[str, Shape] | None = None,
    held: Mapping[str, tuple[Shape, ...]] | None = None,
    taps: Sequence[str] | str = (),
    dialect: Mapping[str, str] | None = None,
    mean: Sequence[float] = (),
    scale: float | None = None,
    flat: bool = False,
    plugins: Sequence[str | os.PathLike[str]] = (),
    stub_unsupported: bool = False,
    passes: Sequence[Pass] = PASSES,
) -> Graph:
    """The graph of a prototxt, `passes` run. Raises ConversionError."""
    register_all()
    load_entry_points()
    load_plugins(plugins)
    check_dialects(dialect or {})
    message, skipped = read_net(source)
    net = upgrade(inline_net(message, phase=phase) or message)
    if carries_weights(source):
        net = as_written(net)
    net, lent = lend_inputs(net, phase=phase, level=level, stages=stages)
    net = select(net, phase=phase, level=level, stages=stages)
    shapes: dict[str, Shape] = {
        blob: tuple(map(int, shape)) for blob, shape in (input_shapes or {}).items()
    }
    stem = "Net" if is_text(source) else Path(source).stem
    graph = build(
        net,
        phase=phase,
        input_shapes=shapes,
        at_hand=at_hand,
        taps=taps,
        dialects=dialect,
        stub=Stub if stub_unsupported else None,
        name=stem,
    )
    graph = replace(graph, held=held or {})
    done = run_passes(graph, passes).with_notes(*skipped, *lent)
    done = with_transform(done, mean, scale)
    # A method belongs to one class.
    flat = flat or any(node.layer.has_method for node in done.nodes)
    return replace(done, blocks=()) if flat else done


def _paths(weights: Weights | None) -> Sequence[str | os.PathLike[str]]:
    if weights is None:
        return ()
    return (weights,) if isinstance(weights, str | os.PathLike) else tuple(weights)
