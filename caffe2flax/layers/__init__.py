"""One class for each Caffe layer type, one file for each family."""

from importlib import import_module
from pkgutil import iter_modules


def register_all() -> None:
    """Imports every file of this package, which registers its layer types."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
