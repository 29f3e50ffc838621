"""From files to a module and its weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Literal, Unpack

from caffe2flax.codegen.format import format_source
from caffe2flax.codegen.module import Module, emit
from caffe2flax.codegen.names import module_names, module_stem
from caffe2flax.codegen.positions import NodePositions
from caffe2flax.errors import ConversionError, broken_by_default
from caffe2flax.frontend import caffemodel
from caffe2flax.frontend.borrow_inputs import declare_inputs
from caffe2flax.frontend.caffemodel import WeightFile
from caffe2flax.frontend.message import Message
from caffe2flax.frontend.source import (
    NetSource,
    PathOrText,
    at_hand,
    carries_weights,
    is_text,
    origin,
)
from caffe2flax.frontend.stages import chosen_layers
from caffe2flax.ir.build import build
from caffe2flax.ir.dialects import check_dialects
from caffe2flax.ir.graph import CallerShapes, Graph
from caffe2flax.ir.layout import Shape
from caffe2flax.ir.until import advice, check_ends, up_to
from caffe2flax.layers import register_all
from caffe2flax.layers.forks.training import Unknown
from caffe2flax.layers.stub import Stub
from caffe2flax.options import ConversionOptions, check_options, one_or_more
from caffe2flax.passes import PASSES, Pass, run_passes
from caffe2flax.passes.blocks import find_blocks
from caffe2flax.passes.transform import with_transform
from caffe2flax.plugins import load_entry_points, load_plugins
from caffe2flax.weights.files import write_files
from caffe2flax.weights.matching import Blobs
from caffe2flax.weights.safetensors import Progress
from caffe2flax.weights.variables import Variables, collect, note_flax_initialisers

Weights = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
VERSION = "0.1.0"
RANDOM_WEIGHTS = "no weights are given: random ones are used"


@dataclass(frozen=True, slots=True, repr=False)
class Conversion:
    """A converted net.

    name: that of the class. source: its module. weights: variable -> float32 array,
    None without a weights file. graph: the net after all passes. notes: what the user
    should know. blobs: Caffe's weights, by (owner's number, index). module: where the
    nodes are in the source.
    """

    name: str
    source: str
    weights: Variables | None
    graph: Graph
    blobs: Blobs
    notes: tuple[str, ...]
    module: Module

    def __repr__(self) -> str:
        weights = "no weights" if self.weights is None else "with weights"
        ends = f"{_ends(self.graph, 'arguments')} -> {_ends(self.graph, 'outputs')}"
        return f"Conversion({self.name}: {ends}, {self._counts}, {weights})"

    def _repr_html_(self) -> str:
        """What a notebook shows: a summary, the picture, and the source."""
        from caffe2flax.display import markup
        from caffe2flax.drawing.picture import picture

        facts = (
            ("inputs", _ends(self.graph, "arguments")),
            ("outputs", _ends(self.graph, "outputs")),
            ("size", self._counts),
            ("weights", "none" if self.weights is None else "of the file"),
            *markup.noted(self.notes),
        )
        lines = self.source.count("\n")
        title = f"{module_stem(self.name)}.py, {lines:,} lines"
        return markup.card(
            self.name,
            facts,
            markup.drawn_unasked(picture(self.graph)),
            markup.folded(title, markup.source(self.source)),
        )

    @property
    def _counts(self) -> str:
        return f"{self.layer_count:,} layers, {self.parameter_count:,} parameters"

    @property
    def positions(self) -> NodePositions:
        """Where the module has each node, by its number."""
        return self.module.positions

    @property
    def layer_count(self) -> int:
        """The number of layers of the net that the module has."""
        return len(self.graph.layer_weights)

    @property
    def parameter_count(self) -> int:
        """The number of elements of the weight blobs, as Caffe counts them."""
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

        Both are written completely or not at all. FileExistsError where one exists
        already and `force` is not given; OSError where the folder cannot be written.
        """
        stem = module_stem(self.name)
        return write_files(
            Path(directory), stem, self.source, self.weights, force, progress
        )


def convert(
    prototxt: PathOrText,
    weights: Weights | None = None,
    *,
    filled: bool = False,
    default_blobs: Callable[[Graph], Blobs] | None = None,
    array_shapes: Mapping[str, Shape] | None = None,
    **options: Unpack[ConversionOptions],
) -> Conversion:
    """Converts a net, as `caffe2flax.convert` describes.

    filled: without a weights file, the fillers give the weights. default_blobs: without
    a weights file, this function does. array_shapes: the shapes of the arrays that the
    module will run on, by blob. Raises ConversionError.
    """
    prototxt = at_hand(prototxt)
    if weights is None and carries_weights(prototxt):
        weights = prototxt
    try:
        files = [caffemodel.read(path) for path in weight_paths(weights)]
    except ConversionError:
        read_graph(prototxt, array_shapes=array_shapes, **options)
        raise  # what is wrong with the net comes first
    graph = read_graph(
        prototxt, array_shapes=array_shapes, weight_shapes=shapes_in(files), **options
    )
    if files or filled:
        blobs, notes = collect(graph, files)
    else:
        blobs, notes = {}, note_flax_initialisers(graph)
    if default_blobs is not None and not files:
        blobs, notes = default_blobs(graph), (RANDOM_WEIGHTS,)
    class_name = module_names().claim(graph.name)
    module = emit(
        graph,
        class_name,
        blocks=() if options.get("flat") else find_blocks(graph),
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
        (
            *graph.remarks.notes,
            *(note for file in files for note in file.notes),
            *notes,
        ),
        module,
    )


def _ends(graph: Graph, which: Literal["arguments", "outputs"]) -> str:
    """Inputs or outputs with their shapes, as the module has them."""
    values = graph.arguments if which == "arguments" else graph.outputs
    return ", ".join(f"{v.blob} ({graph.operand(v).describe()})" for v in values)


def shapes_in(files: Sequence[WeightFile]) -> dict[str, tuple[Shape, ...]]:
    """The shapes of the blobs in weight files, by layer."""
    return {
        layer.name: tuple(blob.shape for blob in layer.blobs)
        for file in files
        for layer in file.layers
        if [*layer.numbered] == [*range(len(layer.blobs))]
    }


def weight_paths(weights: Weights | None) -> Sequence[str | os.PathLike[str]]:
    return () if weights is None else one_or_more(weights)


def read_graph(
    source: NetSource,
    *,
    array_shapes: Mapping[str, Shape] | None = None,
    weight_shapes: Mapping[str, tuple[Shape, ...]] | None = None,
    passes: Sequence[Pass] = PASSES,
    **options: Unpack[ConversionOptions],
) -> Graph:
    """The graph of a prototxt after `passes`.

    array_shapes: the shapes of the arrays that the net will run on, by blob.
    weight_shapes: those of the blobs in the weight files, by layer. Raises
    ConversionError, which advises where to cut the net if that is all it takes.
    """
    check_options(options)
    dialect = options.get("dialect") or {}
    register_all()
    load_entry_points()
    load_plugins(one_or_more(options.get("plugins", ())))
    check_dialects(dialect)
    if not isinstance(source, Message):
        source = at_hand(source)
    shapes: dict[str, Shape] = {
        blob: tuple(map(int, shape))
        for blob, shape in (options.get("input_shapes") or {}).items()
    }
    given = CallerShapes(shapes, dict(array_shapes or {}), dict(weight_shapes or {}))
    with broken_by_default():
        net, others, notes = chosen_layers(
            source,
            options.get("phase", "TEST"),
            options.get("level", 0),
            one_or_more(options.get("stages", ())),
        )
        net = declare_inputs(net, shapes)
        net = up_to(net, one_or_more(options.get("until", ())), others)
        made = partial(_made, source, given, passes, others, options)
        try:
            graph = made(net)
        except ConversionError as error:
            lines = advice(net, error.problems, made) if passes else ()
            raise ConversionError(error.problems, lines) from error.__cause__
    return with_transform(
        graph.with_notes(*notes),
        one_or_more(options.get("mean", ())),
        options.get("scale"),
    )


def _made(
    source: NetSource,
    given: CallerShapes,
    passes: Sequence[Pass],
    others: Mapping[str, str],
    options: ConversionOptions,
    net: Message,
    until: Sequence[str] | None = None,
) -> Graph:
    """The graph of a net after `passes`. `until`: its outputs; by default those of the
    options."""
    if until is None:
        until = one_or_more(options.get("until", ()))
    graph = build(
        net,
        phase=options.get("phase", "TEST"),
        caller_shapes=given,
        taps=options.get("taps", ()),
        until=until,
        dialects=options.get("dialect") or {},
        stub=Stub if options.get("stub_unsupported") else None,
        training_only=Unknown,
        name=_default_name(source),
        left_out=others,
    )
    graph = replace(graph, name=options.get("name") or graph.name)
    done = run_passes(graph, passes)
    if passes:
        check_ends(done, until)
    return done


def _default_name(source: NetSource) -> str:
    """That of a net without a name of its own."""
    if isinstance(source, Message) or is_text(source):
        return "Net"
    return Path(source).stem
