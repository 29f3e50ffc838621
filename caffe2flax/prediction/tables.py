"""Predictions as text, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np

from caffe2flax.errors import Problem
from caffe2flax.prediction.kinds import Kind
from caffe2flax.prediction.predict import Prediction
from caffe2flax.prediction.results import (
    OUTSIDE,
    Classes,
    Detections,
    Flow,
    Keypoints,
    Labels,
    Picture,
    Result,
)

WIDTH = 80
Names = Mapping[int, str]
Record = dict[str, object]

SIDES = ("left", "top", "right", "bottom")
COLUMNS: Mapping[Kind, tuple[str, ...]] = {
    "classes": ("rank", "class", "label", "score"),
    "detections": ("class", "label", "score", *SIDES),
    "labels": ("class", "label", "pixels", "part"),
    "keypoints": ("point", "label", "x", "y", "score"),
    "image": ("width", "height", "channels"),
    "flow": ("width", "height", "mean", "largest"),
}
"""The columns of a CSV, after that of the file."""
MEMBERS: Mapping[Kind, str] = {
    "classes": "top",
    "detections": "boxes",
    "labels": "labels",
    "keypoints": "points",
    "image": "picture",
    "flow": "flow",
}
"""The key in JSON under which an image has its rows."""


class Shown(NamedTuple):
    """The rows of a prediction: far smaller than a map or an image."""

    path: Path
    rows: tuple[Record, ...]
    written: tuple[Path, ...]


def shown(prediction: Prediction, names: Names) -> Shown:
    rows = tuple(records(prediction.result, names))
    return Shown(prediction.path, rows, prediction.written)


def records(result: Result, names: Names) -> list[Record]:
    """The rows of a result, by the names of the columns; without a label where there is
    no name."""
    rows: list[Record]
    match result:
        case Classes(best):
            rows = [{"class": r.number, "score": r.score} for r in best]
        case Detections(boxes):
            rows = [{"class": b.number, **asdict(b)} for b in boxes]
        case Labels(numbers):
            counts = np.bincount(numbers.reshape(-1), minlength=OUTSIDE + 1)
            seen = int(counts[:OUTSIDE].sum())
            rows = [
                {"class": int(i), "pixels": int(counts[i]), "part": counts[i] / seen}
                for i in np.argsort(-counts[:OUTSIDE], kind="stable")
                if counts[i]
            ]
        case Keypoints(points):
            rows = [{"point": p.number, **asdict(p)} for p in points]
        case Picture(pixels):
            height, width, channels = pixels.shape
            rows = [{"width": width, "height": height, "channels": channels}]
        case Flow(shifts):
            height, width, _ = shifts.shape
            lengths = np.hypot(shifts[..., 0], shifts[..., 1])
            mean, largest = float(lengths.mean()), float(lengths.max())
            record: Record = {"width": width, "height": height, "mean": mean}
            rows = [record | {"largest": largest}]
    for row in rows:
        row.pop("number", None)
        number = row.get("class", row.get("point"))
        if isinstance(number, int) and number in names:
            row["label"] = names[number]
    return rows


def as_text(kind: Kind, predictions: Sequence[Shown]) -> str:
    def lines() -> Iterator[str]:
        for path, rows, written in predictions:
            yield " -> ".join(map(str, (path, *written)))
            yield from (f"  {_line(kind, row)}"[:WIDTH] for row in rows)
            if not rows:
                yield "  nothing found"

    return "\n".join(lines())


def _line(kind: Kind, row: Record) -> str:
    label = f" {row['label']}" if "label" in row else ""
    match kind:
        case "classes":
            return f"{row['score']:.4f}  {row['class']}{label}"
        case "detections":
            corners = (
                f"{row[side]:.0f}" for side in ("left", "top", "right", "bottom")
            )
            return f"{row['score']:.4f}  {' '.join(corners)}  {row['class']}{label}"
        case "labels":
            return f"{row['part']:6.1%}  {row['class']}{label}"
        case "keypoints":
            place = f"{row['x']:.1f} {row['y']:.1f}  {row['point']}{label}"
            score = f"{row['score']:.4f}  "
            return place if score.startswith("nan") else score + place
        case "image":
            return f"{row['width']} x {row['height']} pixels"
    size = f"{row['width']} x {row['height']} pixels"
    return f"{size}, moved by {row['mean']:.2f}, at most {row['largest']:.2f}"


def as_csv(kind: Kind, predictions: Sequence[Shown]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["image", *COLUMNS[kind]])
    for path, rows, _ in predictions:
        for place, row in enumerate(rows, 1):
            known = {"rank": place, **row}
            cells = (known.get(column, "") for column in COLUMNS[kind])
            writer.writerow([path, *map(_cell, cells)])
    return stream.getvalue().removesuffix("\n")


def _cell(value: object) -> object:
    if not isinstance(value, float):
        return value
    return f"{value:.9g}" if isfinite(value) else ""


def as_json(
    kind: Kind,
    blob: str,
    predictions: Sequence[Shown],
    problems: Sequence[Problem] = (),
    notes: Sequence[str] = (),
) -> str:
    """`problems` are those of files that no prediction was made for, `notes` what there
    is to say of how images were prepared."""
    images = []
    for path, found, written in predictions:
        rows = [{key: _finite(value) for key, value in row.items()} for row in found]
        member = rows[0] if kind in ("image", "flow") else rows
        image = {"image": str(path), MEMBERS[kind]: member}
        names = [str(file) for file in written]
        images.append(image | ({"written": names} if names else {}))
    passed_over = [problem.to_dict() for problem in problems]
    record: Record = {"blob": blob, "kind": kind, "images": images}
    record |= {"problems": passed_over, "notes": list(notes)}
    return json.dumps(record, indent=2)


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not isfinite(value) else value
