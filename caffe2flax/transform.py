"""What Caffe does to images before a net sees them: `transform_param`."""

from __future__ import annotations

from dataclasses import dataclass

from caffe2flax.params import Params


@dataclass(frozen=True, slots=True)
class Transform:
    """y = (crop(x) - mean) * scale, mirrored left to right in every other image.

    The mean is `mean_value`, one number or one for each channel, or the array in
    `mean_file`, which is named here and never opened. A crop is in the middle in TEST
    and at random in TRAIN. Channels of colour images are in the order B, G, R.
    """

    scale: float = 1.0
    mean_value: tuple[float, ...] = ()
    mean_file: str = ""
    crop_size: int = 0
    mirror: bool = False
    force_color: bool = False
    force_gray: bool = False

    def describe(self, phase: str = "TEST") -> str:
        """The steps in their order as English, "" where there are none."""
        steps = []
        if self.force_color and not self.force_gray:
            steps.append("decoded in colour")
        if self.force_gray and not self.force_color:
            steps.append("decoded in gray")
        if self.crop_size:
            where = "at random" if phase == "TRAIN" else "from the middle"
            steps.append(f"cropped to {self.crop_size} x {self.crop_size} {where}")
        if self.mean_value:
            shown = ", ".join(f"{mean:.9g}" for mean in self.mean_value)
            order = " (B, G, R)" if len(self.mean_value) == 3 else ""
            steps.append(f"mean {shown}{order} subtracted")
        if self.mean_file:
            steps.append(f"mean of {self.mean_file!r} subtracted")
        if self.scale != 1:
            steps.append(f"scaled by {self.scale:.9g}")
        if self.mirror:
            steps.append("mirrored at random")
        return ", ".join(steps)


def read_transform(layer: Params) -> Transform | None:
    """A layer's `transform_param`, None where it has none. Problems go to `layer`."""
    if not layer.has("transform_param"):
        return None
    params = layer.sub("transform_param")
    transform = Transform(
        scale=params.get("scale", 1.0),
        mean_value=params.all("mean_value", float),
        mean_file=params.get("mean_file", ""),
        crop_size=params.get("crop_size", 0),
        mirror=params.get("mirror", False),
        force_color=params.get("force_color", False),
        force_gray=params.get("force_gray", False),
    )
    if transform.crop_size < 0:
        params.error("crop_size", f"crop_size {transform.crop_size} is negative")
    if transform.mean_value and params.has("mean_file"):
        params.error("mean_file", "give either mean_value or mean_file, not both")
    return transform
