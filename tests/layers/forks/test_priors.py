"""Prior boxes whose meaning the file leaves open."""

from __future__ import annotations

import pytest

import caffe2flax
from tests.single import single

MAPS = ((1, 4, 2, 2), (1, 3, 64, 64))
FACES = "min_size: 32 min_size: 64 min_size: 128"


def priors(fields: str) -> str:
    return single("PriorBox", f"prior_box_param {{ {fields} }}", *MAPS)


def with_locations(fields: str, count: int) -> str:
    """A net that detects from so many prior boxes."""
    inputs = "".join(
        f'input: "{name}" input_shape {{ dim: 1 dim: {count * each} }}\n'
        for name, each in (("loc", 4), ("conf", 2))
    )
    return f"""{inputs}{priors(fields)}
layer {{
  name: "d" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "out" top: "d"
  detection_output_param {{ num_classes: 2 }}
}}"""


@pytest.mark.parametrize(
    ("fields", "count", "meaning"),
    [
        (FACES, 4 * 3, ""),
        (FACES, 4 * 21, "faceboxes"),
        ("min_size: 20 aspect_ratio: 2 flip: false", 4 * 2, ""),
        ("min_size: 20 aspect_ratio: 2 flip: false", 4 * 4, "textboxes"),
    ],
)
def test_locations_tell(fields: str, count: int, meaning: str) -> None:
    conversion = caffe2flax.convert(with_locations(fields, count))
    notes = [note for note in conversion.notes if note.startswith("PriorBox taken")]
    assert len(notes) == bool(meaning)
    assert all(f"taken as '{meaning}'" in note for note in notes)


def test_nothing_tells() -> None:
    """Sizes of FaceBoxes without locations: the caller's choice; others are SSD's."""
    with pytest.raises(caffe2flax.ConversionError, match=r"several.*\[ambiguous"):
        caffe2flax.convert(priors(FACES))
    assert not caffe2flax.convert(priors("min_size: 20")).notes
    for meaning, count in (("ssd", 3), ("faceboxes", 21)):
        chosen = caffe2flax.convert(priors(FACES), dialect={"PriorBox": meaning})
        (top,) = chosen.graph.outputs
        assert chosen.graph.shapes[top] == (1, 2, 4 * count * 4)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("faceboxes: true min_size: 32", "three sizes"),
        ("faceboxes: true min_size: 9 aspect_ratio: 2", "neither max_size nor"),
        ("min_size: 9 keras: true", r"TensorFlow.*\[unsupported"),
        ("box_width: 9 box_width: 8 box_height: 9", "as many box_width as box_height"),
        ("box_width: 0 box_height: 9", "box_width must be positive"),
    ],
)
def test_refusals(fields: str, words: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=words):
        caffe2flax.convert(priors(fields))
