"""The class method that loads the weights."""

from __future__ import annotations

from collections.abc import Sequence

from caffe2flax.codegen.format import WIDTH, paragraph
from caffe2flax.codegen.options import Option
from caffe2flax.ir.call import literal


def from_pretrained(options: tuple[Option, ...], passed_on: bool) -> list[str]:
    """The class method that loads the weights; classifiers of another width start
    fresh."""
    given = ["**options"] if options or passed_on else []
    extra = ", **options: Any" if given else ""
    make = f"cls({', '.join([*given, 'rngs=nnx.Rngs(0)'])})"
    path = 'path or Path(__file__).with_suffix(".safetensors")'
    doc = "The network in eval mode, weights from `path` or beside this file."
    heads = [option for option in options if option.head]
    if heads:
        doc = "In eval mode; with another "
        doc += "; with another ".join(map(_starting_fresh, heads)) + "."
        path += ", fresh"
    lines = [
        "@classmethod",
        f"def from_pretrained(cls, path: str | Path | None = None{extra}) -> Self:",
        *documented(doc),
        f"    model = nnx.eval_shape(lambda: {make})",
        *_fresh(heads),
        f"    load_weights(model, {path})",
        *(line for option in heads for line in _interpolating(option)),
        "    model.eval()",
        "    return model",
    ]
    return [f"    {line}" if line else "" for line in lines]


def _starting_fresh(option: Option) -> str:
    enlarging = option.enlarging.split()
    names = [name for name in option.head.split() if name not in enlarging]
    text = f"`{option.name}`, {listed(names)} start{'s' * (len(names) == 1)} fresh"
    if not enlarging:
        return text
    return f"{text}, {listed(enlarging)} from bilinear interpolation"


def _interpolating(option: Option) -> list[str]:
    """Layers that enlarge maps of scores, for another number of classes: what they
    learned is for each class by itself."""
    enlarging = [f"model.{name}" for name in option.enlarging.split()]
    if not enlarging:
        return []
    default = f"{literal(option.name)}, {option.default}"
    lines = [f"    if options.get({default}) != {option.default}:"]
    for layer in enlarging:
        lines += [
            f"        kernel, key = {layer}.kernel, nnx.Rngs(0).params()",
            "        kernel[...] = bilinear()(key, kernel.shape)",
        ]
    return lines


def listed(names: Sequence[str]) -> str:
    *most, last = (f"`{name}`" for name in names)
    return f"{', '.join(most)} and {last}" if most else last


def documented(doc: str) -> list[str]:
    """The lines of a method's docstring."""
    first, *rest = paragraph(doc, WIDTH - 11).splitlines()
    if not rest:
        return [f'    """{doc}"""']
    return [
        f'    """{first}',
        *(f"    {line}" for line in rest[:-1]),
        f'    {rest[-1]}"""',
    ]


def _fresh(heads: Sequence[Option]) -> list[str]:
    """The names of the layers that need not fit the file."""
    if not heads:
        return []
    names = [literal(tuple(option.head.split())) for option in heads]
    keys = [literal(option.name) for option in heads]
    if len(heads) == 1:
        line = f"    fresh = {names[0]} if {keys[0]} in options else ()"
        if len(line) <= WIDTH - 4:
            return [line]
        return [
            f"    heads = {names[0]}",
            f"    fresh = heads if {keys[0]} in options else ()",
        ]
    items = ", ".join(map(": ".join, zip(keys, names, strict=True)))
    return [
        f"    heads = {{{items}}}",
        "    fresh = [name for key in options for name in heads.get(key, ())]",
    ]
