"""Every recorded case of layers outside BVLC Caffe: values and gradients."""

from __future__ import annotations

import numpy as np
import pytest

import caffe2flax
from tests.golden import Case, cases, distance, evaluate_reference, gradients, part

OLDER = {"dialect": {"InfogainLoss": "probabilities"}}
"""What the caller has to say where nothing in the file tells."""
CASES = [
    Case(case.folder, case.facts | (OLDER if case.name == "infogain_old" else {}))
    for case in cases("fork_layers")
]
DIFFERENTIABLE = [case for case in CASES if case.facts.get("grad")]

SINGLE = 1e-5
GRADIENT = 1e-4


def names(found: list[Case]) -> list[str]:
    return [case.name for case in found]


def blobs(case: Case) -> dict[str, np.ndarray]:
    """Caffe's blobs by name, its implicit splits left out."""
    found = part(case.arrays(), "blob:") | part(case.arrays(), "output:")
    return {key: value for key, value in found.items() if "_split_" not in key}


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_values(case: Case) -> None:
    """The generated module, under jit, gives Caffe's outputs."""
    outputs = part(case.arrays(), "output:")
    ours = caffe2flax.run(case.prototxt, case.weights, case.inputs(), **case.options)
    assert ours.keys() == outputs.keys()
    far = {name: distance(ours[name], outputs[name]) for name in outputs}
    assert max(far.values()) <= SINGLE, far


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_reference(case: Case) -> None:
    """The float64 reference gives Caffe's blobs."""
    ours, caffe = evaluate_reference(case), blobs(case)
    assert ours
    far = {name: distance(ours[name], caffe[name]) for name in ours}
    assert max(far.values()) <= SINGLE, far


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=names(DIFFERENTIABLE))
def test_gradients(case: Case) -> None:
    """jax.grad of the generated module gives Caffe's gradients."""
    inputs, caffe_inputs, parameters, caffe_parameters = gradients(case)
    far = {
        name: distance(inputs[name], caffe_inputs[name])
        for name in caffe_inputs
        if name in inputs
    }
    far |= {
        name: distance(parameters[name], caffe_parameters[name]) for name in parameters
    }
    assert max(far.values(), default=0.0) <= GRADIENT, far


def test_older_losses_are_the_callers_choice() -> None:
    """Without a word Caffe 1.0's meaning is taken, which is said."""
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
