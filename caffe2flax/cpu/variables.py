"""Functions whose inputs hold Flax variables, as modules and optimizers do, and which
may change these: what nnx.jit is for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx

from caffe2flax.cpu.compiled import Compiled


class NotStaticError(Exception):
    """A call changes more than the values of variables, or returns them."""


def is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def flat(inputs: Any) -> tuple[list[Any], Any]:
    """The slots of inputs, and the tree around them."""
    return jax.tree.flatten(inputs, is_leaf=is_variable)


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs in slots: a slot is a variable, or a leaf outside variables.

    leaves: of each slot. tree: of all leaves. same: for each slot the first slot with
    the same variable. donated: whether the slot may be used up: it is a variable of a
    donated argument, or such an argument has no variables.
    """

    slots: list[Any]
    leaves: list[list[Any]]
    tree: Any
    same: tuple[int, ...]
    donated: tuple[bool, ...]

    @property
    def own(self) -> list[int]:
        """The slots whose variable is in no slot before."""
        return [i for i, first in enumerate(self.same) if i == first]


def inputs_of(
    args: Sequence[Any], kwargs: dict[str, Any], donated: Sequence[int]
) -> Inputs | None:
    """None where no variables are among the inputs."""
    slots = jax.tree.leaves((args, kwargs), is_leaf=is_variable)
    if not any(map(is_variable, slots)):
        return None
    leaves, tree = jax.tree.flatten((args, kwargs))
    rest = iter(leaves)
    each = [
        list(itertools.islice(rest, len(jax.tree.leaves(slot))))
        if is_variable(slot)
        else [next(rest)]
        for slot in slots
    ]
    seen: dict[int, int] = {}
    same = tuple(
        seen.setdefault(id(slot), i) if is_variable(slot) else i
        for i, slot in enumerate(slots)
    )
    given: list[bool] = []
    for number, arg in enumerate(args):
        kinds = list(map(is_variable, flat(arg)[0]))
        given += [number in donated and (kind or not any(kinds)) for kind in kinds]
    given += [False] * (len(slots) - len(given))
    return Inputs(slots, each, tree, same, tuple(given))


@dataclass(eq=False)
class Step:
    """A function of such inputs, as one of arrays: run(spent, kept) returns its result
    and the leaves of the changed variables.

    changed: the slots of variables that it changes. spent: the slots whose arrays it
    may use up.
    """

    function: Callable[..., Any]
    tree: Any
    same: tuple[int, ...]
    counts: list[int]
    changed: list[int] | None = None
    spent: list[int] = field(default_factory=list)

    def apart(self, leaves: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The leaves of the slots of `spent`, and of the others."""
        own = [i for i, first in enumerate(self.same) if i == first]
        spent = set(self.spent)
        return [leaves[i] for i in self.spent], [
            leaves[i] for i in own if i not in spent
        ]

    def run(self, spent: list[Any], kept: list[Any]) -> tuple[Any, list[Any]]:
        places, rest = dict(zip(self.spent, spent, strict=True)), iter(kept)
        each: list[Any] = []
        for i, first in enumerate(self.same):
            if i != first:
                each.append(each[first])
            else:
                each.append(places[i] if i in places else next(rest))
        args, kwargs = self.rebuilt(each)
        slots, tree = flat((args, kwargs))
        result = self.function(*args, **kwargs)
        after, own = flat((args, kwargs))
        if own != tree or any(a is not b for a, b in zip(slots, after, strict=True)):
            raise NotStaticError
        if any(
            a is b
            for a in jax.tree.leaves(result, is_leaf=is_variable)
            for b in slots
            if is_variable(a)
        ):
            raise NotStaticError
        changed, new = [], []
        for i, slot in enumerate(slots):
            leaves = jax.tree.leaves(slot)
            if self.same[i] != i or not is_variable(slot):
                continue
            if len(leaves) != self.counts[i]:
                raise NotStaticError
            if any(a is not b for a, b in zip(leaves, each[i], strict=True)):
                changed.append(i)
                new.append(leaves)
        if self.changed is not None and changed != self.changed:
            raise NotStaticError
        self.changed = changed
        return result, new

    def rebuilt(self, each: Sequence[Sequence[Any]]) -> Any:
        """The inputs, with new variables of these leaves; one that was shared is
        shared again."""
        inputs = jax.tree.unflatten(self.tree, [x for leaves in each for x in leaves])
        slots, tree = flat(inputs)
        return jax.tree.unflatten(tree, [slots[i] for i in self.same])


class CompiledFunction(Compiled):
    """A function; if variables are among its inputs, it may change their values."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        check: bool,
        thorough: bool,
        donated: Sequence[int] = (),
    ):
        super().__init__(function, check=check, thorough=thorough, donated=donated)
        self._function = function
        self._steps: dict[Hashable, tuple[Step, Compiled] | None] = {}
        self._whole = nnx.jit(function, donate_argnums=tuple(donated))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = inputs_of(args, kwargs, self._donated)
        if inputs is None:
            return super().__call__(*args, **kwargs)
        found = self._step(inputs)
        if found is None:
            return self._whole(*args, **kwargs)
        step, compiled = found
        try:
            result, new = compiled(*step.apart(inputs.leaves))
        except NotStaticError:
            self._steps[inputs.tree, inputs.same] = None
            return self._whole(*args, **kwargs)
        for place, leaves in zip(step.changed or (), new, strict=True):
            variable = inputs.slots[place]
            tree = jax.tree.structure(variable)
            variable.update_from_state(jax.tree.unflatten(tree, leaves))
        return result

    def explain(self, *args: Any, **kwargs: Any) -> str:
        inputs = inputs_of(args, kwargs, self._donated)
        if inputs is None:
            return super().explain(*args, **kwargs)
        found = self._step(inputs)
        if found is None:
            return "nnx.jit of the function: it changes more than values of variables"
        step, compiled = found
        return compiled.explain(*step.apart(inputs.leaves))

    def _step(self, inputs: Inputs) -> tuple[Step, Compiled] | None:
        """None for nnx.jit."""
        key = inputs.tree, inputs.same
        with self._lock:
            if key not in self._steps:
                self._steps[key] = self._new_step(inputs)
            return self._steps[key]

    def _new_step(self, inputs: Inputs) -> tuple[Step, Compiled] | None:
        counts = list(map(len, inputs.leaves))
        step = Step(self._function, inputs.tree, inputs.same, counts)
        own = inputs.own
        try:
            jax.eval_shape(step.run, *step.apart(inputs.leaves))
        except NotStaticError:
            return None
        changed = set(step.changed or ())
        step.spent = [
            i
            for i in own
            if inputs.donated[i] and (i in changed or not is_variable(inputs.slots[i]))
        ]
        compiled = Compiled(
            step.run,
            check=self._check,
            thorough=self._thorough,
            donated=(0,) if step.spent else (),
            trains=True,
        )
        return step, compiled
