"""Pictures of nets: their contents, how they are split, and the command."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffe2flax.cli.main import main
from caffe2flax.conversion import read_graph
from caffe2flax.drawing import dot
from caffe2flax.drawing.columns import columns_of
from caffe2flax.drawing.picture import (
    DRAWN,
    KINDS,
    OWN_KIND,
    Arrow,
    Box,
    Picture,
    picture,
)
from caffe2flax.ir.registry import LAYERS
from caffe2flax.layers import register_all
from tests.smallnets import net, single

ROOT = Path(__file__).parents[2]
NETWORKS = ROOT / "fixtures" / "networks"
ALEXNET = NETWORKS / "alexnet.prototxt"
with_dot = pytest.mark.skipif(
    shutil.which("dot") is None, reason="Graphviz is not installed"
)

HOSTILE = [
    'a"]; evil [label="x',
    "<b>bold</b>",
    "<>",
    "&lt;&amp;",
    r"\N\G\l\n",
    "]]> <!-- x",
    "\x1b[31m\x00\ud800\ufffe",
    "two\nlines",
    "",
    "名前 é",
    "%n0 {rank=same}",
    "x" * 500,
]


def drawn(source: str | Path, **options: str) -> Picture:
    return picture(read_graph(source, passes=DRAWN, **options))


def rows(found: Picture) -> list[str]:
    """Each box as `name: type caption + type + type`."""
    told = []
    for box in found.boxes:
        parts = (f"{part.type} {part.caption}".strip() for part in box.parts)
        told.append(f"{box.name}: {' + '.join(parts)}" if box.parts else box.name)
    return told


def arrows(found: Picture) -> list[str]:
    names = [box.name for box in found.boxes]
    return [
        f"{names[a.tail]} -> {names[a.head]}: {a.blob} {a.shape}" for a in found.arrows
    ]


def test_alexnet() -> None:
    found = drawn(ALEXNET)
    assert rows(found) == [
        "data",
        "conv1: Convolution 96, 11x11, stride 4 + ReLU",
        "norm1: LRN 5 channels",
        "pool1: Pooling MAX 3x3, stride 2",
        "conv2: Convolution 256, 5x5, pad 2, group 2 + ReLU",
        "norm2: LRN 5 channels",
        "pool2: Pooling MAX 3x3, stride 2",
        "conv3: Convolution 384, 3x3, pad 1 + ReLU",
        "conv4: Convolution 384, 3x3, pad 1, group 2 + ReLU",
        "conv5: Convolution 256, 3x3, pad 1, group 2 + ReLU",
        "pool5: Pooling MAX 3x3, stride 2",
        "fc6: InnerProduct 4096 + ReLU + Dropout",
        "fc7: InnerProduct 4096 + ReLU + Dropout",
        "fc8: InnerProduct 1000",
        "prob: Softmax",
        "prob",
    ]
    assert arrows(found)[:2] == [
        "data -> conv1:  3x227x227",
        "conv1 -> norm1:  96x55x55",
    ]
    assert arrows(found)[-1] == "prob -> prob:  1000"


@pytest.mark.parametrize(
    ("name", "blocks", "inner"),
    [
        ("googlenet", 9, {"1x1", "3x3_reduce", "3x3", "5x5", "pool_proj", "output"}),
        ("resnet50", 16, {"branch2a", "branch2b", "branch2c"}),
        ("vgg16", 0, set()),
    ],
)
def test_repeated_blocks(name: str, blocks: int, inner: set[str]) -> None:
    found = drawn(NETWORKS / f"{name}.prototxt")
    members: dict[str, set[str]] = {}
    for box in found.boxes:
        if box.block:
            members.setdefault(box.block, set()).add(box.name)
    assert len(members) == blocks
    assert all(inner <= names for names in members.values())


WINDOWED = "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }"


@pytest.mark.parametrize(
    ("layers", "boxes", "paths"),
    [
        (
            # in place on an input: nothing to fold into
            [single("ReLU", top="x")],
            ["x", "l: ReLU", "x"],
            ["x -> l:  2x5x7", "l -> x: x 2x5x7"],
        ),
        (
            [
                single("Convolution", WINDOWED, top="y"),
                'name: "a" type: "TanH" bottom: "y" top: "y"',
                'name: "b" type: "Dropout" bottom: "y" top: "z"',
            ],
            ["x", "l: Convolution 4, 3x3, pad 1 + TanH", "b: Dropout", "z"],
            ["x -> l:  2x5x7", "l -> b: y 4x5x7", "b -> z: z 4x5x7"],
        ),
        (
            [
                single(
                    "Convolution",
                    "convolution_param { num_output: 4 kernel_h: 1 kernel_w: 7 "
                    "stride_h: 2 stride_w: 1 dilation: 1 dilation: 1 pad_w: 3 }",
                )
            ],
            ["x", "l: Convolution 4, 1x7, stride 2x1, pad 0x3", "y"],
            None,
        ),
        (
            [single("Pooling", "pooling_param { pool: AVE global_pooling: true }")],
            ["x", "l: Pooling AVE of all", "y"],
            ["x -> l:  2x5x7", "l -> y: y 2x1x1"],
        ),
        (
            [
                'name: "s" type: "Slice" bottom: "x" top: "a" top: "b"',
                'name: "e" type: "Eltwise" bottom: "a" bottom: "b" top: "e"',
            ],
            ["x", "s: Slice", "e: Eltwise SUM", "e"],
            ["x -> s:  2x5x7", "s -> e: a 1x5x7", "s -> e: b 1x5x7", "e -> e:  1x5x7"],
        ),
    ],
    ids=["input", "chain", "window", "global", "slice"],
)
def test_boxes(layers: list[str], boxes: list[str], paths: list[str] | None) -> None:
    found = drawn(net(*layers, x=(3, 2, 5, 7)))
    assert rows(found) == boxes
    assert paths is None or arrows(found) == paths


def test_every_family_has_a_kind_and_every_kind_a_colour() -> None:
    register_all()
    families = {
        cls.__module__.removeprefix("caffe2flax.layers.") for cls in LAYERS.values()
    }
    assert KINDS.keys() <= families
    assert OWN_KIND.keys() <= LAYERS.keys()
    kinds = {*KINDS.values(), *OWN_KIND.values(), "shape", "other", "output"}
    assert kinds == dot.COLOURS.keys()


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    """Random graphs, most of them near to a chain."""
    count = draw(st.integers(1, 30))
    paths = []
    for head in range(1, count):
        back = draw(st.lists(st.integers(1, 4), max_size=3))
        tails = {max(0, head - step) for step in back}
        paths += [Arrow(tail, head, "", "1") for tail in tails]
    blocks = draw(
        st.lists(st.sampled_from(["", "", "a", "b"]), min_size=count, max_size=count)
    )
    boxes = tuple(Box(f"{i}", "other", block=b) for i, b in enumerate(blocks))
    return Picture("random", boxes, tuple(paths))


@given(pictures())
def test_columns_are_cut_where_one_blob_passes(found: Picture) -> None:
    columns = columns_of(found)
    assert [i for column in columns for i in column] == list(range(len(found.boxes)))
    place = {i: c for c, column in enumerate(columns) for i in column}
    for arrow in found.arrows:
        first, last = place[arrow.tail], place[arrow.head]
        assert last in (first, first + 1)
        assert first == last or arrow.tail == columns[first][-1]
    for before, after in pairwise(columns):
        last, first = found.boxes[before[-1]], found.boxes[after[0]]
        assert not last.block or last.block != first.block


def test_a_net_of_nothing() -> None:
    assert "Nothing" in dot.to_dot(Picture("Nothing", (), ()))


def hostile_net() -> str:
    layers = []
    for i, name in enumerate(HOSTILE):
        text = json.dumps(name.encode("utf-8", "replace").decode())
        source = f"bottom: {json.dumps(f'{i - 1}')}" if i else 'bottom: "x"'
        layers.append(f'name: {text} type: "TanH" {source} top: "{i}"')
    return net(*layers, x=(1, 2))


@with_dot
def test_names_show_and_do_nothing() -> None:
    svg = dot.render(drawn(hostile_net()), "svg")
    tree = ElementTree.fromstring(svg)
    texts = [node.text or "" for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    for name in HOSTILE:
        if name and name.isascii() and name.isprintable():
            shown = name if len(name) < 50 else name[:47] + "…"
            assert shown in [text.replace("\xa0", " ") for text in texts]
    assert "two\\nlines" in texts
    assert "名前 é" in [text.replace("\xa0", " ") for text in texts]
    titles = [n.text or "" for n in tree.iter("{http://www.w3.org/2000/svg}title")]
    boxes = {title for title in titles if title[1:].isdigit()}
    assert boxes == {f"n{i}" for i in range(len(HOSTILE) + 2)}


@with_dot
@pytest.mark.parametrize(
    ("format_", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")]
)
def test_the_command_draws(
    format_: str, magic: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"net.{format_}"
    assert main(["draw", str(NETWORKS / "googlenet.prototxt"), "-o", str(path)]) == 0
    told = f"{path}\nGoogleNet: 142 layers, 9 repeated blocks\n"
    assert capsys.readouterr() == (told, "")
    assert path.read_bytes().startswith(magic)


def test_without_graphviz(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["draw", str(ALEXNET), "-o", str(tmp_path / "net.svg")]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert "'dot' of Graphviz is not installed" in err
    assert "apt-get install graphviz" in err
    assert not list(tmp_path.iterdir())
    assert main(["draw", str(ALEXNET), "-o", str(tmp_path / "net.dot")]) == 0
    assert (tmp_path / "net.dot").read_text().startswith("digraph net {\n")


def test_graphviz_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho out of ink >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["draw", str(ALEXNET), "-o", str(tmp_path / "net.svg")]) == 1
    err = capsys.readouterr().err
    assert err == "error: Graphviz cannot draw the net: out of ink\n"
    assert list(tmp_path.iterdir()) == [program]


def test_a_picture_is_replaced_only_with_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.dot"
    path.write_text("mine")
    assert main(["draw", str(ALEXNET), "-o", str(path)]) == 1
    assert "--force" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert main(["draw", str(ALEXNET), "-o", str(path), "--force"]) == 0
    assert path.read_text() != "mine"


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.dot"
    assert main(["draw", str(ALEXNET), "-o", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == str(path)
    assert told["name"] == "AlexNet"
    assert told["boxes"][1] == {
        "number": 1,
        "name": "conv1",
        "role": "box",
        "kind": "convolution",
        "block": None,
        "layers": [
            {
                "name": "conv1",
                "type": "Convolution",
                "caption": "96, 11x11, stride 4",
                "kind": "convolution",
            },
            {"name": "relu1", "type": "ReLU", "caption": "", "kind": "activation"},
        ],
    }
    first = {"tail": 0, "head": 1, "blob": "", "shape": "3x227x227"}
    assert told["arrows"][0] == first


@pytest.mark.parametrize("name", ["net", "net.jpeg", "net.svg.gz", ".svg"])
def test_a_format_that_there_is_not(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["draw", str(ALEXNET), "-o", name]) == 2
    assert "ends in none of .svg, .png, .pdf, .dot" in capsys.readouterr().err


def test_what_is_left_out_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "net.prototxt"
    source.write_text(
        'layer { name: "d" type: "Data" top: "x" top: "label" }\n'
        + net(
            single("InnerProduct", "inner_product_param { num_output: 3 }"),
            'name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "label" top: "z"',
        )
    )
    argv = ["draw", str(source), "-o", str(tmp_path / "net.dot")]
    assert main([*argv, "--input-shape", "x=1,4,1,1"]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("note: left out SoftmaxWithLoss 'loss': its labels")
