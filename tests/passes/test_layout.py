"""Channels last everywhere: random nets of shape layers against the reference."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from caffe2flax.conversion import Conversion, read_graph
from caffe2flax.ir.graph import Graph
from caffe2flax.ir.layout import Segment, order_indices, repeat_order, split_order
from caffe2flax.runner import execute
from caffe2flax.verification import reference
from tests.golden import distance
from tests.randomnets.net import Net, Shape
from tests.randomnets.shapes import (
    argmax,
    concat,
    crop,
    flatten,
    insert,
    reduction,
    reshape,
    slice_,
    tile,
    unconcat,
)
from tests.randomnets.values import dense, eltwise, function, slopes, softmax
from tests.randomnets.windows import convolution, pooling, pyramid
from tests.smallnets import save

STEPS = (
    *(convolution, pooling, pyramid, flatten, flatten, reshape, reshape, insert),
    *(concat, concat, slice_, unconcat, crop, tile, eltwise, function, slopes),
)
ENDS = (dense, dense, dense, softmax, reduction, argmax)


def random_net(seed: int) -> Net:
    """A convolution, some shape layers after it, and layers that depend on the
    order."""
    net = Net(random.Random(seed))
    net.input("data", (2, 3, net.dice.choice([4, 6]), net.dice.choice([4, 5, 6])))
    blobs = ["data"]
    if net.dice.random() < 0.8:
        blobs = convolution(net, "data") or blobs
    for _ in range(net.dice.randint(1, 6)):
        made = net.dice.choice(STEPS)(net, net.dice.choice(blobs[-2:]))
        if made:
            blobs += made
    net.dice.choice(ENDS)(net, blobs[-1])
    return net


def weights_of(graph: Graph, rng: np.random.Generator) -> dict[str, list[np.ndarray]]:
    """Some numbers for every weight blob."""
    return {
        name: [0.3 * rng.standard_normal(slot.shape) for slot in slots]
        for name, slots in graph.layer_weights.items()
        if slots
    }


def compare(text: str, folder: Path, batch: int | None = None) -> Conversion:
    """Runs a net of one input and compares it with the reference."""
    rng = np.random.default_rng(0)
    weights = weights_of(read_graph(text), rng)
    path = save(folder / "net.caffemodel", weights) if weights else None
    conversion = caffe2flax.convert(text, path)
    graph = conversion.graph
    (data,) = graph.arguments
    shape = graph.shapes[data]
    if batch is not None and graph.sizes.larger_batch[data] != shape:
        shape = (batch, *shape[1:])
    inputs = {"data": rng.standard_normal(shape).astype(np.float32)}
    expected = reference.evaluate(graph, conversion.blobs, inputs)
    ours = execute(conversion, inputs, ["outputs"])
    assert ours.keys() == {value.blob for value in graph.outputs}
    for value in graph.outputs:
        far = distance(ours[value.blob], expected[value])
        assert far <= 1e-5, (value.blob, far, conversion.source)
    return conversion


@pytest.mark.parametrize("seed", range(48))
def test_random_nets(seed: int, tmp_path: Path) -> None:
    """Every other one at a batch that the file does not name."""
    net = random_net(seed)
    compare(net.text, tmp_path, batch=3 if seed % 2 else None)


DATA = 'name: "data" type: "Input" top: "data" input_param { shape { %s } }'
CONV = (
    'name: "c" type: "Convolution" bottom: "data" top: "c" '
    "convolution_param { num_output: 6 kernel_size: 3 }"
)


def text_of(*layers: str, dims: str = "dim: 2 dim: 3 dim: 8 dim: 8") -> str:
    return "\n".join(f"layer {{ {layer} }}" for layer in (DATA % dims, CONV, *layers))


def step(type_: str, bottom: str, top: str, text: str = "") -> str:
    bottoms = " ".join(f'bottom: "{name}"' for name in bottom.split())
    return f'name: "{top}" type: "{type_}" {bottoms} top: "{top}" {text}'


def fully_connected(bottom: str) -> str:
    return step("InnerProduct", bottom, "y", "inner_product_param { num_output: 4 }")


POOL = step("Pooling", "c", "p", "pooling_param { kernel_size: 2 stride: 2 }")


def head(name: str, bottom: str, outputs: int) -> tuple[str, ...]:
    """A prediction head: convolution, then its outputs an anchor as rows."""
    parameters = f"convolution_param {{ num_output: {outputs} kernel_size: 1 }}"
    return (
        step("Convolution", bottom, name, parameters),
        step("Flatten", name, f"{name}_flat"),
    )


FREE = {
    "pool, Flatten": (POOL, step("Flatten", "p", "f"), fully_connected("f")),
    "pool alone": (POOL, fully_connected("p")),
    "Flatten, Dropout": (
        step("Flatten", "c", "f"),
        step("Dropout", "f", "d"),
        fully_connected("d"),
    ),
    "Reshape for Flatten": (
        step("Reshape", "c", "r", "reshape_param { shape { dim: 0 dim: -1 } }"),
        fully_connected("r"),
    ),
    "Concat of Flattens": (
        POOL,
        step("Flatten", "c", "f1"),
        step("Flatten", "p", "f2"),
        step("Concat", "f1 f2", "f"),
        fully_connected("f"),
    ),
    "Slice of that Concat": (
        POOL,
        step("Flatten", "c", "f1"),
        step("Flatten", "p", "f2"),
        step("Concat", "f1 f2", "f"),
        'name: "s" type: "Slice" bottom: "f" top: "s1" top: "s2" '
        "slice_param { slice_point: 216 }",
        fully_connected("s2"),
        step("InnerProduct", "s1", "z", "inner_product_param { num_output: 2 }"),
    ),
    "SPP": (
        step("SPP", "c", "s", "spp_param { pyramid_height: 2 }"),
        fully_connected("s"),
    ),
    "Tile of a Flatten": (
        step("Flatten", "c", "f"),
        step("Tile", "f", "t", "tile_param { tiles: 2 }"),
        fully_connected("t"),
    ),
    "heads, Concat, Dropout": (
        POOL,
        *head("h1", "c", 4),
        *head("h2", "p", 4),
        step("Concat", "h1_flat h2_flat", "all"),
        step("Dropout", "all", "d"),
        fully_connected("d"),
    ),
    "Reshape into pixels and back": (
        step("Reshape", "c", "r", "reshape_param { shape { dim: 0 dim: 6 dim: -1 } }"),
        step("ReLU", "r", "a"),
        step("Reshape", "a", "b", "reshape_param { shape { dim: 0 dim: -1 } }"),
        fully_connected("b"),
    ),
    "Slice, Concat of channels": (
        'name: "s" type: "Slice" bottom: "c" top: "s1" top: "s2"',
        step("Concat", "s2 s1", "k"),
        fully_connected("k"),
    ),
    "sums of pixels": (
        step("Reduction", "c", "r", "reduction_param { axis: 2 operation: MEAN }"),
        fully_connected("r"),
    ),
    "argmax of channels": (step("ArgMax", "c", "y", "argmax_param { axis: 1 }"),),
    "Crop": (
        step("Crop", "data c", "k", "crop_param { axis: 2 offset: 1 }"),
        fully_connected("k"),
    ),
}


@pytest.mark.parametrize("layers", FREE.values(), ids=FREE.keys())
def test_free_of_transposes(layers: tuple[str, ...], tmp_path: Path) -> None:
    """Nothing moves at run time where the order can be changed at conversion."""
    conversion = compare(text_of(*layers), tmp_path)
    body = conversion.source.partition("# Operations")[0]
    assert "transpose" not in body
    assert "to_caffe_order" not in body


LABEL = 'name: "t" type: "Input" top: "t" input_param { shape { dim: 2 dim: 216 } } '
SIMILAR = 'name: "s" type: "Input" top: "s" input_param { shape { dim: 2 } } '
PAIRS = {
    "EuclideanLoss": "%s",
    "SigmoidCrossEntropyLoss": "%s",
    "ContrastiveLoss": "%s s",
}


@pytest.mark.parametrize("bottoms", ["f t", "t f", "f f2", "f2 f", "f f"])
@pytest.mark.parametrize(("type_", "more"), PAIRS.items(), ids=PAIRS.keys())
def test_losses_of_pairs_in_different_orders(
    type_: str, more: str, bottoms: str
) -> None:
    """Of blobs of one shape one may be in the order H, W, C, and the other not."""
    text = text_of(
        step("Flatten", "c", "f"),
        step("Flatten", "data", "g"),
        step("InnerProduct", "g", "f2", "inner_product_param { num_output: 216 }"),
        LABEL,
        SIMILAR,
        step(type_, more % bottoms, "loss"),
    )
    assert caffe2flax.verify(text, phase="TRAIN").ok


def test_rows_are_permuted_once(tmp_path: Path) -> None:
    """After a Flatten of H, W, C the rows of an InnerProduct are in that order."""
    text = text_of(step("Flatten", "c", "f"), fully_connected("f"))
    conversion = compare(text, tmp_path)
    number = next(n.number for n in conversion.graph.nodes if n.name == "y")
    kernel = conversion.blobs[number, 0].reshape(4, 6, 6, 6)
    assert conversion.weights is not None
    rows = conversion.weights["y.kernel"]
    np.testing.assert_array_equal(rows, kernel.transpose(2, 3, 1, 0).reshape(-1, 4))


@pytest.mark.parametrize(
    ("order", "sizes", "parts"),
    [
        ((), [2, 3], [(), ()]),
        ((((2, 3), (1, 0)),), [6], [(((2, 3), (1, 0)),)]),
        ((((2, 3), (1, 0)), ((4,), (0,))), [6, 4], [(((2, 3), (1, 0)),), ()]),
        (
            (((2, 3), (1, 0)), ((4,), (0,))),
            [7, 3],
            [(((2, 3), (1, 0)), ((1,), (0,))), ()],
        ),
        ((((4,), (0,)), ((2, 3), (1, 0))), [1, 3, 6], [(), (), (((2, 3), (1, 0)),)]),
        ((((2, 3), (1, 0)),), [3, 3], None),
    ],
)
def test_split_order(order: tuple, sizes: list[int], parts: list | None) -> None:
    """An ordered axis can be cut between segments, and inside one in Caffe's order."""
    made = split_order(tuple(Segment(*run) for run in order), sizes)
    assert made == parts


@pytest.mark.parametrize(("dims", "perm"), [((2, 3), (1, 0)), ((2, 3, 4), (1, 2, 0))])
def test_repeat_order(dims: Shape, perm: Shape) -> None:
    """Copies of an ordered axis are one run with one more factor."""
    order = (Segment(dims, perm),)
    repeated = repeat_order(order, 3)
    assert repeated is not None
    one = order_indices(order)
    wanted = np.concatenate([one + i * len(one) for i in range(3)])
    np.testing.assert_array_equal(order_indices(repeated), wanted)
    assert repeat_order((*order, *order), 2) is None
