"""What a published folder says of its model, for people: `README.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caffe2flax.errors import printable
from caffe2flax.verification.report import Report

TEMPLATE = """\
---
library_name: flax
license: other  # FILL IN: that of the weights, which the converter does not know
tags:
- flax
- jax
- caffe
---

# {name}

{what}

Converted from Caffe by caffe2flax {version}; the module `{stem}.py` needs jax, flax and
safetensors, `preprocess.py` needs numpy and Pillow.

**Source:** FILL IN: who trained the network, on what, and where it was published.

**Licence:** FILL IN: that of the prototxt and of the weights.
{picture}
## Use

```python
{use}
```
{prepared}
## Converted from

| file | SHA-256 |
|---|---|
{sources}

## Compared with Caffe

Every layer was computed by the module in float32 and by a reference of Caffe's formulas
in float64, on {input}. The difference is relative to the largest number of the blob.
`test_{stem}.py` repeats the comparison of the outputs with pytest.

| layer | type | largest difference |
|---|---|---|
{rows}
"""


def card(
    report: Report,
    *,
    stem: str,
    version: str,
    sources: Mapping[str, str],
    config: Mapping[str, object],
    picture: str,
) -> str:
    """The text. sources: the SHA-256 of each file by its name. config: config.json.
    picture: the file of the picture, "" for none."""
    graph = report.conversion.graph
    inputs = ", ".join(
        f"`{value.blob}` ({graph.operand(value).describe()})"
        for value in graph.arguments
    )
    outputs = ", ".join(f"`{value.blob}`" for value in graph.outputs)
    what = f"Takes {inputs}, channels last, and gives {outputs}."
    steps = config.get("preprocess")
    return TEMPLATE.format(
        name=_safe(report.name),
        what=_safe(what),
        version=version,
        stem=stem,
        picture=f"\n![The layers]({picture})\n" if picture else "",
        use=_use(report, stem, images=steps is not None),
        prepared=_steps(steps) if isinstance(steps, Mapping) else "",
        sources="\n".join(f"| {_cell(name)} | `{d}` |" for name, d in sources.items()),
        input="noise",
        rows="\n".join(_rows(report)),
    )


def _use(report: Report, stem: str, *, images: bool) -> str:
    call = f"model = {report.name}.from_pretrained()"
    if not images:
        return f"from {stem} import {report.name}\n\n{call}"
    return "\n".join(
        [
            "import jax.numpy as jnp",
            "",
            f"from {stem} import {report.name}",
            "from preprocess import prepare",
            "",
            f'{call}  # or from_pretrained("another/folder")',
            'outputs = model(jnp.stack([prepare("photo.jpg")]))',
        ]
    )


def _steps(steps: Mapping[str, object]) -> str:
    resize, cropped = steps["resize"], steps["crop"]
    assert isinstance(resize, Sequence)
    assert isinstance(cropped, Sequence)
    parts = [f"resized to {resize[0]} x {resize[1]} (bilinear, as OpenCV does)"]
    if resize != cropped:
        parts.append(f"cropped to the middle {cropped[0]} x {cropped[1]}")
    parts += [f"mean {steps['mean']} subtracted", f"multiplied by {steps['scale']}"]
    text = f"Photographs, channels {steps['channel_order']}, pixels 0 to 255, are "
    return f"\n{text}{', '.join(parts)}. `config.json` has these numbers.\n"


def _rows(report: Report) -> list[str]:
    return [
        f"| {_cell(row.name)} | {_cell(row.type)} | "
        f"{_cell(row.note) if row.largest is None else f'{row.largest:.1e}'} |"
        for row in report.rows
    ]


def _cell(text: str) -> str:
    """A name out of a file in a cell of a table, where it means itself."""
    shown = _safe(text).replace("\n", " ").replace("`", "'").replace("|", "\\|")
    return f"`{shown}`" if shown.strip() else ""


def _safe(text: str) -> str:
    return printable(text).replace("<", "&lt;").replace("\n", " ")
