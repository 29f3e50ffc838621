"""inspect: facts about a net and a weights file, and the lines of layers."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from textwrap import dedent, indent

import numpy as np
import pytest

import caffe2flax
from caffe2flax.cli.main import main
from caffe2flax.codegen.sourcemap import SourceMap
from caffe2flax.inspection.net import Inspection
from caffe2flax.inspection.tables import Column, short, size, table
from caffe2flax.inspection.text import show_inspection, show_weights
from caffe2flax.inspection.weights import WeightsInspection
from caffe2flax.inspection.where import LayerLocation, end_of_message
from tests import wireformat
from tests.smallnets import net, save, single
from tests.test_networks import FOLDER

NETWORKS = sorted(FOLDER.glob("*.prototxt"))
GOOGLENET = FOLDER / "googlenet.prototxt"


def inspected(text: str | Path, **options: object) -> Inspection:
    found = caffe2flax.inspect(text, **options)
    assert isinstance(found, Inspection)
    return found


@pytest.mark.parametrize(
    ("name", "parameters", "billions"),
    [
        ("googlenet", 6_998_552, 1.58),
        ("resnet50", 25_610_269, 3.86),
        ("alexnet", 60_965_224, 0.724),
        ("vgg16", 138_357_544, 15.47),
        ("lenet", 431_080, 0.002293 * 4),
    ],
)
def test_costs_of_the_literature(name: str, parameters: int, billions: float) -> None:
    found = inspected(FOLDER / f"{name}.prototxt")
    assert found.parameters == parameters
    assert found.multiply_adds == pytest.approx(billions * 1e9, rel=0.02)


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_reads_well(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 80 columns, every layer named, and as JSON."""
    monkeypatch.setenv("COLUMNS", "80")
    found = inspected(path)
    shown = show_inspection(found)
    assert all(len(line) <= 80 for line in shown.splitlines() if "note:" not in line)
    record = json.loads(json.dumps(found.to_dict()))
    assert record["totals"]["parameters"] == found.parameters
    assert len(record["layers"]) == len(found.layers)
    assert {layer["order"] for layer in record["layers"]} <= {"NHWC", "NC"}


LAYERS = (
    ("", single("Convolution", "convolution_param { num_output: 6 kernel_size: 3 }"),
     {"x": (2, 4, 9, 9)}, 6 * 4 * 9 + 6, 2 * 6 * 49 * 4 * 9),
    ("grouped", single("Convolution", "convolution_param { num_output: 6 group: 2 "
     "kernel_size: 3 bias_term: false }"), {"x": (1, 4, 9, 9)}, 6 * 2 * 9,
     6 * 49 * 2 * 9),
    ("", single("Deconvolution", "convolution_param { num_output: 6 kernel_size: 4 "
     "stride: 2 }"), {"x": (1, 4, 5, 5)}, 6 * 4 * 16 + 6, 4 * 25 * 6 * 16),
    ("", single("InnerProduct", "inner_product_param { num_output: 7 }"),
     {"x": (3, 4, 5)}, 7 * 20 + 7, 3 * 20 * 7),
    ("axis 2", single("InnerProduct", "inner_product_param { num_output: 7 axis: 2 }"),
     {"x": (3, 4, 5)}, 7 * 5 + 7, 3 * 4 * 5 * 7),
    ("", single("RNN", "recurrent_param { num_output: 3 }", "cont"),
     {"x": (5, 2, 4), "cont": (5, 2)}, 3 * 4 + 3 + 3 * 3 + 3 * 3 + 3,
     5 * 2 * (3 * 4 + 3 * 3 + 3 * 3)),
    ("", single("LSTM", "recurrent_param { num_output: 3 }", "cont"),
     {"x": (5, 2, 4), "cont": (5, 2)}, 12 * 4 + 12 + 12 * 3,
     5 * 2 * (12 * 4 + 12 * 3)),
    ("static", single("LSTM", "recurrent_param { num_output: 3 }", "cont", "still"),
     {"x": (5, 2, 4), "cont": (5, 2), "still": (2, 6)},
     12 * 4 + 12 + 12 * 6 + 12 * 3, 5 * 2 * (12 * 4 + 12 * 3) + 2 * 12 * 6),
    ("", single("Embed", "embed_param { num_output: 3 input_dim: 9 }"), {"x": (5,)},
     9 * 3 + 3, 0),
    ("", single("Pooling", "pooling_param { kernel_size: 3 }"), {"x": (1, 4, 9, 9)},
     0, 0),
)  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "inputs", "parameters", "products"),
    [case[1:] for case in LAYERS],
    ids=[f"{case[1].split(chr(34))[3]}{case[0]}" for case in LAYERS],
)
def test_costs_of_a_layer(
    layer: str, inputs: dict[str, tuple[int, ...]], parameters: int, products: int
) -> None:
    found = inspected(net(layer, **inputs))
    assert found.layers[0].parameters == parameters
    assert found.layers[0].multiply_adds == products


SHARING = """
name: "Twins"
layer { name: "data" type: "Data" top: "data" top: "label"
  data_param { batch_size: 2 source: "lmdb" } transform_param { crop_size: 8
    mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.5 } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a"
  param { name: "w" } param { name: "b" }
  convolution_param { num_output: 3 kernel_size: 3 pad: 1 } }
layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }
layer { name: "b" type: "Convolution" bottom: "a" top: "b"
  param { name: "w" } param { name: "b" }
  convolution_param { num_output: 3 kernel_size: 3 pad: 1 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "b" top: "ip"
  inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "l" }
"""


def test_all_that_there_is_to_say() -> None:
    found = inspected(SHARING)
    assert [layer.name for layer in found.layers] == ["a", "relu", "b", "ip"]
    assert found.parameters == 84 + 98, "shared ones count once"
    assert [layer.memory for layer in found.layers] == [1536, 0, 384, 16]
    assert found.memory == 2 * 3 * 64 * 4 + 1536 + 384 + 16
    (data,) = found.inputs
    assert (data.shape, data.emitted, data.order) == (
        (2, 3, 8, 8),
        (2, 8, 8, 3),
        "NHWC",
    )
    assert "104, 117, 123" in data.preparation
    shared = [(s.layers, s.index, s.shape) for s in found.shared]
    assert shared == [(("a", "b"), 0, (3, 3, 3, 3)), (("a", "b"), 1, (3,))]
    (dropped,) = found.dropped
    assert (dropped.name, dropped.type, dropped.line) == ("loss", "SoftmaxWithLoss", 15)
    pads = {p.name: (p.caffe, p.same, p.emitted) for p in found.padding}
    assert pads["a"] == (((1, 1), (1, 1)), ((1, 1), (1, 1)), "SAME")
    assert pads["b"][1] == ((0, 1), (0, 1))
    assert pads["b"][2] == pads["b"][0]
    shown = show_inspection(found)
    for text in ("shared: blob 0 of a", "left out: loss", "mean 104", "shifts"):
        assert text in shown


def test_folded_layers_are_listed() -> None:
    text = net(
        single("BatchNorm", top="m"),
        'name: "s" type: "Scale" bottom: "m" top: "m" scale_param { bias_term: true }',
        x=(1, 4, 5, 5),
    )
    found = inspected(text)
    assert [(x.name, x.parameters) for x in found.layers] == [("l", 9), ("s", 8)]


def test_unsupported_layers_are_listed_with_their_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.prototxt"
    layers = ['name: "a" type: "Nonsense" bottom: "x" top: "a"',
              'name: "b" type: "Rubbish" bottom: "a" top: "b"']  # fmt: skip
    path.write_text(net(*layers, x=(1, 2)))
    assert main(["inspect", str(path)]) == 1
    errors = capsys.readouterr().err
    assert f"{path}:2:" in errors
    assert f"{path}:3:" in errors
    assert main(["inspect", str(path), "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [problem["line"] for problem in problems] == [2, 3]


def test_a_weights_file_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(
        tmp_path / "w.caffemodel",
        {"conv": (np.zeros((2, 3, 4, 4)), np.zeros(2)), "ip": (np.zeros((5, 9)),)},
    )
    found = caffe2flax.inspect(file)
    assert isinstance(found, WeightsInspection)
    assert (found.version, found.name, found.layers) == ("V2", "net", 2)
    assert found.parameters == 96 + 2 + 45
    assert [(b.layer, b.index, b.shape) for b in found.blobs] == [
        ("conv", 0, (2, 3, 4, 4)), ("conv", 1, (2,)), ("ip", 0, (5, 9)),
    ]  # fmt: skip
    assert not found.net
    assert "does not carry its net" in show_weights(found)
    assert main(["inspect", str(file), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["blobs"][0]["dtype"] == "float32"


def test_a_weights_file_with_its_net(tmp_path: Path) -> None:
    layer = wireformat.layer(name="d", type="Input") + b""
    top = wireformat.chunk(4, b"data")
    file = tmp_path / "w.caffemodel"
    body = wireformat.chunk(1, b"d") + wireformat.chunk(2, b"Input") + top
    file.write_bytes(layer + wireformat.chunk(100, body))
    found = caffe2flax.inspect(file)
    assert isinstance(found, WeightsInspection)
    assert found.net == 2


def lines(found: tuple[LayerLocation, ...], role: str) -> list[str]:
    return [p.text.strip() for w in found for p in w.passages if p.role == role]


def test_from_a_layer_to_its_lines() -> None:
    found = caffe2flax.where(GOOGLENET, "inception_4a/3x3")
    (entry,) = found
    assert entry.type == "Convolution"
    (prototxt,) = lines(found, "prototxt")
    assert prototxt.startswith("layer {")
    assert prototxt.endswith("}")
    assert 'name: "inception_4a/3x3"' in prototxt
    assert prototxt.count("layer") == 1
    assert lines(found, "makes")[0].startswith("self.conv_3x3 = conv(")
    assert "self.conv_3x3(" in lines(found, "calls")[0]
    assert lines(found, "makes block")[0].startswith("self.inception_4a = inception(")
    assert "self.inception_4a(" in lines(found, "calls block")[0]


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("flat", [False, True])
def test_every_layer_has_its_lines(path: Path, flat: bool) -> None:
    """Lines that make a layer assign its attribute; lines that call it are in a
    call."""
    conversion = caffe2flax.convert(path, flat=flat)
    source = SourceMap.of(conversion.source, conversion.name)
    rows = conversion.source.splitlines()
    for node in conversion.graph.nodes:
        position = conversion.positions[node.number]
        where = source.where(position)
        assert where.call is not None, node.name
        called = dedent("\n".join(rows[where.call.first - 1 : where.call.last]))
        wanted = ast.unparse(ast.parse(position.call.expression))
        (statement,) = ast.parse(f"def f():\n{indent(called, ' ')}").body
        assert wanted in ast.unparse(statement), node.name
        if position.attribute:
            assert where.build is not None
            made = rows[where.build.first - 1]
            assert f"self.{position.attribute} = " in made


def test_from_lines_to_layers() -> None:
    """Of the module and of the prototxt, both ways round."""
    conversion = caffe2flax.convert(GOOGLENET)
    rows = conversion.source.splitlines()
    inside = next(i for i, x in enumerate(rows, 1) if "self.conv_3x3 = " in x)
    assert len(caffe2flax.where(GOOGLENET, str(inside))) == 9
    block = next(i for i, x in enumerate(rows, 1) if "self.inception_4a = " in x)
    names = {entry.name for entry in caffe2flax.where(GOOGLENET, str(block))}
    assert len(names) == 14
    assert all(name.startswith("inception_4a/") for name in names)
    (entry,) = caffe2flax.where(GOOGLENET, "inception_4a/3x3")
    first, last = entry.passages[0].first, entry.passages[0].last
    for line in (first, (first + last) // 2, last):
        for query in (f"googlenet.prototxt:{line}", f":{line}"):
            assert caffe2flax.where(GOOGLENET, query) == (entry,)


@pytest.mark.parametrize(
    ("query", "names", "note"),
    [
        ("a", ["a"], ""),
        ("b", ["b"], ""),
        ("loss", ["loss"], "left out: its labels come from a data layer"),
        ("data", ["data"], "an input of the module"),
        (":9", ["relu"], ""),
    ],
)
def test_what_a_name_means(query: str, names: list[str], note: str) -> None:
    found = caffe2flax.where(SHARING, query)
    assert [entry.name for entry in found] == names
    assert found[0].note == note


def test_a_blob_means_all_that_make_it() -> None:
    text = SHARING.replace('name: "a"', 'name: "conv"')
    assert [e.name for e in caffe2flax.where(text, "a")] == ["conv", "relu"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("reluu", "did you mean relu"),
        ("99999", "no line 99999"),
        ("1", "line 1 of the module is about no layer"),
        (":1", "no layer is in line 1"),
        (":999", "no layer is in line 999"),
        ("other.prototxt:3", "not in 'other.prototxt'"),
        ("1" * 5000, "no layer and no blob"),
    ],
)
def test_what_is_nowhere(query: str, message: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.where(SHARING, query)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("layer { }", 1),
        ("layer {\n}\nlayer { }", 2),
        ("layer {\n a { }\n # }\n}\n", 4),
        ('layer {\n name: \'}\'\n top: "}\\"}"\n}\n}', 4),
        ("layer <\n a { }\n>\n", 3),
    ],
)
def test_where_a_message_ends(text: str, end: int) -> None:
    column = text.index("{") + 1 if "{" in text.split("\n")[0] else text.index("<") + 1
    assert end_of_message(tuple(text.split("\n")), 1, column) == end


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "twins.prototxt"
    path.write_text(SHARING)
    assert main(["inspect", str(path)]) == 0
    assert "Twins, TEST: 4 layers, 182 parameters" in capsys.readouterr().out
    assert main(["inspect", str(path), "--where", "a"]) == 0
    shown = capsys.readouterr().out
    assert f"{path}:6-8" in shown
    assert "twins.py:" in shown
    assert main(["inspect", str(path), "--where", ":9", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["name"] == "relu"
    assert main(["inspect", str(path), "--where", "nothing", "--json"]) == 1


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, ""), (999, "999"), (1000, "1k"), (118_013_952, "118M"), (999_900, "1M"),
     (1_582_671_872, "1.58G"), (10**18, "1e+06T")],
)  # fmt: skip
def test_short(count: int, text: str) -> None:
    assert short(count) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (4100, "4.1 kB"), (10**9, "1 GB")]
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text


def test_a_table_keeps_its_width() -> None:
    """Names break, numbers do not."""
    columns = (Column("name"), Column("number", "right"))
    text = table(columns, [("x" * 100, "123456789")], 40)
    assert all(len(line) <= 40 for line in text.splitlines())
    assert text.count("x") == 100
    assert "123456789" in text


def test_where_in_a_file_that_is_spelled_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, link = tmp_path / "a.prototxt", tmp_path / "link.prototxt"
    net.write_text(
        'input: "x" input_shape { dim: 1 }\nlayer { name: "r" type: "ReLU"\n'
        'bottom: "x" top: "r" }\n'
    )
    link.symlink_to(net)
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path)
    spellings = ("a.prototxt", "./a.prototxt", "b/../a.prototxt", str(net), str(link))
    for given in (*spellings, "link.prototxt"):
        for said in spellings:
            (found,) = caffe2flax.where(given, f"{said}:2")
            assert found.name == "r"
    with pytest.raises(caffe2flax.ConversionError, match=r"not in 'c\.prototxt'"):
        caffe2flax.where("a.prototxt", "c.prototxt:2")


def test_the_padding_of_a_deep_net_is_short() -> None:
    """Six windows of a kind are named, JSON has all; no line is wider than 80."""
    net = caffe2flax.inspect(FOLDER / "resnet50.prototxt")
    text = show_inspection(net)
    table = text[text.index("Caffe  SAME") :].partition("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert len(table) < 25
    assert "and 30 more" in text
    assert len(net.padding) == 54
