"""The folder imports no other part of the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import caffe2flax.cpu

FOLDER = Path(caffe2flax.cpu.__file__).parent
FILES = sorted(FOLDER.glob("*.py"))


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file(path: Path) -> None:
    own = {name for name in imported(path) if name.startswith("caffe2flax")}
    assert all(name.startswith("caffe2flax.cpu") for name in own)
    assert not any("._src" in name for name in imported(path))
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_knows_nothing_of_caffe(path: Path) -> None:
    text = path.read_text().lower().replace("caffe2flax", "")
    assert "caffe" not in text


def test_jax_is_not_imported_before_something_is_compiled() -> None:
    script = (
        "import sys, caffe2flax; caffe2flax.compile; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_readme() -> None:
    assert len((FOLDER / "README.md").read_text().splitlines()) <= 40
