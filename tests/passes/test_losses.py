"""`total_loss` of a net in training: the sum over all tops with a loss_weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import caffe2flax
from caffe2flax.conversion import read_graph
from caffe2flax.frontend import caffemodel
from caffe2flax.passes.shapes import infer_shapes
from caffe2flax.runner import arrange_inputs, instantiate
from caffe2flax.verification.reference import evaluate
from caffe2flax.weights.variables import collect
from tests.golden import distance
from tests.smallnets import net, numbers, save

IMAGES = {"x": (2, 3, 4, 4)}
CONV = "convolution_param { num_output: 3 kernel_size: 1 }"
KERNEL = ((3, 3, 1, 1), (3,))


def layer(name: str, type_: str, bottoms: str, text: str = "", top: str = "") -> str:
    given = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    top = f'top: "{top or name}"' if top != "-" else ""
    return f'name: "{name}" type: "{type_}" {given} {top} {text}'


def fc(name: str, bottom: str, text: str = "") -> str:
    given = f"inner_product_param {{ num_output: 3 }} {text}"
    return layer(name, "InnerProduct", bottom, given)


def block(i: int) -> list[str]:
    """The last of several convolutions counts."""
    names = [f"b{i}/{part}" for part in ("a", "b", "c", "d", "e")]
    bottoms = [f"b{i - 1}/e" if i > 1 else "x", *names]
    texts = [CONV] * 4 + [f"{CONV} loss_weight: 0.5"]
    return [
        layer(name, "Convolution", bottom, text)
        for name, bottom, text in zip(names, bottoms, texts, strict=False)
    ]


LOSS = layer("loss", "EuclideanLoss", "b y", "loss_weight: 2")
FLAT: dict[str, tuple[int, ...]] = {"x": (2, 4), "y": (2, 3)}
DENSE: tuple[tuple[int, ...], ...] = ((3, 4), (3,))
NARROW: tuple[tuple[int, ...], ...] = ((3, 3), (3,))
STATISTICS = "batch_norm_param { use_global_stats: true }"
# name: inputs, layers, shapes of weight blobs by layer, loss weights by layer
NETS: dict[str, tuple[Any, list[str], dict[str, Any], dict[str, float]]] = {
    "another layer reads it": (
        FLAT,
        [fc("a", "x", "loss_weight: 3"), fc("b", "a"), LOSS],
        {"a": DENSE, "b": NARROW},
        {"loss": 2, "a": 3},
    ),
    "overwritten": (
        FLAT,
        [
            fc("a", "x", "loss_weight: 3"),
            layer("r", "ReLU", "a", "", "a"),
            fc("b", "a"),
            LOSS,
        ],
        {"a": DENSE, "b": NARROW},
        {"loss": 2, "a": 3},
    ),
    "overwritten, and each counts": (
        FLAT,
        [
            fc("b", "x", "loss_weight: 3"),
            layer("r", "ReLU", "b", "loss_weight: 0.5", "b"),
            layer("p", "Power", "b", "power_param { scale: 2 } loss_weight: -1", "b"),
            LOSS,
        ],
        {"b": DENSE},
        {"loss": 2, "b": 3, "r": 0.5, "p": -1},
    ),
    "overwritten, and nothing else": (
        FLAT,
        [fc("b", "x", "loss_weight: 1"), layer("r", "ReLU", "b", "", "b")],
        {"b": DENSE},
        {"b": 1},
    ),
    "nothing but Silence reads it": (
        FLAT,
        [
            fc("a", "x", "loss_weight: 3"),
            layer("s", "Silence", "a", "", "-"),
            fc("b", "x"),
            LOSS,
        ],
        {"a": DENSE, "b": DENSE},
        {"loss": 2, "a": 3},
    ),
    "a loss that a layer reads": (
        FLAT,
        [fc("b", "x"), LOSS, layer("p", "Power", "loss", "power_param { shift: 1 }")],
        {"b": DENSE},
        {"loss": 2},
    ),
    "channels last": (
        IMAGES,
        [
            layer("a", "Convolution", "x", f"{CONV} loss_weight: 0.25"),
            layer("b", "Flatten", "a", "loss_weight: 0.5"),
        ],
        {"a": KERNEL},
        {"a": 0.25, "b": 0.5},
    ),
    "folded": (
        IMAGES,
        [
            layer("a", "BatchNorm", "x", STATISTICS),
            layer("b", "Scale", "a", "loss_weight: 0.5"),
            layer("c", "Convolution", "b", CONV),
        ],
        {"a": ((3,), (3,), (1,)), "b": ((3,),), "c": KERNEL},
        {"b": 0.5},
    ),
    "blocks": (
        IMAGES,
        [*block(1), *block(2), *block(3)],
        {f"b{i}/{part}": KERNEL for i in (1, 2, 3) for part in "abcde"},
        {f"b{i}/e": 0.5 for i in (1, 2, 3)},
    ),
}


@pytest.mark.parametrize("taps", [(), "all"], ids=["plain", "tapped"])
@pytest.mark.parametrize("name", NETS)
def test_total(name: str, taps: Any, tmp_path: Path) -> None:
    """By the reference, run on the net as the file has it."""
    inputs, layers, blobs, weights = NETS[name]
    text = net(*layers, **inputs)
    made = {
        layer: [np.abs(numbers(*shape, seed=i)) / 3 for i, shape in enumerate(shapes)]
        for layer, shapes in blobs.items()
    }
    file = save(tmp_path / "net.caffemodel", made)
    x = {blob: numbers(*shape, seed=3) for blob, shape in inputs.items()}

    graph = read_graph(text, phase="TRAIN", passes=(infer_shapes,))
    values = evaluate(graph, collect(graph, [caffemodel.read(file)])[0], x)
    tops = {node.name: node.outputs[0] for node in graph.nodes if node.outputs}
    wanted = sum(w * values[tops[layer]].sum() for layer, w in weights.items())

    conversion = caffe2flax.convert(text, file, phase="TRAIN", taps=taps)
    assert conversion.notes == ()
    model = instantiate(conversion)

    def total(model: nnx.Module) -> jax.Array:
        found = model(*arrange_inputs(conversion.graph, x))
        outputs = found[0] if taps else found
        own = hasattr(model, "total_loss")
        return model.total_loss(outputs) if own else outputs

    assert distance(np.asarray(total(model)), np.asarray(wanted)) < 1e-5
    gradients = jax.tree.leaves(nnx.grad(total)(model))
    assert any(float(np.abs(x).max()) > 0 for x in gradients)


def test_caffes_name_of_an_overwritten_top() -> None:
    inputs, layers, *_ = NETS["overwritten"]
    found = caffe2flax.convert(net(*layers, **inputs), phase="TRAIN").graph.outputs
    assert [value.blob for value in found] == ["loss", "a_a_0_split_0"]


def test_an_input_that_counts() -> None:
    """It is constant: a note says that it is left out."""
    text = net(*NETS["another layer reads it"][1], **FLAT)
    text = text.replace("input_param", "loss_weight: 4 input_param", 1)
    notes = caffe2flax.convert(text, phase="TRAIN").notes
    assert any("'x' counts 4 times" in note for note in notes)
    assert "total loss" not in " ".join(caffe2flax.convert(text).notes)
