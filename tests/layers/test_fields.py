"""Parameter messages that several layer types have in common."""

from pathlib import Path

import pytest

import caffe2flax
from tests.single import normal, single, weights_file

FORKS = {
    'type: "msra" alpha: 0.2': "alpha in weight_filler is not known to Caffe's fillers",
    'type: "orthogonal"': "filler 'orthogonal' is none of constant,",
    'type: "file" file: "w.bin"': "file in weight_filler is not known",
    'type: "diagonal" diag_val: 1 diag_val: 2': "diag_val in weight_filler is",
}


@pytest.mark.parametrize(("given", "message"), FORKS.items())
def test_fillers_of_forks(given: str, message: str, tmp_path: Path) -> None:
    """A note where only training starts from it, an error where it has to fill a
    blob of a net that is run."""
    own = f"num_output: 2 bias_term: false weight_filler {{ {given} }}"
    net = single("InnerProduct", f"inner_product_param {{ {own} }}", (1, 3))
    weights = weights_file(tmp_path / "w.caffemodel", {"l": [normal(2, 3)]})
    for notes in (
        caffe2flax.convert(net, weights).notes,
        caffe2flax.convert(net).notes,
    ):
        assert any(message in note and ":2:" in note for note in notes), notes
    with pytest.raises(caffe2flax.ConversionError) as refused:
        caffe2flax.run(net, None, {"x0": normal(1, 3)})
    assert message in str(refused.value)
    assert refused.value.problems[0].line == 2
    other = weights_file(tmp_path / "o.caffemodel", {"m": [normal(2, 3)]})
    with pytest.raises(caffe2flax.ConversionError):
        caffe2flax.convert(net, other)


def test_a_misspelt_field_of_a_filler_is_an_error() -> None:
    own = 'num_output: 2 weight_filler { type: "constant" vale: 1 }'
    net = single("InnerProduct", f"inner_product_param {{ {own} }}", (1, 3))
    with pytest.raises(caffe2flax.ConversionError, match="did you mean value"):
        caffe2flax.convert(net)
