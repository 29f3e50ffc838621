"""What Caffe's data layers do to images, as functions of the generated module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from caffe2flax.codegen.format import paragraph
from caffe2flax.codegen.names import PREPROCESS, Namespace
from caffe2flax.ir.call import literal
from caffe2flax.ir.graph import Graph, Value
from caffe2flax.ir.transform import Transform

WIDTH = 84
"""Columns of a docstring, indented."""


def preprocess_functions(
    graph: Graph, arguments: Mapping[Value, str], names: Namespace
) -> Iterator[str]:
    """The source of `preprocess(images)` for each input that Caffe prepares; where
    there are several, it is `preprocess_BLOB`. `arguments` are those of the module,
    `names` what it defines."""
    prepared = [
        (value, transform)
        for value in graph.arguments
        if (transform := graph.transforms.get(value.blob))
        and len(graph.shapes[value]) == 4
        and _does_something(transform, graph.phase)
    ]
    for value, transform in prepared:
        name = PREPROCESS
        if len(prepared) > 1:
            name = names.claim(value.blob, prefix=f"{PREPROCESS}_")
        yield _function(name, graph, value, transform, arguments[value])


def _does_something(transform: Transform, phase: str) -> bool:
    numbers = transform.mean_value or transform.mean_file or transform.scale != 1
    return bool(numbers or (all(transform.crop) and phase == "TEST"))


def _function(
    name: str, graph: Graph, value: Value, transform: Transform, argument: str
) -> str:
    """y = (x - mean) * scale, then the middle of it: what `argument` of the module is
    to be."""
    axes = graph.layouts[value].axes
    channels = graph.shapes[value][1]
    letters = ["N", "C", "H", "W"]
    letters[1] = str(channels)
    border = ", ".join(letters[axis] for axis in axes)
    orders = {1: "gray", 3: "B, G, R"}
    order = f"; {orders[channels]}" if channels in orders else ""
    given = "images: Array"
    steps = ["jnp.asarray(images, jnp.float32)"]
    about = f"Images ({border}{order}; 0 to 255) as `{argument}` wants them."
    more = []
    sides: list[str] = []
    if transform.mean_file:
        given += ", mean: Array"
        inner = ", ".join(letters[axis] for axis in axes if axis)
        more.append(f"`mean` is the array of {_shown(transform.mean_file)} ({inner}).")
        steps.append("x - jnp.asarray(mean, jnp.float32)[None]")
    elif len(set(transform.mean_value)) == 1:
        if transform.mean_value[0]:
            steps.append(f"x - {literal(transform.mean_value[0])}")
    elif transform.mean_value:
        numbers = ", ".join(map(literal, transform.mean_value))
        shape = ", ".join("-1" if axis == 1 else "1" for axis in axes)
        mean = f"jnp.array([{numbers}], jnp.float32)"
        steps.append(f"x - {mean}.reshape({shape})")
    if transform.scale != 1:
        steps.append(f"x * {literal(transform.scale)}")
    if all(transform.crop) and graph.phase == "TEST":
        sides, middle = _crop(transform.crop, axes)
        steps.append(middle)
    if graph.phase != "TEST" and (all(transform.crop) or transform.mirror):
        more.append("Random crops and mirror images are the caller's.")
    doc = "\n\n".join(paragraph(text, WIDTH) for text in (about, *more))
    *before, result = steps
    statements = [*(f"x = {step}" for step in before), *sides, f"return {result}"]
    lines = [f'"""{doc}{chr(10) if more else ""}"""', *statements]
    body = "\n".join(lines).replace("\n", "\n    ").replace("\n    \n", "\n\n")
    return f"def {name}({given}) -> Array:\n    {body}"


def _crop(size: tuple[int, int], axes: tuple[int, ...]) -> tuple[list[str], str]:
    """Statements that say where the middle is, and the middle."""
    sides = {2: ("top", size[0]), 3: ("left", size[1])}
    statements = [
        f"{side} = (x.shape[{axes.index(axis)}] - {extent}) // 2"
        for axis, (side, extent) in sides.items()
    ]
    spans = {axis: f"{s} : {s} + {extent}" for axis, (s, extent) in sides.items()}
    cuts = [spans.get(axis, ":") for axis in axes]
    while cuts[-1] == ":":
        cuts.pop()
    return statements, f"x[{', '.join(cuts)}]"


def _shown(text: str) -> str:
    """For a docstring: nothing in it can end the string or steer a terminal."""
    return literal(text)[1:-1].replace('"', "'")
