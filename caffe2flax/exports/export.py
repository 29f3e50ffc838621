"""A net as files for other programs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Unpack

from caffe2flax.codegen.names import module_stem
from caffe2flax.conversion import VERSION, Conversion, Weights, convert
from caffe2flax.display import markup
from caffe2flax.errors import ConversionError
from caffe2flax.exports import hub, stablehlo
from caffe2flax.exports.hub import Images, check_weights, digests, picture
from caffe2flax.exports.onnx.model import targets
from caffe2flax.exports.onnx.observe import observe, runtime
from caffe2flax.exports.onnx.translate import translate
from caffe2flax.exports.stablehlo import program
from caffe2flax.files.atomic import write_all
from caffe2flax.frontend.source import PathOrText
from caffe2flax.ir.graph import Graph
from caffe2flax.ir.layout import Shape
from caffe2flax.options import NetOptions
from caffe2flax.verification.inputs import noise
from caffe2flax.verification.observe import observe as observe_module
from caffe2flax.verification.report import Report, verify_conversion

Batch = int | str | None
FORMS = ("onnx", "stablehlo", "hub")
ANY = "dynamic"
ONE_BATCH = "it takes the batch of the file only"


@dataclass(frozen=True, slots=True)
class Export:
    """What `caffe2flax.export` wrote.

    paths: the files. notes: what the user should know. report: the comparison with the
    reference, layer by layer, where one was asked for.
    """

    paths: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    report: Report | None = None

    @property
    def ok(self) -> bool:
        """Whether no layer breaks; True where nothing was compared."""
        return self.report is None or self.report.ok

    def _repr_html_(self) -> str:
        """What a notebook shows: the files, the notes, and the comparison."""
        files = [("file", path) for path in self.paths]
        below = [] if self.report is None else [self.report._repr_html_()]
        return markup.card("export", [*files, *markup.noted(self.notes)], *below)


def export(
    prototxt: PathOrText,
    weights: Weights | None,
    *,
    to: str,
    path: str | os.PathLike[str] | None,
    batch: Batch,
    bundle: bool,
    verify: bool,
    force: bool,
    images: Images,
    **options: Unpack[NetOptions],
) -> Export:
    """See `caffe2flax.export`."""
    if to not in FORMS:
        raise ConversionError(f"there is no export to {to!r}, only {', '.join(FORMS)}")
    if batch not in (None, ANY) and not (isinstance(batch, int) and batch > 0):
        raise ConversionError(f"the batch is a positive number or {ANY}, not {batch!r}")
    _check_form(to, bundle, images, options)
    if to == "hub":
        check_weights(prototxt, weights)
    conversion = convert(prototxt, weights, filled=True, **options)
    if isinstance(batch, int):
        given = options.get("input_shapes") or {}
        options["input_shapes"] = {**given, **_shapes(conversion.graph, batch)}
        conversion = convert(prototxt, weights, filled=True, **options)
    dynamic = None if batch is None else batch == ANY
    if to == "stablehlo":
        folder = Path(path or module_stem(conversion.name))
        return to_stablehlo(
            conversion,
            folder,
            dynamic=dynamic,
            bundle=bundle,
            verify=verify,
            force=force,
        )
    if to == "hub":
        report = verify_conversion(
            conversion, noise(conversion.graph, {}), observe_module
        )
        files, notes = hub.targets(
            report,
            Path(path or module_stem(conversion.name)),
            images=images,
            sources=digests(prototxt, weights),
            drawn=picture(prototxt, **options),
        )
        write_all(files, force)
        return Export(tuple(files), (*conversion.notes, *notes), report)
    target = Path(path or f"{module_stem(conversion.name)}.onnx")
    return to_onnx(conversion, target, dynamic=dynamic, verify=verify, force=force)


def _check_form(to: str, bundle: bool, images: Images, options: NetOptions) -> None:
    """Raises ConversionError for what has no effect on a form."""
    if bundle and to != "stablehlo":
        raise ConversionError(f"bundle is for stablehlo; {to} has its weights")
    given = (
        images != Images() or options.get("mean") or options.get("scale") is not None
    )
    if given and to != "hub":
        text = f"what prepares images has no effect on {to}, which takes prepared ones"
        raise ConversionError(f"{text}: it is for hub")


def _shapes(graph: Graph, batch: int) -> Mapping[str, Shape]:
    """The shapes of the inputs for a batch: another first extent for those that have
    that of the first input. Raises ConversionError where there is no batch."""
    first = graph.shapes[graph.arguments[0]][:1] if graph.arguments else ()
    shapes = {value: graph.shapes[value] for value in graph.arguments}
    found = {v.blob: (batch, *s[1:]) for v, s in shapes.items() if first == s[:1] != ()}
    if not found:
        raise ConversionError("the net has no input with a batch")
    return found


def to_onnx(
    conversion: Conversion,
    path: Path,
    *,
    dynamic: bool | None,
    verify: bool = False,
    force: bool = False,
) -> Export:
    """Writes a conversion as an ONNX model; see `translate` for `dynamic`. Raises
    ConversionError, and errors as `write_all`."""
    translation = translate(conversion.graph, conversion.blobs, dynamic=dynamic)
    files = targets(translation, conversion.name, VERSION, path)
    inputs = noise(conversion.graph, {}) if verify else {}
    if verify:
        runtime()  # before anything is written
    write_all(files, force)
    notes = list(conversion.notes)
    if dynamic is None and not translation.dynamic:
        notes.append(ONE_BATCH)
    report = None
    if verify:
        watch = partial(observe, path, translation)
        report = verify_conversion(conversion, inputs, watch)
    return Export(tuple(files), tuple(notes), report)


def to_stablehlo(
    conversion: Conversion,
    folder: Path,
    *,
    dynamic: bool | None,
    bundle: bool = False,
    verify: bool = False,
    force: bool = False,
) -> Export:
    """Writes a conversion as a StableHLO program; see `program` for `dynamic` and
    `bundle`. Raises ConversionError, and errors as `write_all`."""
    made = program(conversion, dynamic=dynamic, bundle=bundle)
    files = stablehlo.targets(conversion, made, module_stem(conversion.name), folder)
    inputs = noise(conversion.graph, {}) if verify else {}
    write_all(files, force)
    notes = list(conversion.notes)
    if dynamic is None and not made.dynamic:
        notes.append(ONE_BATCH)
    report = None
    if verify:
        only = ("of a program only the outputs are compared",)
        report = verify_conversion(conversion, inputs, made.observe, notes=only)
    return Export(tuple(files), tuple(notes), report)
