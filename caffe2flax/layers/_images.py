"""The size of the images that a data layer provides, in Caffe and its forks."""

from __future__ import annotations

from caffe2flax.ir.common_fields import read_size
from caffe2flax.ir.params import Params


def image_size(params: Params) -> tuple[int, int]:
    """Height and width of a layer's images, 0 where only the data has them.

    What comes last counts: the crop, then the size to which images are resized, both
    in `transform_param` or in the layer's own message, then `height` and `width`.
    """
    transform = params.transform
    crop = transform.crop if transform else (0, 0)
    resize = transform.resize if transform else (0, 0)
    choices = (
        crop,
        read_size(params, "crop"),
        resize,
        read_size(params, "new"),
        (size(params, "height"), size(params, "width")),
    )
    rows, columns = (
        next((choice[axis] for choice in choices if choice[axis]), 0) for axis in (0, 1)
    )
    return rows, columns


def channel_count(params: Params) -> int:
    """The number of channels that the fields imply; 0 where only the data has it."""
    transform = params.transform
    if given := size(params, "channels"):
        return given
    if transform is None:
        return 0
    if transform.force_color is not transform.force_gray:
        return 3 if transform.force_color else 1
    return len(transform.mean_value) if len(transform.mean_value) > 1 else 0


def size(params: Params, name: str, default: int = 0) -> int:
    """A field that is not negative."""
    found = params.get(name, default)
    if found < 0:
        params.error(name, f"{name} {found} is negative")
    return max(found, 0)
