"""python -m tests.names: random small nets whose layers and blobs have names that the
generated module, Flax or Python uses, converted, imported, run and saved."""

from __future__ import annotations

import argparse
import ast
import builtins
import importlib.util
import keyword
import random
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

import caffe2flax
from caffe2flax.codegen.library import library
from caffe2flax.conversion import Conversion
from caffe2flax.runner import arrange_inputs, instantiate
from caffe2flax.verification.reference import evaluate
from tests.golden import Arrays, distance
from tests.smallnets import numbers, save

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "flat": {"flat": True},
    "tapped": {"taps": "all"},
    "TRAIN": {"phase": "TRAIN"},
}
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


def check(seed: int, folder: Path) -> None:
    """Converts net `seed` in one of the ways of VARIANTS, all of which four seeds in
    sequence try. Raises an AssertionError or whatever goes wrong."""
    variant = list(VARIANTS)[seed % len(VARIANTS)]
    net = random_net(seed, train=variant == "TRAIN")
    folder = folder / f"net{seed}"
    folder.mkdir()
    text = net.text
    (folder / "net.prototxt").write_text(text, encoding="utf-8")
    weights = save(folder / "net.caffemodel", net.weights) if net.weights else None
    made = caffe2flax.convert(text, weights, **VARIANTS[variant])
    path, *stored = made.write(folder)
    check_definitions(ast.parse(made.source))
    module = imported(path)
    cls = getattr(module, made.name)
    model = cls.from_pretrained() if stored else fresh(cls)
    check_outputs(made, net, model)
    check_preprocess(module, made, net)


def fresh(cls: Any) -> Any:
    """In eval mode, of a net without weights."""
    model = cls(rngs=nnx.Rngs(0)) if hasattr(cls, "from_pretrained") else cls()
    model.eval()
    return model


def check_definitions(tree: ast.Module) -> None:
    """Nothing is defined twice, nor hides what the module defines or imports."""
    bound = Counter(name for node in tree.body for name in _bound(node))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert set(bound.values()) <= {1}, f"defined twice: {bound}"
    for cls in classes:
        methods = [n for n in cls.body if isinstance(n, ast.FunctionDef)]
        names = Counter(method.name for method in methods)
        assert set(names.values()) <= {1}, f"{cls.name}: {names}"
        stored = Counter(
            node.attr
            for node in ast.walk(cls)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        )
        assert set(stored.values()) <= {1}, f"{cls.name}: {stored}"
        hidden = stored.keys() & {*names, *dir(nnx.Module)}
        assert not hidden, f"{cls.name}: attributes that are methods: {hidden}"
        for method in methods if cls.name not in library().definitions else ():
            hidden = _local(method) & _readable(method, bound, classes)
            assert not hidden, f"{cls.name}.{method.name} hides {hidden}"


def _readable(
    method: ast.FunctionDef, bound: Iterable[str], classes: list[ast.ClassDef]
) -> set[str]:
    """What a method may read: all but the functions that prepare images and the
    classes, of which only `__init__` calls some."""
    names = {name for name in bound if not name.startswith("preprocess")}
    own = {cls.name for cls in classes} - library().definitions.keys()
    called = {
        node.func.id
        for node in ast.walk(method)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    partials = {
        node.targets[0].id
        for node in ast.walk(method)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    blocks = (called - partials) & own if method.name == "__init__" else set()
    return (names - own) | blocks | set(dir(builtins))


def _bound(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    named = isinstance(node, ast.FunctionDef | ast.ClassDef)
    return [node.name] if named else []


def _local(method: ast.FunctionDef) -> set[str]:
    """Arguments and variables."""
    names = {node.arg for node in ast.walk(method) if isinstance(node, ast.arg)}
    return names | {
        node.id
        for node in ast.walk(method)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def check_outputs(made: Conversion, net: Net, model: Any) -> None:
    """By the reference, and the same from the file as from memory."""
    given = arrange_inputs(made.graph, net.inputs)
    found = model(*given)
    again = instantiate(made)
    for x, y in zip(_leaves(found), _leaves(again(*given)), strict=True):
        np.testing.assert_array_equal(x, y)
    graph = made.graph
    values = evaluate(graph, made.blobs, net.inputs)
    outputs, taps = found if graph.taps else (found, {})
    if len(graph.outputs) == 1:
        outputs = {graph.outputs[0].blob: outputs}
    named = {v.blob: v for v in (*graph.outputs, *graph.taps)}
    assert {*outputs, *taps} == named.keys()
    for name, array in {**outputs, **taps}.items():
        value = named[name]
        shown = np.asarray(array).transpose(np.argsort(graph.layouts[value].axes))
        assert distance(shown, values[value]) <= 1e-4, name


def _leaves(tree: Any) -> list[np.ndarray]:
    import jax

    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def check_preprocess(module: Any, made: Conversion, net: Net) -> None:
    """One function for each argument with a mean, which subtracts that."""
    taken = {value.blob for value in made.graph.arguments}
    functions = [
        value
        for name, value in vars(module).items()
        if name.startswith("preprocess") and not isinstance(value, type)
    ]
    x = np.zeros((2, 6, 6, 3), np.float32)
    found = sorted(float(function(x)[0, 0, 0, 0]) for function in functions)
    assert found == sorted(-net.means[blob] for blob in net.means.keys() & taken)


def imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_style(folder: Path) -> str:
    """What ruff finds in the modules of `folder`."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache"]
    done = subprocess.run(
        [*command, str(folder)], capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.names", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="nets")
    parser.add_argument("--seed", type=int, default=0, help="of the first net")
    parser.add_argument("--shown", type=int, default=10, help="failures in full")
    options = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in range(options.seed, options.seed + options.count):
            try:
                check(seed, folder)
            except Exception:
                failures += 1
                if failures <= options.shown:
                    print(f"net {seed}:", traceback.format_exc()[-1500:], flush=True)
            if seed % 200 == 199:
                print(f"{seed + 1 - options.seed} nets, {failures} fail", flush=True)
        style = check_style(folder)
    print(style[-3000:])
    print(
        f"{options.count} nets, {failures} fail, ruff {'finds' if style else 'clean'}"
    )
    return bool(failures or style)


if __name__ == "__main__":
    raise SystemExit(main())
