"""The state of a solver that Caffe saved, `.solverstate` or `.solverstate.h5`."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from caffe2flax.errors import ConversionError, Problem, Span
from caffe2flax.files.mapped import loaded
from caffe2flax.frontend.blob import Array, read_blob
from caffe2flax.frontend.caffemodel import BLOBS_A_LAYER
from caffe2flax.frontend.sniff import HDF5_MAGIC, WANTED, looks_like
from caffe2flax.frontend.wire import MAX_ITER, Wire, signed
from caffe2flax.limits import current

NUMBERS = {1: "iter", 4: "current_step"}

HISTORIES = 2
"""The most lists of blobs that a rule has: those of Adam and AdaDelta."""

HEAD = 512


@dataclass(frozen=True, slots=True)
class SolverState:
    """What Caffe saves of a solver.

    iter: the number of updates made. learned_net: the file of the weights of then, as
    Caffe wrote it; "" where it is not named. history: the blobs of the update rule,
    float32 in Caffe's axis order and read-only; an older file gives all of them four
    axes. current_step: how many steps a multistep rate has taken.
    """

    iter: int
    learned_net: str = ""
    history: tuple[Array, ...] = field(default=(), repr=False, compare=False)
    current_step: int = 0


def read_solverstate(path: str | os.PathLike[str]) -> SolverState:
    """The state in a binary or HDF5 file.

    Raises ConversionError naming the byte where it is no such file, or cut.
    """
    wire = Wire.map(path)
    if wire.data[: len(HDF5_MAGIC)] == HDF5_MAGIC:
        state = _read_hdf5(wire)
    else:
        try:
            state = _read_binary(wire)
        except ConversionError as error:
            raise _explained(wire, error) from None
    wire.check_size()
    return state


def _explained(wire: Wire, error: ConversionError) -> ConversionError:
    """`error`, opened by what the file looks like where that can be told."""
    head = wire.data[:HEAD]
    other = None if head.startswith(b"\x08") else looks_like(head)
    if other is None and head.startswith(b"\x0a"):
        other = "a file of weights (.caffemodel)"
    if other is None:
        return error
    text = f"this is {other}; {WANTED['state']} ({error.problems[0].message})"
    return ConversionError(Problem(text, Span(wire.path)))


def _read_binary(wire: Wire) -> SolverState:
    limits = current()
    most = HISTORIES * limits.layers * BLOBS_A_LAYER
    numbers: dict[int, int] = {}
    net = ""
    history: list[Array] = []
    odd: Counter[str] = Counter()
    for found in wire.fields(0, len(wire.data)):
        match found.number, found.wire:
            case (1 | 4) as number, 0:
                numbers[number] = value = signed(found.value)
                if not 0 <= value <= MAX_ITER:
                    raise wire.error(f"{NUMBERS[number]} is {value}", found.offset)
            case 2, 2:
                net = wire.text(found)
            case 3, 2:
                what = f"history {len(history)}"
                history.append(read_blob(wire, found.start, found.end, what, odd))
            case number, kind:
                text = f"a solver's state has no field {number} of wire type {kind},"
                raise wire.error(text, found.offset)
        if len(history) > most:
            text = limits.refusal("layers", "the history has blobs for more layers")
            raise wire.error(f"{text},", found.offset)
    if 1 not in numbers:
        raise wire.error("the file holds no iter, as a solver's state does,", 0)
    return SolverState(
        numbers[1], net, tuple(map(_float32, history)), numbers.get(4, 0)
    )


def _read_hdf5(wire: Wire) -> SolverState:
    from caffe2flax.frontend.hdf5 import read_hdf5_state

    state = read_hdf5_state(wire)
    if [*state.history] != [*range(len(state.history))]:
        numbers = ", ".join(map(str, state.history))
        raise wire.error(f"the history has the numbers {numbers},", 0)
    return SolverState(
        state.numbers["iter"],
        state.learned_net,
        tuple(map(_float32, state.history.values())),
        state.numbers.get("current_step", 0),
    )


def _float32(blob: Array) -> Array:
    array = loaded(blob).astype(np.float32, copy=False)
    array.flags.writeable = False
    return array
