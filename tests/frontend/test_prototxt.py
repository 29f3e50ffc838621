"""Prototxt text -> Message: every spelling found in the wild, and what errors say."""

from __future__ import annotations

import csv
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffe2flax.errors import ConversionError, Span
from caffe2flax.frontend.grammars import grammar_path
from caffe2flax.frontend.message import Field, Message, Scalar
from caffe2flax.frontend.prototxt import MAX_DEPTH, parse, read

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"


def plain(message: Message) -> list[tuple[str, object]]:
    """(name, value) pairs: a scalar as its kind's first letter and its text."""
    return [
        (
            f.name,
            plain(f.value)
            if isinstance(f.value, Message)
            else f"{f.value.kind[0]} {f.value.text}",
        )
        for f in message.fields
    ]


def scalars(*values: str) -> list[tuple[str, object]]:
    return [("a", value) for value in values]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", [], id="empty"),
        pytest.param("\ufeff", [], id="only a byte order mark"),
        pytest.param("# nothing", [], id="only a comment"),
        pytest.param("\ufeffa: 1", scalars("n 1"), id="byte order mark"),
        pytest.param("a: 1 # b: 2\n#{\na: 2", scalars("n 1", "n 2"), id="comments"),
        pytest.param("a: 1\r\na: 2\r\n", scalars("n 1", "n 2"), id="CRLF"),
        pytest.param("a\t:\v1\f", scalars("n 1"), id="white space"),
        pytest.param("a:1a:2", None, id="a number runs into a word"),
        pytest.param("a:x a:2", scalars("w x", "n 2"), id="one line"),
        pytest.param("a { b: 1 }", [("a", [("b", "n 1")])], id="message"),
        pytest.param("a: { b: 1 }", [("a", [("b", "n 1")])], id="message with colon"),
        pytest.param("a < b: 1 >", [("a", [("b", "n 1")])], id="angle brackets"),
        pytest.param("a: < b{} >", [("a", [("b", [])])], id="both brackets"),
        pytest.param("a {}", [("a", [])], id="empty message"),
        pytest.param("a: 1; a: 2, a: 3", scalars("n 1", "n 2", "n 3"), id="separators"),
        pytest.param(
            "a {}; b <>, c: 1",
            [("a", []), ("b", []), ("c", "n 1")],
            id="separators of messages",
        ),
        pytest.param("a: [1, x, 'y']", scalars("n 1", "w x", "s y"), id="list"),
        pytest.param("a: [-1, - inf]", scalars("n -1", "w -inf"), id="signs in a list"),
        pytest.param("a: []", [], id="empty list"),
        pytest.param(
            "a: ['x' 'y', 'z'];", scalars("s xy", "s z"), id="list of strings"
        ),
        pytest.param(
            "a: [{b: 1}, <>]", [("a", [("b", "n 1")]), ("a", [])], id="list of messages"
        ),
        pytest.param("a [{}, {}]", [("a", []), ("a", [])], id="list without colon"),
        pytest.param("[x.y_z]: 1", [("[x.y_z]", "n 1")], id="extension"),
        pytest.param(
            "[ g.com/x.Y ] { b: 1 }",
            [("[g.com/x.Y]", [("b", "n 1")])],
            id="extension message",
        ),
        pytest.param(
            "a: 1 [b]: 2", [("a", "n 1"), ("[b]", "n 2")], id="extension next"
        ),
        pytest.param("inf: inf true: true", [("inf", "w inf"), ("true", "w true")]),
    ]
    + [
        pytest.param(f"a: {text}", scalars(f"{kind} {text}"), id=text)
        for kind, text in [
            *(("n", n) for n in ["0", "1", "0x4", "0XfF", "01", "007", "2.", ".875"]),
            *(
                ("n", n)
                for n in ["1.f", "1F", "1e-4", "1E+5", "5.0E-1f", ".5e1", "0.5"]
            ),
            *(("n", n) for n in ["-1", "-.5", "-2.", "-0x1", "123456789012345678901"]),
            *(
                ("w", w)
                for w in ["inf", "-inf", "nan", "-nan", "-Infinity", "True", "t"]
            ),
            *(("w", w) for w in ["MAX", "e1", "_x9", "f"]),
        ]
    ]
    + [
        pytest.param(f"a: {text}", scalars(f"{value}"), id=text)
        for text, value in [
            ("- 1", "n -1"),
            ("-\t# minus\n.5", "n -.5"),
            ("'x\"y'", 's x"y'),
            ('"x\'y"', "s x'y"),
            ('""', "s "),
            ("'#{}'", "s #{}"),
            ('"a" \'b\'\n# between\n"c"', "s abc"),
            (r'"\a\b\f\n\r\t\v\\\?\'\""', "s \a\b\f\n\r\t\v\\?'\""),
            (r'"\101\60\0601"', "s A001"),
            (r'"\x41\X4a\x4g"', "s AJ\x04g"),
            (r'"\u00e9\U0001F600"', "s é😀"),
            (r'"\ud83d\ude00"', "s 😀"),
            (r'"\303\251"', "s é"),
            (r'"\303" "\251"', "s é"),
            (r'"\xff\n"', "s \\xff\n"),
            (r'"\ud83d"', "s \\xed\\xa0\\xbd"),
            ("'é😀'", "s é😀"),
            (r"'é\n'", "s é\n"),
        ]
    ],
)
def test_spelling(text: str, expected: list[tuple[str, object]] | None) -> None:
    if expected is None:
        with pytest.raises(ConversionError):
            parse(text)
        return
    assert plain(parse(text)) == expected


ERRORS = [
    (
        'layer { name: "a" ',
        1,
        18,
        "expected a field name or the `}` that closes the `{`",
    ),
    ("\n\na <\n b { }\n", 4, 7, "the `>` that closes the `<` of line 3, found the end"),
    ("a { >", 1, 5, "the `}` that closes the `{` of line 1, found `>`"),
    ("a { b { } c: 1\n]", 2, 1, "closes the `{` of line 1, found `]`"),
    ("a: [\n1 2]", 2, 3, "expected `,` or the `]` that closes the `[` of line 1"),
    ("a: [{}\n{}]", 2, 1, "closes the `[` of line 1, found `{`"),
    ("a: [1,]", 1, 7, "expected a value, found `]`"),
    ("a: [", 1, 5, "expected a value, found the end of the file"),
    ("a: [{}, 1]", 1, 9, "expected a message `{ ... }`, found the number `1`"),
    ("a [1]", 1, 4, "expected a message `{ ... }`, found the number `1`"),
    ("a: [[1]]", 1, 5, "expected a value, found `[`"),
    ("}", 1, 1, "expected a field name, found `}`"),
    ("a {}\n  }", 2, 3, "expected a field name, found `}`"),
    ("{", 1, 1, "expected a field name, found `{`"),
    (";", 1, 1, "expected a field name, found `;`"),
    ("a: 1;;", 1, 6, "expected a field name, found `;`"),
    ("a: 1\n 5: 3", 2, 2, "expected a field name, found the number `5`"),
    ('a: 1 "x"', 1, 6, "expected a field name, found a string"),
    ("[a", 1, 1, "expected a field name, found `[`"),
    ("a", 1, 2, "expected `:` or `{` after `a`, found the end of the file"),
    ("a = 3", 1, 3, "expected `:` or `{` after `a`, found `=`"),
    ('\ta "x"', 1, 4, "expected `:` or `{` after `a`, found a string"),
    ("a b: 1", 1, 3, "expected `:` or `{` after `a`, found `b`"),
    ("x" * 99 + " 1", 1, 101, f"after `{'x' * 40}...`, found the number"),
    ("a:", 1, 3, "expected a value, found the end of the file"),
    ("a: }", 1, 4, "expected a value, found `}`"),
    ("a: -", 1, 5, "expected a number after `-`, found the end of the file"),
    ("a: --1", 1, 5, "expected a number after `-`, found `-`"),
    ("a: -foo", 1, 5, "expected a number after `-`, found `foo`"),
    ("a: conv1/relu", 1, 9, "found `/`; text needs quotes"),
    ("a: 08", 1, 4, "`08` is not a number: after a leading 0 come octal digits"),
    ("a: 1.2.3", 1, 4, "`1.2.3` is not a number"),
    ("a: 12px", 1, 4, "`12px` is not a number"),
    ("a: 0x", 1, 4, "`0x` is not a number"),
    ("a: 1e", 1, 4, "`1e` is not a number"),
    ("a: .", 1, 4, "`.` is not a number"),
    ("a: 1" + "2" * 99 + "x", 1, 4, f"`1{'2' * 39}...` is not a number"),
    ('layer {\n  name: "a\n}', 2, 9, 'this string has no closing " on its line'),
    ("a: 'x\\'", 1, 4, "this string has no closing ' on its line"),
    ('a: "x" "y', 1, 8, 'this string has no closing " on its line'),
    (r'a: "xy\q"', 1, 7, r"unknown escape \q in a string"),
    (r"a: 'x' 'é\400'", 1, 10, r"the escape \400 is beyond one byte"),
    (r'a: "\U00110000"', 1, 5, r"the escape \U00110000 is beyond Unicode"),
    (r'a: "\u12"', 1, 5, r"unknown escape \u in a string"),
    ("// x", 1, 1, "found `//` (comments begin with `#`)"),
    ("a: /* x */ 1", 1, 4, "found `/*` (comments begin with `#`)"),
    ("a: “x”", 1, 4, "found `“` U+201C (left double quotation mark)"),
    ("é: 1", 1, 1, "found `é` U+00E9"),
    ("'é' 1", 1, 1, "expected a field name, found a string"),
    ("a: 'é😀' }", 1, 9, "found `}`"),
    ("a:\u00a01", 1, 3, "found U+00A0 (no-break space)"),
    ("a: \x01", 1, 4, "found U+0001 (a control character)"),
    ("\ufeffa: }", 1, 4, "expected a value"),
    ("a: 1\r\nb }\r\n", 2, 3, "expected `:` or `{` after `b`"),
    ("a {" * (MAX_DEPTH + 1), 1, 3 * (MAX_DEPTH + 1), "nested too deeply"),
    ("a:<" * 50_000 + ">" * 50_000, 1, 3 * (MAX_DEPTH + 1), "more than 100 levels"),
    ("a:[{" * 50_000, 1, 4 * (MAX_DEPTH + 1), "nested too deeply"),
]


@pytest.mark.parametrize(("text", "line", "column", "message"), ERRORS)
def test_syntax_error(text: str, line: int, column: int, message: str) -> None:
    with pytest.raises(ConversionError) as caught:
        parse(text, "n.prototxt")
    (problem,) = caught.value.problems
    assert message in problem.message
    assert str(problem.span) == f"n.prototxt:{line}:{column}"
    assert problem.span is not None
    assert problem.span.text == text.removeprefix("\ufeff").splitlines()[line - 1]


def test_deepest_nesting_is_read() -> None:
    message = parse("a {" * MAX_DEPTH + "}" * MAX_DEPTH)
    assert message == parse("a <" * MAX_DEPTH + ">" * MAX_DEPTH)
    assert pickle.loads(pickle.dumps(message)) == message


def test_spans() -> None:
    text = "# x\nlayer {\r\n\tname: 'é' pad: [1, - 2]\r\n} [e.f]: {}"
    message = parse(text, "n.prototxt")
    assert message.span == Span("n.prototxt")
    layer, extension = message.fields
    assert isinstance(layer.value, Message)
    found = [(layer.span, layer.value.span), (extension.span, extension.value.span)]
    found += [(f.span, f.value.span) for f in layer.value.fields]
    assert [[(s.line, s.column) for s in pair] for pair in found] == [
        [(2, 1), (2, 7)],
        [(4, 3), (4, 10)],
        [(3, 2), (3, 8)],
        [(3, 12), (3, 18)],
        [(3, 12), (3, 21)],
    ]
    lines = text.replace("\r", "").split("\n")
    assert all(s.text == lines[s.line - 1] for pair in found for s in pair)
    assert len({id(s.text) for pair in found[2:] for s in pair}) == 1


SPACE = st.sampled_from([" ", "\n", "\t", "\r\n", " # note } \" '\n"])
NAMES = st.builds(str.__add__, st.sampled_from("aZ_"), st.text("bY_09", max_size=6))
NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(min_value=0).map(hex),
)
TEXTS = st.text("aZ09 é😀\n\t\r\0'\"\\#{}<>[]\x85\u2028")


@st.composite
def written(draw: st.DrawFn, depth: int = 3) -> tuple[list[tuple[str, object]], str]:
    """Fields as `plain` gives them, and one of the many ways to write them."""
    fields: list[tuple[str, object]] = []
    parts: list[str] = []
    for _ in range(draw(st.integers(0, 3))):
        name = draw(NAMES)
        kinds = ["n", "w", "s", "m", "l"] if depth else ["n", "w", "s", "l"]
        kind = draw(st.sampled_from(kinds))
        colon = ":"
        if kind == "n":
            number = draw(NUMBERS)
            fields.append((name, f"n {number}"))
            text = number.replace("-", "-" + draw(SPACE), number.startswith("-"))
        elif kind == "w":
            text = draw(NAMES)
            fields.append((name, f"w {text}"))
        elif kind == "s":
            pieces = draw(st.lists(TEXTS, min_size=1, max_size=3))
            fields.append((name, "s " + "".join(pieces)))
            text = draw(SPACE).join(map(draw, map(quoted, pieces)))
        elif kind == "l":
            words = draw(st.lists(NAMES, max_size=3))
            fields += [(name, f"w {word}") for word in words]
            text = "[" + ("," + draw(SPACE)).join(words) + "]"
        else:
            inner, body = draw(written(depth - 1))
            fields.append((name, inner))
            text = body.join(draw(st.sampled_from(["{}", "<>"])))
            colon = draw(st.sampled_from(["", ":"]))
        parts += [name, draw(SPACE), colon, draw(SPACE), text]
        parts += [draw(st.sampled_from(["", ";", ","])), draw(SPACE)]
    return fields, "".join(parts)


def quoted(text: str) -> st.SearchStrategy[str]:
    """A literal for `text`: plain where possible, else one of its escapes."""

    def spell(ways: list[int]) -> str:
        out = []
        for c, way in zip(text, ways, strict=True):
            if way == 1:
                out.append("".join(f"\\x{b:02x}" for b in c.encode()))
            elif way == 2:
                out.append("".join(f"\\{b:03o}" for b in c.encode()))
            elif way == 3:
                out.append(f"\\U{ord(c):08x}")
            else:
                out.append("\\n" if c == "\n" else "\\" * (c in "\\'") + c)
        return "'" + "".join(out) + "'"

    return st.lists(st.integers(0, 4), min_size=len(text), max_size=len(text)).map(
        spell
    )


@given(written())
def test_round_trip(example: tuple[list[tuple[str, object]], str]) -> None:
    expected, text = example
    assert plain(parse(text)) == expected


@given(st.text(alphabet="ab:{}<>[]'\"-1.,;#\n \\x/"))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    try:
        parse(text)
    except ConversionError as error:
        (problem,) = error.problems
        assert problem.span is not None
        assert problem.span.line <= text.count("\n") + 1
        lines = text.split("\n")
        assert problem.span.column <= len(lines[problem.span.line - 1]) + 1


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.prototxt"
    path.write_bytes(data)
    try:
        files = {f.span.file for f in read(path).fields}
    except ConversionError as error:
        files = {problem.file for problem in error.problems}
    assert files <= {str(path)}


def test_comments_in_any_encoding(tmp_path: Path) -> None:
    """Caffe reads over them; a # in quotes begins none."""
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"a: '#' # \xcd\xf8\xc2\xe7\n#\xe9\r\nb: \"\\\"#\" a: '\xc3\xa9'")
    assert read(path) == parse("a: '#' b: '\"#' a: 'é'")


@pytest.mark.parametrize(
    ("data", "place", "message"),
    [
        (b"a: 'x\xff'", ":1:6", "byte 0xff is not UTF-8"),
        (b"\xef\xbb\xbfa: 'x\xe9'", ":1:6", "byte 0xe9 is not UTF-8"),
        (b"a: 1\r\nb: '\xc3\xa9\xe9#'\r\n", ":2:6", "byte 0xe9 is not UTF-8"),
        (b"a: '\xc3", ":1:5", "byte 0xc3 is not UTF-8"),
        (b"\x0a\x05LeNet\xa2\x06\0", "", "this is a binary file, not a prototxt"),
        (b"\x89HDF\r\n\x1a\n", "", "this is a binary file, not a prototxt"),
        ("a: 1".encode("utf-16"), "", "encoded in UTF-16; save it as UTF-8"),
        (b"a: 1\nb }", ":2:3", "expected `:` or `{` after `b`"),
        (None, "", "cannot be read: No such file or directory"),
    ],
)
def test_unreadable_file(
    tmp_path: Path, data: bytes | None, place: str, message: str
) -> None:
    path = tmp_path / "net.prototxt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConversionError) as caught:
        read(path)
    (problem,) = caught.value.problems
    assert str(problem.span) == f"{path}{place}"
    assert message in problem.message


def test_read_accepts_a_byte_order_mark_and_utf8(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes("\ufeffa: 'é'\r\n".encode())
    assert read(str(path)).fields == (
        Field("a", Scalar("string", "é", Span("")), Span("")),
    )


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="a folder, no regular file"):
        read(tmp_path)
    with pytest.raises(ConversionError, match="cannot be read: embedded null byte"):
        read("\0")


@pytest.mark.parametrize("size", [1, 3])
def test_large_text(size: int) -> None:
    """Long comments, strings and lines of fields cost neither recursion nor squares."""
    text = "#" + "x" * 3_000_000 * size + "\na: '" + "\\n" * 100_000 * size + "'\n"
    text += "b { c: 1 } " * 1000 * size
    assert len(parse(text).fields) == 1 + 1000 * size


def test_grammar_is_found_or_named() -> None:
    assert grammar_path("prototxt.lark").is_file()
    with pytest.raises(FileNotFoundError, match=r"grammars/none\.lark"):
        grammar_path("none.lark")


def test_lark_is_imported_only_to_parse() -> None:
    code = "import sys, caffe2flax.frontend.prototxt; sys.exit('lark' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


if CORPUS.is_dir():
    with (CORPUS / "index.tsv").open(encoding="utf-8") as stream:
        PATHS = [row["path"] for row in csv.DictReader(stream, delimiter="\t")]

    @pytest.mark.parametrize("path", PATHS)
    def test_published_network(path: str) -> None:
        assert read(CORPUS / path).fields
