"""Fields that any layer may carry."""

from __future__ import annotations

from collections.abc import Sequence

from caffe2flax.errors import ConversionError, Span, closest
from caffe2flax.frontend.message import Scalar
from caffe2flax.frontend.upgrade.v1 import type_of_enum
from caffe2flax.ir.dialects import IMAGES, RATES
from caffe2flax.ir.graph import ParamSpec
from caffe2flax.ir.layer import Layer
from caffe2flax.ir.params import Params
from caffe2flax.ir.registry import LAYERS, check_arity
from caffe2flax.ir.transform import Transform

COMMON_FIELDS = (
    "name",
    "type",
    "bottom",
    "top",
    "loss_weight",
    "param",
    "propagate_down",
    "phase",
    "transform_param",
    "loss_param",
)
"""LayerParameter fields that any layer may carry."""

AUGMENTATIONS = ("distort_param", "expand_param", "noise_param")
"""SSD's random changes of colour, size and content."""


def read_transform(layer: Params) -> Transform | None:
    """A layer's `transform_param`, None where it has none. Problems go to `layer`."""
    if not layer.has("transform_param"):
        return None
    params = layer.sub("transform_param")
    params.about = IMAGES
    transform = Transform(
        scale=params.get("scale", 1.0),
        mean_value=params.all("mean_value", float),
        mean_file=params.get("mean_file", ""),
        crop_size=params.get("crop_size", 0),
        mirror=params.get("mirror", False),
        force_color=params.get("force_color", False),
        force_gray=params.get("force_gray", False),
        crop_sides=read_size(params, "crop"),
        resize=_resize(params),
        augmented=tuple(name for name in AUGMENTATIONS if params.has(name)),
    )
    # Which boxes are kept, not what the image becomes.
    params.ignore("emit_constraint")
    if transform.mean_value and params.has("mean_file"):
        params.error("mean_file", "give either mean_value or mean_file, not both")
    return transform


def read_size(params: Params, name: str) -> tuple[int, int]:
    """Height and width as forks give them, `crop_height` or `crop_h`; 0 for one that is
    not given."""
    sizes = []
    for side in ("height", "width"):
        names = (f"{name}_{side}", f"{name}_{side[0]}")
        given = [n for n in names if params.has(n)]
        size = params.get(given[0], 0) if given else 0
        if size < 0:
            params.error(given[0], f"{given[0]} {size} is negative")
        sizes.append(max(size, 0))
    return sizes[0], sizes[1]


def _resize(params: Params) -> tuple[int, int]:
    """SSD's `resize_param`; the largest size where there are several, of which the fork
    draws one for each batch. Else `new_height` and `new_width`."""
    sizes = [_resized(each) for each in params.subs("resize_param")]
    if len(set(sizes)) > 1:
        size = max(sizes)
        shown = "{} x {}".format(*size)
        params.note(
            f"{params.span('resize_param')}: images are resized to one of {len(sizes)} "
            f"sizes at random: {shown} is taken, --input-shape says another"
        )
    return max(sizes) if sizes else read_size(params, "new")


def _resized(params: Params) -> tuple[int, int]:
    # How missing pixels are filled, and fields that only boxes need.
    params.ignore("prob", "pad_mode", "pad_value", "interp_mode")
    params.ignore("height_scale", "width_scale")
    modes = ("WARP", "FIT_SMALL_SIZE", "FIT_LARGE_SIZE_AND_PAD")
    mode = params.choice("resize_mode", "", *modes, default="WARP")
    size = params.get("height", 0), params.get("width", 0)
    # Only the smaller side is fixed: the other depends on the image.
    return (0, 0) if mode == "FIT_SMALL_SIZE" else size


def read_specs(params: Params) -> tuple[ParamSpec, ...]:
    """`param`: how the first weight blobs are shared and trained."""
    specs: list[ParamSpec] = []
    for spec in params.subs("param"):
        spec.about = RATES
        name = spec.get("name", "")
        permissive = spec.choice("share_mode", "STRICT", "PERMISSIVE") != "STRICT"
        factors = [spec.optional(f"{x}_mult", float) for x in ("lr", "decay")]
        span = spec.span() or Span("")
        specs.append(ParamSpec(name, permissive, span, *factors))
    return tuple(specs)


def read_loss_weights(params: Params, layer: Layer, tops: int) -> tuple[float, ...]:
    """The weight of each top in the total loss. Problems go to `params`."""
    given = params.all("loss_weight", float)
    automatic = 1 if layer.default_loss else 0
    expected = 1 if layer.default_loss and not given else len(given)
    if expected and expected != max(tops, automatic):
        often = "" if layer.default_loss else ", or never"
        params.error("loss_weight", f"give loss_weight once for each top{often}")
    return given or (layer.default_loss,) + (0.0,) * (tops - 1)


def read_type(params: Params) -> str:
    """The layer's type; of one without its quotes what it is meant to be."""
    found = next(params.message.all("type"), None) if params.message else None
    value = found.value if found else None
    if found is None or not isinstance(value, Scalar) or value.kind == "string":
        return params.get("type", "")
    params.has("type")
    known = value.text if value.text in LAYERS else type_of_enum(value.text)
    hint = "" if known else closest(value.text, LAYERS, params.problems)
    text = f'type is a string in quotes: write type: "{known or value.text}"{hint}'
    params.refuse(found, text)
    return known


def check_blobs(
    params: Params,
    type_: str,
    cls: type[Layer],
    bottoms: Sequence[str],
    tops: Sequence[str],
) -> None:
    """Records a wrong number of bottoms or tops, each once."""
    for what, arity, blobs in (
        ("bottom", cls.bottoms, bottoms),
        ("top", cls.tops, tops),
    ):
        try:
            check_arity(what, arity, len(blobs))
        except ConversionError as error:
            for problem in error.problems:
                params.missing(what, f"a {type_} layer {problem.message}")
