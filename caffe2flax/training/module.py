"""From a net in training, and its nets for tests, to one module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

from caffe2flax.codegen.format import format_source
from caffe2flax.codegen.names import module_names
from caffe2flax.codegen.training import emit_training, returned
from caffe2flax.conversion import VERSION, Conversion, Weights, weight_paths
from caffe2flax.errors import ConversionError, Problem
from caffe2flax.frontend import caffemodel
from caffe2flax.frontend.message import Message
from caffe2flax.frontend.source import at_hand, origin
from caffe2flax.ir.graph import Graph, Value
from caffe2flax.options import NetOptions, check_options
from caffe2flax.passes.phases import all_layers
from caffe2flax.training.graphs import NetState, graphs_of
from caffe2flax.weights.variables import Variables, check_fillers, collect


@dataclass(frozen=True, slots=True)
class TrainingConversion(Conversion):
    """A converted net in training; `graph` is that of TRAIN.

    arguments: the blobs that `losses` takes, in its order. tests: the graphs of the
    nets for tests, whose arguments `metrics`, `metrics_1`, ... take.
    """

    arguments: tuple[Value, ...] = ()
    tests: tuple[Graph, ...] = ()


def convert_training(
    train: NetState,
    tests: Sequence[NetState] = (),
    weights: Weights | None = None,
    *,
    filled: bool = False,
    **options: Unpack[NetOptions],
) -> TrainingConversion:
    """Converts a net and its nets for tests to one class, with the methods

        __call__(...)            the first of `tests` as `convert` gives it in TEST
        losses(..., rngs=None)   the outputs of `train`, by blob: losses, unweighted,
                                 and whatever else it returns
        total_loss(losses)       what Caffe minimises
        metrics(...)             the outputs of the first of `tests`, by blob
        metrics_1(...), ...      those of the others

    and with `logits` where the plain module has it. Layers of one name are one.
    Arguments are blobs, channels last where they have four axes and more; labels are of
    the shape that `input_shapes` gives, but for the batch, which each net's data layer
    gives. Without `tests`, `__call__` and `metrics` are those of `train` in TEST, or
    made of its layers in TRAIN where it is no net in TEST.

    The class draws its variables from Caffe's fillers, zeros where the file has none.
    The result's `graph` is that of `train`; its `weights` are those of the files, and
    of the fillers for layers that no file has; None without files, unless `filled`.
    Recurrent layers start from zeros in each call.
    Raises ConversionError with the problems of a net,
    where a net for tests cannot share the weights of `train`, and where nothing counts
    in the loss.
    """
    check_options(options, NetOptions)
    train, *others = (_at_hand(each) for each in (train, *tests))
    files = [caffemodel.read(path) for path in weight_paths(weights)]
    graphs = graphs_of(train, others, files, options)
    first, *tested, deploy = graphs
    _check_loss(first)
    every = all_layers(first, [*tested, deploy])
    held = bool(files) or filled
    if not held:
        check_fillers(every)
    blobs, notes = collect(every, files) if held else ({}, ())
    class_name = module_names().claim(first.name)
    module = emit_training(
        first,
        tested,
        deploy,
        class_name,
        origin=origin(train.source),
        version=VERSION,
        flat=options.get("flat", False),
    )
    return TrainingConversion(
        class_name,
        format_source(module.source),
        Variables(every, module, blobs, files) if held else None,
        first,
        blobs,
        (
            *dict.fromkeys(note for graph in graphs for note in graph.remarks.notes),
            *_carried(first),
            *(note for file in files for note in file.notes),
            *notes,
        ),
        module,
        arguments=returned(first).arguments,
        tests=tuple(tested),
    )


def _at_hand(net: NetState) -> NetState:
    if isinstance(net.source, Message):
        return net
    return replace(net, source=at_hand(net.source))


def _carried(graph: Graph) -> Iterator[str]:
    """Notes on layers that start from zeros where Caffe goes on from the batch
    before."""
    for node in graph.nodes:
        if node.carried:
            text = "starts from zeros in each batch; Caffe goes on from the one before"
            text += ", unless cont is 0 at the first step"
            yield f"{node.span}: {node.name!r} {text}"


def _check_loss(graph: Graph) -> None:
    """Raises ConversionError where nothing counts in the loss of a net."""
    if any(node.weighted for node in graph.nodes):
        return
    text = "nothing counts in the loss of the net in TRAIN"
    problems = [
        Problem(f"{text}: {dropped.name!r} is left out, {dropped.reason}", dropped.span)
        for dropped in graph.remarks.dropped
        if dropped.node.weighted
    ]
    raise ConversionError(problems or text)
