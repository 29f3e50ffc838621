"""What every layer of a generated module computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caffe2flax.codegen.sourcemap import PROBE, SourceMap, probed
from caffe2flax.conversion import Conversion
from caffe2flax.errors import Problem
from caffe2flax.ir.graph import Value
from caffe2flax.runner import (
    PRECISION,
    arrange_inputs,
    call_options,
    instantiate,
    load_class,
)

Array = NDArray[Any]

MISSHAPEN = (IndexError, ValueError)
"""What bringing an array into Caffe's order raises where it has another shape."""

QUICK: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
}
"""Options of XLA on CPU: what runs once need not be fast, but compiled soon."""


class Observed(NamedTuple):
    """What the layers of a module computed, in Caffe's axis order; `stop` says why it
    failed, where it did: the values that came before are there."""

    values: Mapping[Value, Array]
    stop: Problem | None = None


def observe(
    conversion: Conversion,
    inputs: Mapping[str, Array],
    explain: Callable[[Exception], Problem] | None = None,
) -> Observed:
    """Every value that the layers of the module compute: the module as it is written,
    with a probe around each call. `explain` makes a problem of an exception of the
    module; without it, exceptions are raised. Raises ConversionError as `execute`
    does."""
    import jax
    from flax import nnx

    graph = conversion.graph
    arguments = arrange_inputs(graph, inputs)
    source = SourceMap.of(conversion.source, conversion.name)
    tree, probes = probed(source, conversion.positions)
    seen: dict[tuple[str, str], Any] = {}
    paths: dict[int, str] = {}
    stop: Problem | None = None

    def probe(instance: Any, key: str, value: Any) -> Any:
        seen[paths[id(instance)], key] = value
        return value

    cls = load_class(conversion.name, conversion.source, tree, {PROBE: probe})
    model = instantiate(conversion, cls)
    options = call_options(model, graph)
    definition, state = nnx.split(model)
    instances = {found.path for found in probes.values()}

    def call(state: Any, arguments: Any, options: Any) -> Any:
        nonlocal stop
        model = nnx.merge(definition, state)
        paths.update((id(_follow(model, path)), path) for path in instances)
        try:
            model(*arguments, **options)
        except Exception as error:  # of a module that was edited: whatever it is
            if explain is None:
                raise
            stop = explain(error)
        return dict(seen)

    given = (state, arguments, options)
    with jax.default_matmul_precision(PRECISION):
        made = call(*given) if graph.dynamic else _once(call, *given)
    values: dict[Value, Array] = {}
    for node in graph.nodes:
        found = probes.get(node.number)
        if found is None or (found.path, found.key) not in made:
            continue
        tops = made[found.path, found.key]
        tops = tops if isinstance(tops, tuple | list) else (tops,)
        for value, top in zip(node.outputs, tops, strict=False):
            values[value] = np.asarray(top)
            with suppress(*(() if explain is None else MISSHAPEN)):
                values[value] = graph.layouts[value].restore(values[value])
    return Observed(values, stop)


def _once(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function`, compiled for this call alone, makes of `arguments`."""
    import jax

    lowered = jax.jit(function).lower(*arguments)
    if jax.default_backend() == "cpu":
        with suppress(jax.errors.JaxRuntimeError):  # of a release without such options
            return lowered.compile(QUICK)(*arguments)
    return lowered.compile()(*arguments)


def _follow(model: Any, path: str) -> Any:
    """The module at a path of attributes and places in lists."""
    for step in path.split(".") if path else ():
        model = model[int(step)] if step.isdigit() else getattr(model, step)
    return model
