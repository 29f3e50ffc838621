"""A net as files for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from caffe2flax.conversion import VERSION, Conversion
from caffe2flax.exports.onnx.model import targets
from caffe2flax.exports.onnx.observe import observe
from caffe2flax.exports.onnx.translate import translate
from caffe2flax.files.atomic import write_all
from caffe2flax.verification.inputs import noise
from caffe2flax.verification.report import Report, verify_conversion


@dataclass(frozen=True, slots=True)
class Export:
    """What `caffe2flax.export` wrote.

    paths: the files. notes: what the user should know. report: the comparison with the
    reference, layer by layer, where one was asked for.
    """

    paths: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    report: Report | None = None


def to_onnx(
    conversion: Conversion,
    path: Path,
    *,
    dynamic: bool | None,
    verify: bool = False,
    force: bool = False,
) -> Export:
    translation = translate(conversion.graph, conversion.blobs, dynamic=dynamic)
    files = targets(translation, conversion.name, VERSION, path)
    write_all(files, force)
    notes = list(conversion.notes)
    if dynamic is None and not translation.dynamic:
        notes.append("the model takes the batch of the file only")
    report = None
    if verify:
        watch = partial(observe, path, translation)
        report = verify_conversion(conversion, noise(conversion.graph, {}), watch)
    return Export(tuple(files), tuple(notes), report)
