"""A function of JAX as a list of operations that can be rewritten: traced, with calls
inlined and constants known."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from caffe2flax.cpu.fold import folded, worth_folding
from caffe2flax.cpu.memory import own_copy

INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
"""Primitives that only call another jaxpr, and the parameter with that jaxpr."""


KeptArrays = dict[int, tuple[Any, jax.Array]]


@dataclass(eq=False)
class Value:
    """An input or output of operations.

    compute: returns the constant, for a value that depends on weights only.
    key: known values with the same key are equal, in all traces of one function.
    """

    shape: tuple[int, ...]
    dtype: Any
    compute: Callable[[], Any] | None = None
    key: Hashable = None

    @property
    def known(self) -> bool:
        return self.compute is not None

    @functools.cached_property
    def constant(self) -> Any:
        """The array: in float64 where it was computed, otherwise as it was given."""
        assert self.compute is not None
        return self.compute()

    def forget(self) -> None:
        """Frees the array, which is computed again when it is needed again."""
        self.__dict__.pop("constant", None)


@dataclass(eq=False)
class Node:
    """An operation: `run(*inputs, **params)` returns the outputs, or the only one.

    params: those of the equation, until the node is rewritten.
    origin: the primitives that it computes.
    steps: the rewrites that it results from.
    """

    op: str
    inputs: list[Value]
    outputs: list[Value]
    run: Callable[..., Any]
    params: Mapping[str, Any] = field(default_factory=dict)
    origin: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()


@dataclass(eq=False)
class Graph:
    """Operations in an order in which they can be run."""

    nodes: list[Node]
    inputs: list[Value]
    outputs: list[Value]

    def __post_init__(self) -> None:
        self.users: dict[Value, list[Node | None]] = {}
        self.makers: dict[Value, Node] = {}
        for node in self.nodes:
            self._enter(node)
        for value in self.outputs:
            self.users.setdefault(value, []).append(None)

    def only_user(self, value: Value) -> Node | None:
        """The only operation that reads a value; None where there is not exactly
        one."""
        users = self.users.get(value, [])
        return users[0] if len(users) == 1 else None

    def replace(self, old: Sequence[Node], new: Node) -> None:
        """Puts `new` in the place of the last of `old`, and removes all of `old`."""
        self.nodes[self.nodes.index(old[-1])] = new
        for node in old:
            if node is not old[-1]:
                self.nodes.remove(node)
            for value in node.inputs:
                self.users[value].remove(node)
            for value in node.outputs:
                del self.makers[value]
        self._enter(new)

    def prune(self) -> Graph:
        """The graph without operations whose outputs are not read."""
        wanted, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.outputs):
                kept.append(node)
                wanted.update(node.inputs)
        return Graph(kept[::-1], self.inputs, self.outputs)

    def constants(self) -> list[Value]:
        values = [value for node in self.nodes for value in node.inputs]
        return list(dict.fromkeys(v for v in (*values, *self.outputs) if v.known))

    def run(self, constants: Mapping[Value, Any], *inputs: Any) -> list[Any]:
        """The outputs."""
        values = dict(constants) | dict(zip(self.inputs, inputs, strict=True))
        for node in self.nodes:
            result = node.run(*map(values.__getitem__, node.inputs), **node.params)
            several = result if isinstance(result, (list, tuple)) else [result]
            values.update(zip(node.outputs, several, strict=True))
        return [values[value] for value in self.outputs]

    def _enter(self, node: Node) -> None:
        for value in node.inputs:
            self.users.setdefault(value, []).append(node)
        self.makers.update(dict.fromkeys(node.outputs, node))


def graph_of(closed: Any, weights: Sequence[Any], kept: KeptArrays) -> Graph:
    """The operations of a jaxpr, whose first arguments are the weights.

    kept: gets, by their ids, the function's own arrays, and copies that nobody writes
    to. As long as they are kept, a key belongs to one value.
    """
    jaxpr, count = closed.jaxpr, len(weights)
    known = [
        _known(var.aval, array, ("weight", number))
        for number, (var, array) in enumerate(zip(jaxpr.invars, weights, strict=False))
    ]
    free = [Value(tuple(v.aval.shape), v.aval.dtype) for v in jaxpr.invars[count:]]
    inlined = _Inlined(kept)
    outputs = inlined.outputs(jaxpr, closed.consts, [*known, *free])
    return Graph(inlined.nodes, free, outputs).prune()


def _known(aval: Any, array: Any, key: Hashable) -> Value:
    array = array if hasattr(array, "dtype") else np.asarray(array, aval.dtype)
    return Value(tuple(aval.shape), aval.dtype, lambda: array, key)


class _Inlined:
    """The operations of a jaxpr and of those that it calls."""

    def __init__(self, kept: KeptArrays):
        self.nodes: list[Node] = []
        self.kept = kept

    def outputs(
        self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Value]
    ) -> list[Value]:
        """Appends the operations and returns the outputs. One jaxpr may be called many
        times, each time with other values for its variables."""
        scope: dict[Any, Value] = dict(zip(jaxpr.invars, args, strict=True))
        for var, array in zip(jaxpr.constvars, consts, strict=True):
            scope[var] = self.constant(var.aval, array)

        def read(atom: Any) -> Value:
            if isinstance(atom, Literal):
                return self.constant(atom.aval, atom.val)
            return scope[atom]

        for eqn in jaxpr.eqns:
            outputs = self.values(eqn, list(map(read, eqn.invars)))
            scope.update(zip(eqn.outvars, outputs, strict=True))
        return list(map(read, jaxpr.outvars))

    def values(self, eqn: Any, inputs: list[Value]) -> list[Value]:
        """The outputs of an equation."""
        name = eqn.primitive.name
        if INLINED.get(name) in eqn.params:
            inner = eqn.params[INLINED[name]]
            body, consts = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
            return self.outputs(body, consts, inputs)
        outputs = [Value(tuple(v.aval.shape), v.aval.dtype) for v in eqn.outvars]
        run = functools.partial(_bind, eqn)
        if worth_folding(eqn, inputs, outputs):
            outputs[0].compute, outputs[0].key = folded(eqn, run, inputs)
        else:
            self.nodes.append(Node(name, inputs, outputs, run, eqn.params, (name,)))
        return outputs

    def constant(self, aval: Any, array: Any) -> Value:
        """An array of the function itself; the key of a small one is its content."""
        plain = not jnp.issubdtype(aval.dtype, jax.dtypes.extended)
        if plain and math.prod(aval.shape) <= 64:
            array = np.asarray(array, aval.dtype)
            key = ("number", str(aval.dtype), aval.shape, array.tobytes())
            return _known(aval, array, key)
        _, own = self.kept.setdefault(id(array), (array, own_copy(array)))
        return _known(aval, own, ("array", id(array)))


def _bind(eqn: Any, *inputs: Any, **params: Any) -> Any:
    with eqn.ctx.manager:
        return eqn.primitive.bind(*inputs, **params)
