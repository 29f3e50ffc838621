"""A function of JAX as a list of operations that can be rewritten: traced, inlined, its
constants known."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from caffe2flax.cpu.fold import folded, worth_folding

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
"""Primitives that only call another jaxpr, and the parameter that holds it."""


@dataclass(eq=False)
class Value:
    """What an operation reads or gives.

    compute: gives the number, where it depends on weights alone.
    key: two known values of one key are equal; of any two traces of one function.
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
        """The number: of float64 where it was computed, else as it was given."""
        assert self.compute is not None
        return self.compute()

    def forget(self) -> None:
        """Frees the number, which is computed again when it is read again."""
        self.__dict__.pop("constant", None)


@dataclass(eq=False)
class Node:
    """An operation: `run(*inputs, **params)` gives the outputs, or the only one.

    params: of the equation, until the node is rewritten.
    origin: the primitives that it stands for.
    steps: the rewrites that made it.
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
        """Who reads a value, where that is one operation alone and nobody else."""
        users = self.users.get(value, [])
        return users[0] if len(users) == 1 else None

    def replace(self, old: Sequence[Node], new: Node) -> None:
        """Puts `new` where the last of `old` is, and drops these."""
        self.nodes[self.nodes.index(old[-1])] = new
        for node in old:
            if node is not old[-1]:
                self.nodes.remove(node)
            for value in node.inputs:
                self.users[value].remove(node)
        self._enter(new)

    def prune(self) -> Graph:
        """Without what nobody reads."""
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
        found = dict(constants) | dict(zip(self.inputs, inputs, strict=True))
        for node in self.nodes:
            made = node.run(*map(found.__getitem__, node.inputs), **node.params)
            several = made if isinstance(made, (list, tuple)) else [made]
            found.update(zip(node.outputs, several, strict=True))
        return [found[value] for value in self.outputs]

    def _enter(self, node: Node) -> None:
        for value in node.inputs:
            self.users.setdefault(value, []).append(node)
        self.makers.update(dict.fromkeys(node.outputs, node))


def graph_of(closed: Any, weights: Sequence[Any]) -> Graph:
    """The operations of a jaxpr, whose first arguments are the weights."""
    jaxpr, count = closed.jaxpr, len(weights)
    known = [
        _known(var.aval, array, ("weight", number))
        for number, (var, array) in enumerate(zip(jaxpr.invars, weights, strict=False))
    ]
    free = [Value(tuple(v.aval.shape), v.aval.dtype) for v in jaxpr.invars[count:]]
    nodes: list[Node] = []
    outputs = list(_inline(nodes, jaxpr, closed.consts, [*known, *free]))
    return Graph(nodes, free, outputs).prune()


def _known(aval: Any, array: Any, key: Hashable) -> Value:
    array = array if hasattr(array, "dtype") else np.asarray(array, aval.dtype)
    return Value(tuple(aval.shape), aval.dtype, lambda: array, key)


def _literal(atom: Any) -> Value:
    aval, number = atom.aval, atom.val
    if aval.shape or jnp.issubdtype(aval.dtype, jax.dtypes.extended):
        return _known(aval, number, ("held", id(number)))
    number = np.asarray(number, aval.dtype)
    return _known(aval, number, ("literal", str(aval.dtype), number.tobytes()))


def _inline(
    nodes: list[Node], jaxpr: Any, consts: Sequence[Any], args: Sequence[Value]
) -> Iterator[Value]:
    """Appends the operations of a jaxpr, and gives its outputs. One jaxpr may be called
    many times: each time its variables stand for other values."""
    scope: dict[Any, Value] = dict(zip(jaxpr.invars, args, strict=True))
    for var, array in zip(jaxpr.constvars, consts, strict=True):
        scope[var] = _known(var.aval, array, ("held", id(array)))

    def read(atom: Any) -> Value:
        return _literal(atom) if isinstance(atom, Literal) else scope[atom]

    for eqn in jaxpr.eqns:
        inputs, name = list(map(read, eqn.invars)), eqn.primitive.name
        if INLINED.get(name) in eqn.params:
            inner = eqn.params[INLINED[name]]
            body, held = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
            outputs = list(_inline(nodes, body, held, inputs))
        else:
            outputs = [Value(tuple(v.aval.shape), v.aval.dtype) for v in eqn.outvars]
            run = functools.partial(_bind, eqn)
            if worth_folding(eqn, inputs, outputs):
                outputs[0].compute, outputs[0].key = folded(eqn, run, inputs)
            else:
                nodes.append(Node(name, inputs, outputs, run, eqn.params, (name,)))
        scope.update(zip(eqn.outvars, outputs, strict=True))
    return map(read, jaxpr.outvars)


def _bind(eqn: Any, *inputs: Any, **params: Any) -> Any:
    with eqn.ctx.manager:
        return eqn.primitive.bind(*inputs, **params)
