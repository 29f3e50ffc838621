"""A module as a StableHLO program that runs without Flax, on CPU, GPU and TPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax.conversion import Conversion
from caffe2flax.errors import ConversionError, optional
from caffe2flax.files.atomic import Write
from caffe2flax.ir.graph import Graph, Value
from caffe2flax.runner import (
    PRECISION,
    arrange_inputs,
    call_options,
    load_class,
    skeleton,
)
from caffe2flax.verification.observe import Observed
from caffe2flax.weights.safetensors import write_safetensors

PLATFORMS = ("cpu", "cuda", "tpu")
BATCH = "b"
"""The symbol for the batch."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program of `jax.export`.

    exported: called with the weights by name, unless they are in it, and the inputs.
    dynamic: whether it takes any batch.
    """

    exported: Any
    bundled: bool
    dynamic: bool

    def observe(
        self, conversion: Conversion, inputs: Mapping[str, NDArray[Any]]
    ) -> Observed:
        """The outputs on this machine, in Caffe's axis order."""
        graph = conversion.graph
        weights = () if self.bundled else (dict(conversion.weights or {}),)
        result = self.exported.call(*weights, *arrange_inputs(graph, inputs))
        single = len(graph.outputs) == 1
        found = {graph.outputs[0].blob: result} if single else result
        return Observed(
            {
                value: graph.layouts[value].restore(np.asarray(found[value.blob]))
                for value in graph.outputs
            }
        )


def program(conversion: Conversion, *, dynamic: bool | None, bundle: bool) -> Program:
    """The plain module as a program. dynamic: whether it takes any batch; None where
    the layers decide. bundle: whether the weights are in the program. Raises
    ConversionError."""
    with optional("a program", "flatbuffers", "stablehlo"):
        import flatbuffers  # noqa: F401
    graph = conversion.graph
    refused = [*graph.dynamic, *graph.random]
    if refused:
        text = (
            "is random, or has a shape that depends on its input: no program has that"
        )
        raise ConversionError(f"layer {refused[0]!r} {text}")
    larger = graph.sizes.larger_batch
    varies = any(larger[v] != graph.shapes[v] for v in graph.arguments)
    if not varies and dynamic:
        raise ConversionError("the net fixes its batch; give --batch N")
    if varies and dynamic is not False:
        try:
            return Program(_exported(conversion, bundle, larger), bundle, True)
        except (TypeError, ValueError) as error:  # what JAX raises, and its subclasses
            if dynamic:
                text = f"the module takes no other batch: {_first_line(error)}"
                raise ConversionError(f"{text}; give --batch N") from error
    return Program(_exported(conversion, bundle, graph.shapes), bundle, False)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _exported(
    conversion: Conversion, bundle: bool, others: Mapping[Value, tuple[int, ...]]
) -> Any:
    """The program; extents in which `others` differ from the shapes are symbols."""
    import jax
    import jax.numpy as jnp

    assert conversion.weights is not None
    graph, weights = conversion.graph, conversion.weights
    call = _function(conversion)
    shapes = _symbolic(graph, others)
    inputs: list[Any] = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    given = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in weights.shapes.items()
    }
    if bundle:
        held = {name: jnp.asarray(weights[name]) for name in weights}
        call = partial(call, held)
    arguments = inputs if bundle else [given, *inputs]
    with jax.default_matmul_precision(PRECISION):
        return jax.export.export(jax.jit(call), platforms=PLATFORMS)(*arguments)


def _function(conversion: Conversion) -> Callable[..., Any]:
    """The module as a function of its weights, by name, and its inputs."""
    from flax import nnx

    cls = load_class(conversion.name, conversion.source)

    def call(weights: Mapping[str, Any], *inputs: Any) -> Any:
        model = skeleton(cls)
        leaves = [(tuple(name.split(".")), weights[name]) for name in weights]
        nnx.update(model, nnx.from_flat_state(leaves))
        model.eval()
        return model(*inputs, **call_options(model, conversion.graph))

    return call


def _symbolic(
    graph: Graph, others: Mapping[Value, tuple[int, ...]]
) -> list[tuple[Any, ...]]:
    """The shapes of the inputs in the module's axis order."""
    import jax

    texts = [shape_text(graph, value, others[value]) for value in graph.arguments]
    scope = jax.export.SymbolicScope()
    return [tuple(jax.export.symbolic_shape(text, scope=scope)) for text in texts]


def shape_text(graph: Graph, value: Value, other: tuple[int, ...]) -> str:
    """ "b, 227, 227, 3": the extents of an input in the module's axis order."""
    shape, arguments = graph.shapes[value], graph.arguments
    symbol = BATCH
    if shape[:1] != graph.shapes[arguments[0]][:1]:
        symbol = f"{BATCH}{arguments.index(value)}"
    extents = [str(a) if a == b else symbol for a, b in zip(shape, other, strict=True)]
    return ", ".join(graph.layouts[value].arrange_each(extents))


def targets(
    conversion: Conversion, made: Program, stem: str, folder: Path
) -> dict[Path, Write]:
    """What writes each file of the folder."""
    exported, weights = made.exported, conversion.weights
    assert weights is not None
    serialized, bytecode = exported.serialize(), exported.mlir_module_serialized
    text = json.dumps(_signature(conversion, made, stem), indent=2) + "\n"
    files: dict[Path, Write] = {
        folder / f"{stem}.stablehlo": lambda stream: stream.write(serialized),
        folder / f"{stem}.mlirbc": lambda stream: stream.write(bytecode),
        folder / f"{stem}.json": lambda stream: stream.write(text.encode()),
    }
    if not made.bundled:

        def write(stream: IO[bytes]) -> None:
            write_safetensors(stream, weights)

        files[folder / f"{stem}.safetensors"] = write
    return files


def _signature(conversion: Conversion, made: Program, stem: str) -> dict[str, object]:
    """What a program takes and gives, for JSON."""
    import jax

    graph = conversion.graph
    larger = graph.sizes.larger_batch if made.dynamic else graph.shapes
    return {
        "name": conversion.name,
        "program": f"{stem}.stablehlo",
        "weights": None if made.bundled else f"{stem}.safetensors",
        "platforms": list(made.exported.platforms),
        "jax": jax.__version__,
        "calling_convention": made.exported.calling_convention_version,
        "inputs": [
            {
                "name": value.blob,
                "shape": shape_text(graph, value, larger[value]),
                "caffe_axes": list(graph.layouts[value].axes),
            }
            for value in graph.arguments
        ],
        "outputs": [
            {"name": value.blob, "caffe_axes": list(graph.layouts[value].axes)}
            for value in graph.outputs
        ],
    }
