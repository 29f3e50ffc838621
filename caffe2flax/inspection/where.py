"""The lines of a layer in the prototxt and in the generated module, and the layers of a
line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from caffe2flax.codegen.names import module_stem
from caffe2flax.codegen.sourcemap import Lines, SourceMap
from caffe2flax.errors import ConversionError, Span, closest
from caffe2flax.ir.graph import Graph, Node

if TYPE_CHECKING:
    from caffe2flax.conversion import Conversion

_TOKENS = re.compile(r"""[{}<>\n]|#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""")
"""Braces, which end a message of a prototxt, and comments and strings, which may
contain braces."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Lines of a file. role: "prototxt", or what the lines of the module do: "makes" or
    "calls" the layer, or "makes block" or "calls block" for the block around it."""

    role: str
    file: str
    first: int
    last: int
    text: str
    cls: str = ""


@dataclass(frozen=True, slots=True)
class LayerLocation:
    """A layer and its passages; `note` is the reason where the module does not have
    it."""

    name: str
    type: str
    passages: tuple[Passage, ...]
    note: str = ""

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def locate(
    conversion: Conversion, prototxt: str | None, query: str
) -> tuple[LayerLocation, ...]:
    """The layers for a query: the name of a layer or a blob, a line of the generated
    module ("123"), or one of the prototxt ("net.prototxt:57", ":57"). `prototxt` is the
    text of the prototxt, None where there is none. Raises ConversionError where there
    is no such layer."""
    finder = _Finder.of(conversion, prototxt)
    named = list(finder.named(query))
    if named:
        return tuple(named)
    file, colon, line = query.rpartition(":")
    if colon and line.isdecimal() and len(line) < 10:
        return finder.of_prototxt_line(file, int(line))
    if query.isdecimal() and len(query) < 10:
        return finder.of_source_line(int(query))
    graph = conversion.graph
    known = dict.fromkeys([*finder.names(), *graph.blobs])
    hint = closest(query, known)
    raise ConversionError(f"no layer and no blob is called {query!r}{hint}")


def _is_file(name: str, said: str) -> bool:
    """Whether `said` is the file `name`, by the end of its path or by another one."""
    if name.endswith(said):
        return True
    try:
        return os.path.samefile(name, said)
    except (OSError, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class _Finder:
    graph: Graph
    conversion: Conversion
    source: SourceMap
    lines: tuple[str, ...]
    """Lines of the prototxt."""
    module: tuple[str, ...]
    """Lines of the generated source."""

    @classmethod
    def of(cls, conversion: Conversion, prototxt: str | None) -> _Finder:
        source = SourceMap.of(conversion.source, conversion.name)
        lines = tuple((prototxt or "").split("\n"))
        module = tuple(conversion.source.splitlines())
        return cls(conversion.graph, conversion, source, lines, module)

    def names(self) -> Iterator[str]:
        yield from (layer.name for layer, _ in self.layers())
        yield from (dropped.name for dropped in self.graph.remarks.dropped)

    def layers(self) -> Iterator[tuple[Node, Node | None]]:
        """Each layer of the net, and the node that computes it; None for inputs."""
        yield from ((node, None) for node in self.graph.inputs)
        for node in self.graph.nodes:
            if node.number >= 0:
                yield from ((layer, node) for layer in node.layers)

    def named(self, name: str) -> Iterator[LayerLocation]:
        """Layers of that name, or otherwise those that compute the blob."""
        called = [(x, node) for x, node in self.layers() if x.name == name]
        producers = (
            (x, node)
            for x, node in self.layers()
            if any(value.blob == name for value in x.outputs)
        )
        yield from (self._entry(x, node) for x, node in called or producers)
        for dropped in self.graph.remarks.dropped:
            if dropped.name == name:
                passages = tuple(self._prototxt(dropped.span))
                note = f"left out: {dropped.reason}"
                yield LayerLocation(dropped.name, dropped.type, passages, note)

    def of_source_line(self, line: int) -> tuple[LayerLocation, ...]:
        """The layers of a line of the module: those that the line itself makes or
        calls, otherwise those of a block that it makes or calls."""
        if not 1 <= line <= len(self.module):
            raise ConversionError(f"the module has no line {line}")
        inner = self._having(lambda passage: "block" not in passage.role, line)
        locations = inner or self._having(lambda passage: True, line)
        if not locations:
            raise ConversionError(f"line {line} of the module is about no layer")
        return locations

    def _having(
        self, counts: Callable[[Passage], bool], line: int
    ) -> tuple[LayerLocation, ...]:
        entries = (self._entry(x, node) for x, node in self.layers())
        return tuple(
            entry
            for entry in entries
            if any(
                p.role != "prototxt" and counts(p) and p.first <= line <= p.last
                for p in entry.passages
            )
        )

    def of_prototxt_line(self, file: str, line: int) -> tuple[LayerLocation, ...]:
        """The layer that the prototxt has at this line."""
        names = {x.span.file for x, _ in self.layers()}
        if file and not any(_is_file(name, file) for name in names):
            known = ", ".join(sorted(names))
            raise ConversionError(f"the net is in {known}, not in {file!r}")
        spans = [(x.span.line, x.name) for x, _ in self.layers() if x.span.line]
        spans += [
            (d.span.line, d.name) for d in self.graph.remarks.dropped if d.span.line
        ]
        before = [span for span in spans if span[0] <= line]
        for _, name in sorted(before, reverse=True)[:1]:
            for entry in self.named(name):
                if any(
                    p.role == "prototxt" and p.first <= line <= p.last
                    for p in entry.passages
                ):
                    return (entry,)
        raise ConversionError(f"no layer is in line {line} of the prototxt")

    def _entry(self, layer: Node, node: Node | None) -> LayerLocation:
        passages = [*self._prototxt(layer.span)]
        note = "an input of the module" if node is None else ""
        if node is not None:
            passages += self._source(node)
            others = [x.name for x in node.layers if x is not layer]
            note = f"one module with {', '.join(others)}" if others else ""
        return LayerLocation(layer.name, layer.layer.type, tuple(passages), note)

    def _prototxt(self, span: Span) -> Iterator[Passage]:
        line = span.line
        if not line or line > len(self.lines):
            return
        last = end_of_message(self.lines, line, span.column)
        text = "\n".join(self.lines[line - 1 : last])
        yield Passage("prototxt", span.file, line, last, text)

    def _source(self, node: Node) -> Iterator[Passage]:
        position = self.conversion.positions.get(node.number)
        if position is None:
            return
        where = self.source.where(position)
        main = self.conversion.name
        roles: Iterable[tuple[str, Lines | None, str]] = (
            ("makes", where.build, position.cls),
            ("calls", where.call, position.cls),
            ("makes block", where.outer_build, main),
            ("calls block", where.outer_call, main),
        )
        for role, lines, cls in roles:
            if lines is not None:
                text = "\n".join(self.module[lines.first - 1 : lines.last])
                file = f"{module_stem(main)}.py"
                yield Passage(role, file, lines.first, lines.last, text, cls)


def end_of_message(lines: tuple[str, ...], line: int, column: int) -> int:
    """The line with the end of the message whose brace opens at `line` and `column`;
    the last line where the brace is not closed."""
    depth = 0
    for number in range(line, len(lines) + 1):
        text = lines[number - 1]
        start = max(0, column - 1) if number == line else 0
        for match in _TOKENS.finditer(text, start):
            token = match[0]
            depth += (token in "{<") - (token in "}>")
            if depth <= 0 and token in "}>":
                return number
    return len(lines)
