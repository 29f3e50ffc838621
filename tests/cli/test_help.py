"""A command is one file with its usage and examples."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from caffe2flax.cli import parser as command_line
from caffe2flax.cli.parser import COMMANDS, parser

FOLDER = Path(command_line.__file__).parent
SHARED = {"__init__", "arguments", "colours", "main", "parser", "progress", "terminal"}
NAMES = [module.__name__.rpartition(".")[2] for module in COMMANDS]


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (
        action
        for action in parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(action.choices)


def test_a_command_is_one_file() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == SHARED | {*NAMES}
    assert list(commands()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_examples(name: str) -> None:
    examples = re.findall(
        rf"^  caffe2flax ({name}\b.*)$", commands()[name].epilog or "", re.M
    )
    assert len(examples) >= 2
    for example in examples:
        assert parser().parse_args(shlex.split(example)).command == name


@pytest.mark.parametrize("name", NAMES)
def test_rare_options_come_last(name: str) -> None:
    groups = [
        group.title for group in commands()[name]._action_groups if group._group_actions
    ]
    if "which net is meant" in groups:
        assert groups[-1] == "which net is meant"


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_has_its_help(name: str) -> None:
    assert all(action.help for action in commands()[name]._actions)
