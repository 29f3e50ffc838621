"""Arrays of another shape than the net's: what the message says, wherever they are
given."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from caffe2flax.cli.main import main
from tests.smallnets import net, single

CONV = single("Convolution", "convolution_param { num_output: 2 kernel_size: 1 }")
IMAGES = net(CONV, x=(2, 3, 5, 7))
VECTORS = net(single("InnerProduct", "inner_product_param { num_output: 2 }"), x=(2, 6))
ORDER = r"\(N, 3, 5, 7\) in Caffe's axis order N, C, H, W"
REFUSED = {
    "channels last": (
        IMAGES,
        (4, 5, 7, 3),
        rf"has shape \(4, 5, 7, 3\), not {ORDER}; an array of N, H, W, C is to be "
        r"turned: array\.transpose\(0, 3, 1, 2\)$",
    ),
    "one image": (
        IMAGES,
        (3, 5, 7),
        rf"not {ORDER}; the batch axis is missing: array\[None\] has it$",
    ),
    "one image, channels last": (
        IMAGES,
        (5, 7, 3),
        rf"not {ORDER}; an array of H, W, C is to be turned: "
        r"array\.transpose\(2, 0, 1\)\[None\]$",
    ),
    "another size": (IMAGES, (2, 3, 6, 7), rf"has shape \(2, 3, 6, 7\), not {ORDER}$"),
    "another number of channels": (IMAGES, (2, 1, 5, 7), rf"not {ORDER}$"),
    "too many axes": (IMAGES, (1, 2, 3, 5, 7), rf"not {ORDER}$"),
    "a number": (IMAGES, (), rf"has shape \(\), not {ORDER}$"),
    "one vector": (VECTORS, (6,), r"not \(N, 6\); the batch axis is missing"),
    "another vector": (VECTORS, (2, 7), r"not \(N, 6\)$"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_shapes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In `run` and `verify`, in Python and on the command line."""
    text, shape, expected = REFUSED[name]
    arrays = {"x": np.zeros(shape, np.float32)}
    calls: list[Callable[[], object]] = [
        lambda: caffe2flax.run(text, None, arrays),
        lambda: caffe2flax.verify(text, inputs=arrays),
    ]
    for call in calls:
        with pytest.raises(caffe2flax.ConversionError) as caught:
            call()
        (problem,) = caught.value.problems
        assert re.search(expected, problem.message), problem.message
    path, given = tmp_path / "net.prototxt", tmp_path / "in.npz"
    path.write_text(text)
    np.savez(given, **arrays)
    command = ["run", path, "--inputs", given, "--outputs", tmp_path / "out.npz"]
    assert main([str(argument) for argument in command]) == 1
    assert re.search(expected, capsys.readouterr().err.strip())


TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "channels last": lambda array: array.transpose(0, 3, 1, 2),
    "one image": lambda array: array[None],
    "one image, channels last": lambda array: array.transpose(2, 0, 1)[None],
}


@pytest.mark.parametrize("name", TURNS)
def test_what_the_message_tells_to_do(name: str) -> None:
    text, shape, _ = REFUSED[name]
    array = TURNS[name](np.zeros(shape, np.float32))
    found = caffe2flax.run(text, None, {"x": array})
    assert found["y"].shape == (len(array), 2, 5, 7)
