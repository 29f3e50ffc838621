"""Layer cases, recorded from Caffe 1.0 and a fork or written by hand: values, errors,
gradients."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import caffe2flax
from caffe2flax import cpu
from tests.golden import (
    Case,
    cases,
    distance,
    evaluate_reference,
    fork_cases,
    gradients,
    part,
)
from tests.written import Written, written_cases

CASES = cases("layers") + fork_cases() + written_cases()
ACCEPTED = [case for case in CASES if "error" not in case.facts]
REFUSED = [case for case in CASES if "error" in case.facts]
NO_BACKWARD = {"embed_4d", "embed_nobias", "batchreindex_after_ip"}
"""Nets without a loss whose input takes no gradient: Caffe skipped the backward pass
and left zeros. Their gradients are tested in test_dense.py and test_parts.py."""
DIFFERENTIABLE = [
    case for case in ACCEPTED if case.facts.get("grad") and case.name not in NO_BACKWARD
]

SINGLE = 1e-5
GRADIENT = 1e-4

CANCELLED = {
    # Shared by branches of opposite sign: 0, but for the rounding of sums about 8.
    ("shared_conv", "ca.bias"): 1e-6,
}
"""Gradients that vanish, with the largest absolute difference."""


WAYS = [
    pytest.param(case, way, id=f"{case.name}-{way}")
    for case in ACCEPTED
    for way in ("plain", "compiled")[: 1 + case.facts.get("compiled", True)]
]
"""Nets without weights whose layers are new need no second way."""


def names(found: list[Case]) -> list[str]:
    return [case.name for case in found]


def blobs(case: Case) -> dict[str, np.ndarray]:
    """Caffe's blobs by name, its implicit splits left out."""
    found = part(case.arrays(), "blob:") | part(case.arrays(), "output:")
    return {key: value for key, value in found.items() if "_split_" not in key}


@pytest.mark.parametrize(("case", "way"), WAYS)
def test_values(case: Case, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generated module gives Caffe's outputs, under jax.jit and under compile."""
    if way == "plain":
        monkeypatch.setattr(cpu, "compile", jax.jit)
    outputs = part(case.arrays(), "output:")
    ours = caffe2flax.run(case.prototxt, case.weights, case.inputs(), **case.options)
    assert ours.keys() == outputs.keys()
    far = {name: distance(ours[name], outputs[name]) for name in ours}
    assert max(far.values()) <= SINGLE, far


@pytest.mark.parametrize("case", ACCEPTED, ids=names(ACCEPTED))
def test_reference(case: Case) -> None:
    """The float64 reference gives Caffe's blobs, or those of them that a fork's case
    has."""
    ours, caffe = evaluate_reference(case), blobs(case)
    assert part(case.arrays(), "output:").keys() <= ours.keys() | case.inputs().keys()
    recorded = [name for name in ours if name in caffe]
    far = {name: distance(ours[name], caffe[name]) for name in recorded}
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
    for name in parameters:
        bound = CANCELLED.get((case.name, name))
        if bound is not None:
            assert np.abs(parameters[name] - caffe_parameters[name]).max() <= bound
            del far[name]
    assert max(far.values(), default=0.0) <= GRADIENT, far


@pytest.mark.parametrize("case", REFUSED, ids=names(REFUSED))
def test_refusals(case: Case) -> None:
    """What makes Caffe abort is a ConversionError that says where."""
    with pytest.raises(caffe2flax.ConversionError) as refused:
        case.convert()
    assert all(problem.message for problem in refused.value.problems)
    if isinstance(case, Written):
        assert case.facts["refused"] in str(refused.value)
