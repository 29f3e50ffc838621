"""The message of a solver -> its fields, refused as Caffe refuses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from caffe2flax.errors import ConversionError, Problem, closest
from caffe2flax.frontend.message import Message
from caffe2flax.frontend.upgrade.solver import upgrade_solver
from caffe2flax.ir.params import Params
from caffe2flax.training.parameter import InlineNet, NetState, SolverNet

POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")
TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
FORK_POLICIES = ("plateau", "stepearly", "multifixed")
REGULARIZATIONS = ("L1", "L2")

_WITH_GAMMA = ("step", "exp", "inv", "multistep", "sigmoid")
_WITH_STEPSIZE = ("step", "sigmoid")
_WITHOUT_MOMENTUM = ("AdaGrad", "RMSProp")

_FLOATS = {
    "base_lr": 0.0,
    "gamma": 0.0,
    "power": 0.0,
    "momentum": 0.0,
    "momentum2": 0.999,
    "rms_decay": 0.99,
    "delta": 1e-8,
    "weight_decay": 0.0,
    "clip_gradients": -1.0,
}
_INTEGERS = {
    "test_interval": 0,
    "stepsize": 0,
    "max_iter": 0,
    "iter_size": 1,
    "display": 0,
    "average_loss": 1,
    "snapshot": 0,
    "random_seed": -1,
}
_FLAGS = {
    "test_compute_loss": False,
    "test_initialization": True,
    "snapshot_diff": False,
    "snapshot_after_train": True,
}
_HERE = {
    "solver_mode": "JAX computes on the devices that it finds",
    "device_id": "JAX computes on the devices that it finds",
    "layer_wise_reduce": "XLA orders the sums over devices",
    "debug_info": "no norms of blobs are printed",
}
"""Fields that say how Caffe runs, and what holds here."""


def read_fields(message: Message) -> Mapping[str, Any]:
    """The fields of SolverParameter, notes among them.

    Raises ConversionError with every problem: unknown fields, wrong values, settings
    that Caffe refuses when it makes the solver or at its first update.
    """
    problems: list[Problem] = []
    if message.has("layer") or message.has("layers"):
        text = "this is a net; a solver is wanted, which names its net"
        raise ConversionError(Problem(text, message.fields[0].span))
    try:
        message = upgrade_solver(message)
    except ConversionError as error:
        problems += error.problems
    given = Params("the solver", message, problems=problems)
    if problems:
        given.ignore("solver_type")
    fields: dict[str, Any] = {name: _float(given, name) for name in _FLOATS}
    fields |= {name: given.get(name, default) for name, default in _INTEGERS.items()}
    fields |= {name: given.get(name, default) for name, default in _FLAGS.items()}
    fields |= {name: given.all(name, str) for name in ("weights", "test_net")}
    fields |= {name: given.all(name, int) for name in ("test_iter", "stepvalue")}
    fields["snapshot_format"] = given.choice(
        "snapshot_format", "HDF5", "BINARYPROTO", default="BINARYPROTO"
    )
    fields["snapshot_prefix"] = given.get("snapshot_prefix", "")
    fields |= {name: given.optional(name, str) for name in ("net", "train_net")}
    for name in ("net_param", "train_net_param"):
        fields[name] = next(iter(_inline_nets(given, name, single=True)), None)
    fields["test_net_param"] = _inline_nets(given, "test_net_param")
    fields["train_state"] = _state(given.sub("train_state"))
    fields["test_state"] = tuple(map(_state, given.subs("test_state")))
    fields["type"] = _word(given, "type", "SGD", TYPES)
    fields["lr_policy"] = _policy(given)
    fields["regularization_type"] = _regularization(given, fields["weight_decay"])
    _without_effect(given)
    _check_nets(given, fields)
    _check_tests(given, fields)
    _check_rates(given, fields)
    _check_rule(given, fields)
    given.close()
    if not given.has("base_lr"):
        given.note("base_lr is not given: it is 0, and no weight will change")
    if not given.has("max_iter"):
        given.note("max_iter is not given: it is 0, and nothing is trained")
    return {**fields, "notes": tuple(given.notes)}


def _float(given: Params, name: str) -> float:
    """A number as Caffe holds it, in float32."""
    with np.errstate(over="ignore"):
        value = float(np.float32(given.get(name, _FLOATS[name])))
    if np.isnan(value) or (np.isinf(value) and name != "clip_gradients"):
        given.error(name, f"{name} is {value}, with which no training is possible")
        return _FLOATS[name]
    return value


def _word(given: Params, name: str, default: str, known: tuple[str, ...]) -> str:
    word = given.get(name, default)
    if word in known:
        return word
    hint = closest(word, known, given.problems)
    given.error(name, f"{name} is one of {', '.join(known)}, not {word!r}{hint}")
    return default


def _policy(given: Params) -> str:
    word = given.get("lr_policy", "")
    if word in FORK_POLICIES:
        text = f"lr_policy {word!r} is that of a fork, and not supported; Caffe has "
        given.error("lr_policy", text + ", ".join(POLICIES))
        return "fixed"
    if given.has("lr_policy"):
        return _word(given, "lr_policy", "fixed", POLICIES)
    text = f"the solver needs lr_policy, one of {', '.join(POLICIES)}"
    given.missing("lr_policy", text)
    return "fixed"


def _regularization(given: Params, weight_decay: float) -> str:
    """Caffe asks for it only where weights decay."""
    if weight_decay:
        return _word(given, "regularization_type", "L2", REGULARIZATIONS)
    word = given.get("regularization_type", "L2")
    if word in REGULARIZATIONS:
        return word
    given.note(f"regularization_type {word!r} has no effect without weight_decay")
    return "L2"


def _without_effect(given: Params) -> None:
    given.choice("solver_mode", "CPU", "GPU")
    given.get("device_id", 0)
    given.get("layer_wise_reduce", True)
    given.get("debug_info", False)
    for name, why in _HERE.items():
        if given.has(name):
            given.note(f"{name} has no effect here: {why}")


def _inline_nets(
    given: Params, name: str, single: bool = False
) -> tuple[InlineNet, ...]:
    """Nets as messages: their layers are read where they are converted."""
    if not given.has(name) or given.message is None:
        return ()
    nets: list[InlineNet] = []
    for found in given.message.all(name):
        if not isinstance(found.value, Message):
            given.error(name, f"{name} is a message: write {name} {{ ... }}")
        elif single and nets:
            text = f"{name} is given twice in {given.name}"
            given.problems.append(Problem(text, found.span))
        else:
            own = Params(name, found.value, problems=given.problems)
            nets.append(InlineNet(found.value, _state(own.sub("state"))))
    return tuple(nets)


def _state(given: Params) -> NetState:
    phase = given.choice("phase", "TRAIN", "TEST")
    return NetState(
        phase if given.has("phase") else None,
        given.optional("level", int),
        given.all("stage", str),
    )


_TRAIN_NETS = ("net", "net_param", "train_net", "train_net_param")


def state_in(net: SolverNet, message: Message) -> NetState:
    """What the layers of a net that a solver names are chosen by, once its file is
    read: the solver's word, then that of the net's own `state`."""
    own = _state(Params("the net", message).sub("state"))
    return NetState(net.phase, net.level, net.stages).over(own)


def _check_nets(given: Params, fields: Mapping[str, Any]) -> None:
    nets = [name for name in _TRAIN_NETS if given.has(name)]
    if not nets:
        given.missing("net", f"the solver needs one of {', '.join(_TRAIN_NETS)}")
    if len(nets) > 1:
        text = f"{' and '.join(nets)} exclude each other: give one net to train"
        given.error(nets[1], text)


def _check_tests(given: Params, fields: Mapping[str, Any]) -> None:
    own = len(fields["test_net_param"]) + len(fields["test_net"])
    tests = len(fields["test_iter"])
    generic = given.has("net") or given.has("net_param")
    if tests < own or (tests > own and not generic):
        named = "test_iter" if given.has("test_iter") else "test_net"
        named = named if given.has(named) else "test_net_param"
        text = f"test_iter has {tests} numbers, and there are {own} test nets"
        if not generic:
            text += " (none of which is `net`, which is not given)"
        given.error(named, text)
    states = len(fields["test_state"])
    if states and states != tests:
        text = f"{states} test_state for {tests} test_iter: give one for each, or none"
        given.error("test_state", text)
    if tests and fields["test_interval"] <= 0:
        given.error(
            "test_interval" if given.has("test_interval") else "test_iter",
            "test_iter needs a test_interval above 0, the updates between two tests",
        )


def _check_rates(given: Params, fields: Mapping[str, Any]) -> None:
    policy = fields["lr_policy"]
    if policy in _WITH_GAMMA and fields["gamma"] < 0:
        given.error("gamma", f"gamma must not be negative with lr_policy {policy!r}")
    if policy in _WITH_STEPSIZE and fields["stepsize"] <= 0:
        named = "stepsize" if given.has("stepsize") else "lr_policy"
        given.error(named, f"lr_policy {policy!r} needs a stepsize above 0")
    for name in ("average_loss", "iter_size"):
        if fields[name] < 1:
            given.error(name, f"{name} is at least 1, not {fields[name]}")


def _check_rule(given: Params, fields: Mapping[str, Any]) -> None:
    kind = fields["type"]
    if kind in _WITHOUT_MOMENTUM and fields["momentum"]:
        given.error("momentum", f"momentum cannot be used with {kind}")
    if kind == "RMSProp" and not 0 <= fields["rms_decay"] < 1:
        given.error("rms_decay", "rms_decay is at least 0 and less than 1")
    if kind == "Adam" and min(fields["momentum"], fields["momentum2"]) < 0:
        given.error("momentum", "momentum and momentum2 are not negative with Adam")
