"""Caffe's names as Python identifiers.

The rule, applied in the order of the file: every character outside A-Z a-z 0-9 _
becomes _; underscores at the front are dropped; a leading digit gets an `n` before it;
nothing at all becomes `unnamed`; names over 60 characters are cut; a word that Python,
or the module itself, uses already gets a _ behind it; a name that is taken gets _2, _3
and so on.
"""

from __future__ import annotations

import builtins
import keyword
import re
import sys
from collections.abc import Iterable

LONGEST = 60

MODULE_NAMES = frozenset(
    [
        "Array",
        "CEIL",
        "Dtype",
        "DTypeLike",
        "Mapping",
        "Path",
        "PrecisionLike",
        "Self",
        "cls",
        "dtype",
        "jax",
        "jnp",
        "lax",
        "load_file",
        "math",
        "functools",
        "itertools",
        "model",
        "nnx",
        "np",
        "options",
        "partial",
        "path",
        "precision",
        "rngs",
        "self",
        "state",
        "Sequence",
        "Any",
        "Callable",
        "l",
        "O",
        "I",
    ]
)
"""Names that generated source binds itself, and those that ruff calls ambiguous."""

NNX_ATTRIBUTES = frozenset(
    [
        "eval",
        "from_pretrained",
        "iter_children",
        "iter_modules",
        "logits",
        "perturb",
        "set_attributes",
        "sow",
        "step",
        "total_loss",
        "train",
    ]
)
"""Attributes that an nnx.Module has, or that the generated class adds."""


UNITTEST = frozenset(
    [
        "assert_",
        "assertAlmostEquals",
        "assertEquals",
        "assertItemsEqual",
        "assertNotAlmostEquals",
        "assertNotEquals",
        "assertNotRegexpMatches",
        "assertRaisesRegexp",
        "assertRegexpMatches",
        "failIf",
        "failIfAlmostEqual",
        "failIfEqual",
        "failUnless",
        "failUnlessAlmostEqual",
        "failUnlessEqual",
        "failUnlessRaises",
    ]
)
"""Methods that ruff knows as outdated, whatever object has them."""

OTHER_MODULES = frozenset(
    [
        "caffe2flax",
        "conftest",
        "flax",
        "jax",
        "jaxlib",
        "ml_dtypes",
        "numpy",
        "optax",
        "safetensors",
        "scipy",
        "setup",
        "sitecustomize",
        "usercustomize",
    ]
)
"""Modules besides Python's own that a file beside a script would hide."""


def identifier(name: str) -> str:
    """The first part of the rule: what `name` becomes where no other name
    counts."""
    word = re.sub(r"[^A-Za-z0-9_]", "_", name[: 4 * LONGEST]).lstrip("_")[:LONGEST]
    if word[:1].isdigit():
        word = f"n{word}"[:LONGEST]
    return word or "unnamed"


def module_stem(name: str) -> str:
    """The name of the files of the class `name`: in lower case, and none that Python or
    a tool would take for another module of that name."""
    stem = name.lower()
    taken = stem in sys.stdlib_module_names or stem in OTHER_MODULES
    return f"{stem}_net" if taken else stem


class Namespace:
    """Hands out identifiers, each once."""

    def __init__(self, reserved: Iterable[str] = ()):
        self._taken = set(reserved) | MODULE_NAMES | set(dir(builtins))
        self._taken |= set(keyword.kwlist) | set(keyword.softkwlist)

    def claim(self, name: str, suffix: str = "") -> str:
        """An identifier for `name` that nobody else has."""
        word = identifier(name) + suffix
        if word in self._taken and f"{word}_" not in self._taken and self._fixed(word):
            word += "_"
        stem, number = word, 2
        while word in self._taken:
            word = f"{stem}_{number}"
            number += 1
        self._taken.add(word)
        return word

    @staticmethod
    def _fixed(word: str) -> bool:
        return (
            keyword.iskeyword(word)
            or keyword.issoftkeyword(word)
            or hasattr(builtins, word)
            or word in MODULE_NAMES
            or word in NNX_ATTRIBUTES
        )


def layer_names() -> Namespace:
    """For the attributes of a module."""
    return Namespace(NNX_ATTRIBUTES | UNITTEST)
