"""A solver's update of the weights as a transformation of optax, in Python text: one
text for training scripts and for the API."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe2flax.conversion import Conversion
from caffe2flax.training.blobs import learnable_blobs, multipliers
from caffe2flax.training.parameter import SolverParameter
from caffe2flax.training.rates import learning_rate_source, number

if TYPE_CHECKING:
    import optax

Multipliers = tuple[float, float]

_RATE_FIRST = ("SGD", "Nesterov")
"""The rules whose history holds the rate."""


def optimizer_source(
    solver: SolverParameter,
    groups: Mapping[str, Multipliers],
    freeze: Sequence[str] = (),
) -> str:
    """The text of MULTIPLIERS and of `def make_optimizer(rate=learning_rate)`, which
    returns a transformation of optax for the module's nnx.Param state.

    groups: (lr_mult, decay_mult) of each variable, by its path, as
    `parameter_multipliers` has them. freeze: patterns of
    paths to put before them. The text uses `np`, `optax` and the functions of
    `library/rules.py`.
    """
    patterns = {**dict.fromkeys(freeze, (0.0, 0.0)), **_patterns(groups)}
    lines = [
        "MULTIPLIERS = {  # lr_mult, decay_mult: those of the first pattern that fits",
        *(f"    {json.dumps(name)}: {_pair(pair)}," for name, pair in patterns.items()),
        "}",
        "",
        "",
        "def make_optimizer(rate=learning_rate):",
        f'    """{solver.type} as in Caffe; its state is that of a snapshot."""',
        "",
        *_indented(_rule(solver, any(d for a, d in patterns.values() if not a)), 4),
        "",
        *_indented(_whole(solver), 4),
    ]
    return "\n".join(lines) + "\n"


def _indented(lines: Sequence[str], by: int) -> list[str]:
    return [" " * by + line if line else "" for line in lines]


def _pair(pair: Multipliers) -> str:
    return f"({number(pair[0])}, {number(pair[1])})"


def _rule(solver: SolverParameter, decaying: bool) -> list[str]:
    """The text of the rule for one group of variables. decaying: whether there are
    frozen variables whose history collects decay."""
    name = solver.type.lower()
    scaled = "lr_mult * rate(i)"
    if solver.type in _RATE_FIRST:
        nesterov = ", nesterov=True" if solver.type == "Nesterov" else ""
        steps = [
            f"optax.scale_by_schedule(lambda i: {scaled}),  # before the momentum",
            f"optax.trace({number(solver.momentum)}{nesterov}),",
            "optax.scale(-1),",
        ]
    else:
        steps = [
            f"{_scaling(solver)},",
            f"optax.scale_by_learning_rate(lambda i: {scaled}),",
        ]
    if solver.weight_decay:
        strength = f"{number(solver.weight_decay)} * decay_mult"
        l1 = solver.regularization_type == "L1"
        decay = "add_l1_decay" if l1 else "optax.add_decayed_weights"
        steps.insert(0, f"{decay}({strength}),")
    frozen = "if lr_mult == 0:"
    if decaying and solver.weight_decay and solver.type not in _RATE_FIRST:
        frozen = "if lr_mult == decay_mult == 0:  # else its history collects decay"
        steps.insert(0, "optax.identity() if lr_mult else optax.set_to_zero(),")
    return [
        f"def {name}(lr_mult, decay_mult):",
        f"    {frozen}",
        "        return optax.set_to_zero()",
        "    return optax.chain(",
        *_indented(steps, 8),
        "    )",
    ]


def _scaling(solver: SolverParameter) -> str:
    """The step of a rule that the rate follows. What is subtracted from 1 is float32
    as in Caffe."""
    delta = number(solver.delta)
    momentum = f"np.float32({number(solver.momentum)})"
    if solver.type == "AdaGrad":
        return f"scale_by_adagrad({delta})"
    if solver.type == "RMSProp":
        decay = f"np.float32({number(solver.rms_decay)})"
        return f"optax.scale_by_rms({decay}, {delta}, eps_in_sqrt=False)"
    if solver.type == "AdaDelta":
        return f"optax.scale_by_adadelta({momentum}, {delta})"
    second = f"np.float32({number(solver.momentum2)})"
    return f"scale_by_caffe_adam({momentum}, {second}, {delta})"


def _whole(solver: SolverParameter) -> list[str]:
    """The text that puts the rules of all groups together."""
    made = f"by_multipliers({solver.type.lower()}, MULTIPLIERS)"
    lines: list[str] = []
    bound = solver.clip_gradients
    if 0 <= bound < np.inf:
        # optax divides by the norm even where both are 0.
        clip = f"optax.clip_by_global_norm({number(bound)})"
        lines += [
            "def trained(lr_mult, decay_mult):",
            "    return optax.identity() if lr_mult else optax.set_to_zero()",
            "",
        ]
        if solver.iter_size > 1:
            lines.append("# Caffe clips the sum over the passes; here is their mean.")
            clip = f"optax.clip_by_global_norm({number(bound)} / {solver.iter_size})"
        if bound == 0:
            clip = "optax.set_to_zero()"
        chain = [
            "optimizer = optax.chain(",
            "    by_multipliers(trained, MULTIPLIERS),  # others are not in the norm",
            f"    {clip},",
            f"    {made},",
            ")",
        ]
        lines += chain
        made = "optimizer"
    if solver.snapshot_diff:
        made = f"optax.chain({made}, keep_last_update())"
    if solver.iter_size == 1:
        return [*lines, f"return {made}"]
    if made != "optimizer":
        lines.append(f"optimizer = {made}")
    passes = f"optax.MultiSteps(optimizer, {solver.iter_size})"
    return [*lines, f"return {passes}.gradient_transformation()"]


def _patterns(groups: Mapping[str, Multipliers]) -> dict[str, Multipliers]:
    """The multipliers by patterns, special ones first: of single variables and whole
    layers, of all variables of a kind such as biases, of all others."""
    pairs = {name: (float(a), float(d)) for name, (a, d) in groups.items()}
    rest = _usual(Counter(pairs.values())) if pairs else (1.0, 1.0)
    kinds: dict[str, Counter[Multipliers]] = {}
    layers: dict[str, dict[str, Multipliers]] = {}
    for name, pair in pairs.items():
        layer, _, kind = name.rpartition(".")
        kinds.setdefault(kind, Counter())[pair] += 1
        layers.setdefault(layer, {})[name] = pair
    usual = {kind: _usual(count) for kind, count in kinds.items()}
    found: dict[str, Multipliers] = {}
    for layer, own in layers.items():
        special = {n: p for n, p in own.items() if p != usual[n.rpartition(".")[2]]}
        if special and len(own) > 1 and len(set(own.values())) == 1:
            special = {f"{layer}.*": next(iter(own.values()))}
        found |= special
    found |= {f"*.{kind}": pair for kind, pair in usual.items() if pair != rest}
    return {**found, "*": rest}


def _usual(counts: Counter[Multipliers]) -> Multipliers:
    """The most frequent multipliers; of several, rather those that train."""
    return max(counts, key=lambda pair: (counts[pair], pair == (1, 1), pair[0] != 0))


def parameter_multipliers(conversion: Conversion) -> dict[str, Multipliers]:
    """`multipliers` without the statistics of BatchNorm, which are no parameters.
    Raises ConversionError as it does."""
    blobs = learnable_blobs(conversion)
    statistics = {blob.variable for blob in blobs if blob.statistic}
    every = multipliers(conversion)
    return {name: pair for name, pair in every.items() if name not in statistics}


def optimizer(
    solver: SolverParameter,
    groups: Mapping[str, Multipliers],
    start: int = 0,
    step: int = 0,
) -> optax.GradientTransformation:
    """The transformation of `optimizer_source`; start, step: see `learning_rate`."""
    from functools import partial

    import jax.numpy as jnp
    import optax

    from caffe2flax.training.library import rules

    names: dict[str, Any] = {**vars(rules), "jnp": jnp, "np": np, "optax": optax}
    text = f"{learning_rate_source(solver)}\n{optimizer_source(solver, groups)}"
    exec(compile(text, "<optimizer>", "exec"), names)
    rate = names["learning_rate"]
    if solver.lr_policy == "multistep":
        rate = partial(rate, start=start, step=step)
    made: optax.GradientTransformation = names["make_optimizer"](rate)
    return made
