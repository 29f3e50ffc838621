"""verify: right modules pass; in changed ones, the layer at fault is named."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import caffe2flax
from caffe2flax import cpu
from caffe2flax.cli.main import main
from caffe2flax.conversion import convert as _convert
from caffe2flax.conversion import read_graph
from caffe2flax.drawing.areas import Located, located
from caffe2flax.drawing.dot import render
from caffe2flax.drawing.picture import DRAWN, picture
from caffe2flax.files.npz import write_npz
from caffe2flax.verification.comparison import BLOCK, difference
from caffe2flax.verification.inputs import noise
from caffe2flax.verification.observe import Observed, observe
from caffe2flax.verification.omissions import left_out
from caffe2flax.verification.oracles import Task, reference
from caffe2flax.verification.page import page
from caffe2flax.verification.reference import evaluate
from caffe2flax.verification.report import Report, verify_conversion, with_compiled
from caffe2flax.verification.text import show_report
from tests.golden import FIXTURES
from tests.smallnets import save
from tests.test_networks import FOLDER, write_seeded

LENET = FOLDER / "lenet.prototxt"

SMALL = """
name: "Small"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: [2, 3, 9, 9] } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 stride: 2
    weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn"
  batch_norm_param { use_global_stats: true } }
layer { name: "scale" type: "Scale" bottom: "bn" top: "bn"
  scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "bn" top: "bn" }
layer { name: "norm" type: "LRN" bottom: "bn" top: "norm" lrn_param { alpha: 0.5 } }
layer { name: "ip" type: "InnerProduct" bottom: "norm" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


def tampered(net: str | Path, *changes: tuple[str, str], weights: Any = None) -> Report:
    """The report on a module whose source was changed."""
    conversion = _convert(net, weights, filled=True)
    source = conversion.source
    for before, after in changes:
        assert before in source, source
        source = source.replace(before, after)
    wrong = replace(conversion, source=source)
    return verify_conversion(wrong, noise(conversion.graph, {}), observe)


def test_agrees() -> None:
    report = caffe2flax.verify(SMALL)
    assert report.ok
    assert report.culprit is None
    names = [row.name for row in report.rows]
    assert names == ["conv", "bn", "scale", "relu", "norm", "ip", "prob"]
    compared = [row for row in report.rows if row.largest is not None]
    assert [row.name for row in report.rows if row not in compared] == ["bn"]
    assert all(row.largest < 1e-5 and row.mean <= row.largest for row in compared)
    assert report.rows[0].shape == (2, 4, 5, 5)
    assert report.rows[0].span.line == 5
    assert report.rows[2].note == "one module with bn"


@pytest.mark.parametrize(
    ("before", "after", "culprit"),
    [
        ("padding=1", "padding=((0, 2), (1, 1))", "conv"),
        ("alpha=0.5", "alpha=2.5", "norm"),  # not divided by n
        ("momentum=0.999", "momentum=0.999, epsilon=1e-2", "scale"),
        ("nnx.relu(", "nnx.leaky_relu(", "relu"),
        ("norm = lrn(bn,", "norm = lrn(bn * 1.001,", "norm"),
        ("self.logits(data))", "self.logits(data), axis=0)", "prob"),
    ],
)
def test_a_planted_fault_is_found(before: str, after: str, culprit: str) -> None:
    report = tampered(SMALL, (before, after))
    assert not report.ok
    assert report.culprit is not None
    assert report.culprit.name == culprit
    assert report.culprit.alone > 1e-5
    first = next(row for row in report.rows if row.broken)
    assert first.name == culprit


def test_the_first_of_two_faults_is_named() -> None:
    report = tampered(SMALL, ("nnx.relu(", "jnp.abs("), ("alpha=0.5", "alpha=2.5"))
    assert report.culprit is not None
    assert report.culprit.name == "relu"
    alone = {row.name: row.alone for row in report.rows if row.broken}
    assert alone["norm"] > 1e-3
    assert alone["prob"] < 1e-5, "it only hands on what came in"


def test_a_fault_in_an_operation_is_found() -> None:
    """In a function that the module contains."""
    report = tampered(SMALL, ("alpha / size", "alpha"))
    assert report.culprit is not None
    assert report.culprit.name == "norm"
    assert report.culprit.parameters == {"alpha": "0.5"}
    assert report.culprit.span.line == 13


def test_wrong_weights_are_found() -> None:
    conversion = _convert(SMALL, None, filled=True)
    weights = dict(conversion.weights or {})
    weights["ip.kernel"] = weights["ip.kernel"][::-1]
    wrong = replace(conversion, weights=weights)
    report = verify_conversion(wrong, noise(conversion.graph, {}), observe)
    assert report.culprit is not None
    assert report.culprit.name == "ip"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of GoogLeNet's weights."""
    folder = tmp_path_factory.mktemp("verify")
    write_seeded(FOLDER / "googlenet.prototxt", folder / "googlenet.caffemodel")
    write_seeded(LENET, folder / "lenet.caffemodel")
    yield folder
    shutil.rmtree(folder)


def test_googlenet(weights: Path) -> None:
    """Blocks, in-place layers and all: every layer is seen in the module as written;
    a pad off by one in its first convolution is found."""
    net, file = FOLDER / "googlenet.prototxt", weights / "googlenet.caffemodel"
    report = caffe2flax.verify(net, file)
    assert report.ok
    assert len(report.rows) == 142
    assert all(row.largest is not None for row in report.rows)
    text = page(report)
    assert len(text) < 3_000_000
    assert not _references(text)
    wrong = tampered(
        net, ("strides=2, padding=3", 'strides=2, padding="SAME"'), weights=file
    )
    assert wrong.culprit is not None
    assert wrong.culprit.name == "conv1/7x7_s2"
    assert wrong.culprit.span.line == 8
    assert wrong.culprit.parameters["num_output"] == "64"


def test_runs_of_blocks_are_followed() -> None:
    """An nnx.Sequential of equal blocks: each one's layers have values of their own."""
    layers = [
        'layer { name: "data" type: "Input" top: "b0" input_param '
        "{ shape { dim: [1, 4, 5, 5] } } }"
    ]
    for i in range(1, 9):
        for j, bottom in (("a", f"b{i - 1}"), ("b", f"b{i}_a")):
            top = f"b{i}_a" if j == "a" else f"b{i}"
            layers.append(
                f'layer {{ name: "unit{i}/{j}" type: "Convolution" bottom: "{bottom}" '
                f'top: "{top}" convolution_param {{ num_output: 4 kernel_size: 3 '
                'pad: 1 weight_filler { type: "xavier" } } }'
            )
    net = "\n".join(layers)
    conversion = _convert(net, None, filled=True)
    assert "nnx.Sequential" in conversion.source
    report = caffe2flax.verify(net)
    assert report.ok
    assert len(report.rows) == 16
    assert all(row.largest is not None for row in report.rows)


STEP = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 2] } } }
layer { name: "p" type: "Power" bottom: "data" top: "p" power_param { scale: 2 } }
layer { name: "step" type: "Threshold" bottom: "p" top: "step" }
"""


def flipped(conversion: Any, inputs: Mapping[str, Any]) -> Observed:
    """Values that rounding brought to the other side of 0."""
    values = evaluate(conversion.graph, conversion.blobs, inputs)
    p, step = (next(v for v in values if v.blob == name) for name in ("p", "step"))
    near = np.abs(values[p]) < 1e-6
    values[p] = np.where(near, -values[p], values[p])
    values[step] = (values[p] > 0).astype(np.float64)
    return Observed(values)


def test_magnified_rounding_is_no_fault() -> None:
    """The layer with a large difference is right on its own inputs."""
    conversion = _convert(STEP, None, filled=True)
    x = {"data": np.array([[-1e-9, 1.0]], np.float32)}
    report = verify_conversion(conversion, x, flipped)
    assert [row.broken for row in report.rows] == [False, True]
    assert report.rows[1].alone == 0
    assert report.ok
    assert "magnifies rounding" in report.notes[0]


def test_a_small_fault_upstream_is_found() -> None:
    """It breaks a later layer, which is right on its own inputs."""
    conversion = _convert(STEP, None, filled=True)

    def shifted(conversion: Any, inputs: Mapping[str, Any]) -> Observed:
        values = evaluate(conversion.graph, conversion.blobs, inputs)
        p, step = (next(v for v in values if v.blob == name) for name in ("p", "step"))
        values[p] = values[p] + 4e-5
        values[step] = (values[p] > 0).astype(np.float64)
        return Observed(values)

    x = {"data": np.array([[-1e-9, 1.0]], np.float32)}
    report = verify_conversion(conversion, x, shifted)
    assert [row.broken for row in report.rows] == [False, True]
    assert report.culprit is not None
    assert report.culprit.name == "p"


@pytest.mark.parametrize(
    ("ours", "expected", "far"),
    [
        ([1.0, 2.0], [1.0, 2.0], (0.0, 0.0)),
        ([1.0, 2.2], [1.0, 2.0], (0.1, 0.05)),
        ([1e-7], [0.0], (0.1, 0.1)),  # a blob of zeros
        ([np.nan], [np.nan], (0.0, 0.0)),
        ([np.nan], [1.0], (np.inf, np.inf)),
        ([np.inf, 1.0], [np.inf, 1.0], (0.0, 0.0)),
        ([-np.inf], [np.inf], (np.inf, np.inf)),
        ([[1.0]], [1.0], (np.inf, np.inf)),
        ([], [], (0.0, 0.0)),
    ],
)
def test_difference(ours: Any, expected: Any, far: tuple[float, float]) -> None:
    assert difference(np.array(ours), np.array(expected)) == pytest.approx(far)


@pytest.mark.parametrize("odd", [1.0, np.nan, np.inf], ids=str)
def test_difference_in_blocks(odd: float) -> None:
    expected = np.zeros((3, BLOCK), np.float64)
    expected[2, -1] = -4
    ours = expected.astype(np.float32)
    ours[1, 7] = odd
    far = 0.25 if odd == 1 else np.inf
    assert difference(ours.T, expected.T) == (far, far / expected.size)
    expected[1, 7] = odd
    assert difference(ours, expected) == (0, 0)


class FakeBlob:
    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    def reshape(self, *shape: int) -> None:
        self.data = np.zeros(shape, np.float32)


class FakeNet:
    """What pycaffe's Net does, computed by our reference; `wrong` spoils a blob."""

    wrong = ""

    def __init__(self, net: str, phase: int) -> None:
        assert phase == 1
        self.net, self.files = Path(net).read_text(), []
        self.conversion = _convert(self.net, None, filled=True)
        graph = self.conversion.graph
        self.blobs = {
            name: FakeBlob(np.zeros(graph.shapes[v], np.float32))
            for name, v in graph.blobs.items()
        }

    def copy_from(self, path: str) -> None:
        self.files.append(path)
        self.conversion = _convert(self.net, self.files, filled=True)

    def reshape(self) -> None:
        pass

    def forward(self) -> None:
        graph = self.conversion.graph
        fed = {v.blob: self.blobs[v.blob].data for v in graph.arguments}
        made = reference(Task(graph, self.conversion.blobs, fed, self.net))
        for name, value in graph.blobs.items():
            self.blobs[name].data = made[value] * (1.01 if name == self.wrong else 1)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Weights for SMALL."""
    numbers = np.random.default_rng(0)
    graph = _convert(SMALL, None).graph
    blobs = {
        name: [numbers.uniform(0.5, 1.5, w.shape) for w in weights]
        for name, weights in graph.layer_weights.items()
        if weights
    }
    return save(tmp_path / "small.caffemodel", blobs)


def test_against_caffe(monkeypatch: pytest.MonkeyPatch, small: Path) -> None:
    monkeypatch.setitem(
        sys.modules, "caffe", SimpleNamespace(Net=FakeNet, TEST=1, TRAIN=0)
    )
    report = caffe2flax.verify(SMALL, small, against="caffe")
    assert report.ok
    overwritten = {row.name: row.note for row in report.rows if row.largest is None}
    assert overwritten.keys() == {"bn", "scale"}
    monkeypatch.setattr(FakeNet, "wrong", "norm")
    report = caffe2flax.verify(SMALL, small, against="caffe")
    assert report.culprit is not None
    assert report.culprit.name == "norm"
    assert report.culprit.alone < 1e-5, "our reference does not agree with Caffe"


class FakeOpenCV:
    """cv2 as far as verify uses it."""

    error = RuntimeError

    def __init__(self, version: str = "4.12.0") -> None:
        self.__version__ = version
        self.dnn = SimpleNamespace(readNetFromCaffe=self.read)
        self.inputs: dict[str, np.ndarray] = {}

    def read(self, net: str, weights: str) -> FakeOpenCV:
        self.conversion = _convert(Path(net), weights)
        return self

    def enableFusion(self, on: bool) -> None:
        assert not on

    def setInput(self, array: np.ndarray, name: str) -> None:
        self.inputs[name] = array

    def getLayerNames(self) -> list[str]:
        nodes = self.conversion.graph.nodes
        return ["_input", *(x.name for node in nodes for x in node.layers)]

    def forward(self, names: list[str]) -> list[np.ndarray]:
        graph = self.conversion.graph
        made = reference(Task(graph, self.conversion.blobs, self.inputs, ""))
        layers = {x.name: x for node in graph.nodes for x in node.layers}
        return [made[layers[name].outputs[0]].astype(np.float32) for name in names]


def test_against_opencv(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    monkeypatch.setitem(sys.modules, "cv2", FakeOpenCV())
    report = caffe2flax.verify(LENET, weights / "lenet.caffemodel", against="opencv")
    assert report.ok
    assert all(row.largest is not None for row in report.rows)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        ({"caffe": None}, {"against": "caffe"}, "pycaffe is not installed"),
        ({"caffe": SimpleNamespace()}, {"against": "caffe"}, "give a weights file"),
        ({"cv2": None}, {"against": "opencv"}, "opencv-python<5"),
        ({"cv2": FakeOpenCV("5.0.0")}, {"against": "opencv"}, "OpenCV 5.0.0 reads no"),
        ({"cv2": FakeOpenCV()}, {"against": "opencv"}, "one weights file, not 0"),
        ({}, {"against": "torch"}, "cannot verify against 'torch'"),
        ({}, {"tolerance": 0}, "above 0"),
        ({}, {"inputs": {"dada": np.zeros(3)}}, "did you mean data"),
        ({}, {"inputs": {"data": np.zeros((1, 3, 8, 9))}}, "has shape"),
        ({}, {"image": FIXTURES / "networks" / "lenet.prototxt"}, "no image"),
    ],
)
def test_refusals(
    monkeypatch: pytest.MonkeyPatch,
    module: dict[str, Any],
    options: dict[str, Any],
    message: str,
) -> None:
    for name, found in module.items():
        monkeypatch.setitem(sys.modules, name, found)
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.verify(SMALL, **options)


def test_the_compiled_program_is_compared_too() -> None:
    report = caffe2flax.verify(SMALL, compiled=True)
    assert report.ok
    (output,) = report.compiled
    assert (output.name, output.shape) == ("prob", (2, 5))
    assert output.mean <= output.largest < 1e-5
    assert caffe2flax.verify(SMALL).compiled == ()


def test_a_compiled_program_that_is_wrong_breaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "compile", lambda model: lambda x: 1.01 * model(x))
    report = caffe2flax.verify(SMALL, compiled=True)
    assert (report.ok, report.culprit) == (False, None)
    (output,) = report.compiled
    assert output.broken
    assert output.largest == pytest.approx(0.01, rel=1e-3)
    last = show_report(report).splitlines()[-1]
    assert last == "compiled BREAKS: the largest is 1.0e-02 in prob"
    assert "The compiled program breaks." in page(report)


def test_a_compiled_program_may_magnify_rounding_as_the_module_does() -> None:
    conversion = _convert(STEP, None, filled=True)
    x = {"data": np.array([[-1e-9, 1.0]], np.float32)}
    report = verify_conversion(conversion, x, flipped)
    (output,) = with_compiled(report, {"step": np.ones((1, 2))}).compiled
    assert (output.largest, output.broken) == (1.0, False)


@pytest.mark.parametrize(
    ("layer", "phase", "reason"),
    [
        (
            'layer { name: "few" type: "Filter" bottom: "ip" bottom: "chosen" '
            'top: "few" } input: "chosen" input_shape { dim: 2 }',
            "TEST",
            "what shape few gives depends on its input",
        ),
        ("", "TRAIN", "in TRAIN a module may change its variables"),
        (
            'layer { name: "of_batch" type: "BatchNorm" bottom: "norm" top: "again" '
            "batch_norm_param { use_global_stats: false } }",
            "TEST",
            "a call changes variables of Small",
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused(
    layer: str, phase: str, reason: str
) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=reason):
        caffe2flax.verify(SMALL + layer, compiled=True, phase=phase)


EDITS = [
    ("padding=1", "padding=((0, 2), (1, 1))", "conv"),
    ("padding=1", "padding=0", "conv"),  # of another shape; fails further down
    ("alpha / size", "alpha", "norm"),
    ("nnx.relu(", "(", "relu"),
    ("        norm = lrn(bn, size=5, alpha=0.5, beta=0.75)\n", "", "norm"),
    ("        norm = ", "        helper = bn * 2\n        norm = 1.5 * ", "norm"),
    (
        "return nnx.softmax(self.logits(data))",
        "prob = nnx.relu(self.logits(data))\n        return prob",
        "prob",
    ),
    ("lax.collapse(norm, 1)", "lax.collapse(norm, 1)[:, ::-1]", "ip"),
    ("(bn, size=5", "(bn, size=3", "norm"),
]
EDITED = [
    ("        norm = ", "        helper = bn * 2\n        norm = "),
    (
        "return nnx.softmax(self.logits(data))",
        "prob = nnx.softmax(self.logits(data))\n        return prob",
    ),
    ("nnx.softmax(", "jax.nn.softmax("),
    (
        "return nnx.softmax(self.logits(data))",
        "logits = self.logits(data)\n        return nnx.softmax(logits)",
    ),
]


@pytest.fixture
def written(small: Path, tmp_path: Path) -> Path:
    conversion = caffe2flax.convert(SMALL, small)
    return conversion.write(tmp_path)[0]


def _edit(module: Path, before: str, after: str) -> None:
    source = module.read_text()
    assert before in source, source
    source = source.replace(before, after)
    if "norm = " not in source:
        source = source.replace("(norm, 1)", "(bn, 1)")
    module.write_text(source)


@pytest.mark.parametrize(("before", "after", "culprit"), EDITS)
def test_a_module_is_checked_as_it_lies_there(
    before: str, after: str, culprit: str, written: Path, small: Path
) -> None:
    """With lines added and removed."""
    _edit(written, before, after)
    report = caffe2flax.verify(SMALL, small, module=written)
    assert report.culprit is not None
    assert report.culprit.name == culprit


@pytest.mark.parametrize(("before", "after"), EDITED)
def test_edits_without_effect(
    before: str, after: str, written: Path, small: Path
) -> None:
    _edit(written, before, after)
    if "jax." in after:
        _edit(written, "import jax.numpy", "import jax\nimport jax.numpy")
    report = caffe2flax.verify(SMALL, small, module=written)
    assert report.ok
    assert all(row.largest is not None for row in report.rows if row.name != "bn")


def test_the_weights_beside_a_module_are_its_own(written: Path, small: Path) -> None:
    from safetensors.numpy import load_file, save_file

    file = written.with_suffix(".safetensors")
    weights = load_file(file)
    save_file(weights | {"ip.bias": weights["ip.bias"][::-1].copy()}, file)
    report = caffe2flax.verify(SMALL, small, module=written)
    assert report.culprit is not None
    assert report.culprit.name == "ip"
    assert caffe2flax.verify(SMALL, small).ok
    save_file(weights | {"ip.bias": weights["ip.bias"][:-1]}, file)
    with pytest.raises(caffe2flax.ConversionError, match=r"ip.bias have shape \(4,\)"):
        caffe2flax.verify(SMALL, small, module=written)
    del weights["ip.bias"]
    save_file(weights, file)
    with pytest.raises(caffe2flax.ConversionError, match=r"no weights for ip\.bias"):
        caffe2flax.verify(SMALL, small, module=written)


def test_a_module_of_another_shape_is_told_of(
    written: Path, small: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(SMALL)
    _edit(written, "padding=1", "padding=0")
    command = ["verify", str(net), str(small), "--module", str(written)]
    assert main(command) == 1
    shown = capsys.readouterr().out
    assert "conv (Convolution): its shape is (2, 4, 4, 4), not (2, 4, 5, 5)" in shown
    assert "kernel: 3" in shown
    assert f"note: {written}:" in shown
    assert "the module fails: TypeError" in shown


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "self.logits(data))",
            "self.logits(data)",
            "no Python: '\\(' was never closed",
        ),
        ("nnx.softmax(", "nothing(", r"small.py:\d+:1: .* fails: NameError"),
        ("class Small", "class Other", "no class Small: give its --name"),
        ("import nnx", "import nothing", "fails: ImportError"),
        ("def ", "def not_", "calls no layer"),
    ],
)
def test_modules_that_do_not_run(
    before: str, after: str, message: str, written: Path, small: Path
) -> None:
    _edit(written, before, after)
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.verify(SMALL, small, module=written)


def test_without_weights_random_ones_are_used() -> None:
    """Fillers may be zeros, under which every module would agree."""
    zeros = SMALL.replace('weight_filler { type: "xavier" }', "")
    report = caffe2flax.verify(zeros)
    assert report.ok
    assert report.notes == ("no weights are given: random ones are used",)
    assert np.ptp(report.outputs["prob"]) > 0.01
    conversion = report.conversion
    assert conversion.source == caffe2flax.convert(zeros).source
    source = conversion.source.replace("padding=1", 'padding="SAME"')
    wrong = replace(conversion, source=source)
    found = verify_conversion(wrong, report.inputs, observe)
    assert found.ok, "at stride 2 and an odd size they pad alike"
    source = conversion.source.replace("padding=1", "padding=((0, 2), (1, 1))")
    found = verify_conversion(
        replace(conversion, source=source), report.inputs, observe
    )
    assert found.culprit is not None
    assert found.culprit.name == "conv"


def test_random_layers_are_refused() -> None:
    drop = 'layer { name: "drop" type: "Dropout" bottom: "prob" top: "prob" }'
    with pytest.raises(caffe2flax.ConversionError, match="random: drop"):
        caffe2flax.verify(SMALL + drop, phase="TRAIN")
    assert caffe2flax.verify(SMALL + drop).ok


def test_labels_are_classes() -> None:
    """Noise for an input consists of values that its reader accepts."""
    loss = """
    layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "l" }
    """
    report = caffe2flax.verify(SMALL + loss)
    assert report.ok
    labels = report.inputs["label"]
    assert set(labels.ravel()) <= set(range(5))


def test_a_picture(tmp_path: Path) -> None:
    """Blue first, means and scale of the net's own."""
    net = SMALL.replace(
        'type: "Input" top: "data"\n  input_param { shape { dim: [2, 3, 9, 9] } }',
        'type: "MemoryData" top: "data" top: "label"\n  memory_data_param '
        "{ batch_size: 2 channels: 3 height: 9 width: 9 }\n"
        "  transform_param { mean_value: [10, 20, 30] scale: 0.5 }",
    )
    assert net != SMALL
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    report = caffe2flax.verify(net, image=path)
    assert report.ok
    wanted = (pixels[..., ::-1].transpose(2, 0, 1) - np.c_[10, 20, 30].T[..., None]) / 2
    np.testing.assert_allclose(report.inputs["data"][1], wanted)


class Page(HTMLParser):
    """References to what is not in the page, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.scripts = 0
        self.links: set[str] = set()
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag in ("script", "iframe", "object", "embed")
        inside = ("#", "data:,", "data:image/svg+xml;base64,", "data:image/png;base64,")
        for name, value in attrs:
            if name == "href" and (value or "").startswith("#"):
                self.links.add(str(value)[1:])
            if name == "id":
                self.ids.append(str(value))
            outside = not (value or "").startswith(inside)
            if name in ("href", "src", "srcset", "action", "xlink:href") and outside:
                self.references.append(f"{tag} {name}={value}")
            assert not name.startswith("on"), (tag, name)


def _references(text: str) -> list[str]:
    assert "@import" not in text
    assert "url(" not in text
    found = Page(text)
    assert not found.scripts
    assert found.links <= {*found.ids}
    assert len(found.ids) == len({*found.ids})
    return found.references


def drawing(net: str) -> Located | None:
    """As the command line has it."""
    if shutil.which("dot") is None:
        return None
    boxes = picture(read_graph(net, passes=DRAWN))
    return located(boxes, render(boxes, "svg"))


HOSTILE = (
    "</span><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt;",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_cannot_leave_the_page(name: str) -> None:
    escaped = name.replace('"', '\\"')
    net = SMALL.replace('"norm"', f'"{escaped}"').replace('"Small"', f'"{escaped}"')
    report = caffe2flax.verify(net)
    assert report.rows[4].name == name
    text = page(report, drawing(net), net)
    assert not _references(text)
    assert name not in text
    wrong = tampered(net, ("alpha=0.5", "alpha=2.5"))
    assert wrong.culprit is not None
    assert not _references(page(wrong))


BROWSERS = [
    path
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
    if (path := shutil.which(name))
][:1]


def test_a_box_leads_to_its_lines_and_its_difference() -> None:
    """conv, and what is in place on bn, have boxes; the culprit's is marked."""
    report = tampered(SMALL, ("alpha=0.5", "alpha=2.5"))
    drawn = drawing(SMALL)
    text = page(report, drawn, SMALL)
    assert not _references(text)
    for row in report.rows:
        first = row.span.line
        last = first + (2 if row.name == "conv" else 0 if row.name in FLAT else 1)
        lines = f"{first}-{last}" if last > first else f"{first}"
        link = f'<a href="#P{first}">{lines}</a>'
        listed = text.index("<h2>Prototxt")
        assert text[:listed].count(link) == (2 if drawn else 1)
    if drawn is None:
        return
    cards = {x.partition('"')[0]: x.partition("\n</div>\n")[0]
             for x in text.split('<div class="card" id="')[1:]}  # fmt: skip
    assert len(cards) == len(drawn.areas) == 5
    (chain,) = (card for card in cards.values() if ">bn<" in card)
    assert [name in chain for name in (">bn<", ">scale<", ">relu<", ">norm<")] == [
        True, True, True, False,
    ]  # fmt: skip
    wrong = re.findall(r'<a href="#(b\d+)" class="wrong"', text)
    assert ">norm<" in cards[wrong[0]]
    for area in drawn.areas:
        assert 0 < area.x < area.x + area.width < drawn.width
        assert 0 < area.y < area.y + area.height < drawn.height


FLAT = ("relu", "norm", "prob")


def test_what_was_compared_can_be_made_again(tmp_path: Path) -> None:
    net, file = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    net.write_text(SMALL)
    write_seeded(net, file)
    report = caffe2flax.verify(net, file)
    facts = report.evidence
    assert facts is not None
    digests = {x.role: x.sha256 for x in facts.files}
    for role, path in (("net", net), ("weights", file)):
        assert digests[role] == hashlib.sha256(path.read_bytes()).hexdigest()
    source = report.conversion.source.encode()
    assert digests["module"] == hashlib.sha256(source).hexdigest()
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 9)).astype("<f4")
    assert facts.inputs[0].sha256 == hashlib.sha256(x.tobytes()).hexdigest()
    assert "default_rng(0)" in facts.recipe
    assert facts.versions["jax"] == jax.__version__
    text = page(report)
    for value in (*digests.values(), facts.recipe.partition("'")[0], facts.device):
        assert value in text
    assert report.to_dict()["evidence"]["versions"] == facts.versions  # type: ignore[index]
    said = list(left_out(report))
    assert any(
        line.startswith("layer bn (BatchNorm): one module with") for line in said
    )
    assert any("the TRAIN phase, gradients" in line for line in said)
    assert any("other sizes: data 2x3x9x9" in line for line in said)


@pytest.mark.parametrize("end", ["prob", "labels"])
def test_predictions_beside_the_photograph(end: str, tmp_path: Path) -> None:
    net = SMALL
    if end == "labels":
        net = net[: net.index('layer { name: "ip"')]
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    report = caffe2flax.verify(net, image=path)
    beside = report.beside
    assert beside is not None
    assert beside.kind == ("classes" if end == "prob" else "labels")
    assert len(beside.pictures) == (1 if end == "prob" else 3)
    assert [row["class"] for row in beside.rows] == [
        r["class"] for r in beside.expected
    ]
    text = page(report)
    assert not _references(text)
    assert f"The photograph: {beside.kind} in " in text
    assert f"{path}, BGR, resized to 9 x 9, no mean" in text


@pytest.mark.parametrize("browser", BROWSERS)
def test_a_browser_has_nothing_to_complain_of(browser: str, tmp_path: Path) -> None:
    """Offline, light, dark and narrow, with everything that a console would show in the
    log. The card of a box is seen where the address names it."""
    file = tmp_path / "report.html"
    report = tampered(SMALL, ("alpha=0.5", "alpha=2.5"))
    file.write_text(page(report, drawing(SMALL), SMALL), encoding="utf-8")
    views = {
        "light": (["--window-size=1200,900"], ""),
        "narrow": (["--window-size=500,900", "--force-dark-mode"], ""),
        "card": (["--window-size=1200,900"], "#b1"),
    }
    pixels = {}
    for view, (options, anchor) in views.items():
        file_of_view = tmp_path / f"{view}.png"
        done = subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                "--enable-logging=stderr",
                f"--user-data-dir={tmp_path / 'profile'}",
                f"--screenshot={file_of_view}",
                *options,
                file.as_uri() + anchor,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert "CONSOLE" not in done.stderr
        with Image.open(file_of_view) as image:
            pixels[view] = np.asarray(image.convert("RGB")).astype(int)
    assert pixels["light"][2, 2].min() > 240 > 60 > pixels["narrow"][2, 2].max()
    seen = {
        view: len(np.unique(x.reshape(-1, 3), axis=0)) for view, x in pixels.items()
    }
    assert min(seen.values()) > 30, seen
    assert pixels["narrow"].shape[1] == 500
    if drawing(SMALL) is not None:
        changed = (pixels["card"] != pixels["light"]).any(-1).any(1)
        assert changed[-30:].any()
        assert not changed[:300].any()


def test_command_line(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, test = tmp_path / "out.html", tmp_path / "test_lenet.py"
    given = [str(LENET), str(weights / "lenet.caffemodel")]
    status = main(["convert", *given, "-o", str(tmp_path), "--verify"])
    assert status == 0
    assert "ok: the largest is" in capsys.readouterr().out
    files = ["--report", str(report), "--emit-test", str(test)]
    assert main(["verify", *given, *files, "--compiled"]) == 0
    shown = capsys.readouterr().out
    assert "compiled ok: the largest is" in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if "/" not in line)
    assert "conv1  Convolution   4x20x24x24" in shown
    text = report.read_text(encoding="utf-8")
    assert not _references(text)
    assert ("<h2>Graph</h2>" in text) is bool(shutil.which("dot"))
    assert "<h2>The compiled program</h2>" in text
    assert main(["verify", *given, "--json", "--compiled"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert [x["name"] for x in found["compiled"]] == ["prob"]
    assert found["compiled"][0]["broken"] is False
    assert found["layers"][0]["shape"] == [4, 20, 24, 24]

    def passes() -> bool:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run([*command, str(test)], capture_output=True, check=False)
        return done.returncode == 0

    assert passes()
    module = tmp_path / "lenet.py"
    module.write_text(module.read_text().replace("nnx.relu", "nnx.gelu"))
    assert not passes()


def test_exit_status(
    tmp_path: Path,
    small: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 where a layer breaks, with its parameters and its place."""
    net = tmp_path / "small.prototxt"
    net.write_text(SMALL)
    monkeypatch.setitem(
        sys.modules, "caffe", SimpleNamespace(Net=FakeNet, TEST=1, TRAIN=0)
    )
    monkeypatch.setattr(FakeNet, "wrong", "norm")
    command = ["verify", str(net), str(small), "--against", "caffe"]
    assert main(command) == 1
    shown = capsys.readouterr().out
    assert "culprit: norm (LRN)" in shown
    assert "alpha: 0.5" in shown
    assert f"{net}:13:" in shown
    assert "BREAKS" in shown
    assert main([*command, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["culprit"]["parameters"] == {"alpha": "0.5"}
    assert found["culprit"]["line"] == 13


def test_inputs_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    x = np.random.default_rng(1).random((2, 3, 9, 9), np.float32)
    write_npz(path, {"data": x})
    report = caffe2flax.verify(SMALL, inputs=path)
    assert report.ok
    np.testing.assert_array_equal(report.inputs["data"], x)
