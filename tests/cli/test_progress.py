"""The progress bar: on a terminal, and only once the work has taken a while."""

import contextlib
import io
import re
import sys
import time

import pytest

from caffe2flax.cli import progress
from caffe2flax.cli.progress import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "delay", "shown"),
    [(Terminal(), 0.05, True), (Terminal(), 5, False), (io.StringIO(), 0.05, False)],
    ids=["slow work", "quick work", "no terminal"],
)
def test_it_shows_only_for_slow_work_on_a_terminal(
    stream: io.StringIO, delay: float, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "DELAY", delay)
    with Bar("converting", "images") as bar:
        bar(1, 4)
        end = time.monotonic() + (10 if shown else 0.5)
        while "25%" not in stream.getvalue() and time.monotonic() < end:
            time.sleep(0.02)
        bar(2, 4)
    assert ("25%" in stream.getvalue()) is shown
    plain = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    assert ("1/4 images" in plain) is shown
    assert bool(stream.getvalue()) is shown


def test_it_goes_away_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "DELAY", 0.01)
    with contextlib.suppress(KeyboardInterrupt), Bar("converting"):
        time.sleep(0.5)
        raise KeyboardInterrupt
    before = stream.getvalue()
    assert "converting" in before
    time.sleep(0.3)
    assert stream.getvalue() == before
