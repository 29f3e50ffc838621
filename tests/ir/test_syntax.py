"""Python's parser from several threads."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import caffe2flax
from caffe2flax.ir.syntax import parse_module

SOURCE = (
    "class A:\n    def f(self, x):\n        return g(x, [1, (2, 3)], y=lambda z: z)\n"
)


@pytest.fixture
def _threads_change_while_parsing() -> Iterator[None]:
    """A callback of the garbage collector, as jax has one, lets another thread on."""

    def callback(*_: object) -> None:
        sum(range(200))

    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    gc.callbacks.append(callback)
    gc.set_threshold(5)
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)
    gc.callbacks.remove(callback)


@pytest.mark.usefixtures("_threads_change_while_parsing")
def test_threads_parse_at_the_same_time() -> None:
    with ThreadPoolExecutor(4) as pool:
        for tree in pool.map(parse_module, [SOURCE * 50] * 100):
            assert len(tree.body) == 50


def test_nothing_else_parses_python() -> None:
    package = Path(caffe2flax.__file__).parent
    users = {p.name for p in package.rglob("*.py") if "ast.parse(" in p.read_text()}
    assert users == {"syntax.py"}
