"""Calls as data, and their source text."""

import ast
from dataclasses import replace
from inspect import signature

import pytest
from flax import nnx

from caffe2flax.codegen.library import library
from caffe2flax.ir.call import DEFAULTS, DTYPE, RNGS, Call, Code, Repeated, literal

CONV = Call.of("nnx.Conv", 3, 8, (1, 1), padding=((0, 1), (1, 1)), rngs=RNGS)


@pytest.mark.parametrize(
    ("call", "source"),
    [
        (Call("f"), "f()"),
        (Call("f", (1, 0.5, "a\n", (2,), True)), r"f(1, 0.5, 'a\n', (2,), True)"),
        (Call("f", (), {"x": float("inf")}), 'f(x=float("inf"))'),
        (CONV, "nnx.Conv(3, 8, (1, 1), padding=((0, 1), (1, 1)), rngs=rngs)"),
        (replace(Call("f"), comment="why"), "f()"),
        (Call("f", (Call("g", (1,)), Code("x + y"))), "f(g(1), x + y)"),
        (Call("f", (Repeated(Call("g"), 3),)), "f(*[g() for _ in range(3)])"),
    ],
)
def test_source(call: Call, source: str) -> None:
    assert str(call) == literal(call) == source
    ast.parse(source)


def test_defaults_and_none_are_left_out() -> None:
    call = Call.of("nnx.Conv", 3, 8, (1, 1), strides=1, padding="SAME", bias_init=None)
    assert call == Call("nnx.Conv", (3, 8, (1, 1)))
    assert Call.of("nnx.Conv", 3, 8, (1, 1), strides=2).keywords == {"strides": 2}
    assert Call.of("f", strides=1).keywords == {"strides": 1}


def test_argument_gives_what_is_left_out() -> None:
    assert CONV.argument(1) == 8
    assert CONV.argument("padding") == ((0, 1), (1, 1))
    assert CONV.argument("feature_group_count") == 1


def test_calls_are_found_within() -> None:
    inner = Call("g", (), {"dtype": DTYPE})
    run = Call("h", (Repeated(inner, 2),))
    assert list(Call("f", (run,), {"x": CONV}).calls())[1:] == [run, inner, CONV]


@pytest.mark.parametrize("function", DEFAULTS)
def test_defaults_are_those_of_the_module(function: str) -> None:
    if function.startswith("nnx."):
        known = signature(getattr(nnx, function.removeprefix("nnx.")).__init__)
        found = {name: p.default for name, p in known.parameters.items()}
    else:
        (cls,) = ast.parse(library().definitions[function].source).body
        assert isinstance(cls, ast.ClassDef)
        init = next(
            n
            for n in cls.body
            if isinstance(n, ast.FunctionDef) and n.name == "__init__"
        )
        first = len(init.args.args) - len(init.args.defaults)
        pairs = [
            *zip(init.args.args[first:], init.args.defaults, strict=True),
            *zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True),
        ]
        found = {a.arg: ast.literal_eval(d) for a, d in pairs if _is_plain(d)}
    for name, default in DEFAULTS[function].items():
        shown = 1 if found[name] is None else found[name]  # strides of ConvTranspose
        assert shown == default, name


def _is_plain(default: ast.expr | None) -> bool:
    return isinstance(default, ast.Constant | ast.UnaryOp | ast.Tuple)
