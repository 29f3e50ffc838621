"""Random small nets whose layers and blobs have names that the generated module, Flax
or Python uses already, or that are alike but for what no identifier has."""

from __future__ import annotations

import builtins
import keyword
import random
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from flax import nnx

from caffe2flax.codegen.library import library
from tests.golden import Arrays
from tests.smallnets import numbers

RATIOS = (0.2, 0.3, 0.4, 0.5)
SHAPE = (2, 3, 6, 6)
OURS = """
    a args b bias block cls conv conv_1 conv_2 conv_transpose dropout dtype embed eval
    features_in features_in_2 forward fresh from_pretrained images inputs keys kernel
    layers left linear linear_ logits loss losses mean metrics model module name
    num_classes num_classes_ num_classes_2 options output outputs parameters params
    path precision preprocess preprocess_data preprocess_x rngs scale self shape state
    step strides super taps top total_loss train training weights x x0 x1 x_2 x_nchw
    y CEIL I O l Net Conv Scale Block ConvBlock Inception Bottleneck
"""
PUNCTUATED = ("d/1", "d_1", "d-1", "d.1", "d 1", "/d/1", "d/1/", "d_1_2", "d_1_", "D_1")
ODD = ("1", "1x1", "2", "_", "__", "__init__", "__call__", "__class__", "_probe", "é")
LONG = tuple("long_" * 12 + end for end in ("", "1", "2", "_a", "_2", "/b", "\u00e9"))
STEMS = ("res", "nnx", "Scale", "self", "conv", "linear", "partial", "Dropout", "int")


@cache
def pool() -> tuple[tuple[str, ...], ...]:
    """Names by their kind; a kind is drawn first, then one of its names."""
    return (
        tuple(OURS.split()),
        (*keyword.kwlist, *keyword.softkwlist),
        tuple(dir(builtins)),
        tuple(dir(nnx.Module)),
        (*library().definitions, *library().imports),
        PUNCTUATED,
        ODD,
        LONG,
    )


@dataclass
class Net:
    """A random net: its text, its weights, and what `preprocess` does to its inputs."""

    draw: random.Random
    train: bool
    lines: list[str] = field(default_factory=list)
    weights: dict[str, list[np.ndarray]] = field(default_factory=dict)
    inputs: Arrays = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)
    blobs: list[str] = field(default_factory=list)
    """Those of SHAPE that a layer may read."""
    used: set[str] = field(default_factory=set)
    names: list[str] = field(default_factory=list)
    """Few that go well together, before any others."""

    def __post_init__(self) -> None:
        for kind in self.draw.sample(pool(), 3):
            self.names += self.draw.sample(kind, min(6, len(kind)))

    def name(self, stem: str = "") -> str:
        """One that no layer and no blob has."""
        for few in (True,) * 20 + (False,) * 1000:
            names = self.names if few else self.draw.choice(pool())
            name = stem + self.draw.choice(names)
            if name not in self.used:
                self.used.add(name)
                return name
        raise AssertionError("all names are used")

    def add(
        self,
        type_: str,
        bottoms: list[str],
        text: str = "",
        blobs: tuple[tuple[int, ...], ...] = (),
        *,
        name: str | None = None,
        top: str | None = None,
    ) -> str:
        """A layer; its top, which often has the layer's name."""
        name = self.name() if name is None else name
        if top is None:
            top = name if self.draw.random() < 0.5 else self.name()
        shown = " ".join(f"bottom: {_quoted(b)}" for b in bottoms)
        self.lines.append(
            f"layer {{ name: {_quoted(name)} type: '{type_}' {shown} "
            f"top: {_quoted(top)} {text} }}"
        )
        if blobs:
            made = [numbers(*s, seed=len(self.weights)) * 0.2 for s in blobs]
            self.weights[name] = made
        return top

    def input(
        self, shape: tuple[int, ...], text: str = "", *, label: bool = False
    ) -> str:
        dims = " ".join(f"dim: {extent}" for extent in shape)
        given = f"input_param {{ shape {{ {dims} }} }} {text}"
        top = self.add("Input", [], given)
        seed = len(self.inputs)
        array = numbers(*shape, seed=seed)
        self.inputs[top] = np.float32([0, 3]) if label else array
        return top

    def images(self) -> str:
        mean = float(len(self.inputs) + 1)
        prepared = self.draw.random() < 0.5
        text = f"transform_param {{ mean_value: {mean} }}" if prepared else ""
        top = self.input(SHAPE, text)
        if prepared:
            self.means[top] = mean
        return top

    def layer(self, bottom: str, name: str | None = None, type_: str = "") -> str:
        """One of SHAPE."""
        type_ = type_ or self.draw.choice(TYPES)
        bottoms = [bottom]
        text = PARAMETERS.get(type_, "")
        if type_ == "Dropout":
            text = f"dropout_param {{ dropout_ratio: {self.draw.choice(RATIOS)} }}"
        if type_ == "Eltwise":
            bottoms.append(self.draw.choice(self.blobs))
        return self.add(type_, bottoms, text, WEIGHTS.get(type_, ()), name=name)

    def body(self) -> None:
        self.lines.append(f"name: {_quoted(self.name())}")
        self.blobs = [self.images() for _ in range(self.draw.choice((1, 1, 2, 3)))]
        self.blobs.append(self.layer(self.blobs[0]))
        for _ in range(self.draw.randrange(2, 7)):
            self.blobs.append(self.layer(self.draw.choice(self.blobs)))
        if self.draw.random() < 0.4:
            self.repeat()
        if self.draw.random() < 0.3:
            for _ in range(3):
                self.blobs.append(self.layer(self.blobs[-1], type_="Dropout"))
        if self.draw.random() < 0.15:
            cont = self.input((2, 3))
            self.inputs[cont] = np.float32([[0, 0, 0], [1, 1, 1]])
            shapes = ((16, 36), (16,), (16, 4))
            text = "recurrent_param { num_output: 4 }"
            self.add("LSTM", [self.blobs[0], cont], text, shapes)
        self.head()

    def repeat(self) -> None:
        """A block three times, whose layers have the same names but for a number."""
        stem = self.draw.choice(STEMS)
        rests = list(dict.fromkeys(self.name("/") for _ in range(7)))
        types = ["Convolution"] + [self.draw.choice(TYPES) for _ in rests[1:]]
        types = ["ReLU" if t == "Eltwise" else t for t in types]
        for number in range(1, 4):
            x = self.blobs[-1]
            for rest, type_ in zip(rests, types, strict=True):
                name = f"{stem}{number}{rest}"
                self.used.add(name)
                top = name
                text = PARAMETERS.get(type_, "")
                if type_ == "Dropout":
                    text = f"dropout_param {{ dropout_ratio: {RATIOS[number]} }}"
                x = self.add(
                    type_, [x], text, WEIGHTS.get(type_, ()), name=name, top=top
                )
            self.blobs.append(x)

    def head(self) -> None:
        if not self.train and self.draw.random() < 0.3:
            return
        text = "inner_product_param { num_output: 4 }"
        scores = self.add("InnerProduct", self.blobs[-1:], text, ((4, 108), (4,)))
        if not self.train:
            self.add("Softmax", [scores])
            return
        label = self.input((2,), label=True)
        weight = self.draw.choice(("", "loss_weight: 2"))
        loss = self.add("SoftmaxWithLoss", [scores, label], weight)
        if self.draw.random() < 0.3:
            self.add("Power", [loss], "power_param { shift: 1 }")

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


WEIGHTS: dict[str, tuple[tuple[int, ...], ...]] = {
    "Convolution": ((3, 3, 3, 3), (3,)),
    "Deconvolution": ((3, 3, 3, 3), (3,)),
    "Scale": ((3,),),
    "Bias": ((3,),),
    "PReLU": ((3,),),
}
SAME = "num_output: 3 kernel_size: 3 pad: 1"
PARAMETERS = {
    "Convolution": f"convolution_param {{ {SAME} }}",
    "Deconvolution": f"convolution_param {{ {SAME} }}",
    "Pooling": "pooling_param { kernel_size: 3 stride: 1 pad: 1 }",
    "Power": "power_param { scale: 0.5 shift: 1 }",
}
TYPES = (
    *("Convolution",) * 3,
    *("Dropout",) * 3,
    *("Deconvolution", "Scale", "Bias", "PReLU"),
    *("Pooling", "LRN", "Power", "Eltwise", "ReLU", "Sigmoid", "TanH"),
)


def random_net(seed: int, *, train: bool) -> Net:
    net = Net(random.Random(seed), train)
    net.body()
    return net


def _quoted(text: str) -> str:
    return '"' + "".join(f"\\{byte:03o}" for byte in text.encode()) + '"'
