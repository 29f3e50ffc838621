"""Images of other sizes than the prototxt's, where no layer fixes them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import pytest
from flax import nnx

import caffe2flax
from caffe2flax.runner import load_class
from tests.codegen.test_classes import SSD, traced
from tests.extraction.test_features import FCN


def abstract(text: str, **options: Any) -> Any:
    conversion = caffe2flax.convert(text, **options)
    cls: Any = load_class(conversion.name, conversion.source)
    return nnx.eval_shape(lambda: cls(rngs=nnx.Rngs(0)))


@pytest.mark.parametrize(
    ("text", "size"), [(SSD, (320, 160)), (FCN, (22, 26))], ids=["ssd", "fcn"]
)
def test_as_if_converted_for_that_size(text: str, size: tuple[int, int]) -> None:
    """An SSD reshapes its scores to what remains, as its prototxt says it."""
    images = [jnp.zeros((2, *size, 3))]
    own = abstract(text, input_shapes={"data": (1, 3, *size)})
    assert traced(abstract(text), images) == traced(own, images)


def test_a_reshape_to_a_size_fixes_it() -> None:
    model = abstract(SSD.replace("dim: 0 dim: -1 dim: 3", "dim: -1 dim: 500 dim: 3"))
    with pytest.raises(ValueError, match=r"data must be \(N, 160, 160, 3\)"):
        traced(model, [jnp.zeros((2, 320, 160, 3))])
