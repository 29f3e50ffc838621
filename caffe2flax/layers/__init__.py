"""One class for each Caffe layer type, one file for each family."""

from importlib import import_module
from pkgutil import walk_packages


def register_all() -> None:
    """Imports every file of this package, which registers its layer types."""
    for module in walk_packages(__path__, f"{__name__}."):
        import_module(module.name)
