"""Which layers a net has: include and exclude rules, against what Caffe selects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from caffe2flax.errors import ConversionError
from caffe2flax.frontend.message import Message, Scalar
from caffe2flax.frontend.prototxt import parse, read
from caffe2flax.frontend.select import select
from caffe2flax.frontend.upgrade import upgrade

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "rules"
CASES: list[dict[str, Any]] = json.loads((FIXTURES / "index.json").read_text())


def layers(net: Message, name: str) -> list[str]:
    found = []
    for layer in net.all("layer"):
        assert isinstance(layer.value, Message)
        value = next(layer.value.all(name)).value
        assert isinstance(value, Scalar)
        found.append(value.text)
    return found


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_golden(case: dict[str, Any]) -> None:
    net = upgrade(read(FIXTURES / f"{case['name']}.prototxt"))
    arguments = {key: case[key] for key in ("phase", "level", "stages")}
    selected = select(net, **arguments)
    names = zip(layers(selected, "name"), layers(selected, "type"), strict=True)
    assert [list(pair) for pair in names] == case["layers"]


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ("", True),
        ("include { }", True),
        ("exclude { }", False),
        ("include { phase: TEST }", True),
        ("include { phase: TRAIN }", False),
        ("include { phase: 1 }", True),
        ("include { phase: 0 }", False),
        ("exclude { phase: TEST }", False),
        ("exclude { phase: TRAIN }", True),
        ("include { phase: TRAIN } include { phase: TEST }", True),
        ("exclude { phase: TRAIN } exclude { phase: TEST }", False),
        ("exclude { phase: TRAIN } exclude { stage: 'x' }", True),
        ("include { min_level: 2 }", True),
        ("include { min_level: 3 }", False),
        ("include { max_level: 2 }", True),
        ("include { max_level: 1 }", False),
        ("include { min_level: -0x10 max_level: 010 }", True),
        ("include { min_level: 3 } include { max_level: 2 }", True),
        ("include { stage: 'a' }", True),
        ("include { stage: 'a' stage: 'b' }", True),
        ("include { stage: ['a', 'x'] }", False),
        ("include { stage: 'A' }", False),
        ("include { stage: '' }", False),
        ("include { not_stage: 'x' }", True),
        ("include { not_stage: 'x' not_stage: 'b' }", False),
        ("include { stage: 'a' not_stage: 'a' }", False),
        ("exclude { stage: 'a' not_stage: 'x' phase: TEST min_level: 1 }", False),
        ("exclude { stage: 'a' not_stage: 'x' phase: TRAIN }", True),
    ],
)
def test_rule(rules: str, kept: bool) -> None:
    """At level 2 of TEST, in stages a and b."""
    net = parse(f"layer {{ name: 'l' {rules} type: 'T' }} layer {{ name: 'm' }}")
    selected = select(net, level=2, stages=["a", "b"])
    expected = "layer { name: 'l' type: 'T' } " * kept + "layer { name: 'm' }"
    assert selected == parse(expected)


@pytest.mark.parametrize(
    ("state", "arguments", "rule", "kept"),
    [
        ("stage: 'a'", {}, "stage: 'a'", True),
        ("stage: 'a'", {"stages": ["b"]}, "stage: 'a' stage: 'b'", True),
        ("stage: 'a'", {"stages": ["b"]}, "not_stage: 'a'", False),
        ("level: 4", {}, "min_level: 1", False),
        ("level: 4", {"level": 1}, "max_level: 1", True),
        ("phase: TRAIN", {}, "phase: TRAIN", False),
        ("phase: TEST", {"phase": "TRAIN"}, "phase: TRAIN", True),
        ("} state { stage: 'a'", {}, "stage: 'a'", True),
    ],
)
def test_state(state: str, arguments: dict[str, Any], rule: str, kept: bool) -> None:
    net = parse(f"name: 'n' state {{ {state} }} layer {{ include {{ {rule} }} }}")
    assert select(net, **arguments) == parse("name: 'n' " + "layer { }" * kept)


def test_what_is_no_layer_stays() -> None:
    net = parse("name: 'n' layer: 5 include { phase: 7 } debug_info: true")
    assert select(net) == net


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "layer { include { }\nexclude { } }",
            ["2:1 a layer has either include or exclude rules, not both"],
        ),
        (
            "layer { include { phse: TEST\nstages: 'a'\nmax_lvl: 1 } }",
            [
                "1:19 unknown field phse in include; did you mean phase?",
                "2:1 unknown field stages in include; did you mean stage?",
                "3:1 unknown field max_lvl in include; did you mean max_level?",
            ],
        ),
        (
            "layer { exclude { level: 1 } }\nstate { min_level: 1 not_stage: 'a' }",
            [
                "2:9 unknown field min_level in state",
                "2:22 unknown field not_stage in state",
                "1:19 unknown field level in exclude",
            ],
        ),
        ("state: 5", ["1:1 state is a message"]),
        ("layer { include: TEST }", ["1:9 include is a message"]),
        (
            "layer { include { phase: DEPLOY phase { } }\ninclude { phase: 'TEST' } }",
            [
                "1:19 phase is TRAIN or TEST, not DEPLOY",
                "1:33 phase is TRAIN or TEST, not a message",
                "2:11 phase is TRAIN or TEST, not 'TEST'",
            ],
        ),
        (
            "layer { include { stage: a\nstage: 1 not_stage { } } }",
            [
                "1:19 stage is a string in quotes, not a",
                "2:1 stage is a string in quotes, not 1",
                "2:10 not_stage is a string in quotes, not a message",
            ],
        ),
        (
            "layer { include { min_level: 1.5 max_level: 2147483648 }\n"
            "include { min_level: '1' max_level: x } }",
            [
                "1:19 min_level is an integer, not 1.5",
                "1:34 max_level is an integer, not 2147483648",
                "2:11 min_level is an integer, not '1'",
                "2:26 max_level is an integer, not x",
            ],
        ),
        (
            "layer { include { phase: TEST phase: TEST stage: 'a' stage: 'a' } }",
            ["1:31 phase is given twice in include"],
        ),
    ],
)
def test_refused(text: str, expected: list[str]) -> None:
    with pytest.raises(ConversionError) as caught:
        select(parse(text))
    found = [f"{p.line}:{p.column} {p.message}" for p in caught.value.problems]
    assert len(found) == len(expected)
    for text, start in zip(found, expected, strict=True):
        assert text.startswith(start)


def test_phase_of_the_caller() -> None:
    with pytest.raises(ValueError, match="phase is TRAIN or TEST, not 'test'"):
        select(parse(""), phase="test")
