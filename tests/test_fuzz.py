"""Attacks that a few seconds suffice for; `python -m tests.fuzz` takes longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import process_time

import pytest

import caffe2flax
from caffe2flax.errors import ConversionError
from caffe2flax.frontend.prototxt import parse
from tests.fuzz.campaign import SECONDS, run_here
from tests.fuzz.targets import TARGETS
from tests.smallnets import net, single

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_well(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    accepted = [target.attack(data, tmp_path) for data in target.seeds()]
    assert len(accepted) - sum(accepted) <= len(accepted) // 10


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_inputs(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    outcomes = [*run_here(target, 0, range(400), tmp_path)]
    assert [found.details for _, _, _, found in outcomes if found] == []
    accepted = sum(well for _, well, _, _ in outcomes)
    assert 0 < accepted < len(outcomes)


def test_an_input_can_be_made_again() -> None:
    for target in TARGETS.values():
        assert target.input(3, 5) == target.input(3, 5)
        assert len({target.input(3, number) for number in range(40)}) > 30


def test_the_command(tmp_path: Path) -> None:
    """In worker processes, under a limit of memory."""
    command = [sys.executable, "-m", "tests.fuzz", "caffemodel", "--engine", "own"]
    command += ["--iterations", "50", "--keep", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "caffemodel: 50 inputs in" in done.stdout
    assert [*tmp_path.iterdir()] == []


NINES, SEVENS, EFFS = "9" * 5000, "0" + "7" * 5000, "0x" + "f" * 400
RELU = single("ReLU", "relu_param {{ negative_slope: {} }}")
POOL = single("Pooling", "pooling_param {{ kernel_size: 2 pool: {} }}")
SPOTS = {
    "a float": (RELU, "is a number, not 0xfff"),
    "an enum": (POOL, "pool is one of MAX"),
    "a phase": (single("ReLU", "phase: {}"), "phase is one of TRAIN"),
    "an integer": (
        single("Softmax", "softmax_param {{ axis: {} }}"),
        "axis is an integer",
    ),
}


@pytest.mark.parametrize("name", SPOTS)
@pytest.mark.parametrize("number", [NINES, SEVENS, EFFS], ids=["9", "07", "0xf"])
def test_endless_numbers(name: str, number: str) -> None:
    """Python refuses to read integers of so many digits, and floats overflow."""
    layer, message = SPOTS[name]
    text = net(layer.format(number), x=(1, 3, 8, 8))
    if name == "a float" and number is not EFFS:
        assert caffe2flax.convert(text).layer_count == 1
        return
    with pytest.raises(ConversionError, match=message):
        caffe2flax.convert(text)


MANY = 5000
CROWDS = {
    "unknown fields of a layer": net(
        single("ReLU", " ".join(f"slope{i}: 1" for i in range(MANY))), x=(1, 2)
    ),
    "unknown fields of the net": "".join(f"inputs{i}: 1\n" for i in range(MANY)),
    "unknown types": net(*(f'type: "Convolutio{i}"' for i in range(MANY)), x=(1, 2)),
    "blobs that nobody makes": net(
        *(
            f'name: "a{i}" type: "ReLU" bottom: "blob_{i}" top: "a{i}"'
            for i in range(MANY)
        ),
        x=(1, 2),
    ),
    "unknown words": net(
        *(
            f'name: "a{i}" type: "Pooling" bottom: "x" top: "a{i}" '
            f"pooling_param {{ kernel_size: 1 pool: MAXI{i} }}"
            for i in range(MANY // 5)
        ),
        x=(1, 1, 2, 2),
    ),
}


@pytest.mark.parametrize("name", CROWDS)
def test_crowds_of_problems(name: str) -> None:
    """All are told; a hint for each would take minutes. On a slow machine it takes a
    few times as long as reading the text."""
    start = process_time()
    parse(CROWDS[name])
    parsed = process_time() - start
    start = process_time()
    with pytest.raises(ConversionError) as caught:
        caffe2flax.convert(CROWDS[name])
    assert process_time() - start < max(SECONDS, 4 * parsed)
    assert len(caught.value.problems) >= MANY // 5
