"""Old nets -> current ones: against what Caffe's own tool writes and refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from caffe2flax.errors import ConversionError
from caffe2flax.frontend.message import Message, Scalar
from caffe2flax.frontend.prototxt import parse, read
from caffe2flax.frontend.upgrade import inline_net, upgrade

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures" / "upgrade"
CORPUS = ROOT.parent / "shared" / "corpus"
NAMES = sorted(
    path.name.removesuffix(".upgraded.prototxt")
    for path in FIXTURES.glob("*.upgraded.prototxt")
)
ENUMS = {"ACROSS_CHANNELS": 0.0, "MAX": 0.0, "AVE": 1.0, "TRAIN": 0.0, "TEST": 1.0}


def plain(message: Message) -> list[tuple[str, object]]:
    """Fields by name, repeated ones in order: Caffe writes them by their numbers."""
    fields: list[tuple[str, object]] = []
    for f in message.fields:
        value: object
        if isinstance(f.value, Message):
            value = plain(f.value)
        elif f.value.kind == "number":
            value = number(f.value.text)
        elif f.value.kind == "word":
            value = ENUMS.get(f.value.text, f.value.text)
        else:
            value = repr(f.value.text)
        fields.append((f.name, value))
    return sorted(fields, key=lambda pair: pair[0])


def number(text: str) -> float:
    return float(int(text, 16)) if "x" in text else float(text.rstrip("f"))


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    expected = read(FIXTURES / f"{name}.upgraded.prototxt")
    upgraded = upgrade(read(FIXTURES / f"{name}.prototxt"))
    assert plain(upgraded) == plain(expected)
    assert upgrade(upgraded) == upgraded == upgrade(upgraded)
    assert upgrade(expected) == expected


def test_golden_cases_are_there() -> None:
    assert {"v0_convnet", "v0_misc", "v1_misc", "legacy_input_dim"} <= set(NAMES)


UPGRADED = {
    "empty": ("", ""),
    "unknown fields stay": (
        "layers { name: 'a' type: RELU new_param { x: 1 } y: 2 } z: 3",
        "layer { name: 'a' type: 'ReLU' new_param { x: 1 } y: 2 } z: 3",
    ),
    "V1 type by number": (
        "layers { type: 4 } layers { type: 21 } layers { type: 39 } layers { }",
        "layer { type: 'Convolution' } layer { type: 'SoftmaxWithLoss' } "
        "layer { type: 'Deconvolution' } layer { }",
    ),
    "V1 parallel lists become param": (
        "layers { type: CONVOLUTION blobs_lr: 1 blobs_lr: 2 weight_decay: 3 "
        "param: 'w' param: 'b' param: '' blob_share_mode: PERMISSIVE }",
        "layer { type: 'Convolution' "
        "param { lr_mult: 1 decay_mult: 3 name: 'w' share_mode: PERMISSIVE } "
        "param { lr_mult: 2 name: 'b' } param { name: '' } }",
    ),
    "V1 data transformations move": (
        "layers { type: DATA data_param { source: 's' scale: 0.5 crop_size: 4 } } "
        "layers { type: IMAGE_DATA image_data_param { mean_file: 'm' mirror: true } "
        "transform_param { scale: 3 mean_file: 'n' } }",
        "layer { type: 'Data' data_param { source: 's' } "
        "transform_param { scale: 0.5 crop_size: 4 } } "
        "layer { type: 'ImageData' image_data_param { } "
        "transform_param { mean_file: 'm' mirror: true scale: 3 } }",
    ),
    "V1 data of another type keeps its fields": (
        "layers { type: RELU data_param { scale: 2 } }",
        "layer { type: 'ReLU' data_param { scale: 2 } }",
    ),
    "V2 keeps its fields": (
        "layer { type: 'Data' data_param { scale: 2 } blobs_lr: 1 }",
        "layer { type: 'Data' data_param { scale: 2 } blobs_lr: 1 }",
    ),
    "two inputs by dim": (
        "input: 'a' input: 'b' input_dim: [1, 2, 3, 4, 5, 6, 7, 8] layer { name: 'l' }",
        "layer { name: 'input' type: 'Input' top: 'a' top: 'b' input_param { "
        "shape { dim: [1, 2, 3, 4] } shape { dim: [5, 6, 7, 8] } } } "
        "layer { name: 'l' }",
    ),
    "two inputs by shape, after the layers": (
        "layer { name: 'l' } input: 'a' input_shape { dim: 1 } "
        "input: 'b' input_shape { }",
        "layer { name: 'input' type: 'Input' top: 'a' top: 'b' "
        "input_param { shape { dim: 1 } shape { } } } layer { name: 'l' }",
    ),
    "an input whose blob a layer makes": (
        "input: 'a' layer { type: 'Input' top: 'a' }",
        "layer { type: 'Input' top: 'a' }",
    ),
    "BatchNorm with three params": (
        "layer { type: 'BatchNorm' param { lr_mult: 1 name: 'm' } param { } "
        "param { decay_mult: 2 } }",
        "layer { type: 'BatchNorm' param { name: 'm' lr_mult: 0 decay_mult: 0 } "
        "param { lr_mult: 0 decay_mult: 0 } param { lr_mult: 0 decay_mult: 0 } }",
    ),
    "BatchNorm with other params": (
        "layer { type: 'BatchNorm' param { lr_mult: 1 } } "
        "layer { type: 'Scale' param { } param { } param { lr_mult: 1 } }",
        "layer { type: 'BatchNorm' param { lr_mult: 1 } } "
        "layer { type: 'Scale' param { } param { } param { lr_mult: 1 } }",
    ),
    "V0 padding replaces the pad of a pooling": (
        "layers { layer { name: 'p' type: 'padding' pad: 2 } bottom: 'x' top: 'y' } "
        "layers { layer { name: 'q' type: 'pool' pool: AVE kernelsize: 5 pad: 1 } "
        "bottom: 'y' top: 'z' }",
        "layer { name: 'q' type: 'Pooling' bottom: 'x' top: 'z' "
        "pooling_param { pool: AVE kernel_size: 5 pad: 2 } }",
    ),
    "V0 padding of nothing": (
        "layers { layer { type: 'padding' } bottom: 'x' top: 'y' } "
        "layers { layer { type: 'conv' pad: 1 } bottom: 'y' top: 'z' }",
        "layer { type: 'Convolution' bottom: 'x' top: 'z' "
        "convolution_param { pad: 0 } }",
    ),
    "V0 padding is over where its blob is made anew": (
        "layers { layer { type: 'padding' pad: 1 } bottom: 'x' top: 'y' } "
        "layers { layer { type: 'conv' } bottom: 'y' top: 'y' } "
        "layers { layer { type: 'relu' } bottom: 'y' top: 'y' }",
        "layer { type: 'Convolution' bottom: 'x' top: 'y' "
        "convolution_param { pad: 1 } } "
        "layer { type: 'ReLU' bottom: 'y' top: 'y' }",
    ),
    "V0 data": (
        "layers { layer { name: 'd' type: 'images' source: 's' batchsize: 4 scale: 2 "
        "rand_skip: 3 new_height: 5 new_width: 6 shuffle_images: true meanfile: 'm' "
        "cropsize: 7 mirror: false } top: 'd' }",
        "layer { name: 'd' type: 'ImageData' top: 'd' image_data_param { source: 's' "
        "batch_size: 4 rand_skip: 3 new_height: 5 new_width: 6 shuffle: true } "
        "transform_param { scale: 2 mean_file: 'm' crop_size: 7 mirror: false } }",
    ),
    "V0 windows": (
        "layers { layer { type: 'window_data' det_fg_threshold: 0.5 "
        "det_bg_threshold: 0.25 det_fg_fraction: 1 det_context_pad: 2 "
        "det_crop_mode: 'warp' } }",
        "layer { type: 'WindowData' window_data_param { fg_threshold: 0.5 "
        "bg_threshold: 0.25 fg_fraction: 1 context_pad: 2 crop_mode: 'warp' } }",
    ),
    "V0 output": (
        "layers { layer { type: 'hdf5_output' hdf5_output_param { file_name: 'f' } } }",
        "layer { type: 'HDF5Output' hdf5_output_param { file_name: 'f' } }",
    ),
    "V0 header": (
        "name: 'n' input: 'a' input_dim: [1, 2, 3, 4] force_backward: true "
        "layers { layer { type: 'infogain_loss' source: 's' } bottom: 'a' }",
        "name: 'n' force_backward: true layer { name: 'input' type: 'Input' top: 'a' "
        "input_param { shape { dim: [1, 2, 3, 4] } } } "
        "layer { type: 'InfogainLoss' bottom: 'a' "
        "infogain_loss_param { source: 's' } }",
    ),
}


@pytest.mark.parametrize(("text", "expected"), UPGRADED.values(), ids=UPGRADED)
def test_upgrade(text: str, expected: str) -> None:
    assert plain(upgrade(parse(text))) == plain(parse(expected))


def test_places_stay() -> None:
    text = "input: 'x'\ninput_dim: [1,\n2, 3, 4]\nlayers {\n type: RELU\n blobs_lr: 1 }"
    upgraded = upgrade(parse(text))
    places = {}

    def collect(message: Message) -> None:
        for f in message.fields:
            places[f.name] = (f.span.line, f.value.span.line)
            if isinstance(f.value, Message):
                collect(f.value)

    collect(upgraded)
    assert places == {
        "layer": (4, 4),
        "name": (1, 1),
        "type": (5, 5),
        "top": (1, 1),
        "input_param": (2, 2),
        "shape": (2, 2),
        "dim": (2, 3),
        "param": (6, 6),
        "lr_mult": (6, 6),
    }


REFUSED = {
    "both formats": (
        "layer { }\nlayers { type: RELU }",
        ["1:1 layer { ... } does not go with layers { ... } (line 2)"],
    ),
    "unknown V1 types, all of them": (
        "layers { type: 40 }\nlayers { type: NONE }\nlayers { type: 0x4 }",
        [
            "1:10 unknown layer type 40 in layers",
            "2:10 unknown layer type NONE in layers",
            "3:10 unknown layer type 0x4 in layers",
        ],
    ),
    "V2 type in layers": (
        "layers { type: 'ReLU' }",
        ["1:10 layers takes a type without quotes, as CONVOLUTION; with type: 'ReLU'"],
    ),
    "V2 param in layers": (
        "layers { type: RELU param { lr_mult: 1 } }",
        ["1:21 param { ... } goes with layer { ... }"],
    ),
    "layers is no message": ("layers: 5", ["1:1 layers is a message"]),
    "too few dims": (
        "input: 'a' input: 'b'\ninput_dim: [1, 2, 3, 4]",
        ["2:1 2 inputs need 8 input_dim, not 4"],
    ),
    "too few shapes": (
        "input: 'a' input: 'b'\ninput_shape { dim: 1 }",
        ["2:1 2 inputs need as many input_shape, not 1"],
    ),
    "dims and shapes": (
        "input: 'a' input_dim: [1, 2, 3, 4] input_shape { }",
        ["1:12 input_dim and input_shape exclude each other"],
    ),
    "dims and shapes without input": (
        "input_dim: 1\ninput_shape { }",
        ["1:1 input_dim belongs to an input", "2:1 input_shape belongs to an input"],
    ),
    "V0 beside V1": (
        "layers { layer { type: 'relu' } }\nlayers { type: RELU }\nlayers: 3",
        ["2:1 layers needs one layer { ... }", "3:1 layers needs one layer { ... }"],
    ),
    "two layers in one": (
        "layers { layer { type: 'relu' } layer { type: 'tanh' } }",
        ["1:1 layers needs one layer { ... }"],
    ),
    "unknown V0 type": (
        "layers { layer { type: 'convolution' } }\nlayers { layer { type: 'cnv' } }",
        [
            "1:18 unknown layer type 'convolution' in a V0 net",
            "2:18 unknown layer type 'cnv' in a V0 net; did you mean conv?",
        ],
    ),
    "V0 type without quotes": (
        "layers { layer { type: conv } }",
        ["1:18 type is a string in quotes"],
    ),
    "V0 fields of other types": (
        "layers { layer { type: 'relu' num_output: 3\nkernelsize: 3 } }\n"
        "layers { layer { type: 'pool' group: 2 hdf5_output_param { } } }",
        [
            "1:31 unknown field num_output in a V0 layer of type relu",
            "2:1 unknown field kernelsize in a V0 layer of type relu",
            "3:31 unknown field group in a V0 layer of type pool",
            "3:40 unknown field hdf5_output_param in a V0 layer of type pool",
        ],
    ),
    "unknown V0 field": (
        "layers { layer { type: 'conv' kernel_size: 3 } }",
        ["1:31 unknown field kernel_size in a V0 layer; did you mean kernelsize?"],
    ),
    "V0 field of V1": (
        "layers { layer { type: 'relu' } include { phase: TEST } }",
        ["1:33 include has no effect beside layer"],
    ),
    "V0 padding of a wrong layer": (
        "layers { layer { type: 'padding' pad: 1 } bottom: 'x' top: 'y' }\n"
        "layers { layer { type: 'relu' } bottom: 'y' top: 'z' }",
        ["2:1 layer of type relu reads a padding layer; only conv and pool can"],
    ),
    "V0 padding of two blobs": (
        "layers { layer { type: 'padding' pad: 1 } bottom: 'x' top: 'y' }\n"
        "layers { layer { type: 'conv' } bottom: 'x' bottom: 'y' top: 'z' }",
        ["2:1 layer of type conv reads a padding layer and other blobs"],
    ),
    "V0 padding twice": (
        "layers { layer { type: 'padding' pad: 1 } bottom: 'x' top: 'y' }\n"
        "layers { layer { type: 'padding' pad: 1 } bottom: 'y' top: 'z' }",
        ["2:1 layer of type padding reads a padding layer; only conv and pool can"],
    ),
    "V0 padding with more": (
        "layers { layer { type: 'padding' stride: 1 } bottom: 'x' }",
        ["1:1 a padding layer has one top", "1:34 unknown field stride in a padding"],
    ),
    "problems of several kinds": (
        "input: 'a' input_shape: 3\nlayers { type: 99 }\nlayer { }\ninput_shape { }",
        [
            "3:1 layer { ... } does not go",
            "2:10 unknown layer type 99",
            "1:12 1 inputs need as many input_shape, not 2",
        ],
    ),
}


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED)
def test_refused(text: str, expected: list[str]) -> None:
    with pytest.raises(ConversionError) as caught:
        upgrade(parse(text))
    found = [f"{p.line}:{p.column} {p.message}" for p in caught.value.problems]
    assert len(found) == len(expected)
    for text, start in zip(found, expected, strict=True):
        assert text.startswith(start)


INLINE = {
    "a net": ("layer { }", "TEST", None),
    "an old net": ("layers { }", "TEST", None),
    "an empty net": ("name: 'n' input: 'a'", "TEST", None),
    "net_param": ("net_param { name: 'n' }", "TEST", "name: 'n'"),
    "net_param for TRAIN": ("net_param { name: 'n' } net: 'f'", "TRAIN", "name: 'n'"),
    "its own net": (
        "net_param { name: 'n' } test_net_param { name: 't' }",
        "TEST",
        "name: 't'",
    ),
    "the net of the other phase is no net": (
        "net_param { name: 'n' } train_net_param { name: 't' }",
        "TEST",
        "name: 'n'",
    ),
    "TRAIN": ("train_net_param { name: 't' } test_net: 'f'", "TRAIN", "name: 't'"),
    "state": (
        "net_param { state { stage: 'a' } } test_state { stage: 'b' level: 1 } "
        "train_state { stage: 'c' }",
        "TEST",
        "state { stage: 'a' } state { stage: 'b' level: 1 }",
    ),
}


@pytest.mark.parametrize(("text", "phase", "expected"), INLINE.values(), ids=INLINE)
def test_inline_net(text: str, phase: str, expected: str | None) -> None:
    found = inline_net(parse(text), phase=phase)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert plain(found) == plain(parse(expected))


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("base_lr: 1\nnet: 'a'", "2:1", "the net that it names is not opened"),
        ("train_net: 'a'\ntest_net: 'b'", "2:1", "pass its file"),
        ("train_net: 'a'", "1:1", "pass its file"),
        ("base_lr: 1", "None:None", "a solver without a net for phase TEST"),
        ("train_net_param { }", "None:None", "a solver without a net for phase TEST"),
        ("test_net_param { }\ntest_net_param { }", "2:1", "several test_net_param"),
        ("net_param { }\ntest_state { }\ntest_state { }", "3:1", "several test_state"),
        ("net_param: 5", "1:1", "net_param is a message"),
        ("net_param { }\ntest_state: 5", "2:1", "test_state is a message"),
    ],
)
def test_inline_net_refused(text: str, place: str, message: str) -> None:
    with pytest.raises(ConversionError) as caught:
        inline_net(parse(text))
    (problem,) = caught.value.problems
    assert f"{problem.line}:{problem.column}" == place
    assert message in problem.message


if CORPUS.is_dir():
    with (CORPUS / "index.tsv").open(encoding="utf-8") as stream:
        PATHS = [
            row["path"]
            for row in csv.DictReader(stream, delimiter="\t")
            if row["format"] in ("V0", "V1")
        ]

    @pytest.mark.parametrize("path", PATHS)
    def test_published_network(path: str) -> None:
        net = read(CORPUS / path)
        try:
            upgraded = upgrade(net)
        except ConversionError as error:
            # Only layer types that forks added to V1's enum.
            messages = {problem.message for problem in error.problems}
            assert all(m.startswith("unknown layer type ") for m in messages)
            return
        assert not upgraded.has("layers")
        assert upgrade(upgraded) == upgraded


def test_input_without_shape_keeps_a_layer() -> None:
    """Its shape may come from the caller; an input that a layer makes is forgotten."""
    net = upgrade(parse("input: 'a'\ninput: 'b'\nlayer { top: 'a' }"))
    layer = next(net.all("layer")).value
    assert isinstance(layer, Message)
    assert [f.value.text for f in layer.all("top") if isinstance(f.value, Scalar)] == [
        "b"
    ]
    assert not layer.has("input_param")


def test_types_of_forks_survive() -> None:
    """Whoever knows the layer types reports them, all together."""
    net = upgrade(parse("layers { type: CONVOLUTION3D }"))
    layer = next(net.all("layer")).value
    assert isinstance(layer, Message)
    value = next(layer.all("type")).value
    assert isinstance(value, Scalar)
    assert (value.kind, value.text) == ("string", "CONVOLUTION3D")
