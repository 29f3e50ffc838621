"""Runs generated modules: the only part of the converter that imports jax, and only
when it is needed."""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from math import prod
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe2flax import cpu
from caffe2flax.conversion import Conversion
from caffe2flax.errors import ConversionError, Problem, closest
from caffe2flax.ir.abilities import Source
from caffe2flax.ir.graph import Graph, Value
from caffe2flax.limits import current

Array = NDArray[Any]

PRECISION = "highest"
"""The precision of float32 products: by default XLA computes them in TF32 on GPUs and
in bfloat16 on TPUs."""


def instantiate(
    conversion: Conversion,
    cls: Any = None,
    weights: Mapping[str, Array] | None = None,
) -> Any:
    """The module of `conversion` with its weights, in eval mode; `cls` and `weights`
    replace its own."""
    from flax import nnx

    weights = conversion.weights if weights is None else weights

    cls = cls or load_class(conversion.name, conversion.source)
    if "rngs" not in _parameters(cls, "__init__"):
        return cls()
    if weights is None:
        model = cls(rngs=nnx.Rngs(0))
    else:
        model = skeleton(cls)
        nnx.update(model, nnx.from_flat_state(_leaves(model, weights)))
    model.eval()
    return model


def skeleton(cls: Any) -> Any:
    """The module of a class without numbers, which has the shapes of its variables."""
    from flax import nnx

    if "rngs" not in _parameters(cls, "__init__"):
        return cls()
    return nnx.eval_shape(lambda: cls(rngs=_unchanging()))


def variables(model: Any) -> dict[str, Any]:
    """The arrays of a module by `attribute.variable`."""
    from flax import nnx

    leaves = nnx.to_flat_state(nnx.state(model))
    return {".".join(map(str, path)): variable[...] for path, variable in leaves}


def _unchanging() -> Any:
    """Rngs that give the same key at every call, for a module of which only shapes are
    needed: a separate key for each variable would take most of the time."""
    from flax import nnx

    class Unchanging(nnx.RngStream):
        def __call__(self) -> Any:
            return self.key[...]

    rngs = nnx.Rngs()
    vars(rngs)["default"] = Unchanging(0, tag="default")
    return rngs


def _leaves(model: Any, weights: Mapping[str, Array]) -> list[tuple[Any, Any]]:
    """(path, array) of each variable. Raises ConversionError for those that `weights`
    lacks or has in another shape, which nnx.update would accept."""
    import jax
    from flax import nnx

    leaves, problems = [], []
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        name = ".".join(map(str, path))
        if name not in weights:
            hint = closest(name, weights)
            problems.append(Problem(f"there are no weights for {name}{hint}"))
            continue
        array = weights[name]
        if array.shape != variable.shape:
            text = f"the weights of {name} have shape {array.shape}, not "
            problems.append(Problem(text + str(variable.shape)))
            continue
        if array.dtype.kind in "biuc":
            text = f"the weights of {name} are {array.dtype}, not {variable.dtype}"
            problems.append(Problem(text))
            continue
        # jnp.asarray would compile something for each shape.
        leaves.append((path, jax.device_put(array.astype(variable.dtype, copy=False))))
    if problems:
        raise ConversionError(problems)
    return leaves


def load_class(
    name: str,
    source: str,
    tree: ast.Module | None = None,
    bindings: Mapping[str, object] | None = None,
) -> Callable[..., Any]:
    """The class of generated source, or of `tree` in its place; tracebacks show its
    lines. `bindings` are further global names."""
    file = f"<{name.lower()}.py>"
    module = ModuleType(name.lower())
    module.__file__ = file
    module.__dict__.update(bindings or {})
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    exec(compile(tree or source, file, "exec"), module.__dict__)
    cls: Callable[..., Any] = module.__dict__[name]
    return cls


def _parameters(cls: object, method: str) -> Collection[str]:
    return inspect.signature(getattr(cls, method)).parameters


def execute(
    conversion: Conversion, inputs: Mapping[str, Array], blobs: Sequence[str]
) -> dict[str, Array]:
    """Outputs, or the named blobs, in Caffe's axis order. Raises ConversionError for
    inputs that the net does not have, for missing ones, and for wrong shapes."""
    graph = conversion.graph
    arrange_inputs(graph, inputs)  # before the module is built: it may raise
    _check_memory(graph)
    known = forward(conversion)(inputs)
    given = {name: np.asarray(x, np.float32) for name, x in inputs.items()}
    if list(blobs) == ["outputs"]:
        unread = {name: given[name] for name in _unread(graph) if name in given}
        return {v.blob: known[v.blob] for v in graph.outputs} | unread
    if list(blobs) == ["all"]:
        return {**given, **known}
    return {name: known[name] if name in known else given[name] for name in blobs}


def _unread(graph: Graph) -> list[str]:
    """Inputs that no layer of Caffe's net reads, labels of data layers apart: the
    module does not take them, but Caffe's net returns them."""
    read = {value for layer in graph.remarks.dropped for value in layer.node.inputs}
    unread = graph.unread - read
    return [
        value.blob
        for node in graph.inputs
        if isinstance(node.layer, Source) and not node.layer.training_data
        for value in node.outputs
        if value in unread
    ]


def _check_memory(graph: Graph) -> None:
    """Raises ConversionError where the blobs of one layer do not fit into memory."""
    limits = current()
    blobs = (dict.fromkeys((*node.inputs, *node.outputs)) for node in graph.nodes)
    sizes = (sum(prod(graph.shapes[v]) for v in values) for values in blobs)
    needed = 4 * max(sizes, default=0)
    if needed > limits.memory_bytes:
        text = f"the blobs of one layer take {needed} bytes"
        raise ConversionError(limits.refusal("memory_bytes", text))


Forward = Callable[[Mapping[str, Array]], dict[str, Array]]


def forward(
    conversion: Conversion,
    blobs: Collection[str] | None = None,
    *,
    strict: bool = False,
) -> Forward:
    """The module as a function of arrays by input: its outputs and taps by blob, or
    only `blobs`, all in Caffe's axis order. It is compiled once for each shape. The
    function raises ConversionError as `execute` does, and with `strict` where
    `caffe2flax.compile` does not take the module."""
    import jax

    graph = conversion.graph
    run = _compiled(instantiate(conversion), graph, strict)
    layouts = {v.blob: graph.layouts[v] for v in (*graph.outputs, *graph.taps)}

    def call(inputs: Mapping[str, Array]) -> dict[str, Array]:
        with jax.default_matmul_precision(PRECISION):
            result = run(*arrange_inputs(graph, inputs))
        outputs, taps = result if graph.taps else (result, {})
        if len(graph.outputs) == 1:
            outputs = {graph.outputs[0].blob: outputs}
        known = {
            name: np.asarray(x).transpose(np.argsort(layouts[name].axes))
            for name, x in (dict(outputs) | dict(taps)).items()
            if blobs is None or name in blobs
        }
        for node in graph.nodes:
            for name in known.keys() & {v.blob for v in node.outputs}:
                if graph.blobs[name] in node.outputs:
                    known[name] = node.layer.trim(known[name])
        return known

    return call


def _compiled(model: Any, graph: Graph, strict: bool) -> Callable[..., Any]:
    """`model` in the phase of `graph`, compiled by `caffe2flax.compile` where possible,
    otherwise by jax.jit. With `strict`, a call raises ConversionError where
    `caffe2flax.compile` fails."""
    import jax

    options = call_options(model, graph)

    def call(model: Any, options: Any, *arguments: Any) -> Any:
        return model(*arguments, **options)

    plain = partial(call if graph.dynamic else jax.jit(call), model, options)
    if _reason_not_to_compile(graph):
        return plain
    compiled = cpu.compile(model)

    def run(*arguments: Any) -> Any:
        try:
            return compiled(*arguments)
        except cpu.ChangingModelError as error:  # BatchNorm by the batch, in TEST
            if strict:
                raise ConversionError(f"{UNCOMPILED}: {error}") from error
            return plain(*arguments)

    return run


UNCOMPILED = "caffe2flax.compile cannot take this net"


def _reason_not_to_compile(graph: Graph) -> str:
    """Why `caffe2flax.compile` does not accept the module; "" where it does."""
    if graph.phase == "TRAIN":
        return "in TRAIN a module may change its variables"
    if graph.random:
        return f"{graph.random[0]} draws random numbers"
    if graph.dynamic:
        return f"what shape {graph.dynamic[0]} gives depends on its input"
    return ""


def check_compiles(graph: Graph) -> None:
    """Raises ConversionError where there is no compiled program to compare."""
    reason = _reason_not_to_compile(graph)
    if reason:
        raise ConversionError(f"{UNCOMPILED}: {reason}")


def call_options(model: Any, graph: Graph) -> dict[str, Any]:
    """Puts the model into the phase of `graph`, and returns the options of its call."""
    from flax import nnx

    if graph.phase == "TRAIN":
        model.train()
    random = "rngs" in _parameters(type(model), "__call__")
    return {"rngs": nnx.Rngs(0)} if random else {}


def arrange_inputs(graph: Graph, inputs: Mapping[str, Array]) -> list[Array]:
    problems = []
    names = [value.blob for value in graph.arguments]
    unread = {value.blob for value in graph.unread}
    for name in inputs:
        if name not in names and name not in unread:
            text = f"{name!r} is no input of the net{closest(name, names)}"
            problems.append(Problem(text))
    arguments = []
    for value in graph.arguments:
        if value.blob not in inputs:
            problems.append(Problem(f"the input {value.blob!r} is missing"))
            continue
        array = np.asarray(inputs[value.blob], np.float32)
        if not _fits(graph, value, array.shape):
            problems.append(Problem(_misfit(graph, value, array.shape)))
            continue
        arguments.append(array.transpose(graph.layouts[value].axes))
    if problems:
        raise ConversionError(problems)
    return arguments


def _fits(graph: Graph, value: Value, shape: tuple[int, ...]) -> bool:
    """Whether `shape` is that of the input, except for the batch where it may vary."""
    wanted = graph.shapes[value]
    if shape == wanted:
        return True
    same = len(shape) == len(wanted) and shape[1:] == wanted[1:]
    return same and _takes_any_batch(graph, value)


def _takes_any_batch(graph: Graph, value: Value) -> bool:
    return graph.sizes.larger_batch[value] != graph.shapes[value]


def _misfit(graph: Graph, value: Value, shape: tuple[int, ...]) -> str:
    """The message for an array of another shape: what it should be, and how it comes
    to be that where this shows."""
    wanted = graph.shapes[value]
    extents = [str(extent) for extent in wanted]
    if extents and _takes_any_batch(graph, value):
        extents[0] = "N"
    comma = "," if len(extents) == 1 else ""
    text = f"the input {value.blob!r} has shape {shape}, not "
    text += f"({', '.join(extents)}{comma})"
    if len(wanted) == 4:
        text += " in Caffe's axis order N, C, H, W"
    if shape == wanted[1:]:
        return f"{text}; the batch axis is missing: array[None] has it"
    if len(wanted) == 4 and shape[-1:] == wanted[1:2] != shape[-3:-2]:
        axes = "N, H, W, C" if len(shape) == 4 else "H, W, C"
        turned = "transpose(0, 3, 1, 2)" if len(shape) == 4 else "transpose(2, 0, 1)"
        lacking = "" if len(shape) == 4 else "[None]"
        if len(shape) in (3, 4):
            text += f"; an array of {axes} is to be turned: array.{turned}{lacking}"
    return text
