"""The functions to test: their inputs, and what must be true of each."""

from __future__ import annotations

import ast
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

import caffe2flax
from caffe2flax.errors import ConversionError
from caffe2flax.frontend import caffemodel, prototxt, schema
from caffe2flax.frontend.select import select
from caffe2flax.frontend.sniff import HDF5_MAGIC
from caffe2flax.frontend.solverstate import read_solverstate
from caffe2flax.frontend.upgrade import inline_net, upgrade
from caffe2flax.frontend.upgrade.rewrite import upgraded_text
from caffe2flax.training.optimizer import optimizer_source
from caffe2flax.training.rates import learning_rate_source
from tests.fuzz import oracle, text, wire

FIXTURES = Path(__file__).parents[2] / "fixtures"
LARGEST_SEED = 6000
LARGEST_INPUT = 2**17
BETWEEN = b"\0"
"""Ends the prototxt of a conversion, as no text contains it; the weights follow."""


@dataclass(frozen=True)
class Target:
    """seeds: valid inputs. mutate: an input from a seed and all of them. attack: tests
    an input, beside which files may be written; it raises where something is wrong, and
    returns whether the input was accepted."""

    name: str
    seeds: Callable[[], list[bytes]]
    mutate: Callable[[bytes, list[bytes], Random], bytes]
    attack: Callable[[bytes, Path], bool]

    def input(self, seed: int, number: int) -> bytes:
        """Input `number` of a campaign: the same one at every call."""
        random = Random(f"{self.name} {seed} {number}")
        seeds = _seeds(self)
        return self.mutate(random.choice(seeds), seeds, random)[:LARGEST_INPUT]


@cache
def _seeds(target: Target) -> list[bytes]:
    return target.seeds()


def _files(folder: str, *endings: str) -> Iterable[Path]:
    """The seeds made for attacks, and other fixtures of the same kind."""
    for path in sorted(FIXTURES.glob(f"{folder}/**/*")):
        if path.name.endswith(endings) and path.stat().st_size <= LARGEST_SEED:
            yield path


def _texts() -> list[bytes]:
    folders = ("fuzz", "upgrade", "rules", "layers", "fork_layers")
    paths = [p for folder in folders for p in _files(folder, ".prototxt")]
    return [path.read_bytes() for path in paths]


def _solvers() -> list[bytes]:
    return [path.read_bytes() for path in _files("solver", ".solver.prototxt")]


def _weights() -> list[bytes]:
    folders = ("fuzz", "caffemodel", "layers")
    endings = (".caffemodel", ".binaryproto")
    paths = [p for folder in folders for p in _files(folder, *endings)]
    return [path.read_bytes() for path in paths]


def _snapshots() -> list[bytes]:
    paths = sorted(FIXTURES.glob("**/*.caffemodel.h5"))
    return [path.read_bytes() for path in paths]


def _states() -> list[bytes]:
    endings = (".solverstate", ".solverstate.h5")
    paths = [path for ending in endings for path in FIXTURES.glob(f"**/*{ending}")]
    return [path.read_bytes() for path in sorted(paths)]


def _pairs() -> list[bytes]:
    found = []
    for folder in ("fuzz", "layers", "fork_layers", "caffemodel/architecture"):
        for path in _files(folder, ".prototxt"):
            weights = path.with_suffix(".caffemodel")
            data = weights.read_bytes() if weights.exists() else b""
            if len(data) <= LARGEST_SEED:
                found.append(path.read_bytes() + BETWEEN + data)
    return found


def _mutate_text(data: bytes, others: list[bytes], random: Random) -> bytes:
    if random.random() < 0.15:
        return wire.mutated_bytes(data, others, random)
    plain = [random.choice(others).decode("utf-8", "ignore") for _ in range(2)]
    changed = text.mutated(data.decode("utf-8", "ignore"), plain, random)
    return changed.encode("utf-8", "surrogatepass")


def _mutate_state(data: bytes, others: list[bytes], random: Random) -> bytes:
    change = wire.mutated_bytes if data.startswith(HDF5_MAGIC) else wire.mutated
    return change(data, others, random)


def _mutate_pair(data: bytes, others: list[bytes], random: Random) -> bytes:
    net, _, weights = data.partition(BETWEEN)
    nets, files = zip(*(_split(random.choice(others)) for _ in range(2)), strict=True)
    if random.random() < 0.6:
        net = _mutate_text(net, list(nets), random)
    else:
        weights = wire.mutated(weights, list(files), random)
    return net + BETWEEN + weights


def _split(pair: bytes) -> tuple[bytes, bytes]:
    net, _, weights = pair.partition(BETWEEN)
    return net, weights


def _attack_text(data: bytes, folder: Path) -> bool:
    """Read and upgraded, or refused with a line that the file has."""
    path = folder / "net.prototxt"
    path.write_bytes(data)
    try:
        message = prototxt.read(path)
    except ConversionError as error:
        _check_places(error, path, data)
        return False
    try:
        upgraded_text(prototxt.read_text(path), str(path))
        net = inline_net(message, phase="TEST") or message
        select(upgrade(net), phase="TEST")
    except ConversionError as error:
        _check_places(error, path, data)
        return False
    return True


def _attack_solver(data: bytes, folder: Path) -> bool:
    """Refused with a line that the file has, or its rate and its update compile."""
    path = folder / "solver.prototxt"
    path.write_bytes(data)
    try:
        solver = caffe2flax.read_solver(path)
    except ConversionError as error:
        _check_places(error, path, data)
        return False
    assert len(solver.test_nets) == len(solver.test_iter)
    assert solver.training_net.phase in ("TRAIN", "TEST")
    text = learning_rate_source(solver) + optimizer_source(solver, {"a.b": (1, 1)})
    ast.parse(text)
    return True


def _attack_weights(data: bytes, folder: Path) -> bool:
    """Read as protobuf itself reads it, or refused with the byte."""
    path = folder / "net.caffemodel"
    path.write_bytes(data)
    accepted = False
    for reader in (caffemodel.read, caffemodel.read_binaryproto, schema.architecture):
        try:
            found = reader(path)
        except ConversionError as error:
            _check_bytes(error, path, data)
            continue
        accepted = True
        if isinstance(found, caffemodel.WeightFile):
            oracle.check_arrays(found, data)
            oracle.check_against_protobuf(found, data)
    return accepted


def _attack_snapshot(data: bytes, folder: Path) -> bool:
    path = folder / "net.caffemodel.h5"
    path.write_bytes(data)
    try:
        file = caffemodel.read(path)
    except ConversionError as error:
        _check_bytes(error, path, data)
        return False
    oracle.check_arrays(file, data)
    return True


def _attack_state(data: bytes, folder: Path) -> bool:
    path = folder / "net.solverstate"
    path.write_bytes(data)
    try:
        state = read_solverstate(path)
    except ConversionError as error:
        _check_bytes(error, path, data)
        return False
    assert sum(blob.nbytes for blob in state.history) <= 2 * len(data)
    assert all(blob.dtype == np.float32 for blob in state.history)
    return True


def _attack_conversion(data: bytes, folder: Path) -> bool:
    """A module that compiles, and weights of its shapes; options as the bytes have
    it."""
    net, weights = _split(data)
    text_path, weights_path = folder / "net.prototxt", folder / "net.caffemodel"
    text_path.write_bytes(net)
    weights_path.write_bytes(weights)
    chance = zlib.crc32(data)
    try:
        conversion = caffe2flax.convert(
            text_path,
            weights_path if weights else None,
            phase="TRAIN" if chance & 1 else "TEST",
            taps="all" if chance & 2 else (),
            flat=bool(chance & 4),
            stub_unsupported=not chance & 0x78,
        )
    except ConversionError as error:
        for problem in error.problems:
            span = problem.span
            assert span is None or span.file in (str(text_path), str(weights_path), "")
        return False
    ast.parse(conversion.source)
    variables = conversion.weights
    if variables is None:
        return True
    for name, shape in variables.shapes.items():
        assert variables[name].shape == shape
        assert variables[name].dtype == np.float32
    return True


def _check_places(error: ConversionError, path: Path, data: bytes) -> None:
    assert error.problems
    lines = data.count(b"\n") + 1
    for problem in error.problems:
        assert problem.span is not None, problem.message
        assert problem.span.file == str(path)
        assert 0 <= problem.span.line <= lines
    assert str(error)


def _check_bytes(error: ConversionError, path: Path, data: bytes) -> None:
    assert error.problems
    for problem in error.problems:
        assert problem.span is not None, problem.message
        assert problem.span.file == str(path)
        offsets = re.findall(r"at byte ([0-9]+)", problem.message)
        assert offsets or "no architecture" in problem.message, problem.message
        assert all(int(offset) <= len(data) for offset in offsets), problem.message


TARGETS = {
    target.name: target
    for target in (
        Target("prototxt", _texts, _mutate_text, _attack_text),
        Target("solver", _solvers, _mutate_text, _attack_solver),
        Target("caffemodel", _weights, wire.mutated, _attack_weights),
        Target("hdf5", _snapshots, wire.mutated_bytes, _attack_snapshot),
        Target("solverstate", _states, _mutate_state, _attack_state),
        Target("conversion", _pairs, _mutate_pair, _attack_conversion),
    )
}
