"""ONNX models: right in ONNX Runtime or refused by name, under Caffe's names."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import caffe2flax
from caffe2flax import ConversionError
from caffe2flax.cli.main import main
from caffe2flax.conversion import Conversion
from caffe2flax.exports.onnx import model
from caffe2flax.exports.onnx.observe import observe
from caffe2flax.exports.onnx.table import TABLE
from caffe2flax.exports.onnx.translate import Translation, translate
from caffe2flax.files.atomic import write_all
from caffe2flax.verification import reference
from tests.golden import FIXTURES, Case, cases, distance, fork_cases, part
from tests.single import single
from tests.written import written_cases

OF_CAFFE = cases("layers")
ALL = [*OF_CAFFE, *fork_cases(), *written_cases()]
ACCEPTED = [case for case in ALL if "error" not in case.facts]
BOUND, AT_BATCH = 1e-5, 2e-5
DIGITS = FIXTURES / "digits"
NET = str(DIGITS / "deploy.prototxt"), str(DIGITS / "digits_lenet.caffemodel")


@pytest.mark.parametrize("case", ACCEPTED, ids=[case.name for case in ACCEPTED])
def test_layers(case: Case, tmp_path: Path) -> None:
    """Every blob as Caffe computed it, and where the model takes any batch, those of
    three times as many items as the reference computes them; or the layers are
    named."""
    conversion, path = case.convert(), tmp_path / "net.onnx"
    translation = said(conversion)
    if translation is None:
        assert case not in OF_CAFFE or not is_said(case)
        return
    write_all(model.targets(translation, conversion.name, "", path), force=True)
    written = onnx.load(path)
    onnx.checker.check_model(written, full_check=True)
    for node in written.graph.node:
        assert not {"auto_pad", "ceil_mode"} & {a.name for a in node.attribute}
    inputs = case.inputs()
    ours = observe(path, translation, conversion, inputs).values
    last = {*conversion.graph.blobs.values()}
    caffe = part(case.arrays(), "blob:") | part(case.arrays(), "output:")
    known = {v: caffe[v.blob] for v in ours if v.blob in caffe and v in last}
    assert known
    far = {v: distance(np.asarray(ours[v]), array) for v, array in known.items()}
    assert max(far.values()) <= BOUND, far
    if translation.dynamic:
        inputs = {
            port.value.blob: np.concatenate([array] * 3) if "N" in port.dims else array
            for port in translation.inputs
            for array in [inputs[port.value.blob]]
        }
        ours = observe(path, translation, conversion, inputs).values
        wanted = reference.evaluate(conversion.graph, conversion.blobs, inputs)
        far = {v: distance(np.asarray(ours[v]), wanted[v]) for v in ours}
        assert max(far.values()) <= AT_BATCH, far


def said(conversion: Conversion) -> Translation | None:
    """The operations; None where some layers, which are named, have none."""
    try:
        return translate(conversion.graph, conversion.blobs, dynamic=None)
    except ConversionError as error:
        problems = error.problems
    assert all("layer '" in problem.message for problem in problems)
    assert all(problem.line for problem in problems)
    return None


UNSAID = {
    "Accuracy",
    "LSTM",
    "LSTMUnit",
    "RNN",
    "bn_train",
    "pool_ave_k1s2",
    "pool_ave_k1s3_ceil",
    "pool_max_k1s3_ceil",
    "pool_max_k2s3_nopad",
    "train_lenet_mini",
    "train_propagate_down",
    "train_siamese",
}
"""Types of Caffe 1.0, beside losses, and single cases that ONNX does not say."""


def is_said(case: Case) -> bool:
    kind = case.facts["type"]
    return not {kind, case.name} & UNSAID and not kind.endswith("Loss")


def test_most_layers_are_said() -> None:
    """Of Caffe 1.0; `test_layers` says that these are right."""
    accepted = [case for case in OF_CAFFE if "error" not in case.facts]
    assert sum(map(is_said, accepted)) >= 230


WITHOUT_EFFECT = {
    "bias_filler",
    "filler",
    "forced",
    "kernel_init",
    "momentum",
    "num_output",
    "padding",
    "scale_filler",
    "shift_filler",
    "slope_filler",
    "sums",
    "weight_filler",
}
"""Fields of what only training, code or the shapes of blobs depend on."""
BY_SHAPE = {
    "Crop": {"derived"},
    "DummyData": {"shapes"},
    "Embed": {"input_dim"},
    "ExpandDimsND": {"added"},
    "Flatten": {"axis", "end_axis"},
    "Interp": {"height", "width", "zoom", "shrink", "full_zoom"},
    "MirrorPad": {"images"},
    "Parameter": {"shape"},
    "Pooling": {"ceil"},
    "Relayout": {"have", "want"},
    "Reshape": {"dims", "axis", "num_axes"},
    "RReLU": {"low", "high"},
    "Insanity": {"low", "high"},
    "Slice": {"points"},
    "Squeeze": {"removed"},
    "StochasticPooling": {"ceil", "method", "top_count"},
    "Unsqueeze": {"dim"},
}
"""Fields that decide the shapes of tops or blobs, from which they are read, or that a
property stands for."""


@pytest.mark.parametrize("kind", TABLE, ids=[kind.__name__ for kind in TABLE])
def test_no_field_is_ignored(kind: type) -> None:
    """A field that is added to a layer changes its ONNX operations, or is listed."""
    function = TABLE[kind]
    text = textwrap.dedent(inspect.getsource(inspect.getmodule(function)))
    read = {n.attr for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Attribute)}
    if kind.__name__ in ("PriorBox",):
        return  # its own reference is asked
    given = fields(kind) if is_dataclass(kind) else ()
    names = {field.name for field in given} - WITHOUT_EFFECT
    assert names - BY_SHAPE.get(kind.__name__, set()) <= read


def test_names(tmp_path: Path) -> None:
    """Values have the names of Caffe's blobs; where one blob is two values or the
    reverse, outputs keep the name."""
    net = """
        name: "Named"
        input: "data" input_shape { dim: 2 dim: 3 }
        input: "x" input_shape { dim: 2 dim: 3 }
        layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
                inner_product_param { num_output: 4
                                      weight_filler { type: "xavier" } } }
        layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
        layer { name: "drop" type: "Dropout" bottom: "ip" top: "dropped" }
        layer { name: "same" type: "ReLU" bottom: "x" top: "x" }
    """
    written = caffe2flax.export(net, to="onnx", path=tmp_path / "n.onnx", verify=True)
    assert written.ok
    assert written.report is not None
    shown = written._repr_html_()
    assert "n.onnx" in shown
    assert "Named against reference" in shown
    loaded = onnx.load(tmp_path / "n.onnx")
    assert loaded.graph.name == "Named"
    assert [port.name for port in loaded.graph.input] == ["data", "x"]
    names = [port.name for port in loaded.graph.output]
    assert names == ["x:2", "dropped"]
    values = {name for node in loaded.graph.node for name in node.output}
    assert {"ip", "dropped", "x:2"} <= values
    assert {t.name for t in loaded.graph.initializer} == {"ip.weight", "ip.bias"}


def test_all_layers_without_counterpart_are_named() -> None:
    net = """
        input: "label" input_shape { dim: 2 }
        input: "data" input_shape { dim: 2 dim: 3 }
        layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn"
                batch_norm_param { use_global_stats: false } }
        layer { name: "noise" type: "DummyData" top: "noise" dummy_data_param {
                shape { dim: 2 dim: 3 } data_filler { type: "gaussian" } } }
        layer { name: "sum" type: "Eltwise" bottom: "bn" bottom: "noise" top: "sum" }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "sum" bottom: "label"
                top: "loss" }
    """
    with pytest.raises(ConversionError) as refused:
        caffe2flax.export(net, to="onnx")
    named = [problem.message.split(":")[0] for problem in refused.value.problems]
    assert named[:2] == ["BatchNorm layer 'bn'", "DummyData layer 'noise'"]
    assert named[2].startswith("SoftmaxWithLoss layer 'loss' has no counterpart")


def test_large_tensors_are_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "INSIDE", 2000)
    written = caffe2flax.export(*NET, to="onnx", path=tmp_path / "n.onnx", verify=True)
    assert written.ok
    assert [path.name for path in written.paths] == ["n.onnx", "n.onnx.data"]
    assert written.paths[0].stat().st_size < written.paths[1].stat().st_size
    images = np.load(DIGITS / "digits_test.npz")
    session = onnxruntime.InferenceSession(written.paths[0])
    assert session.get_inputs()[0].shape == ["N", 1, 28, 28]
    data = np.asarray(images["data"][:5], np.float32) / 16
    (found,) = session.run(["prob"], {"data": data})
    assert distance(found, images["prob"][:5]) <= BOUND


def test_batch(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    caffe2flax.export(*NET, to="onnx", path=path, batch=5)
    assert onnxruntime.InferenceSession(path).get_inputs()[0].shape[0] == 5
    fixed = single("Reshape", "reshape_param { shape { dim: 2 dim: 12 } }", (2, 3, 4))
    written = caffe2flax.export(fixed, to="onnx", path=path, force=True)
    assert "the batch" in written.notes[-1]
    with pytest.raises(ConversionError, match=r"layer|takes no other batch"):
        caffe2flax.export(fixed, to="onnx", path=path, batch="dynamic", force=True)
    with pytest.raises(ConversionError, match="positive number"):
        caffe2flax.export(*NET, to="onnx", path=path, batch=0)


def test_constants_have_a_limit(tmp_path: Path) -> None:
    net = single("Interp", "interp_param { height: 9 width: 90000 }", (1, 1, 2, 90000))
    with (
        caffe2flax.limited(filled_bytes=2**20),
        pytest.raises(ConversionError, match="filled_bytes"),
    ):
        caffe2flax.export(net, to="onnx", path=tmp_path / "net.onnx")


def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *NET, "--to", "onnx", "--verify"]) == 0
    printed = capsys.readouterr().out
    assert "digitslenet.onnx" in printed
    assert "ok: the largest is" in printed
    assert main(["export", *NET, "--to", "onnx"]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["export", *NET, "--to", "onnx", "--batch", "no"]) == 2
