"""Names that the generated module, Flax or Python uses already, and names alike."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

import caffe2flax
from caffe2flax.codegen.library import library
from tests import names
from tests.smallnets import net

ROOT = Path(caffe2flax.__file__).parent
COUNT = 60
TEXT = {"signature", "_dynamic", "_docstring", "_base_name"}
"""Functions that show a name as text, or put it to a Namespace."""


def test_random_nets(tmp_path: Path) -> None:
    """python -m tests.names has more of them."""
    for seed in range(COUNT):
        names.check(seed, tmp_path)
    assert names.check_style(tmp_path) == ""


def layer(name: str, type_: str, bottoms: str, text: str = "") -> str:
    given = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split("|"))
    return f'name: "{name}" type: "{type_}" {given} top: "{name}" {text}'


def dropout(name: str, bottom: str, ratio: float) -> str:
    return layer(name, "Dropout", bottom, f"dropout_param {{ dropout_ratio: {ratio} }}")


def dense(name: str, bottom: str) -> str:
    return layer(name, "InnerProduct", bottom, "inner_product_param { num_output: 4 }")


def built(text: str) -> Any:
    conversion = caffe2flax.convert(text)
    names.check_definitions(ast.parse(conversion.source))
    return caffe2flax.load(text)


def prepared(*blobs: str, name: str = "Net") -> str:
    """A sum of inputs with the means 1, 2, ..."""
    shapes = dict.fromkeys(blobs, (2, 3, 6, 6))
    text = net(layer("sum", "Eltwise", "|".join(blobs)), **shapes)
    for i, blob in enumerate(blobs, 1):
        given = f"transform_param {{ mean_value: {i} }} input_param"
        old = f'top: "{blob}" input_param'
        text = text.replace(old, f'top: "{blob}" {given}')
    return f"name: '{name}'\n{text}"


PREPARED = {
    # name: blobs, name of the class, functions
    "alike": (("d/1", "d_1"), "Net", "preprocess_d_1 preprocess_d_1_2"),
    "long": (("a" * 60 + "b", "a" * 60 + "c"), "Net", f"preprocess_{'a' * 60} +_2"),
    "a class": (("x", "y"), "preprocess_x", "preprocess_x_2 preprocess_y"),
    "digits": (("1", "n1"), "Net", "preprocess_n1 preprocess_n1_2"),
}


@pytest.mark.parametrize("case", PREPARED)
def test_preprocess_functions(case: str) -> None:
    """One for each input, which subtracts its own mean and names its argument."""
    blobs, cls, found = PREPARED[case]
    first, second = found.split()
    second = second.replace("+", first)
    conversion = caffe2flax.convert(prepared(*blobs, name=cls))
    space: dict[str, Any] = {"__file__": ""}
    exec(conversion.source, space)
    assert conversion.name == cls
    assert isinstance(space[cls], type)
    call = names_of(conversion.source, "__call__")
    for i, name in enumerate((first, second), 1):
        assert float(space[name](jnp.zeros((1, 6, 6, 3))).max()) == -i
        assert f"as `{call[i]}` wants" in " ".join(space[name].__doc__.split())
        assert f"{call[i]} (N, 6, 6, 3)" in space[cls].__doc__


def names_of(source: str, method: str) -> list[str]:
    """The arguments of a method of the only class."""
    (found,) = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == method
    )
    return [arg.arg for arg in found.args.args]


DROPOUTS = (
    ("num_classes", "linear"),
    ("linear", "linear_2"),
    ("dropout", "dtype"),
    ("partial", "nnx"),
    ("Scale", "scale"),
    ("options", "path"),
    ("long_" * 12 + "1", "long_" * 12 + "2"),
    ("num_classes_2", "num_classes"),
    ("d/1", "d_1"),
    ("rngs", "float"),
)


@pytest.mark.parametrize("pair", DROPOUTS, ids="|".join)
def test_arguments(pair: tuple[str, str]) -> None:
    """Ratios that differ are arguments, whatever their layers are called."""
    first, second = pair
    text = net(
        dropout(first, "x", 0.25),
        dropout(second, first, 0.5),
        layer("sc", "Scale", second),
        layer("sc2", "Scale", "sc"),
        dense("a", "sc2"),
        dense("b", "a"),
        layer("p", "Softmax", "b"),
        x=(2, 3, 6, 6),
    )
    model = built(text)
    rates = [
        value.rate
        for value in vars(model).values()
        if type(value).__name__ == "Dropout"
    ]
    assert rates == [0.25, 0.5]
    assert model.b.out_features == 4
    assert model(jnp.ones((2, 6, 6, 3))).shape == (2, 4)


METHODS = """
    logits losses metrics total_loss precision dtype rngs step from_pretrained self
    cls train eval state path options model fresh images mean output outputs sow
    perturb iter_modules set_attributes preprocess check_shape load_weights Net
"""


@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
@pytest.mark.parametrize("name", METHODS.split())
def test_layers_and_blobs(name: str, phase: str) -> None:
    other = f"{name}_2"
    text = net(dense(name, "x"), layer(other, "ReLU", name), x=(2, 3))
    model = caffe2flax.load(text, phase=phase)
    names.check_definitions(ast.parse(caffe2flax.convert(text, phase=phase).source))
    assert model(jnp.ones((2, 3))).shape == (2, 4)
    model.eval()
    given = net(layer("y", "ReLU", name), **{name: (2, 3)})
    assert caffe2flax.load(given, phase=phase)(jnp.ones((2, 3))).shape == (2, 3)


BLOCK_NAMES = ("Scale", "nnx", "features_in", "conv", "rngs", "partial", "self", "int")


@pytest.mark.parametrize("name", BLOCK_NAMES)
def test_arguments_of_blocks(name: str) -> None:
    """Widths of layers are arguments of a block's class, beside the classes it
    calls."""
    layers, bottom = [], "x"
    for i in range(1, 4):
        width = f"convolution_param {{ num_output: {2 + i} kernel_size: 1 }}"
        parts = ("a", "b", "c", name, "s")
        for part in parts:
            type_ = "Scale" if part == "s" else "Convolution"
            text = "" if part == "s" else width
            layers.append(layer(f"b{i}/{part}", type_, bottom, text))
            bottom = f"b{i}/{part}"
    text = net(*layers, x=(2, 3, 6, 6))
    assert "class B(nnx.Module)" in caffe2flax.convert(text).source
    assert built(text)(jnp.ones((2, 6, 6, 3))).shape == (2, 6, 6, 5)


def calls() -> Iterator[tuple[str, str, str]]:
    """(file, function, what it calls or imports) in codegen/."""
    for path in sorted((ROOT / "codegen").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Name | ast.Attribute):
                    name = node.id if isinstance(node, ast.Name) else node.attr
                    yield path.name, function.name, name


def test_names_are_made_in_one_place() -> None:
    """All others claim them from a Namespace of names.py, and know no rule of their
    own."""
    makers = {"Namespace", "isidentifier", "iskeyword", "builtins", "keyword"}
    found = [
        (file, function, name)
        for file, function, name in calls()
        if file != "names.py"
        and (name in makers or (name == "identifier" and function not in TEXT))
        and not (name == "Namespace" and function in annotated())
    ]
    assert found == []
    assert len(library().definitions) > 100


def annotated() -> set[str]:
    """Functions that only take a Namespace."""
    return {"preprocess_functions", "factor", "factor_alike", "_named", "_parameter"}
