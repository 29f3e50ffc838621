"""python -m tests.names: random small nets whose layers and blobs have names that the
generated module, Flax or Python uses, converted, imported, run and saved."""

from __future__ import annotations

import argparse
import ast
import builtins
import importlib.util
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

import caffe2flax
from caffe2flax.codegen.library import library
from caffe2flax.conversion import Conversion
from caffe2flax.runner import arrange_inputs, instantiate
from caffe2flax.verification.reference import evaluate
from tests.golden import distance
from tests.namednets import Net, random_net
from tests.smallnets import save

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "flat": {"flat": True},
    "tapped": {"taps": "all"},
    "TRAIN": {"phase": "TRAIN"},
}


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
