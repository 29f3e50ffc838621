"""Where the grammars lie: inside an installed package, or at the top of a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def grammar_path(name: str) -> Path:
    """The path of `grammars/name`; FileNotFoundError when the installation lacks it."""
    for folder in (_PACKAGE / "grammars", _PACKAGE.parent / "grammars"):
        if (path := folder / name).is_file():
            return path
    raise FileNotFoundError(f"the installed caffe2flax lacks grammars/{name}")
