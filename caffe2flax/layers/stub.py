"""The stub for an unknown layer type, used where the user asks for stubs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from caffe2flax.errors import ConversionError, ambiguous
from caffe2flax.frontend.message import Message, Scalar
from caffe2flax.ir.abilities import WritesMethod
from caffe2flax.ir.call import literal
from caffe2flax.ir.layer import Array, Layer, Site
from caffe2flax.ir.layout import Operand, Shape
from caffe2flax.ir.params import Params

NOT_PARAMETERS = ("name", "type", "bottom", "top", "include", "exclude", "phase")


@dataclass(frozen=True, slots=True)
class Stub(Layer, WritesMethod):
    """A method to be written by hand, for an unsupported layer: it takes and returns
    arrays in Caffe's axis order."""

    bottoms = (0, None)
    tops = (1, None)
    in_place = True

    kind: str
    name: str
    shapes: tuple[Shape | None, ...]
    parameters: tuple[str, ...] = ()

    @classmethod
    def parse(cls, params: Params) -> Self:
        line = params.parent
        assert line is not None, "a type without messages of its own"
        assert line.message is not None, "a layer that was read"
        given = tuple(line.shapes.get(top) for top in line.all("top", str))
        if not line.bottoms and None in given:
            blobs = line.all("top", str)
            for blob, shape in zip(blobs, given, strict=True):
                if shape is None:
                    text = f"the shape of {blob!r} is unknown: give --input-shape"
                    line.ambiguous("type", f"{text} {blob}=N,...")
        kept = [f for f in line.message.fields if f.name not in NOT_PARAMETERS]
        line.ignore(*(f.name for f in line.message.fields))
        code = line.sub("python_param")
        kind = ".".join(filter(None, (code.get(n, "") for n in ("module", "layer"))))
        stub = cls(
            _plain(kind or params.name), line.get("name", ""), given, _printed(kept)
        )
        line.note(
            f"{line.span('type')}: {stub.kind} is unsupported: the module's method for "
            f"{stub.name!r} is to be filled in" + stub.assumption
        )
        return stub

    @property
    def assumption(self) -> str:
        """What the note says about the assumed shapes of its tops."""
        if None not in self.shapes:
            return ""
        return "; its tops are taken to have the shape of its first bottom"

    def infer(self, *inputs: Shape) -> tuple[Shape, ...]:
        tops = tuple(shape or inputs[0] for shape in self.shapes if shape or inputs)
        if len(tops) < len(self.shapes):
            raise ambiguous("the shapes of its tops are unknown")
        return tops

    def write_method(self, name: str, parameters: Sequence[str], at: Site) -> str:
        def shown(operands: Sequence[Operand]) -> str:
            return ", ".join(str(x.shape).replace(",)", ")") for x in operands)

        result = "Array" if len(self.shapes) == 1 else "tuple[Array, ...]"
        taken = ", ".join(["self", *(f"{p}: Array" for p in parameters)])
        lines = [
            f"def {name}({taken}) -> {result}:",
            f'    """{self.kind}, which is to be filled in.',
            "",
            f"    Shapes, in Caffe's axis order: {shown(at.inputs)} ->",
            f"    {shown(at.outputs)}{self.assumption and ' (taken from the bottom)'}.",
        ]
        if self.parameters:
            lines += ["", *(f"    {_plain(line)}" for line in self.parameters)]
        what = literal(f"fill in the {self.kind} {self.name!r}")
        return "\n".join([*lines, '    """', f"    raise NotImplementedError({what})"])

    def call(self, at: Site) -> str:
        return f"{at.module}({', '.join(at.args)})"

    def reference(self, blobs: Sequence[Array], *inputs: Array) -> Array:
        raise ConversionError(f"{self.kind} is to be filled in: it has no reference")


def _plain(text: str) -> str:
    """`text` for a docstring, without characters that could end the string."""
    return literal(text)[1:-1].replace('"', "'").replace("\\'", "'")


def _printed(fields: Sequence[object]) -> tuple[str, ...]:
    """Fields as prototxt, one on each line."""
    lines: list[str] = []
    # A stack instead of recursion, whose depth a file could exceed.
    stack: list[tuple[int, object]] = [(0, field) for field in reversed(fields)]
    while stack:
        depth, field = stack.pop()
        indent = "  " * depth
        if isinstance(field, str):
            lines.append(indent + field)
            continue
        name, value = getattr(field, "name", ""), getattr(field, "value", None)
        if isinstance(value, Message):
            lines.append(f"{indent}{name} {{")
            stack.append((depth, "}"))
            stack += [(depth + 1, inner) for inner in reversed(list(value.fields))]
        elif isinstance(value, Scalar):
            quoted = literal(value.text) if value.kind == "string" else value.text
            lines.append(f"{indent}{name}: {quoted}")
    return tuple(lines)
