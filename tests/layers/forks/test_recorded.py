"""Notes and options of recorded cases of forks, whose values the tests of layers
test."""

from __future__ import annotations

import numpy as np

import caffe2flax
from tests.golden import fork_cases, part

CASES = fork_cases()


def test_older_losses_are_the_callers_choice() -> None:
    """Without an option the meaning is that of Caffe 1.0, with a note."""
    (case,) = (case for case in CASES if case.name == "infogain_old")
    newer = caffe2flax.convert(case.prototxt, case.weights)
    assert "infogain_loss(" in newer.source
    assert any("InfogainLoss taken as 'logits'" in note for note in newer.notes)


def test_older_sigmoid_losses_are_divided_by_the_batch() -> None:
    """Whatever `loss_param` says, which they did not read."""
    (case,) = (case for case in CASES if case.name == "sigmoidce_old")
    text = case.prototxt.read_text().replace(
        'top: "loss"', 'top: "loss" loss_param { normalization: FULL }'
    )
    outputs = [
        caffe2flax.run(text, None, case.inputs(), dialect=dialect)["loss"]
        for dialect in ({"SigmoidCrossEntropyLoss": "batch"}, None)
    ]
    np.testing.assert_allclose(outputs[0], part(case.arrays(), "output:")["loss"])
    np.testing.assert_allclose(outputs[1] * 3, outputs[0], rtol=1e-6)
