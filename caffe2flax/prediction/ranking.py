"""The best classes of images, as text, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from caffe2flax.errors import Problem
from caffe2flax.prediction.batches import Ranked

WIDTH = 80
Predictions = Sequence[tuple[Path, Sequence[Ranked]]]


def as_text(blob: str, predictions: Predictions, labels: Sequence[str]) -> str:
    def lines() -> Iterator[str]:
        for path, best in predictions:
            yield str(path)
            for number, score in best:
                label = f" {labels[number]}" if labels else ""
                yield f"  {score:.4f}  {number}{label}"[:WIDTH]

    return "\n".join(lines())


def as_csv(blob: str, predictions: Predictions, labels: Sequence[str]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "label", "score"])
    for path, best in predictions:
        for place, (number, score) in enumerate(best, 1):
            label = labels[number] if labels else ""
            writer.writerow([path, place, number, label, f"{score:.9g}"])
    return stream.getvalue().removesuffix("\n")


def as_json(
    blob: str,
    predictions: Predictions,
    labels: Sequence[str],
    problems: Sequence[Problem] = (),
    notes: Sequence[str] = (),
) -> str:
    """`problems` are those of files that no prediction was made for, `notes` what there
    is to say of how images were prepared."""

    def ranked(best: Sequence[Ranked]) -> list[dict[str, object]]:
        return [
            {"class": number, "score": score}
            | ({"label": labels[number]} if labels else {})
            for number, score in best
        ]

    rows = [{"image": str(path), "top": ranked(best)} for path, best in predictions]
    passed_over = [problem.to_dict() for problem in problems]
    record = {"blob": blob, "images": rows, "problems": passed_over}
    return json.dumps(record | {"notes": list(notes)}, indent=2)
