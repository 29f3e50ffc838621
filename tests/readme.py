"""`python -m tests.readme` writes into README.md what is generated from the code."""

from __future__ import annotations

import re
from pathlib import Path

import caffe2flax
from caffe2flax.frontend.descriptors import PARAMS
from caffe2flax.ir.dialects import DIALECTS
from caffe2flax.ir.registry import LAYERS
from caffe2flax.layers import register_all

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
WEIGHTS = ROOT / "fixtures" / "digits" / "digits_lenet.caffemodel"


def part(text: str, name: str) -> str:
    """What stands between the markers of a part."""
    return text.partition(f"<!-- {name}:begin -->\n")[2].partition(
        f"<!-- {name}:end -->"
    )[0]


def with_part(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    head, rest = text.split(begin)
    return f"{head}{begin}{content}{end}{rest.partition(end)[2]}"


def code_blocks(text: str) -> list[str]:
    """The fenced blocks of a part."""
    return [block.partition("\n")[2] for block in text.split("```")[1::2]]


def layer_table() -> str:
    """Every registered type with its formula, Caffe 1.0's before those of the forks."""
    register_all()
    tables = []
    for title, types in (
        ("Caffe 1.0", [name for name in LAYERS if name in PARAMS]),
        ("forks of Caffe", [name for name in LAYERS if name not in PARAMS]),
    ):
        rows = [f"| `{name}` | {_formula(name)} |" for name in sorted(types)]
        tables.append("\n".join([f"| {title} | |", "|---|---|", *rows]))
    return "\n\n".join(tables) + "\n"


def _formula(name: str) -> str:
    """The first sentence of the class's docstring."""
    lines = (LAYERS[name].__doc__ or "").strip().split("\n\n")[0]
    text = " ".join(lines.split())
    sentence = re.split(r"(?<=[a-z0-9)|`])\. ", text)[0].rstrip(".")
    return sentence.replace("|", "\\|")


def example(prototxt: str) -> str:
    """The class that the twelve lines become, without what stands below its call."""
    source = caffe2flax.convert(prototxt, WEIGHTS, name="DigitsLeNet").source
    body = source[source.index("class DigitsLeNet") :]
    return body[: body.index("    @classmethod")].rstrip() + "\n"


def dialect_table() -> str:
    """Each type with several meanings, with what they are."""
    rows = [
        f"| `{type_}` | {'; '.join(f'`{m}`: {what}' for m, what in meanings.items())} |"
        for type_, meanings in DIALECTS.items()
    ]
    return "\n".join(["| type | meanings |", "|---|---|", *rows]) + "\n"


def plugin() -> str:
    """The example of a layer of one's own."""
    text = (ROOT / "fixtures" / "plugin" / "mylayers.py").read_text(encoding="utf-8")
    return f"```python\n{text.rstrip()}\n```\n"


def written(text: str) -> str:
    """README.md with its generated parts made anew."""
    shown = part(text, "example")
    prototxt, module = code_blocks(shown)
    text = with_part(text, "example", shown.replace(module, example(prototxt)))
    text = with_part(text, "layers", layer_table())
    text = with_part(text, "dialects", dialect_table())
    return with_part(text, "plugin", plugin())


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
