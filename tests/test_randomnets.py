"""Random nets of all layer types; `python -m tests.randomnets` makes more of them."""

from __future__ import annotations

import numpy as np
import pytest

from caffe2flax.conversion import convert
from caffe2flax.errors import ConversionError
from caffe2flax.ir.registry import LAYERS
from caffe2flax.layers import register_all
from tests.randomnets.check import WAYS, check
from tests.randomnets.draw import as_input, random_net
from tests.randomnets.net import Net, text_of
from tests.randomnets.shrink import shrink

NETS = 100
EACH = 10
"""Nets of a test: many in a process, as JAX starts once."""

ABSENT = {
    *("HDF5Data", "Python"),  # of unknown shape, of unknown code
    *("ConvolutionDepthwise", "DepthwiseConvolution", "Convolution3D", "CONVOLUTION3D"),
    *("Deconvolution3D", "DECONVOLUTION3D", "NdConvolution", "AutoCrop"),
}
"""Types of `caffe2flax/layers` that do not occur: two, and those of forks that stand
beside what they are made of."""


@pytest.mark.parametrize("first", range(0, NETS, EACH))
def test_random_nets(first: int) -> None:
    """Each as it is written, and in one of the other ways."""
    failed = {}
    for number in range(first, first + EACH):
        net = random_net(number)
        outcome = check(net.steps, net.phase, [WAYS[number % len(WAYS)]])
        if outcome.failure is not None:
            failed[number] = (outcome.failure, net.text)
    assert not failed


def test_all_types_occur() -> None:
    register_all()
    nets = (random_net(number) for number in range(NETS))
    modules = {type_: cls.__module__ for type_, cls in LAYERS.items()}
    ours = {t for t, name in modules.items() if name.startswith("caffe2flax.layers.")}
    known = {type_ for type_ in ours if ".forks." not in modules[type_]}
    assert {step.type for net in nets for step in net.steps} == known - ABSENT


def test_a_net_is_the_same_for_a_seed() -> None:
    assert random_net(3).text == random_net(3).text != random_net(4).text


def test_a_wrong_layer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its type, though layers behind it are off as well; and so is an exception."""
    net = Net()
    (blob,) = net.add("Tile", [net.fed((2, 3))], "tile_param { tiles: 2 }", (2, 6))
    (blob,) = net.add("TanH", [blob], "", (2, 6))
    assert check(net.steps, "TEST").failure is None
    right = LAYERS["Tile"].reference
    monkeypatch.setattr(
        LAYERS["Tile"], "reference", lambda *args: 1.001 * np.asarray(right(*args))
    )
    found = check(net.steps, "TEST").failure
    assert found is not None
    assert found.kind == "plain: Tile off"
    monkeypatch.setattr(LAYERS["Tile"], "call", lambda *args: 1 / 0)
    found = check(net.steps, "TEST").failure
    assert found is not None
    assert found.kind == "plain: ZeroDivisionError"


def test_a_failure_shrinks_to_its_cause() -> None:
    """Of a long net what is left is the layer that is refused, and an input."""
    net = Net()
    blob = net.fed((2, 3, 4, 4))
    for _ in range(3):
        (blob,) = net.same("ReLU", blob)
    (blob,) = net.add(
        "Convolution", [blob], "convolution_param { bad: 1 }", (2, 3, 4, 4)
    )
    (blob,) = net.add("Sigmoid", [blob], "", (2, 3, 4, 4))
    net.add("Eltwise", [blob, blob], "", (2, 3, 4, 4))

    def fails(steps: object) -> bool:
        try:
            convert(text_of(steps))  # type: ignore[arg-type]
        except ConversionError as error:
            return "bad" in str(error)
        return False

    smallest = shrink(tuple(net.steps), net.shapes, fails)
    assert [step.type for step in smallest] == ["Input", "Convolution"]
    assert smallest[0].tops == smallest[1].bottoms
    assert str(as_input("x", (1,))).startswith('layer { name: "x" type: "Input"')
