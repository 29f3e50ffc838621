"""How images are prepared: the caller's `mean` and `scale` in place of the file's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from caffe2flax.errors import ConversionError
from caffe2flax.ir.graph import Graph, Value
from caffe2flax.ir.transform import Transform


def image_inputs(graph: Graph) -> tuple[Value, ...]:
    """The input that images go into, or the two for one frame and the next: those of
    four axes, N, 1 or 3, H, W. Raises ConversionError."""
    fit = _images(graph)
    if len(fit) == 2 and graph.shapes[fit[0]] == graph.shapes[fit[1]]:
        return fit
    return (image_input(graph),)


def _images(graph: Graph) -> tuple[Value, ...]:
    shapes = graph.shapes
    fit = (v for v in graph.arguments if len(shapes[v]) == 4 and shapes[v][1] in (1, 3))
    return tuple(fit)


def image_input(graph: Graph) -> Value:
    """The input that images go into: the only one of four axes, N, 1 or 3, H, W.
    Raises ConversionError."""
    shapes, fit = graph.shapes, _images(graph)
    if len(fit) == 1:
        return fit[0]
    inputs = ", ".join(f"{v.blob!r} {shapes[v]}" for v in graph.arguments)
    few = "no input" if not fit else "more than one input"
    text = f"the net has {few} of shape (N, 1 or 3, H, W) for images: {inputs}"
    raise ConversionError(text)


def with_transform(graph: Graph, mean: Sequence[float], scale: float | None) -> Graph:
    """The graph with `mean` and `scale`, where given, in place of the file's
    `mean_value` and `scale`. Raises ConversionError."""
    if not mean and scale is None:
        return graph
    value = image_input(graph)
    channels = graph.shapes[value][1]
    if len(mean) not in (0, 1, channels):
        text = f"{len(mean)} means for the {channels} channels of {value.blob!r}"
        raise ConversionError(f"{text}: give 1 or one each")
    own = graph.transforms.get(value.blob, Transform())
    changed = own
    if mean:
        changed = replace(changed, mean_value=tuple(map(float, mean)), mean_file="")
    if scale is not None:
        changed = replace(changed, scale=float(scale))
    old = own.note(value.blob, graph.phase)
    notes = (note for note in graph.remarks.notes if note != old)
    new = changed.note(value.blob, graph.phase)
    return replace(
        graph,
        transforms={**graph.transforms, value.blob: changed},
        remarks=replace(graph.remarks, notes=(*notes, *filter(None, [new]))),
    )
