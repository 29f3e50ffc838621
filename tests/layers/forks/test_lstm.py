"""The forks' Lstm against its loops written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from tests.single import Array, check, normal, single, weights_file


def unrolled(
    x: Array, blobs: list[Array], streams: int, clip: Array | None = None
) -> Array:
    """h of every step, (T * streams, H), for x (T * streams, I)."""
    of_input, of_state, bias = blobs
    hidden = of_state.shape[1]
    steps = len(x) // streams
    h, c = np.zeros((streams, hidden)), np.zeros((streams, hidden))
    tops = []
    for t in range(steps):
        for n in range(streams):
            cont = t > 0 if clip is None else bool(clip[t + n])
            z = of_input @ x[t * streams + n] + bias
            if cont:
                z = z + of_state @ h[n]
            i, f, o = (
                1 / (1 + np.exp(-z[k * hidden : (k + 1) * hidden])) for k in (0, 1, 2)
            )
            c[n] = (f * c[n] if cont else 0) + i * np.tanh(z[3 * hidden :])
            h[n] = o * np.tanh(c[n])
            tops.append(h[n].copy())
    return np.array(tops)


def blobs(features: int, hidden: int) -> list[Array]:
    return [
        normal(4 * hidden, features),
        normal(4 * hidden, hidden),
        normal(4 * hidden),
    ]


FLAT = {
    "one_stream": ((6, 5), "", 1),
    "images": ((6, 5, 1, 1), "", 1),
    "two_streams": ((6, 5), "batch_size: 2", 2),
    "images_of_streams": ((6, 2, 2, 3), "batch_size: 3", 3),
}


@pytest.mark.parametrize("case", FLAT.values(), ids=FLAT.keys())
def test_flat(tmp_path: Path, case: tuple[tuple[int, ...], str, int]) -> None:
    shape, text, streams = case
    x, held = normal(*shape), blobs(int(np.prod(shape[1:])), 3)
    file = weights_file(tmp_path / "net.caffemodel", {"l": held})
    expected = unrolled(x.reshape(len(x), -1), held, streams)
    net = single("Lstm", f"lstm_param {{ num_output: 3 {text} }}", shape)
    check(net, {"x0": x}, {"out": expected}, file)


def test_sequence(tmp_path: Path) -> None:
    x, held = normal(4, 2, 5), blobs(5, 3)
    file = weights_file(tmp_path / "net.caffemodel", {"l": held})
    expected = unrolled(x.reshape(8, 5), held, 2).reshape(4, 2, 3)
    net = single("Lstm", "lstm_param { num_output: 3 }", x.shape)
    check(net, {"x0": x}, {"out": expected}, file)


def test_clip_begins_sequences(tmp_path: Path) -> None:
    """With several streams the fork reads its second bottom at step + stream."""
    x, held = normal(8, 5), blobs(5, 3)
    clip = np.array([0, 1, 1, 0, 1, 1, 1, 1], np.float32)
    file = weights_file(tmp_path / "net.caffemodel", {"l": held})
    for text, streams in (("", 1), ("batch_size: 2", 2)):
        net = single(
            "Lstm", f"lstm_param {{ num_output: 3 {text} }}", x.shape, clip.shape
        )
        expected = unrolled(x, held, streams, clip)
        check(net, {"x0": x, "x1": clip}, {"out": expected}, file)


def test_what_the_rank_leaves_open_is_asked_for(tmp_path: Path) -> None:
    x, held = normal(4, 2, 5, 1), blobs(5, 3)
    file = weights_file(tmp_path / "net.caffemodel", {"l": held})
    net = single("Lstm", "lstm_param { num_output: 3 }", x.shape)
    with pytest.raises(caffe2flax.ConversionError, match="--dialect Lstm=flat"):
        caffe2flax.convert(net)
    expected = unrolled(x.reshape(8, 5), held, 2).reshape(4, 2, 3)
    check(net, {"x0": x}, {"out": expected}, file, dialect={"Lstm": "sequence"})
    held = blobs(10, 3)
    file = weights_file(tmp_path / "net.caffemodel", {"l": held})
    expected = unrolled(x.reshape(4, 10), held, 1)
    check(net, {"x0": x}, {"out": expected}, file, dialect={"Lstm": "flat"})


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("num_output: 3 batch_size: 4", (6, 5), "no multiple of batch_size"),
        ("batch_size: 2", (6, 5), "needs num_output"),
        ("num_output: 0", (6, 5), "must be positive"),
    ],
)
def test_refusals(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(single("Lstm", f"lstm_param {{ {text} }}", shape))
