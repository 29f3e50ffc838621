"""The values that the layers of a generated module compute."""

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
"""The exceptions of a change to Caffe's order for an array of another shape."""

QUICK: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
}
"""Options of XLA on CPU: a program that runs once should compile fast."""


class Observed(NamedTuple):
    """The values of a module's layers, in Caffe's axis order. stop: why the module
    failed, where it did; then the values are those before the failure."""

    values: Mapping[Value, Array]
    stop: Problem | None = None


def observe(
    conversion: Conversion,
    inputs: Mapping[str, Array],
    explain: Callable[[Exception], Problem] | None = None,
) -> Observed:
    """Every value that the layers of the module compute: the written module, with a
    probe around each call. `explain` turns an exception of the module into a problem;
    without it, exceptions are raised. Raises ConversionError as `execute` does."""
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
    instances = {place.path for place in probes.values()}

    def call(state: Any, arguments: Any, options: Any) -> Any:
        nonlocal stop
        model = nnx.merge(definition, state)
        paths.update((id(_follow(model, path)), path) for path in instances)
        try:
            model(*arguments, **options)
        except Exception as error:  # an edited module may raise anything
            if explain is None:
                raise
            stop = explain(error)
        return dict(seen)

    given = (state, arguments, options)
    with jax.default_matmul_precision(PRECISION):
        computed = call(*given) if graph.dynamic else _once(call, *given)
    values: dict[Value, Array] = {}
    for node in graph.nodes:
        place = probes.get(node.number)
        if place is None or (place.path, place.key) not in computed:
            continue
        tops = computed[place.path, place.key]
        tops = tops if isinstance(tops, tuple | list) else (tops,)
        for value, top in zip(node.outputs, tops, strict=False):
            values[value] = np.asarray(top)
            with suppress(*(() if explain is None else MISSHAPEN)):
                values[value] = graph.layouts[value].restore(values[value])
    return Observed(values, stop)


def device() -> str:
    """The device that modules run on: its platform, and its kind where that says
    more."""
    import jax

    first = jax.devices()[0]
    kind = "" if first.device_kind == first.platform else f" ({first.device_kind})"
    return f"{first.platform}{kind}"


def _once(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `function` on `arguments`, compiled for this call only."""
    import jax

    lowered = jax.jit(function).lower(*arguments)
    if jax.default_backend() == "cpu":
        with suppress(jax.errors.JaxRuntimeError):  # a release without these options
            return lowered.compile(QUICK)(*arguments)
    return lowered.compile()(*arguments)


def _follow(model: Any, path: str) -> Any:
    """The module at a path of attributes and list indices."""
    for step in path.split(".") if path else ():
        model = model[int(step)] if step.isdigit() else getattr(model, step)
    return model
