"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from speed import page_costs, page_training
from speed.page_accelerator import accelerators
from speed.page_inference import inference
from speed.tables import Record

INTRODUCTION = """\
# Results

Written by the scripts in this folder; docs/performance.md says how to run them again.
"""

SECTIONS: dict[str, Callable[[Record], Iterator[str]]] = {
    "inference": inference,
    "compile": page_costs.compiling,
    "training": page_training.training,
    "pipeline": page_training.pipeline,
    "convert": page_costs.converting,
    "caffe-onnx": page_costs.caffe_onnx,
    "sizes": page_costs.sizes,
    "batches": page_costs.batches,
    "accelerators": accelerators,
}
"""The sections of the data, in the order of the page."""


def page(data: Record) -> str:
    """`results.md`."""
    parts = [INTRODUCTION]
    for section, render in SECTIONS.items():
        if section in data:
            parts += render(data[section]["points"])
            parts.append(_ran_on(data[section]["environment"]))
    if "accelerators" not in data:
        parts += accelerators({})  # which says so
    return "\n".join(parts)


def _ran_on(environment: Mapping[str, str]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in environment.items() if k != "processor")
    return f"Measured on {environment['processor']}; {versions}.\n"
