"""Repeated blocks as classes: which groups are blocks, and that results are equal."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import caffe2flax
from caffe2flax.conversion import read_graph
from caffe2flax.verification import reference
from caffe2flax.weights.variables import collect
from tests import architectures, wireformat
from tests.codegen.test_module import imported
from tests.golden import FIXTURES, distance

OPERATIONS = "# Operations that Flax lacks"
NETWORKS = FIXTURES / "networks"


def own_lines(source: str) -> int:
    """Lines of a module without the functions from `ops/`."""
    return len(net_alone(source).splitlines())


def net_alone(source: str) -> str:
    """The classes, without the functions below them."""
    return source.split("\n\n\ndef ")[0].rstrip()


def classes(source: str) -> list[str]:
    return re.findall(r"^class (\w+)\(nnx\.Module\):", net_alone(source), re.M)


PUBLISHED = {
    "alexnet": (NETWORKS / "alexnet.prototxt", ["AlexNet"], 150),
    "lenet": (NETWORKS / "lenet.prototxt", ["LeNet"], 60),
    "googlenet": (
        NETWORKS / "googlenet.prototxt",
        ["Inception", "GoogleNet"],
        150,
    ),
    "resnet50": (
        NETWORKS / "resnet50.prototxt",
        ["ProjectionBottleneck", "Bottleneck", "ResNet_50"],
        160,
    ),
    "mobilenet": (
        NETWORKS / "mobilenet.prototxt",
        ["SeparableConv", "MOBILENET"],
        160,
    ),
    "resnet152": (
        architectures.resnet(152),
        ["ProjectionBottleneck", "Bottleneck", "ResNet_152"],
        160,
    ),
    "squeezenet": (architectures.squeezenet(), ["Fire", "SqueezeNet_v1_1"], 150),
}


@pytest.mark.parametrize(
    ("net", "expected", "limit"), PUBLISHED.values(), ids=PUBLISHED
)
def test_classes(net: str | Path, expected: list[str], limit: int) -> None:
    """Few classes, few lines, and methods that fit on a screen."""
    source = caffe2flax.convert(net).source
    assert classes(source) == expected
    assert own_lines(source) < limit
    for body in re.split(r"\n    def ", net_alone(source))[1:]:
        method = re.split(r"\n(?=    @|class )", body)[0]
        assert len(method.rstrip().splitlines()) <= 60


def test_inception_is_used_nine_times() -> None:
    source = caffe2flax.convert(NETWORKS / "googlenet.prototxt").source
    assert len(re.findall(r"self\.inception_\w+ = inception\(", source)) == 9
    assert "inception(192, 64, 96, 128, 16, 32, 32)" in source


def small_googlenet() -> str:
    """Two inception blocks behind one convolution, narrow."""
    text = (NETWORKS / "googlenet.prototxt").read_text()
    layers = re.findall(r"^layer \{.*?^\}", text, re.M | re.S)
    wanted = [x for x in layers if re.search(r'name: "(data|inception_3)', x)]
    net = "\n".join(wanted).replace("pool2/3x3_s2", "data").replace("224", "8")
    return re.sub(r"num_output: (\d+)", lambda m: f"num_output: {int(m[1]) // 16}", net)


PLANTED = {
    "as published": (),
    "another kernel": (r'(?s)(3b/3x3".*?kernel_size: )3(.*?pad: )1', r"\g<1>3\g<2>1"),
    "a relu less": (
        r'(?s)layer \{\s*name: "inception_3b/relu_1x1".*?\n\}\n',
        "",
    ),
    "other wiring": (
        r'(?s)(name: "inception_3b/5x5_reduce".*?bottom: ")inception_3a/output',
        r"\g<1>inception_3b/3x3_reduce",
    ),
    "another type": (
        r'(?s)(name: "inception_3b/relu_1x1"\s*type: ")ReLU',
        r"\g<1>Sigmoid",
    ),
    "another pooling": (r'(?s)(name: "inception_3b/pool".*?pool: )MAX', r"\g<1>AVE"),
}


def evaluate(net: str, folder: Path) -> tuple[Path, dict[str, np.ndarray], np.ndarray]:
    """Random weights in a file, inputs, and the reference's output for them."""
    graph = read_graph(net)
    rng = np.random.default_rng(0)
    path = folder / "net.caffemodel"
    chunks = []
    for name, weights in graph.layer_weights.items():
        blobs = [
            wireformat.dims(*w.shape)
            + wireformat.chunk(
                5, rng.normal(0.0, 0.3, w.shape).astype(np.float32).tobytes()
            )
            for w in weights
        ]
        chunks.append(wireformat.layer(*blobs, name=name, type="x"))
    path.write_bytes(b"".join(chunks))
    inputs = {
        v.blob: rng.normal(size=graph.shapes[v]).astype(np.float32)
        for v in graph.arguments
    }
    conversion = caffe2flax.convert(net, path)
    values = reference.evaluate(conversion.graph, conversion.blobs, inputs)
    (output,) = conversion.graph.outputs
    return path, inputs, values[output]


@pytest.mark.parametrize("change", PLANTED.values(), ids=PLANTED)
@pytest.mark.parametrize("flat", [False, True])
def test_planted_differences(
    change: tuple[str, str], flat: bool, tmp_path: Path
) -> None:
    """Blocks of the same names but other structure stay apart, and every form computes
    what the reference does."""
    net = small_googlenet()
    if change:
        changed = re.sub(*change, net, count=1)
        same = changed == net
        net = changed
    else:
        same = True
    source = caffe2flax.convert(net, flat=flat).source
    assert ("Inception" in classes(source)) == (same and not flat)
    path, inputs, expected = evaluate(net, tmp_path)
    (ours,) = caffe2flax.run(net, path, inputs, flat=flat).values()
    assert distance(ours, expected) <= 1e-5


SMALL = {
    "resnet101": architectures.resnet(101, width=2, size=33, classes=7),
    "resnet50": architectures.resnet(50, width=4, size=33, classes=7),
    "squeezenet": architectures.squeezenet(size=67, classes=9, shrink=4),
    "vgg19": architectures.vgg(19, width=4, size=32, dense=64),
    "caffenet": architectures.caffenet(shrink=16),
}


@pytest.mark.parametrize("net", SMALL.values(), ids=SMALL)
def test_small_networks(net: str, tmp_path: Path) -> None:
    """Blocks, options of blocks and runs of blocks give the reference's numbers."""
    positive = net.replace("use_global_stats: true", "eps: 1")
    path, inputs, expected = evaluate(positive, tmp_path)
    model = caffe2flax.load(positive, path)
    # Op by op: equal blocks are compiled once.
    ours = np.asarray(model(jnp.asarray(inputs["data"].transpose(0, 2, 3, 1))))
    ours = ours.transpose(0, 3, 1, 2) if ours.ndim == 4 else ours
    assert distance(ours, expected) <= 1e-4


def test_long_runs_are_sequential() -> None:
    source = caffe2flax.convert(architectures.resnet(152)).source
    assert source.count("nnx.Sequential") == 2
    assert "for _ in range(35)" in source


def operations(path: Path) -> Counter[str]:
    """What the program of a ResNet consists of, before XLA."""
    model = nnx.eval_shape(lambda: imported(path).ResNet_50(rngs=nnx.Rngs(0)))
    model.eval()
    image = jax.ShapeDtypeStruct((1, 33, 33, 3), jnp.float32)
    text = jax.jit(lambda m, x: m(x)).lower(model, image).as_text()
    return Counter(re.findall(r"stablehlo\.\w+", text))


def test_the_compiled_program_is_the_same(tmp_path: Path) -> None:
    paths = [
        caffe2flax.convert(SMALL["resnet50"], flat=flat).write(tmp_path / str(flat))[0]
        for flat in (False, True)
    ]
    block, flat = map(operations, paths)
    assert block == flat
    kinds = ("convolution", "dot_general", "custom_call")
    assert sum(block[f"stablehlo.{kind}"] for kind in kinds) == 53 + 1


def test_tapped_blobs_keep_their_block_flat() -> None:
    source = caffe2flax.convert(small_googlenet(), taps=["inception_3b/3x3"]).source
    assert "inception_3b_3x3 = " in source
    assert classes(source) == ["Net"]


def test_another_number_of_classes(tmp_path: Path) -> None:
    """All but the last layer is loaded."""
    folder = FIXTURES / "digits"
    net, weights = folder / "deploy.prototxt", folder / "digits_lenet.caffemodel"
    path, _ = caffe2flax.convert(net, weights).write(tmp_path)
    cls = imported(path).DigitsLeNet
    same, other = cls.from_pretrained(), cls.from_pretrained(num_classes=20)
    assert other.ip2.kernel.shape == (48, 20)
    np.testing.assert_array_equal(other.ip1.kernel[...], same.ip1.kernel[...])
    shape = jax.eval_shape(lambda m, x: m(x), other, jnp.zeros((1, 28, 28, 1))).shape
    assert shape == (1, 20)
    assert float(jnp.std(other.ip2.kernel[...])) > 0
    tuned = cls.from_pretrained(dropout=0.1)
    assert tuned.drop3.rate == 0.1


def test_weights_go_by_caffes_names() -> None:
    graph = read_graph(NETWORKS / "googlenet.prototxt")
    blobs, _ = collect(graph, [])
    assert len(blobs) == 116
