"""`python -m tests.docs` writes what README.md, docs/ and examples/ have from the code.

A document holds generated text between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest import mock

import caffe2flax
from caffe2flax import options
from caffe2flax.cli.main import main
from caffe2flax.frontend.descriptors import PARAMS
from caffe2flax.ir.dialects import DIALECTS, WITHOUT_EFFECT
from caffe2flax.ir.refused import REFUSED
from caffe2flax.ir.registry import LAYERS
from caffe2flax.layers import register_all
from caffe2flax.passes import PASSES
from caffe2flax.training.prepare import prepare
from tests.forks import fork_table
from tests.test_structure import ORDER

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
EXACTNESS = ROOT / "docs" / "exactness.md"
DIGITS = ROOT / "fixtures" / "digits"
DOCUMENTS = [
    README,
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("examples/*.md")),
    *sorted(ROOT.glob(".github/**/*.md")),
    *sorted(ROOT.glob("caffe2flax/**/*.md")),
]

EXAMPLES = {
    "alexnet.py": ("fixtures/networks/alexnet.prototxt", "AlexNet"),
    "googlenet.py": ("fixtures/networks/googlenet.prototxt", "GoogLeNet"),
    "resnet50.py": ("fixtures/networks/resnet50.prototxt", "ResNet50"),
    "ssd.py": ("fixtures/ssd/ssd.prototxt", "SSD"),
}
"""The converted files of examples/: their prototxt and the name of their class."""

TRAINED = "fixtures/digits_training/stats_digits.solver.prototxt"
"""The solver of examples/training/."""

WITHOUT_PARAMETERS = {
    "AbsVal",
    "BNLL",
    "BatchReindex",
    "EuclideanLoss",
    "Filter",
    "LSTMUnit",
    "MultinomialLogisticLoss",
    "Silence",
    "Split",
}
"""The types of Caffe 1.0 that have no parameter message of their own."""
OF_FORKS = {"ConvolutionDepthwise", "DepthwiseConvolution"}
"""Types of forks that read a parameter message of Caffe 1.0."""

FAULTY = """\
name: "Faulty"
input: "data"
input_shape { dim: 1 dim: 3 dim: 227 dim: 227 }
layer {
  name: "norm1"
  type: "LRN"
  bottom: "data"
  top: "norm1"
  lrn_param { locale_size: 5 }
}
layer {
  name: "conv1"
  type: "Convolutoin"
  bottom: "norm2"
  top: "conv1"
}
"""


def part(text: str, name: str) -> str:
    """The text between the markers of a part."""
    return text.partition(f"<!-- {name}:begin -->\n")[2].partition(
        f"<!-- {name}:end -->"
    )[0]


def with_part(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    head, rest = text.split(begin)
    return f"{head}{begin}{content}{end}{rest.partition(end)[2]}"


def parts(text: str) -> list[str]:
    """The names of the parts of a document."""
    return re.findall(r"<!-- (\S+):begin -->", text)


def code_blocks(text: str) -> list[str]:
    """The fenced blocks of a part."""
    return [block.partition("\n")[2] for block in text.split("```")[1::2]]


def fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"


def table(head: str, second: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {name} | {text} |" for name, text in rows.items()]
    return "\n".join([f"| {head} | {second} |", "|---|---|", *lines]) + "\n"


def digits() -> str:
    """The module that `caffe2flax demo` writes."""
    net, weights = DIGITS / "deploy.prototxt", DIGITS / "digits_lenet.caffemodel"
    return fenced("python", caffe2flax.convert(net, weights).source)


def layers(*, forks: bool) -> str:
    """Every registered type with its formula, of Caffe 1.0 or of its forks."""
    register_all()
    original = PARAMS.keys() - OF_FORKS | WITHOUT_PARAMETERS
    names = sorted(name for name in LAYERS if (name not in original) is forks)
    return table("type", "computes", {f"`{name}`": _formula(name) for name in names})


def _formula(name: str) -> str:
    """The first sentence of the class's docstring."""
    lines = (LAYERS[name].__doc__ or "").strip().split("\n\n")[0]
    text = " ".join(lines.split())
    sentence = re.split(r"(?<=[a-z0-9)|`])\. ", text)[0].rstrip(".")
    return sentence.replace("|", "\\|")


def dialects() -> str:
    """Each type with several meanings, a row for each of them."""
    rows = [
        f"| `{type_}` | `{meaning}` | {what} |"
        for type_, meanings in DIALECTS.items()
        for meaning, what in meanings.items()
    ]
    return "\n".join(["| type | dialect | meaning |", "|---|---|---|", *rows]) + "\n"


def ignored() -> str:
    """The fields of forks that change no value, by message."""
    rows = [
        f"| {message if message == 'the net' else f'`{message}`'} | {about} | "
        f"{', '.join(f'`{f}`' for f, a in fields.items() if a == about)} |"
        for message, fields in WITHOUT_EFFECT.items()
        for about in dict.fromkeys(fields.values())
    ]
    return "\n".join(["| message | about | fields |", "|---|---|---|", *rows]) + "\n"


def refused() -> str:
    """Known types that are not converted, those of one reason in a row."""
    reasons: dict[str, list[str]] = {}
    for type_, reason in REFUSED.items():
        reasons.setdefault(reason, []).append(f"`{type_}`")
    return table(
        "type", "why", {", ".join(types): why for why, types in reasons.items()}
    )


def folders() -> str:
    """Every folder of the package with the first line of its docstring, those that
    import nothing first."""
    rows = {}
    for names in ORDER:
        for name in sorted(names):
            path = ROOT.joinpath(*name.split("."), "__init__.py")
            if path.exists() and name != "caffe2flax":
                text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
                folder = name.partition(".")[2]
                about = (text or "").splitlines()[0]
                rows[f"[`{folder}/`](../{path.parent.relative_to(ROOT)})"] = about
    return table("folder", "", rows)


def passes() -> str:
    """The passes in their order, each with the first paragraph of its docstring."""
    return table("pass", "", {f"`{each.__name__}`": _about(each) for each in PASSES})


def _about(function: Callable[..., object]) -> str:
    return " ".join((function.__doc__ or "").split("\n\n")[0].split())


def option_table() -> str:
    """The options of a conversion, from their descriptions in the source."""
    tree = ast.parse(Path(options.__file__).read_text(encoding="utf-8"))
    rows = {}
    for kind in tree.body:
        if isinstance(kind, ast.ClassDef):
            for field, text in zip(kind.body, kind.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    about = " ".join(ast.literal_eval(text.value).split())
                    rows[f"`{ast.unparse(field.target)}`"] = about
    return table("option", "", rows)


def plugin() -> str:
    """The example of a user's own layer type."""
    path = ROOT / "examples" / "plugin_layer.py"
    return fenced("python", path.read_text(encoding="utf-8"))


def layer_class() -> str:
    """The class of a layer type, as an example of one."""
    register_all()
    return fenced("python", inspect.getsource(LAYERS["Truncation"]))


def layer_case() -> str:
    """The case of the same type that is written by hand."""
    path = ROOT / "fixtures" / "layers" / "truncation.toml"
    return fenced("toml", path.read_text(encoding="utf-8"))


def printed(*argv: str) -> str:
    """What a command prints, on a terminal of 80 columns."""
    environment = {"COLUMNS": "80", "NO_COLOR": "1"}
    stream = io.StringIO()
    with (
        mock.patch.dict(os.environ, environment),
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
    ):
        main(argv)
    return stream.getvalue()


def commands() -> list[str]:
    """The commands of the command line, in the order of `--help`."""
    return [
        name
        for name in re.findall(r"^ +([a-z]+) {2,}\S", printed("--help"), re.MULTILINE)
        if printed(name, "--help").startswith(f"usage: caffe2flax {name} ")
    ]


def usage(*command: str) -> str:
    return fenced("text", printed(*command, "--help"))


def errors() -> str:
    """What `convert` prints of a net with three faults."""
    with _folder() as folder:
        Path(folder, "deploy.prototxt").write_text(FAULTY, encoding="utf-8")
        return fenced("text", printed("convert", "deploy.prototxt"))


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """A temporary folder, the current one inside."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        yield folder


def exactness() -> dict[str, tuple[int, float]]:
    """Network -> (blobs, largest difference), as docs/exactness.md records them."""
    text = part(EXACTNESS.read_text(encoding="utf-8"), "networks")
    rows = [[cell.strip() for cell in row.split("|")] for row in text.splitlines()[2:]]
    return {name: (int(blobs), float(far)) for _, name, blobs, far, _ in rows}


def exactness_summary() -> str:
    """The same, a column for each network."""
    found = exactness()
    rows = [
        ["", *found],
        ["---"] * (len(found) + 1),
        ["blobs", *(str(blobs) for blobs, _ in found.values())],
        ["largest difference", *(f"{far:.1e}" for _, far in found.values())],
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


PARTS: Mapping[str, Callable[[], str]] = {
    "digits": digits,
    "layers": lambda: layers(forks=False),
    "fork-layers": lambda: layers(forks=True),
    "forks": fork_table,
    "dialects": dialects,
    "ignored": ignored,
    "refused": refused,
    "folders": folders,
    "passes": passes,
    "options": option_table,
    "plugin": plugin,
    "layer-class": layer_class,
    "layer-case": layer_case,
    "errors": errors,
    "exactness": exactness_summary,
    "help": usage,
}
BY_HAND = {"networks"}
"""Parts that a test reads and nothing generates."""


def content(name: str) -> str:
    """A generated part; `help-NAME` is that of a command."""
    if name.startswith("help-"):
        return usage(name.removeprefix("help-"))
    return PARTS[name]()


def written(text: str) -> str:
    """A document with its generated parts as they are now."""
    for name in parts(text):
        if name not in BY_HAND:
            text = with_part(text, name, content(name))
    return text


def example(name: str) -> str:
    """A converted file of examples/."""
    net, class_name = EXAMPLES[name]
    return caffe2flax.convert(ROOT / net, name=class_name).source


def training_example() -> dict[str, str]:
    """The files of examples/training/, by name: those of `caffe2flax train` there."""
    with contextlib.chdir(ROOT):
        made = prepare(TRAINED, directory="examples/training")
    return {f"{made.stem}.py": made.conversion.source, **made.scripts}


if __name__ == "__main__":
    for document in DOCUMENTS:
        before = document.read_text(encoding="utf-8")
        document.write_text(written(before), encoding="utf-8")
    for name in EXAMPLES:
        Path(ROOT, "examples", name).write_text(example(name), encoding="utf-8")
    for name, text in training_example().items():
        Path(ROOT, "examples", "training", name).write_text(text, encoding="utf-8")
