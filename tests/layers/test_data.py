"""Data layers as inputs: their shapes, notes on images, and errors."""

from __future__ import annotations

import numpy as np
import pytest

import caffe2flax
from caffe2flax.ir.transform import Transform
from tests.golden import FIXTURES

RELU = "layer { name: 'r' type: 'ReLU' bottom: 'data' top: 'out' }"
PRELU = RELU.replace("ReLU", "PReLU")


def net(type_: str, params: str, *, tops: str = "data label", more: str = PRELU) -> str:
    """A data layer, and a layer on its first top."""
    given = " ".join(f"top: {top!r}" for top in tops.split())
    label = "label" if "label" in tops else ""
    loss = (
        "layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'out' bottom: 'label' "
        "top: 'loss' }"
    )
    return "\n".join(
        [
            f"layer {{ name: 'd' type: {type_!r} {given} {params} }}",
            more,
            loss if label else "",
        ]
    )


CROP = "transform_param { crop_size: 8 }"

SHAPES = {
    "Data": (
        "Data",
        f"{CROP} data_param {{ batch_size: 4 source: 'x' }}",
        (4, 3, 8, 8),
    ),
    "Data, gray": (
        "Data",
        "transform_param { crop_size: 8 force_gray: true } "
        "data_param { batch_size: 4 backend: LMDB prefetch: 2 rand_skip: 3 }",
        (4, 1, 8, 8),
    ),
    "Data, in colour": (
        "Data",
        "transform_param { crop_size: 8 force_color: true } "
        "data_param { batch_size: 4 backend: 1 }",
        (4, 3, 8, 8),
    ),
    "Data, a mean a channel": (
        "Data",
        "transform_param { crop_size: 8 mean_value: [1, 2, 3, 4, 5] } "
        "data_param { batch_size: 4 }",
        (4, 5, 8, 8),
    ),
    "ImageData": (
        "ImageData",
        "image_data_param { source: 'x' new_height: 6 new_width: 7 shuffle: true }",
        (1, 3, 6, 7),
    ),
    "ImageData, cropped": (
        "ImageData",
        f"{CROP} image_data_param {{ new_height: 9 new_width: 8 batch_size: 2 }}",
        (2, 3, 8, 8),
    ),
    "ImageData, gray": (
        "ImageData",
        f"{CROP} image_data_param {{ is_color: false batch_size: 2 root_folder: '/' }}",
        (2, 1, 8, 8),
    ),
    "WindowData": (
        "WindowData",
        f"{CROP} window_data_param {{ batch_size: 5 fg_threshold: 0.5 }}",
        (5, 3, 8, 8),
    ),
    "MemoryData": (
        "MemoryData",
        "memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 }",
        (2, 3, 4, 5),
    ),
}

FORKS = {
    "sides of a crop": (
        "Data",
        "transform_param { crop_height: 6 crop_w: 7 } data_param { batch_size: 4 }",
        "",
        (4, 3, 6, 7),
    ),
    "channels": (
        "Data",
        f"{CROP} data_param {{ batch_size: 4 channels: 2 }}",
        "",
        (4, 2, 8, 8),
    ),
    "resized to one of two": (
        "AnnotatedData",
        "transform_param { resize_param { height: 4 width: 4 } "
        "resize_param { height: 8 width: 8 } } data_param { batch_size: 2 }",
        "resized to one of 2 sizes at random: 8 x 8 is taken",
        (2, 3, 8, 8),
    ),
    "unknown fields": (
        "ImageData",
        f"{CROP[:-1]} jitter: 2 }} image_data_param {{ source2: 'y' any_param {{ }} }}",
        "any_param in image_data_param is about preparing images",
        (1, 3, 8, 8),
    ),
    "an unknown size": (
        "ImageData",
        f"{CROP} image_data_param {{ short_crop: 9 }}",
        "passed over; where it changes the size of an input, --input-shape says it",
        (1, 3, 8, 8),
    ),
    "any shape": (
        "MemoryData",
        "memory_data_param { dim: 2 dim: 3 dim: 4 dim: 5 }",
        "",
        (2, 3, 4, 5),
    ),
}


@pytest.mark.parametrize("name", FORKS)
def test_fields_of_forks(name: str) -> None:
    """What sets the size is read, all else is passed over with a note."""
    type_, params, said, shape = FORKS[name]
    conversion = caffe2flax.convert(net(type_, params, tops="data more third"))
    graph = conversion.graph
    assert {v.blob: graph.shapes[v] for v in graph.arguments} == {"data": shape}
    assert any(said in note for note in conversion.notes) or not said


DENSE = (
    "layer {{ name: 'a' type: 'InnerProduct' bottom: 'data' top: 'out' "
    "inner_product_param {{ num_output: {} }} }}"
)
LABELS = {
    "as many as scores": (
        "layer { name: 'l' type: 'EuclideanLoss' bottom: 'out' bottom: 'label' }",
        (2, 3),
    ),
    "in pieces": (
        "layer { name: 's' type: 'Slice' bottom: 'label' top: 'x' top: 'y' slice_param "
        "{ axis: 1 slice_point: 1 } } layer { name: 'l' type: 'EuclideanLoss' "
        "bottom: 'out' bottom: 'y' } layer { name: 'm' type: 'SoftmaxWithLoss' "
        "bottom: 'out' bottom: 'x' }",
        (2, 4),
    ),
    "maps in pieces": (
        "layer { name: 's' type: 'Slice' bottom: 'label' top: 'x' top: 'y' slice_param "
        "{ axis: 1 slice_point: 1 } } layer { name: 'v' type: 'Convolution' "
        "bottom: 'data' top: 'v' convolution_param { num_output: 2 kernel_size: 3 } } "
        "layer { name: 'l' type: 'EuclideanLoss' bottom: 'v' bottom: 'y' } "
        "layer { name: 'm' type: 'SoftmaxWithLoss' bottom: 'v' bottom: 'x' }",
        (2, 3, 6, 6),
    ),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_several_numbers(name: str) -> None:
    """Their shape follows from the layers that read them, and a note says so."""
    losses, shape = LABELS[name]
    data = f"{CROP} image_data_param {{ batch_size: 2 }}"
    text = net("ImageData", data, more=DENSE.format(3)).rpartition("\n")[0] + losses
    conversion = caffe2flax.convert(text, phase="TRAIN")
    graph = conversion.graph
    assert [graph.shapes[v] for v in graph.arguments] == [(2, 3, 8, 8), shape]
    assert any(f"label: taken to be {shape}" in note for note in conversion.notes)


def test_two_data_layers_have_one_size_in_both_phases() -> None:
    """The shape of labels from a database of their own follows from the loss."""
    text = "".join(
        f"layer {{ name: '{b}' type: 'Data' top: '{b}' "
        "data_param { batch_size: 2 } }"
        for b in ("data", "label")
    )
    text += "layer { name: 'c' type: 'Convolution' bottom: 'data' top: 'out' "
    text += "convolution_param { num_output: 5 kernel_size: 1 } } layer { name: 'l' "
    text += "type: 'SoftmaxWithLoss' bottom: 'out' bottom: 'label' top: 'loss' }"
    sizes = [caffe2flax.convert(text, phase=phase).graph for phase in ("TEST", "TRAIN")]
    shapes = [[graph.shapes[v] for v in graph.arguments] for graph in sizes]
    assert shapes[1] == [*shapes[0], (2, 1, *shapes[0][0][2:])]


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    """At test the images only; in training labels as well, one an image."""
    type_, params, shape = SHAPES[name]
    if type_ != "MemoryData":
        graph = caffe2flax.convert(net(type_, params)).graph
        assert {v.blob: graph.shapes[v] for v in graph.arguments} == {"data": shape}
        assert [v.blob for v in graph.outputs] == ["out"]
        assert [d.name for d in graph.remarks.dropped] == ["loss"]
    flat = "layer { name: 'r' type: 'InnerProduct' bottom: 'data' top: 'out' "
    flat += "inner_product_param { num_output: 3 } }"
    graph = caffe2flax.convert(net(type_, params, more=flat), phase="TRAIN").graph
    shapes = {v.blob: graph.shapes[v] for v in graph.arguments}
    assert shapes == {"data": shape, "label": shape[:1]}


UNKNOWN = {
    "no crop": (
        "Data",
        "data_param { batch_size: 4 }",
        "the number of channels, height and width of blob 'data' are in its data, "
        "which is not opened: give --input-shape data=N,C,H,W",
    ),
    "no batch": (
        "Data",
        "transform_param { crop_size: 8 } data_param { source: 'x' }",
        "the batch size of blob 'data' is in its data",
    ),
    "nothing known of an image": (
        "ImageData",
        "image_data_param { source: 'x' }",
        "the height and width of blob 'data' are in its data",
    ),
    "HDF5": (
        "HDF5Data",
        "hdf5_data_param { source: 'x' batch_size: 3 shuffle: true }",
        "blob 'data' is in HDF5 files, which are not opened: give --input-shape "
        "data=N,...",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_shapes(name: str) -> None:
    """An error names the option where no usual shape suits; the caller's shape, and
    that of the arrays to run on, are used."""
    type_, params, message = UNKNOWN[name]
    text = net(type_, params)
    five = PRELU + "layer { name: 'f' type: 'Reshape' bottom: 'out' top: 'five' "
    five += "reshape_param { shape { dim: 5 dim: 7 } } }"
    with pytest.raises(caffe2flax.ConversionError) as refused:
        caffe2flax.convert(net(type_, params, more=five))
    (problem,) = refused.value.problems
    assert message in problem.message
    assert problem.line == 1
    shape = (2, 3, 4, 4)
    graph = caffe2flax.convert(text, input_shapes={"data": shape}).graph
    assert graph.shapes[graph.arguments[0]] == shape
    fed = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = caffe2flax.run(text, None, {"data": fed, "label": np.zeros(2)})
    assert found.keys() == {"out"}
    assert np.array_equal(found["out"], np.where(fed > 0, fed, fed / 4))


REFUSED = {
    "mean twice": (
        "Data",
        "transform_param { crop_size: 8 mean_value: 1 mean_file: 'm' } "
        "data_param { batch_size: 1 }",
        "either mean_value or mean_file",
    ),
    "unknown in transform_param": (
        "Data",
        "transform_param { crop_sise: 8 } data_param { batch_size: 1 }",
        "unknown field crop_sise in transform_param; did you mean crop_size?",
    ),
    "negative crop": (
        "Data",
        "transform_param { crop_size: -8 } data_param { batch_size: 1 }",
        "crop_size is an integer from 0 to 4294967295, not -8",
    ),
    "unknown backend": (
        "Data",
        f"{CROP} data_param {{ batch_size: 1 backend: SQLITE }}",
        "backend is one of LEVELDB, LMDB, not SQLITE",
    ),
    "one side": (
        "ImageData",
        "image_data_param { new_height: 6 }",
        "both new_height and new_width",
    ),
    "crop of a smaller image": (
        "ImageData",
        f"{CROP} image_data_param {{ new_height: 6 new_width: 9 }}",
        "crop_size 8 exceeds the image, 6 x 9",
    ),
    "no image a batch": (
        "ImageData",
        f"{CROP} image_data_param {{ batch_size: 0 }}",
        "batch_size must be positive",
    ),
    "means and channels": (
        "ImageData",
        "transform_param { crop_size: 8 mean_value: [1, 2] } image_data_param { }",
        "2 values of mean_value for 3 channels",
    ),
    "windows without size": (
        "WindowData",
        "window_data_param { batch_size: 1 crop_size: 8 }",
        "windows need crop_size in transform_param",
    ),
    "memory without size": (
        "MemoryData",
        "memory_data_param { batch_size: 2 channels: 3 height: 4 }",
        "MemoryData needs a positive width",
    ),
    "HDF5 transformed": (
        "HDF5Data",
        "transform_param { scale: 2 } hdf5_data_param { source: 'x' batch_size: 3 }",
        "HDF5Data does not transform data",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    type_, params, message = REFUSED[name]
    with pytest.raises(caffe2flax.ConversionError) as refused:
        caffe2flax.convert(net(type_, params))
    assert message in str(refused.value)
    assert refused.value.problems[0].line


def test_tops() -> None:
    """Images without labels are a batch of a database, and of nothing else."""
    known = "transform_param { crop_size: 8 } "
    alone = net("Data", f"{known} data_param {{ batch_size: 4 }}", tops="data")
    assert len(caffe2flax.convert(alone).graph.arguments) == 1
    for type_, own in (("ImageData", "image_data"), ("WindowData", "window_data")):
        params = f"{known} {own}_param {{ batch_size: 4 }}"
        with pytest.raises(caffe2flax.ConversionError, match="needs at least 2 top"):
            caffe2flax.convert(net(type_, params, tops="data"))


TRANSFORM = (
    "transform_param { scale: 0.017 mean_value: 104 mean_value: 117 mean_value: 123 "
    "crop_size: 8 mirror: true force_color: true }"
)


def test_transform_is_kept() -> None:
    """On the graph, in a note, and in the module's docstring."""
    text = net("Data", f"{TRANSFORM} data_param {{ batch_size: 4 }}")
    conversion = caffe2flax.convert(text)
    wanted = Transform(0.017, (104, 117, 123), "", 8, True, True)
    assert conversion.graph.transforms == {"data": wanted}
    steps = (
        "decoded in colour, cropped to 8 x 8 from the middle, mean 104, 117, 123 "
        "(B, G, R) subtracted, scaled by 0.017, mirrored at random"
    )
    assert wanted.describe() == steps
    assert any(steps in note for note in conversion.notes)
    assert steps in " ".join(conversion.source.split())
    assert "at random, mean" in wanted.describe("TRAIN")


def test_transform_of_any_layer() -> None:
    """Deploy nets carry it along; a mean file is named, not opened."""
    text = (
        "layer { name: 'd' type: 'Input' top: 'data' transform_param { mean_file: "
        '\'/no/such"""\\n/file\' } input_param { shape { dim: 1 dim: 3 } } }' + RELU
    )
    conversion = caffe2flax.convert(text)
    assert conversion.graph.transforms["data"].mean_file == '/no/such"""\n/file'
    assert any("/file' subtracted" in note for note in conversion.notes)
    compile(conversion.source, "net.py", "exec")


def test_superseded_fields() -> None:
    """What moved to transform_param is read there in old nets, nowhere in others."""
    own = "batch_size: 2 scale: 0.5 crop_size: 8 mirror: true mean_file: 'm'"
    old = (
        f"layers {{ name: 'd' type: DATA top: 'data' data_param {{ {own} }} }}"
        "layers { name: 'r' type: RELU bottom: 'data' top: 'out' }"
    )
    graph = caffe2flax.convert(old).graph
    wanted = Transform(0.5, (), "m", 8, True)
    assert graph.transforms == {"data": wanted}
    assert graph.shapes[graph.arguments[0]] == (2, 3, 8, 8)

    new = net("Data", f"{CROP} data_param {{ {own} }}", tops="data")
    conversion = caffe2flax.convert(new)
    assert conversion.graph.transforms == {"data": Transform(crop_size=8)}
    for name in ("scale", "mean_file", "crop_size", "mirror"):
        text = f"{name} has no meaning in data_param"
        assert any(text in note for note in conversion.notes)


DUMMIES = {
    "one filler for all": (
        "shape { dim: 2 dim: 3 } data_filler { value: 1.5 }",
        [np.full((2, 3), 1.5), np.full((2, 3), 1.5)],
    ),
    "old sizes, one each": (
        "num: 2 num: 3 channels: 4 height: 1 width: 1 width: 2 "
        "data_filler { value: 1 } data_filler { value: -2 }",
        [np.full((2, 4, 1, 1), 1.0), np.full((3, 4, 1, 2), -2.0)],
    ),
    "a scalar": ("shape { } shape { dim: 1 }", [np.zeros(()), np.zeros(1)]),
}


@pytest.mark.parametrize("name", DUMMIES)
def test_dummies(name: str) -> None:
    params, wanted = DUMMIES[name]
    text = (
        "layer { name: 'd' type: 'DummyData' top: 'a' top: 'b' "
        f"dummy_data_param {{ {params} }} }}"
    )
    found = caffe2flax.run(text, None, {})
    for array, blob in zip(wanted, ("a", "b"), strict=True):
        assert found[blob].shape == array.shape
        assert np.array_equal(found[blob], array)


def test_random_dummies() -> None:
    """In the range of their fillers, each blob its own numbers, anew at every call."""
    from flax import nnx

    text = (
        "layer { name: 'd' type: 'DummyData' top: 'a' top: 'b' dummy_data_param { "
        "shape { dim: 50 dim: 40 } data_filler { type: 'uniform' min: 2 max: 4 } } }"
    )
    model = caffe2flax.load(text)
    rngs = nnx.Rngs(0)
    first, second = model(rngs=rngs), model(rngs=rngs)
    drawn = [np.asarray(found[blob]) for found in (first, second) for blob in "ab"]
    for array in drawn:
        assert 2 <= array.min() < 2.1
        assert 3.9 < array.max() <= 4
        assert abs(array.mean() - 3) < 0.1
    assert len({array.tobytes() for array in drawn}) == 4
    assert np.array_equal(model()["a"], model()["a"])


BAD_DUMMIES = {
    "no shape": ("", "0 values of shape for 2 tops"),
    "three shapes": ("shape { } shape { } shape { }", "3 values of shape for 2 tops"),
    "both ways": (
        "shape { dim: 1 } num: 1 channels: 1 height: 1 width: 1",
        "give either shape or num, channels, height, width",
    ),
    "a side missing": ("num: 1 channels: 1 height: 1", "0 values of width for 2 tops"),
    "three fillers": (
        "shape { dim: 1 } " + "data_filler { } " * 3,
        "3 values of data_filler for 2 tops",
    ),
    "unknown filler": (
        "shape { dim: 1 } data_filler { type: 'normal' }",
        "'normal'",
    ),
}


@pytest.mark.parametrize("name", BAD_DUMMIES)
def test_bad_dummies(name: str) -> None:
    params, message = BAD_DUMMIES[name]
    text = (
        "layer { name: 'd' type: 'DummyData' top: 'a' top: 'b' "
        f"dummy_data_param {{ {params} }} }}"
    )
    with pytest.raises(caffe2flax.ConversionError) as refused:
        caffe2flax.convert(text)
    assert message in str(refused.value)


def test_a_net_out_of_its_weights(tmp_path: object) -> None:
    """The architecture in a weights file is a net like any other."""
    path = FIXTURES / "layers" / "split_implicit.caffemodel"
    prototxt = FIXTURES / "layers" / "split_implicit.prototxt"
    alone = caffe2flax.convert(path)
    both = caffe2flax.convert(prototxt, path)
    body = alone.source.partition("def __call__")[2]
    assert body == both.source.partition("def __call__")[2]


def test_written_outputs_are_passed_over() -> None:
    """What they write is the output where the net has no other."""
    memory = SHAPES["MemoryData"][1]
    output = (
        "layer { name: 'h' type: 'HDF5Output' bottom: 'out' bottom: 'label' "
        "hdf5_output_param { file_name: 'x.h5' } }"
    )
    text = (
        f"layer {{ name: 'd' type: 'MemoryData' top: 'data' top: 'label' {memory} }}"
        + PRELU
        + output
    )
    graph = caffe2flax.convert(text).graph
    assert [d.name for d in graph.remarks.dropped] == ["h"]
    assert [v.blob for v in graph.arguments] == ["data"]
    assert [v.blob for v in graph.outputs] == ["out"]
    more = "layer { name: 's' type: 'ReLU' bottom: 'data' top: 'rest' }"
    graph = caffe2flax.convert(text + more).graph
    assert [v.blob for v in graph.arguments] == ["data"]
    assert [v.blob for v in graph.outputs] == ["rest"]
