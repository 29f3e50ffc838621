"""Colours: on terminals that have them, and nowhere else."""

import io
import re
import sys
from pathlib import Path

import pytest

from caffe2flax.cli.colours import show
from caffe2flax.cli.main import main

REPORT = """\
layer       type  largest
[red]x[/]   ReLU  0 \\[bold] :smile:
note: [link=http://x]a
net.prototxt:3:1: error: unknown field note: x"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def shown(text: str, stream: io.StringIO, *, data: bool = False) -> str:
    show(text, stream, data=data)
    return stream.getvalue()


def test_a_terminal() -> None:
    found = shown(REPORT, Terminal())
    assert re.sub(r"\x1b\[[\d;]*m", "", found) == f"{REPORT}\n"
    assert "\x1b[1;31merror:\x1b[0m unknown field note: x" in found
    assert "\x1b[1;36mnote:\x1b[0m [link" in found
    assert found.startswith("\x1b[1mlayer")
    assert found.count("\x1b") == 6


VERIFIED = """\
ip    InnerProduct  2x5  1.0e-01  1.2e-02  breaks, 1.0e-01 alone
prob  Softmax       2x5  1.0e-08  1.2e-09
ok breaks
culprit: ip (InnerProduct) is off by 1.0e-01
BREAKS: the largest is 1.0e-01 in ip, the tolerance 0.0001
compiled ok: the largest is 2.0e-07 in prob"""


def test_results() -> None:
    found = shown(VERIFIED, Terminal())
    assert re.sub(r"\x1b\[[\d;]*m", "", found) == f"{VERIFIED}\n"
    for part in ("\x1b[31mbreaks", "\x1b[1;31mculprit:", "\x1b[1;31mBREAKS:"):
        assert found.count(part) == 1
    assert "\x1b[1;32mcompiled ok:\x1b[0m" in found


def test_lines_longer_than_the_terminal_stay_whole() -> None:
    text = f"error: {'word ' * 100}"
    found = shown(text, Terminal())
    assert re.sub(r"\x1b\[[\d;]*m", "", found) == f"{text}\n"


def test_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(REPORT, io.StringIO()) == f"{REPORT}\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[1;31merror:" in shown(REPORT, io.StringIO())


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_without_colours(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert shown(REPORT, Terminal()) == f"{REPORT}\n"


def test_data_has_no_colours() -> None:
    assert shown(REPORT, Terminal(), data=True) == f"{REPORT}\n"
    assert shown(f"\t{REPORT}", Terminal()) == f"\t{REPORT}\n"


def test_errors_of_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["convert", str(tmp_path / "none.prototxt")]) == 1
    assert stream.getvalue().count("\x1b[1;31merror:\x1b[0m") == 1
