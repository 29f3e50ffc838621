"""Names that forks of Caffe mean several things by: a test for each meaning, for the
evidence that decides, and for the refusal where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from caffe2flax.cli.main import main
from tests.single import Array, check, normal, single, source, weights_file


def fully_convolutional(pad: int, crop: str = "") -> str:
    """A net in the manner of FCN: the score is upsampled and cropped to the data."""
    return source("data", (1, 2, 9, 10)) + (
        'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" '
        f"convolution_param {{ num_output: 2 kernel_size: 3 pad: {pad} }} }}\n"
        'layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }\n'
        'layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" '
        "pooling_param { kernel_size: 2 stride: 2 } }\n"
        'layer { name: "up" type: "Deconvolution" bottom: "pool" top: "up" '
        "convolution_param { num_output: 2 kernel_size: 4 stride: 2 } }\n"
        'layer { name: "score" type: "Crop" bottom: "up" bottom: "data" top: "score" '
        f"{crop} }}\n"
    )


def test_crop_by_a_wide_border_is_derived() -> None:
    """As FCN's: a border of 40 with a kernel of 3, pooled by 2, deconvolved by 2 with a
    kernel of 4: 39 - 1/2 on the half, (4 - 1) / 2 on the whole."""
    conversion = caffe2flax.convert(fully_convolutional(40))
    offset = ((39 - 0.5) / 2) * 2 + 1.5
    assert f"with offset {(int(offset),) * 2}" in "\n".join(conversion.notes)
    assert "--dialect Crop=bvlc" in "\n".join(conversion.notes)
    given = f"crop_param {{ offset: {int(offset)} }}"
    same = caffe2flax.convert(fully_convolutional(40, given))
    assert same.source == conversion.source


def test_crop_by_dialect(tmp_path: Path) -> None:
    shapes = [(2, 2, 3, 3), (2,), (2, 2, 4, 4), (2,)]
    conv, conv_bias, up, up_bias = (normal(*shape) for shape in shapes)
    held = {"conv": [conv, conv_bias], "up": [up, up_bias]}
    file = weights_file(tmp_path / "net.caffemodel", held)
    data = {"data": normal(1, 2, 9, 10)}
    net = fully_convolutional(3)
    with pytest.raises(caffe2flax.ConversionError, match="nothing here tells which"):
        caffe2flax.convert(net)
    whole = caffe2flax.run(net, file, data, blobs=["up"], dialect={"Crop": "bvlc"})
    for meaning, start in (("bvlc", 0), ("auto", 3)):
        expected = whole["up"][:, :, start : start + 9, start : start + 10]
        check(net, data, {"score": expected}, file, dialect={"Crop": meaning})


def test_crop_given_or_of_unrelated_blobs_is_bvlcs() -> None:
    explicit = caffe2flax.convert(fully_convolutional(3, "crop_param { offset: 1 }"))
    assert not any("Crop" in note for note in explicit.notes)
    x, like = normal(1, 2, 5, 6), normal(1, 2, 3, 4)
    net = single("Crop", "", x.shape, like.shape)
    check(net, {"x0": x, "x1": like}, {"out": x[:, :, :3, :4]})
    with pytest.raises(caffe2flax.ConversionError, match="can be derived"):
        caffe2flax.convert(net, dialect={"Crop": "auto"})


def pooled(text: str) -> str:
    return single("BN", f"bn_param {{ {text} }}", (2, 3, 4, 5))


def test_bn_of_segnet(tmp_path: Path) -> None:
    x, scale, shift = normal(2, 3, 4, 5), normal(1, 3, 1, 1), normal(1, 3, 1, 1)
    file = weights_file(tmp_path / "net.caffemodel", {"l": [scale, shift]})
    affine = check(
        pooled("bn_mode: INFERENCE"), {"x0": x}, {"out": x * scale + shift}, file
    )
    assert any("BN taken as 'segnet'" in note for note in affine.notes)
    learning = "scale_filler { value: 1 } shift_filler { value: 0.5 }"
    normalized = standardized(x, 1e-9) * scale + shift
    check(pooled(learning), {"x0": x}, {"out": normalized}, file)
    check(pooled(learning), {"x0": x}, {"out": normalized}, file, phase="TRAIN")


def standardized(x: Array, eps: float) -> Array:
    x = x.astype(np.float64)
    mean, var = (f(x, (0, 2, 3), keepdims=True) for f in (np.mean, np.var))
    return (x - mean) / np.sqrt(var + eps)


def test_bn_of_parsenet(tmp_path: Path) -> None:
    x, scale, shift = normal(2, 3, 4, 5), normal(1, 3, 1, 1), normal(1, 3, 1, 1)
    file = weights_file(tmp_path / "net.caffemodel", {"l": [scale, shift]})
    expected = standardized(x, 0.25) * scale + shift
    found = check(pooled("var_eps: 0.25"), {"x0": x}, {"out": expected}, file)
    assert any("BN taken as 'parsenet'" in note for note in found.notes)
    with pytest.raises(caffe2flax.ConversionError, match="weights files"):
        caffe2flax.convert(pooled("moving_average: true"))


def test_bn_of_pspnet(tmp_path: Path) -> None:
    x = normal(2, 3, 4, 5)
    slope, bias, mean = (normal(1, 3, 1, 1) for _ in range(3))
    variance = np.square(normal(1, 3, 1, 1)) + 0.5
    held = {"l": [slope, bias, mean, variance]}
    file = weights_file(tmp_path / "net.caffemodel", held)
    expected = (x - mean) / np.sqrt(variance + 1e-3) * slope + bias
    found = check(pooled("eps: 0.001"), {"x0": x}, {"out": expected}, file)
    assert any("BN taken as 'pspnet'" in note for note in found.notes)
    frozen = pooled("frozen: true eps: 0.001")
    check(frozen, {"x0": x}, {"out": expected}, file, phase="TRAIN")
    batch = standardized(x, 1e-3) * slope + bias
    check(pooled("eps: 0.001"), {"x0": x}, {"out": batch}, file, phase="TRAIN")


def test_bn_without_evidence() -> None:
    bare = single("BN", "", (2, 3, 4, 5))
    with pytest.raises(caffe2flax.ConversionError, match=r"segnet \(.*pspnet \("):
        caffe2flax.convert(bare)
    four = single("BN", "param { } param { } param { } param { }", (2, 3, 4, 5))
    assert "nnx.BatchNorm" in caffe2flax.convert(four).source
    for meaning, shown in (("segnet", "BatchScale"), ("pspnet", "nnx.BatchNorm")):
        assert shown in caffe2flax.convert(bare, dialect={"BN": meaning}).source


FOUR = "param { lr_mult: 1 } param { } param { lr_mult: 0 } param { lr_mult: 0.0 } "

BATCH_NORMS = {
    "nvcaffe": "batch_norm_param { scale_bias: true eps: 0.000001 }",
    "nvcaffe_by_filler": "batch_norm_param { bias_filler { value: 0 } }",
    "nvcaffe_by_type": "forward_type: FLOAT16",
    "intel": "batch_norm_param { use_weight_bias: true }",
    "intel_without_bias": "batch_norm_param { use_weight_bias: true bias_term: false }",
    "xilinx": FOUR + "batch_norm_param { scale_filler { value: 1 } }",
    "xilinx_by_rates": FOUR,
    "bvlc": "batch_norm_param { eps: 0.1 }",
}


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_batch_norm(tmp_path: Path, name: str) -> None:
    x, factor = normal(2, 3, 4, 5), np.array([4], np.float32)
    mean, scale, bias = (normal(3) for _ in range(3))
    variance = np.square(normal(3)) + 0.5
    fork = name.partition("_")[0]
    held = {
        "nvcaffe": [mean, variance, factor, scale, bias],
        "intel": [mean * 4, variance * 4, factor, scale, bias],
        "xilinx": [scale, bias, mean, variance],
        "bvlc": [mean * 4, variance * 4, factor],
    }[fork]
    if name == "nvcaffe_by_type":
        held = held[:3]
    if name == "intel_without_bias":
        held = held[:4]
    eps = 0.1 if fork == "bvlc" else 1e-5
    mean, variance, scale, bias = (
        blob[:, None, None] for blob in (mean, variance, scale, bias)
    )
    expected = (x - mean) / np.sqrt(variance + eps)
    if len(held) > 3:
        expected = expected * scale
    if len(held) > 3 and name != "intel_without_bias":
        expected = expected + bias
    file = weights_file(tmp_path / "net.caffemodel", {"l": held})
    net = single("BatchNorm", BATCH_NORMS[name], x.shape)
    found = check(net, {"x0": x}, {"out": expected}, file)
    told = any(f"BatchNorm taken as '{fork}'" in note for note in found.notes)
    assert told is (fork != "bvlc")


def test_upsample() -> None:
    x = normal(1, 2, 2, 3)
    nearest = single("Upsample", "upsample_param { scale: 2 }", x.shape)
    found = check(nearest, {"x0": x}, {"out": x.repeat(2, 2).repeat(2, 3)})
    assert any("Upsample taken as 'nearest'" in note for note in found.notes)
    mask = np.arange(12, dtype=np.float32).reshape(x.shape)[:, ::-1] % 6 * 3
    expected = np.zeros((1, 2, 24))
    np.put_along_axis(
        expected, mask.reshape(1, 2, 6).astype(int), x.reshape(1, 2, 6), 2
    )
    unpool = single("Upsample", "upsample_param { scale: 2 }", x.shape, x.shape)
    found = check(unpool, {"x0": x, "x1": mask}, {"out": expected.reshape(1, 2, 4, 6)})
    assert any("Upsample taken as 'unpool'" in note for note in found.notes)
    with pytest.raises(caffe2flax.ConversionError, match="cannot have 2 bottoms"):
        caffe2flax.convert(unpool, dialect={"Upsample": "nearest"})


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"Crop": "automatic"}, r"no meaning of Crop: bvlc \("),
        ({"Cropp": "auto"}, "several meanings; did you mean Crop?"),
    ],
)
def test_there_is_no_such_meaning(chosen: dict[str, str], message: str) -> None:
    with pytest.raises(caffe2flax.ConversionError, match=message):
        caffe2flax.convert(fully_convolutional(3), dialect=chosen)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(fully_convolutional(3))
    assert main(["convert", str(net), "-o", str(tmp_path)]) == 1
    assert "--dialect Crop=MEANING" in capsys.readouterr().err
    chosen = ["--dialect", "Crop=auto"]
    assert main(["convert", str(net), "-o", str(tmp_path), *chosen]) == 0
    assert main(["convert", str(net), "--dialect", "Crop"]) == 2
    assert "is not like Crop=auto" in capsys.readouterr().err


def test_fields_without_effect_are_named_once() -> None:
    text = "forward_type: FLOAT16 quantization_param { bw_params: 8 }"
    net = single("ReLU", text, (1, 2)) + (
        f'layer {{ name: "m" type: "ReLU" bottom: "out" top: "y" {text} }}'
    )
    notes = caffe2flax.convert(net).notes
    assert len(notes) == 2
    assert "forward_type in layer is about" in notes[0]
    with pytest.raises(caffe2flax.ConversionError, match="unknown field forward_tipe"):
        caffe2flax.convert(net.replace("forward_type", "forward_tipe"))


def test_depthwise_convolution_without_group(tmp_path: Path) -> None:
    """Weights of one channel a kernel decide; without them it is the caller's choice,
    as the fork's CPU and GPU disagree."""
    net = single(
        "DepthwiseConvolution",
        "convolution_param { num_output: 3 kernel_size: 1 bias_term: false }",
        (1, 3, 2, 2),
    )
    x = normal(1, 3, 2, 2)
    with pytest.raises(caffe2flax.ConversionError, match="the first C kernels"):
        caffe2flax.convert(net)
    shared = normal(3, 1, 1, 1)
    file = weights_file(tmp_path / "depthwise.caffemodel", {"l": [shared]})
    check(net, {"x0": x}, {"out": x * shared.reshape(1, 3, 1, 1)}, file)
    full = normal(3, 3, 1, 1)
    file = weights_file(tmp_path / "full.caffemodel", {"l": [full]})
    expected = np.einsum("oc,nchw->nohw", full[:, :, 0, 0], x)
    meaning = {"DepthwiseConvolution": "full"}
    check(net, {"x0": x}, {"out": expected}, file, dialect=meaning)


def test_warp_by_dialect() -> None:
    """A flow where the net has no Grid, else coordinates."""
    x, places = normal(1, 1, 2, 2), np.ones((1, 2, 2, 2), np.float32)
    net = single("Warp", "", (1, 1, 2, 2), (1, 2, 2, 2))
    moved = np.zeros_like(x)
    moved[0, 0, 0, 0] = x[0, 0, 1, 1]
    check(net, {"x0": x, "x1": places}, {"out": moved})
    same = np.full_like(x, x[0, 0, 1, 1])
    check(net, {"x0": x, "x1": places}, {"out": same}, dialect={"Warp": "coordinates"})
