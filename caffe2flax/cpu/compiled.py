"""A function of JAX with its weights, compiled for this CPU at its first call for each
shape."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from caffe2flax.cpu import batch, onednn, training
from caffe2flax.cpu.errors import MismatchError
from caffe2flax.cpu.fold import as_given
from caffe2flax.cpu.graph import Graph, KeptArrays, Value, graph_of
from caffe2flax.cpu.memory import placed
from caffe2flax.cpu.methods import Capabilities
from caffe2flax.cpu.rewrites import described, rewrite
from caffe2flax.cpu.sources import Source
from caffe2flax.cpu.surroundings import kind, plain_because, settings

Program = Callable[[Sequence[Any]], Any]

TOLERANCE = 2e-5
"""The largest allowed difference between a compiled program and the plain one, relative
to the largest number of an output."""


def unknown(inputs: Sequence[Any]) -> Any:
    """The program of a shape that has none yet."""
    raise AssertionError("never called")


class Compiled:
    """The result of `caffe2flax.compile`."""

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        check: bool,
        thorough: bool,
        donated: Sequence[int] = (),
        trains: bool = False,
    ):
        self._source = Source(model)
        self._check = check
        self._thorough = thorough
        self._donated = tuple(donated)
        self._trains = trains
        after_weights = tuple(number + 1 for number in donated)
        self._plain = jax.jit(self._source.call, donate_argnums=after_weights)
        self._programs: dict[Hashable, Program | None] = {}
        self._prepared: dict[Hashable, Any] = {}
        self._kept: KeptArrays = {}
        self._lock = threading.RLock()
        if jax.default_backend() == "cpu":
            onednn.prepare()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, tree = jax.tree.flatten((args, kwargs))
        kinds = tuple(map(kind, leaves))
        if None in kinds:
            return self._plain(self._source.weights, *args, **kwargs)
        key = (tree, kinds, settings())
        program = self._programs.get(key, unknown)
        if program is unknown:
            program = self._first(key, leaves, *args, **kwargs)
        if program is None:
            return self._plain(self._source.weights, *args, **kwargs)
        return program(leaves)

    def explain(self, *args: Any, **kwargs: Any) -> str:
        """A line for each operation on such inputs: its primitives, its outputs, and
        its rewrites. Inputs may be `jax.ShapeDtypeStruct`s."""
        leaves, _ = jax.tree.flatten((args, kwargs))
        rewritten = self._rewritten(leaves, *args, **kwargs)
        if isinstance(rewritten, str):
            return f"jax.jit of the plain function: {rewritten}"
        front, rest, _ = rewritten
        lines = described(rest)
        if front is not None:
            lines = [
                "two items at a time:",
                *described(front),
                "all items:",
                *lines,
            ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<{self._source.name}, compiled by caffe2flax>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a compiled model cannot be pickled, as programs are made for one process; "
            "pickle or save the model itself, and compile it where it is loaded"
        )

    def _first(
        self, key: Hashable, leaves: Sequence[Any], *args: Any, **kwargs: Any
    ) -> Program | None:
        """The program for inputs of a new kind; None for the plain function."""
        with self._lock:
            if key in self._programs:
                return self._programs[key]
            program: Program | None = self._program(leaves, *args, **kwargs)
            if self._check and program is not None:
                plain = jax.jit(self._source.call)(
                    self._source.weights, *args, **kwargs
                )
                compare(program(copies(leaves) if self._donated else leaves), plain)
            self._programs[key] = program
            return program

    def _rewritten(
        self, leaves: Sequence[Any], *args: Any, **kwargs: Any
    ) -> tuple[Graph | None, Graph, Any] | str:
        """The graph to compute two items at a time, the graph after it, and the tree of
        the outputs; or why the plain function is called."""
        reason = plain_because(leaves, self._source.weights)
        if reason:
            return reason
        closed, tree = self._source.trace(*args, **kwargs)
        if closed.effects:
            return "it has side effects"
        graph = graph_of(closed, self._source.weights, self._kept)
        capabilities, front = Capabilities.here(self._thorough), None
        if self._trains or training.differentiates(graph):
            return front, rewrite(graph, capabilities, trains=True), tree
        if any(
            aval.weak_type for aval in closed.out_avals if hasattr(aval, "weak_type")
        ):
            return "it gives numbers of a weak type"
        if end := batch.end_of_large(graph):
            first, graph = batch.cut(graph, end)
            front = rewrite(batch.of_two(first), capabilities)
        return front, rewrite(graph, capabilities), tree

    def _program(self, leaves: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        rewritten = self._rewritten(leaves, *args, **kwargs)
        if isinstance(rewritten, str):
            return None
        front, rest, tree = rewritten
        values = [v for part in (front, rest) if part for v in part.constants()]
        # Single numbers are constants of the program; arrays are its arguments.
        numbers = {v: as_given(v) for v in values if is_number(v)}
        known = [v for v in dict.fromkeys(values) if v not in numbers]
        shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in known]

        def run(arrays: Sequence[Any], inputs: Sequence[Any]) -> Any:
            constants = numbers | dict(zip(known, arrays, strict=True))
            if front is not None:
                call = functools.partial(front.run, constants)
                inputs = batch.two_by_two(call, *inputs)
            return jax.tree.unflatten(tree, rest.run(constants, *inputs))

        with ThreadPoolExecutor(1) as pool:  # XLA needs only the shapes to compile
            prepared = pool.submit(lambda: list(map(self._prepare, known)))
            compiled = compiled_with(run, self._donated_leaves(args), shapes, leaves)
            arrays = prepared.result()
        return functools.partial(compiled, arrays)

    def _donated_leaves(self, args: Sequence[Any]) -> set[int]:
        """The numbers of the leaves that belong to donated arguments."""
        counts = [len(jax.tree.leaves(arg)) for arg in args]
        ends = list(itertools.accumulate(counts, initial=0))
        given = (n for n in self._donated if n < len(args))
        return {leaf for n in given for leaf in range(ends[n], ends[n + 1])}

    def _prepare(self, value: Value) -> Any:
        """A weight in the form that programs need; all programs share it."""
        if value.key not in self._prepared:
            array = placed(as_given(value))
            self._prepared[value.key] = array
            value.forget()
            match value.key:
                case ("weight", int(number)):
                    self._source.weights[number] = array  # only this copy is kept
        return self._prepared[value.key]


def compiled_with(
    run: Callable[..., Any],
    donated: set[int],
    shapes: Sequence[Any],
    leaves: Sequence[Any],
) -> Callable[..., Any]:
    """run(arrays, leaves), compiled; it uses up the leaves with the numbers
    `donated`."""
    if not donated:
        return jax.jit(run).lower(shapes, list(leaves)).compile()
    first = [i for i in range(len(leaves)) if i in donated]
    others = [i for i in range(len(leaves)) if i not in donated]

    def apart(leaves: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        return [leaves[i] for i in first], [leaves[i] for i in others]

    def run_apart(arrays: Any, given: list[Any], kept: list[Any]) -> Any:
        both = dict(zip((*first, *others), (*given, *kept), strict=True))
        return run(arrays, [both[i] for i in range(len(both))])

    jitted = jax.jit(run_apart, donate_argnums=1)
    program = jitted.lower(shapes, *apart(leaves)).compile()
    return lambda arrays, leaves: program(arrays, *apart(leaves))


def copies(leaves: Sequence[Any]) -> list[Any]:
    """Leaves that a program may use up."""
    return [jnp.copy(x) if isinstance(x, jax.Array) else x for x in leaves]


def is_number(value: Value) -> bool:
    """Whether it is one number of a NumPy type, unlike keys of random numbers."""
    return value.shape == () and not jnp.issubdtype(value.dtype, jax.dtypes.extended)


def compare(ours: Any, plain: Any) -> None:
    """Raises MismatchError where results differ by more than TOLERANCE."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True)
    for number, pair in enumerate(pairs):
        y, true = (np.asarray(array, np.complex128) for array in pair)
        finite = np.isfinite(true)
        largest = np.abs(true[finite]).max(initial=0)
        off = np.abs(y[finite] - true[finite]).max(initial=0)
        same = (y == true) | (np.isnan(y) & np.isnan(true))
        if not (off <= TOLERANCE * largest and same[~finite].all()):
            raise MismatchError(
                f"output {number} differs by {off:.3g}, where the largest number of "
                f"the plain function is {largest:.3g}"
            )
