"""What Caffe does to images before a net sees them: `transform_param`."""

from __future__ import annotations

from dataclasses import dataclass, replace


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
    resize: tuple[int, int] = (0, 0)
    """Height and width that images are resized to first; (0, 0) for no resize."""
    augmented: tuple[str, ...] = ()
    """Other random changes that SSD's data layers make."""
    crop_sides: tuple[int, int] = (0, 0)
    """Height and width of crops, where a fork gives them one by one."""

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of crops; 0 for one that is not cropped."""
        height, width = self.crop_sides
        return height or self.crop_size, width or self.crop_size

    def to(self, shape: tuple[int, ...]) -> Transform:
        """This, for images of a `shape` (N, C, H, W) that the caller gives; as it is
        for any other shape."""
        if len(shape) != 4 or not all(self.crop):
            return self
        height, width = shape[2:]
        return (
            self
            if self.crop == (height, width)
            else replace(self, crop_size=0, crop_sides=(height, width))
        )

    def describe(self, phase: str = "TEST") -> str:
        """The steps in their order as English, "" where there are none."""
        steps = []
        if self.force_color and not self.force_gray:
            steps.append("decoded in colour")
        if self.force_gray and not self.force_color:
            steps.append("decoded in gray")
        if any(self.resize):
            steps.append("resized to {} x {}".format(*self.resize))
        steps += [f"changed at random by {name}" for name in self.augmented]
        if all(self.crop):
            where = "at random" if phase == "TRAIN" else "from the middle"
            steps.append("cropped to {} x {} {}".format(*self.crop, where))
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

    def note(self, blob: str, phase: str = "TEST") -> str:
        """The note on what the caller has to do to `blob`, as the module does not do
        it; "" for nothing."""
        steps = self.describe(phase)
        if not steps:
            return ""
        return f"{blob}: Caffe's input is {steps}; the module takes it like that"
