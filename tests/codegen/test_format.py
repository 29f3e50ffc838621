"""Sources as ruff formats them, byte for byte."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruff import find_ruff_bin

from caffe2flax import conversion
from caffe2flax.codegen.format import WIDTH, format_source
from caffe2flax.codegen.library import own_texts
from caffe2flax.errors import ConversionError
from tests.golden import FIXTURES

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
MODES: dict[str, dict[str, object]] = {
    "plain": {},
    "flat": {"flat": True},
    "taps": {"taps": "all"},
    "train": {"phase": "TRAIN"},
}


def by_ruff(source: str) -> str:
    command = [find_ruff_bin(), "format", "--isolated", "--no-cache", "--quiet", "-"]
    done = subprocess.run(command, input=source.encode(), capture_output=True)
    assert not done.returncode, done.stderr.decode()
    return done.stdout.decode()


def sources(path: Path, mode: str) -> Iterator[str]:
    """The module of a net before it is formatted; none for a net that is refused."""
    found: list[str] = []
    with patch.object(conversion, "format_source", lambda text: found.append(text)):
        try:
            conversion.convert(path, **MODES[mode])  # type: ignore[arg-type]
        except ConversionError:
            return
    yield from found


def check(texts: list[str], folder: Path) -> None:
    """All of them by one process of ruff's."""
    for i, text in enumerate(texts):
        (folder / f"net{i}.py").write_text(text)
    command = [find_ruff_bin(), "format", "--isolated", "--no-cache", "--quiet"]
    subprocess.run([*command, str(folder)], check=True)
    for i, text in enumerate(texts):
        assert format_source(text) == (folder / f"net{i}.py").read_text()


@pytest.mark.parametrize("mode", MODES)
def test_modules_of_the_fixtures(mode: str, tmp_path: Path) -> None:
    paths = sorted(FIXTURES.rglob("*.prototxt"))
    texts = [text for path in paths for text in sources(path, mode)]
    assert len(texts) > 300
    check(texts, tmp_path)


FOUND = sorted(CORPUS.rglob("*.prototxt"))
NETS = [FOUND[i : i + 24] for i in range(0, len(FOUND), 24)]


@pytest.mark.skipif(not NETS, reason="no corpus beside the checkout")
@pytest.mark.parametrize("number", range(len(NETS)))
def test_modules_of_the_corpus(number: int, tmp_path: Path) -> None:
    """Each in one mode, as they are large."""
    modes = list(MODES) * 6
    pairs = zip(NETS[number], modes, strict=False)
    texts = [text for path, mode in pairs for text in sources(path, mode)]
    check(texts, tmp_path)


def test_functions_that_are_copied_pass_through() -> None:
    for text in own_texts():
        assert format_source(text) == text


class Writer:
    """Code of the kinds that we write, with names and nesting of any length."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.one_of = self.random.choice

    def name(self) -> str:
        first = self.one_of(["x", "rngs", "inception", "conv1", "bn2a_branch2c"])
        return first + "_name" * self.one_of([0, 0, 0, 1, 2, 4])

    def string(self) -> str:
        letters = self.random.choices("ab'\"\\ ()[,#\né=+", k=self.one_of(range(16)))
        return ascii("".join(letters))

    def atom(self) -> str:
        numbers = ["1", "-3", "0.25", "1e-05", "None", "True", "(3, 3)", "'SAME'"]
        name = self.name()
        return self.one_of([name, f"self.{name}", self.one_of(numbers), self.string()])

    def some(self, depth: int, least: int = 0) -> list[str]:
        count = self.random.randint(least, 4)
        return [self.expression(depth - 1) for _ in range(count)]

    def call(self, depth: int) -> str:
        count = self.one_of([0, 0, 1, 2])
        named = [f"{self.name()}={self.expression(depth - 1)}" for _ in range(count)]
        where = self.one_of(["", "nnx.", "self.", "jnp."])
        return f"{where}{self.name()}({', '.join(self.some(depth) + named)})"

    def expression(self, depth: int) -> str:
        kinds = [
            *[self.call] * 6,
            lambda depth: f"[{', '.join(self.some(depth))}]",
            self.tuple,
            self.dict,
            lambda depth: f"{self.call(depth)}[{self.one_of(['0', '1:3', 'x'])}]",
            self.method,
            self.comprehension,
            lambda depth: f"{self.call(depth)} + {self.expression(depth - 1)}",
            lambda depth: self.atom(),
        ]
        return self.one_of(kinds)(depth) if depth > 0 else self.atom()

    def tuple(self, depth: int) -> str:
        items = self.some(depth, 1)
        return f"({', '.join(items)}{',' * (len(items) == 1)})"

    def dict(self, depth: int) -> str:
        return f"{{{', '.join(f'{self.string()}: {e}' for e in self.some(depth))}}}"

    def method(self, depth: int) -> str:
        return f"{self.call(depth - 1)}.{self.name()}({', '.join(self.some(depth))})"

    def comprehension(self, depth: int) -> str:
        return f"nnx.Sequential(*[{self.call(depth)} for _ in range({self.name()})])"

    def value(self, depth: int) -> str:
        count = self.one_of([0, 0, 0, 1, 1, 2])
        more = (
            f" {self.one_of('+-*/')} {self.expression(depth - 1)}" for _ in range(count)
        )
        return self.expression(depth) + "".join(more)

    def statement(self) -> str:
        depth = self.one_of([1, 2, 2, 3, 3, 4])
        names = ", ".join(self.name() for _ in range(self.random.randint(2, 4)))
        return self.one_of(
            [
                lambda: f"{self.name()} = {self.value(depth)}",
                lambda: f"self.{self.name()} = {self.call(depth)}  # (N, 55, 55, 96)",
                lambda: f"{names} = {self.value(depth)}",
                lambda: f"return {self.value(depth)}",
                lambda: f"return {self.expression(depth)}, {self.expression(depth)}",
                lambda: f"raise {self.call(depth)}",
                lambda: self.call(depth),
            ]
        )()

    def function(self) -> str:
        kinds = ["Array", "int", "dict[str, Array]", "Dtype | None = None"]
        given = [f"{self.name()}{i}: {self.one_of(kinds)}" for i in range(6)]
        given = ["self", *given[: self.one_of(range(7))]]
        pair = "tuple[dict[str, Array], dict[str, list[Array]]]"
        head = (
            f"def {self.name()}({', '.join(given)}) -> {self.one_of(['Array', pair])}:"
        )
        return "\n".join([head.replace(" = None", ""), f"    {self.statement()}"])


@pytest.mark.parametrize(
    "source",
    [
        f"def {'f' * 60}() -> tuple[dict[str, Array], Array]:\n    pass",
        f"class {'F' * 80}(nnx.Module):\n    pass",
        f"from flax import {'f' * 40}, {'g' * 40}",
        f"with np.load({'F' * 60} / '{'x' * 20}') as archive:\n    pass",
        f"x = {'f' * 60} if {'g' * 20}(x) else {'h' * 20}",
        f"f([x for x in {'f' * 60} if {'g' * 20}(x)])",
        f"x = {'f' * 30}(x).{'g' * 30}(y).{'h' * 30}(z).T",
    ],
)
def test_other_statements(source: str) -> None:
    assert format_source(f"{source}\n") == by_ruff(f"{source}\n")


@pytest.mark.parametrize("seed", range(10))
def test_long_statements(seed: int) -> None:
    writer = Writer(seed)
    functions = [writer.function() for _ in range(500)]
    expected = by_ruff("\n\n\n".join(functions) + "\n").split("\n\n\n")
    found = format_source("\n\n\n".join(functions) + "\n").split("\n\n\n")
    for source, ours, wanted in zip(functions, found, expected, strict=True):
        assert ours == wanted, source


STRINGS = [
    '"""A docstring (with \'quotes\', "more", and a bracket [ that none closes.',
    "",
    "It goes on: it's {\"",
    '"""',
    "",
    "x = '\"\"\"', f(')'), \"'''\", 'it\\'s \"that\"', '\"', '\\\\'",
    "y = f('(')  # it's (",
]


def test_strings_over_several_lines() -> None:
    long = f"z = long({'x' * 60}, {'y' * 60}, 'a')"
    text = "\n".join([*STRINGS, long, ""])
    assert format_source(text) == by_ruff(text)
    assert format_source(text).count("\n") > text.count("\n")


@given(st.text(st.sampled_from("ab'\"\\x0 \n#,()[]{}=.:+-"), max_size=200))
def test_any_text_passes(text: str) -> None:
    """Whatever it is given: no exception, and the same program."""
    try:
        before = ast.dump(ast.parse(text))
    except (SyntaxError, ValueError):
        format_source(text)
        return
    assert ast.dump(ast.parse(format_source(text))) == before


@pytest.mark.parametrize(
    "line",
    [
        f"assert {'x' * 80} == y, name",
        f"x = yes(x) if {'x' * 80}.other else ([a, b]",
        f"{'x' * WIDTH} += f(a)",
        f"{'(' * 70}{'x' * WIDTH}{')' * 70}",
        f"x = '{'x' * WIDTH}",
        f"a = b = f({'x' * WIDTH})",
        f"f(a,  {'x' * WIDTH})",
    ],
)
def test_what_is_unknown_stays_on_its_line(line: str) -> None:
    assert format_source(line) == line


def test_parameters_of_a_lambda_stay_together() -> None:
    long = f"y = lambda b, c: self.a({'b' * 50}, {'c' * 50})"
    source = f"def f(self, x):\n    {long}\n"
    assert format_source(source) == source
