"""A sample of what `python -m tests.oddnumbers --all` tries whole."""

from __future__ import annotations

import random
from itertools import chain

import pytest

from tests.oddnumbers import ODD, Odd, Worker, faults, odd_nets, unset_nets

SECONDS = 12.0


@pytest.mark.parametrize("numbers", [ODD, ("2147483647",)], ids=["odd", "large"])
def test_odd_numbers(numbers: tuple[str, ...]) -> None:
    """Converted or refused, in 2 seconds and 500 MB."""
    nets = list(chain(odd_nets(numbers), unset_nets(numbers)))
    random.Random(1).shuffle(nets)
    found = list(faults(nets, SECONDS))
    assert len(found) > 100
    assert any(outcome.refused for _, outcome in found)
    assert not all(outcome.refused for _, outcome in found)
    wrong = {str(odd): outcome.fault for odd, outcome in found if outcome.fault}
    assert not wrong


def test_every_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The campaign sees an exception, and what takes too long."""
    net = 'input: "x" input_shape { dim: 1 dim: 2 }\n'
    net += 'layer { name: "l" type: "ReLU" bottom: "x" top: "y" }'
    monkeypatch.setattr("tests.oddnumbers.SECONDS", 0.0)
    worker = Worker()
    try:
        assert worker(Odd("good", 1, "dim", "1", net)).fault.endswith(" s")
        broken = Odd("broken", 1, "dim", "1", net, phase="NEITHER")
        assert "ValueError" in worker(broken).fault
    finally:
        worker.close()
