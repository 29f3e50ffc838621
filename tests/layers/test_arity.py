"""Any number of bottoms and tops, for every layer type, is converted or refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import product

import pytest

import caffe2flax
from caffe2flax.conversion import read_graph
from caffe2flax.frontend.message import Message, Scalar
from caffe2flax.frontend.prototxt import parse
from caffe2flax.frontend.upgrade import upgrade
from caffe2flax.frontend.upgrade.rewrite import _inline
from caffe2flax.ir.registry import LAYERS
from caffe2flax.layers import register_all
from caffe2flax.layers._python import PYTHON
from tests.oddnumbers import fixtures
from tests.single import source

register_all()
SHAPES = ((2, 4, 6, 6), (2, 4), (1, 3))
FAMILY_NAMES = {"MyLoss", "PoseLoss", "FooAccuracy", "MyDataLayer", "EvalLoss"}
NAMES = sorted({*LAYERS, *FAMILY_NAMES})


@cache
def examples() -> dict[str, list[str]]:
    """Layer type -> its parameters in fixtures, as text, without blobs and name."""
    found: dict[str, list[str]] = {type_: [""] for type_ in NAMES}
    for module, name in PYTHON:
        text = f'python_param {{ module: "{module}" layer: "{name}" }}'
        found["Python"].append(text)
    for net in _nets():
        for layer in net.all("layer"):
            assert isinstance(layer.value, Message)
            type_ = _text(layer.value, "type")
            left = ("name", "type", "bottom", "top", "include", "exclude", "param")
            own = [f for f in layer.value.fields if f.name not in left]
            text = " ".join(map(_inline, own))
            if text not in found.setdefault(type_, [""]):
                found[type_].append(text)
    return found


def _nets() -> Iterator[Message]:
    for _, _, text in fixtures():
        try:
            yield upgrade(parse(text))
        except caffe2flax.ConversionError:
            continue


def _text(message: Message, name: str) -> str:
    value = next((f.value for f in message.all(name)), None)
    return value.text if isinstance(value, Scalar) else ""


@pytest.mark.parametrize("type_", NAMES)
def test_every_number_of_blobs(type_: str) -> None:
    some = examples()[type_]
    chosen = some if type_ == "Python" else [some[0], some[-1]]
    for own, bottoms, tops in product(dict.fromkeys(chosen), range(7), range(5)):
        shape = SHAPES[(bottoms + tops) % len(SHAPES)]
        made = "".join(source(f"x{i}", shape) for i in range(max(bottoms, 1)))
        blobs = " ".join(f'bottom: "x{i}"' for i in range(bottoms))
        blobs += "".join(f' top: "y{i}"' for i in range(tops))
        net = f'{made}layer {{ name: "l" type: "{type_}" {blobs} {own} }}\n'
        with suppress(caffe2flax.ConversionError):
            read_graph(net, phase="TRAIN" if bottoms % 2 else "TEST")


@pytest.mark.parametrize("tops", [0, 1, 2, 3, 5])
def test_a_python_layer_of_known_code(tops: int) -> None:
    own = (
        'python_param { module: "rpn.anchor_target_layer" layer: "AnchorTargetLayer" }'
    )
    blobs = "".join(f' top: "y{i}"' for i in range(tops))
    net = f'layer {{ name: "l" type: "Python" bottom: "x" {blobs} {own} }}'
    with pytest.raises(caffe2flax.ConversionError) as refused:
        read_graph(source("x", (1, 18, 6, 6)) + net, phase="TRAIN")
    (problem,) = refused.value.problems
    assert problem.message == f"a Python layer needs exactly 4 top blobs, has {tops}"
    assert problem.line
