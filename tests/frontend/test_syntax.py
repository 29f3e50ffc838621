"""What is said of characters that no prototxt has, and of templates."""

from pathlib import Path

import pytest

import caffe2flax
from caffe2flax.errors import ConversionError

NET = (
    'input: "x" input_shape { dim: 1 }\nlayer { name: "r" type: "ReLU" bottom: "x" }\n'
)
STRAY = {
    "NUL at the end": (NET + "\0", 3, 1, "U+0000 (a NUL character, which no text has)"),
    "NUL in a value": (NET.replace("1", "\0"), 1, 31, "U+0000 (a NUL character"),
    "NUL in a name": (NET.replace('"r', '"\0r'), 2, 16, "U+0000 (a NUL character"),
    "NUL in a comment": (f"# a\n#\0\n{NET}", 2, 2, "U+0000 (a NUL character"),
    "Ctrl-Z at the end": (NET + "\x1a", 3, 1, "U+001A (Ctrl-Z, with which DOS"),
    "Ctrl-Z in the middle": (NET.replace(": 1", ":\x1a 1"), 1, 30, "U+001A (Ctrl-Z"),
    "bell": (NET + "\n" * 99 + "\a", 102, 1, "U+0007 (a control character); delete it"),
}


@pytest.mark.parametrize("case", STRAY)
def test_stray_control_characters(case: str, tmp_path: Path) -> None:
    """The character and its place, not a message about weights."""
    text, line, column, words = STRAY[case]
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    with pytest.raises(ConversionError) as refused:
        caffe2flax.convert(path)
    (problem,) = refused.value.problems
    assert (problem.line, problem.column) == (line, column)
    assert words in problem.message


PLACEHOLDERS = (
    *("$HEIGHT$", "$HEIGHT", "${height}", "$(HEIGHT)", "@HEIGHT@", "{{height}}"),
    *("{{ height }}", "{height}", "<height>", "<%= height %>", "%(height)d", "%d"),
)


@pytest.mark.parametrize("placeholder", PLACEHOLDERS)
@pytest.mark.parametrize("place", ["dim: 1", 'type: "ReLU"'])
def test_placeholders(placeholder: str, place: str) -> None:
    name = place.split()[0]
    with pytest.raises(ConversionError) as refused:
        caffe2flax.convert(NET.replace(place, f"{name} {placeholder}"))
    (problem,) = refused.value.problems
    assert problem.message.startswith(f"`{placeholder}` is a placeholder: this is a ")
    assert problem.line == 1 + (name == "type:")


@pytest.mark.parametrize("line", ["{% for i in layers %}", "{{ layers }}", "$LAYERS$"])
def test_placeholders_for_whole_layers(line: str) -> None:
    with pytest.raises(ConversionError, match=r"is a placeholder: this is a template"):
        caffe2flax.convert(NET + line)


def test_a_nul_in_a_path() -> None:
    with pytest.raises(ConversionError, match="cannot be read: embedded null"):
        caffe2flax.convert("net\0.prototxt")
