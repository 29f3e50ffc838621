"""What a comparison does not show."""

from __future__ import annotations

from collections.abc import Iterator

from caffe2flax.verification.report import Report


def left_out(report: Report) -> Iterator[str]:
    """What was not compared, a line each."""
    graph = report.conversion.graph
    for row in report.rows:
        if row.largest is None:
            yield f"layer {row.name} ({row.type}): {row.note or 'no counterpart'}"
    for dropped in graph.remarks.dropped:
        yield f"layer {dropped.name} ({dropped.type}), left out: {dropped.reason}"
    missing = [v.blob for v in graph.outputs if v.blob not in report.outputs]
    if missing:
        yield f"outputs for which there was nothing to compare: {', '.join(missing)}"
    shapes = ", ".join(
        f"{name} {'x'.join(map(str, x.shape))}" for name, x in report.inputs.items()
    )
    yield f"other inputs than this one, and other sizes: {shapes}"
    if report.against == "reference":
        yield (
            "Caffe itself: the reference is written from its source, and was checked "
            "against its recorded results"
        )
    if not report.compiled:
        yield "what caffe2flax.compile makes of the module (--compiled)"
    other = "TEST" if graph.phase == "TRAIN" else "TRAIN"
    yield f"the {other} phase, gradients, and lower precisions than float32"
