"""Channels last everywhere: random nets of shape layers against the reference."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import pytest

import caffe2flax
from caffe2flax.conversion import Conversion, read_graph
from caffe2flax.ir.graph import Graph
from caffe2flax.ir.layout import Segment, order_indices, repeat_order, split_order
from caffe2flax.ir.window import Window, pool_output
from caffe2flax.runner import execute
from caffe2flax.verification import reference
from tests.golden import distance
from tests.smallnets import save

Shape = tuple[int, ...]


@dataclass
class Net:
    """A prototxt that grows layer by layer, and the shapes of its blobs."""

    dice: random.Random
    layers: list[str] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def input(self, name: str, shape: Shape) -> None:
        dims = " ".join(f"dim: {extent}" for extent in shape)
        self.layers.append(
            f'layer {{ name: "{name}" type: "Input" top: "{name}" '
            f"input_param {{ shape {{ {dims} }} }} }}"
        )
        self.shapes[name] = shape

    def add(
        self, type_: str, bottoms: list[str], text: str, *shapes: Shape
    ) -> list[str]:
        tops = [f"b{len(self.shapes) + i}" for i in range(len(shapes))]
        names = "".join(f'bottom: "{blob}" ' for blob in bottoms)
        names += "".join(f'top: "{blob}" ' for blob in tops)
        self.layers.append(
            f'layer {{ name: "l{len(self.layers)}" type: "{type_}" {names}{text} }}'
        )
        self.shapes.update(zip(tops, shapes, strict=True))
        return tops

    @property
    def text(self) -> str:
        return 'name: "layouts"\n' + "\n".join(self.layers) + "\n"


def convolution(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    if len(shape) != 4 or min(shape[2:]) < 2:
        return None
    out = net.dice.choice([2, 3, 4])
    text = f"convolution_param {{ num_output: {out} kernel_size: 3 pad: 1 }}"
    return net.add("Convolution", [blob], text, (shape[0], out, *shape[2:]))


def pooling(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    if len(shape) != 4 or min(shape[2:]) < 3:
        return None
    sizes = [pool_output(s, Window(2, 2), ceil=True, clip=False) for s in shape[2:]]
    text = "pooling_param { kernel_size: 2 stride: 2 }"
    return net.add("Pooling", [blob], text, (*shape[:2], *sizes))


def pyramid(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    if len(shape) != 4 or min(shape[2:]) < 4 or any(s % 2 for s in shape[2:]):
        return None
    text = "spp_param { pyramid_height: 2 }"
    return net.add("SPP", [blob], text, (shape[0], shape[1] * 5))


def axis_of(net: Net, shape: Shape, low: int = 0) -> tuple[int, int]:
    """An axis, and how the file names it."""
    axis = net.dice.randrange(low, len(shape))
    return axis, net.dice.choice([axis, axis - len(shape)])


def flatten(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    if len(shape) < 2:
        return None
    axis, named = axis_of(net, shape, net.dice.choice([0, 1, 1, 1]))
    end, named_end = axis_of(net, shape, axis)
    flat = (*shape[:axis], prod(shape[axis : end + 1]), *shape[end + 1 :])
    text = f"flatten_param {{ axis: {named} end_axis: {named_end} }}"
    return net.add("Flatten", [blob], text, flat)


def reshape(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    rest = prod(shape[1:])
    factors = [n for n in range(1, rest + 1) if rest % n == 0]
    middle = net.dice.choice(factors)
    new: Shape = (shape[0], middle, rest // middle)
    dims = [0, middle, -1]
    if net.dice.random() < 0.5:
        inner = net.dice.choice([n for n in factors if (rest // middle) % n == 0])
        new = (shape[0], middle, inner, rest // middle // inner)
        dims = [0, middle, inner, -1]
    text = " ".join(f"dim: {dim}" for dim in dims)
    return net.add("Reshape", [blob], f"reshape_param {{ shape {{ {text} }} }}", new)


def insert(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    if len(shape) > 4:
        return None
    axis = net.dice.randrange(1, len(shape) + 1)
    text = f"reshape_param {{ axis: {axis} num_axes: 0 shape {{ dim: 1 }} }}"
    return net.add("Reshape", [blob], text, (*shape[:axis], 1, *shape[axis:]))


def concat(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    axis, named = axis_of(net, shape, min(1, len(shape) - 1))
    others = [
        other
        for other, s in net.shapes.items()
        if len(s) == len(shape)
        and (*s[:axis], *s[axis + 1 :]) == (*shape[:axis], *shape[axis + 1 :])
    ]
    chosen = [blob, *net.dice.choices(others, k=net.dice.choice([0, 1, 1, 2]))]
    total = sum(net.shapes[other][axis] for other in chosen)
    text = f"concat_param {{ axis: {named} }}"
    return net.add("Concat", chosen, text, (*shape[:axis], total, *shape[axis + 1 :]))


def slice_(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    axis, named = axis_of(net, shape, min(1, len(shape) - 1))
    if shape[axis] < 2:
        return None
    point = net.dice.randrange(1, shape[axis])
    text = f"slice_param {{ axis: {named} slice_point: {point} }}"
    parts = [
        (*shape[:axis], n, *shape[axis + 1 :]) for n in (point, shape[axis] - point)
    ]
    return net.add("Slice", [blob], text, *parts)


def unconcat(net: Net, blob: str) -> list[str] | None:
    """A Slice where a Concat has joined."""
    shape = net.shapes[blob]
    (both,) = net.add(
        "Concat",
        [blob, blob],
        "concat_param { axis: -1 }",
        (*shape[:-1], 2 * shape[-1]),
    )
    return net.add("Slice", [both], "slice_param { axis: -1 }", shape, shape)


def crop(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    axis, named = axis_of(net, shape, min(1, len(shape) - 1))
    likes = [
        other
        for other, s in net.shapes.items()
        if len(s) == len(shape)
        and all(a <= b for a, b in zip(s[axis:], shape[axis:], strict=True))
    ]
    like = net.shapes[other := net.dice.choice(likes)]
    offset = [
        net.dice.randrange(0, a - b + 1)
        for a, b in zip(shape[axis:], like[axis:], strict=True)
    ]
    text = " ".join(f"offset: {start}" for start in offset)
    text = f"crop_param {{ axis: {named} {text} }}"
    return net.add("Crop", [blob, other], text, (*shape[:axis], *like[axis:]))


def tile(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    axis, named = axis_of(net, shape)
    if prod(shape) > 400:
        return None
    tiles = net.dice.choice([1, 2, 3])
    text = f"tile_param {{ axis: {named} tiles: {tiles} }}"
    tiled = (*shape[:axis], shape[axis] * tiles, *shape[axis + 1 :])
    return net.add("Tile", [blob], text, tiled)


def eltwise(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    others = [other for other, s in net.shapes.items() if s == shape]
    chosen = [blob, *net.dice.choices(others, k=net.dice.choice([1, 2]))]
    operation = net.dice.choice(["SUM", "PROD", "MAX"])
    text = f"eltwise_param {{ operation: {operation} }}"
    return net.add("Eltwise", chosen, text, shape)


def relu(net: Net, blob: str) -> list[str] | None:
    return net.add("ReLU", [blob], "", net.shapes[blob])


def reduction(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    axis, named = axis_of(net, shape, min(1, len(shape) - 1))
    operation = net.dice.choice(["SUM", "ASUM", "SUMSQ", "MEAN"])
    text = f"reduction_param {{ operation: {operation} axis: {named} coeff: 0.5 }}"
    return net.add("Reduction", [blob], text, shape[:axis])


def argmax(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    if net.dice.random() < 0.3:
        top_k = net.dice.randint(1, min(3, prod(shape[1:])))
        both = net.dice.choice([False, True])
        text = f"top_k: {top_k} out_max_val: {str(both).lower()}"
        top = (shape[0], 1 + both, top_k, *(1,) * (len(shape) - 3))
    else:
        axis, named = axis_of(net, shape)
        top_k = net.dice.randint(1, min(3, shape[axis]))
        text = f"axis: {named} top_k: {top_k}"
        top = (*shape[:axis], top_k, *shape[axis + 1 :])
    return net.add("ArgMax", [blob], f"argmax_param {{ {text} }}", top)


def softmax(net: Net, blob: str) -> list[str] | None:
    _, named = axis_of(net, net.shapes[blob])
    text = f"softmax_param {{ axis: {named} }}"
    return net.add("Softmax", [blob], text, net.shapes[blob])


def inner_product(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    if len(shape) < 2:
        return None
    axis, named = axis_of(net, shape, 1)
    text = f"inner_product_param {{ num_output: 3 axis: {named} }}"
    return net.add("InnerProduct", [blob], text, (*shape[:axis], 3))


def scale(net: Net, blob: str) -> list[str] | None:
    shape = net.shapes[blob]
    _, named = axis_of(net, shape, min(1, len(shape) - 1))
    text = f"scale_param {{ axis: {named} num_axes: 1 bias_term: true }}"
    return net.add("Scale", [blob], text, shape)


STEPS = (
    *(convolution, pooling, pyramid, flatten, flatten, reshape, reshape, insert),
    *(concat, concat, slice_, unconcat, crop, tile, eltwise, relu, scale),
)
ENDS = (inner_product, inner_product, inner_product, softmax, reduction, argmax)


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
