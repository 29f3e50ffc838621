"""Caffe's names as Python identifiers: every name in generated source that is not
fixed is made here, by the Namespace of its scope.

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
from functools import cache

from caffe2flax.codegen.library import library
from caffe2flax.ir.call import Call

LONGEST = 60

BOUND = frozenset(
    [
        "CEIL",
        "cls",
        "dtype",
        "model",
        "options",
        "path",
        "precision",
        "rngs",
        "self",
        "state",
    ]
)
"""Names that generated source binds itself, besides what it imports and defines."""

AMBIGUOUS = frozenset("lOI")
"""Names that ruff refuses, as they read like numbers."""

PREPROCESS = "preprocess"
"""The function that prepares images."""

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


READ = re.compile(r"""(?<![\w.'"])[A-Za-z_]\w*\b(?!=)""")
"""What may be a name that an expression reads: no attribute, no keyword, no string. It
is no parser, as CPython 3.11 has one that fails at times in several threads."""


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
    """The names of one scope, each given once.

    No scope gives a word of Python's, a builtin, or a name that the module binds
    itself; `reserved` are more names that it does not give.
    """

    def __init__(self, reserved: Iterable[str] = ()):
        self._fixed = _language() | frozenset(library().imports)
        self._taken = {*self._fixed, *reserved}

    def claim(self, name: str, *, prefix: str = "", suffix: str = "") -> str:
        """An identifier for Caffe's `name` that nothing else in the scope has."""
        return self.take(f"{prefix}{identifier(name)}{suffix}")

    def take(self, word: str) -> str:
        """The identifier `word`, or the next one after it that is free."""
        fixed = word in self._fixed or word in NNX_ATTRIBUTES
        if fixed and word in self._taken and f"{word}_" not in self._taken:
            word += "_"
        stem, number = word, 2
        while word in self._taken:
            word = f"{stem}_{number}"
            number += 1
        self._taken.add(word)
        return word


@cache
def _language() -> frozenset[str]:
    words = {*keyword.kwlist, *keyword.softkwlist, *dir(builtins)}
    return frozenset(words | BOUND | AMBIGUOUS)


def module_names(*classes: str) -> Namespace:
    """For the classes and functions of a module, which has `classes` already."""
    return Namespace({*library().definitions, PREPROCESS, *classes})


def attribute_names(*others: str) -> Namespace:
    """For the attributes of a class: its modules, and its methods for layers, beside
    `others` that it has."""
    return Namespace(NNX_ATTRIBUTES | UNITTEST | {*others})


def variable_names() -> Namespace:
    """For the arguments and variables of a `__call__`."""
    return Namespace(library().definitions)


def argument_names(calls: Iterable[Call], *others: str) -> Namespace:
    """For the arguments and variables of an `__init__` that makes these calls, beside
    the names `others`: none hides a function or class of the module."""
    read = (name for call in calls for name in READ.findall(str(call)))
    return Namespace({*library().definitions, *read, *others})
