"""Random variation of training images: crop, flip and brightness."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from engines.core import UInt8Array
from engines.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Augment:
    """How far images are varied; every range is drawn from uniformly, `aspect` in its logarithm.

    area: share of the picture that a crop keeps. aspect: width over height of the crop. flip:
    mirror every other image. gain: all channels are multiplied by 1 +- gain, channel_gain: each by
    its own 1 +- channel_gain. offset: +- this much is added, in units of 0 to 255.
    """

    area: tuple[float, float] = (0.35, 1.0)
    aspect: tuple[float, float] = (0.75, 1.3333)
    flip: bool = True
    gain: float = 0.25
    channel_gain: float = 0.07
    offset: float = 15.0

    def __post_init__(self) -> None:
        if not 0.0 < self.area[0] <= self.area[1] <= 1.0:
            raise InvalidInput(f"area must be two rising shares in (0, 1], got {self.area}")
        if not 0.0 < self.aspect[0] <= self.aspect[1] < math.inf:
            raise InvalidInput(f"aspect must be two rising ratios above 0, got {self.aspect}")
        for name in ("gain", "channel_gain"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidInput(f"{name} must be 0 to 1, got {getattr(self, name)}")
        if not 0.0 <= self.offset <= 255.0:
            raise InvalidInput(f"offset must be 0 to 255, got {self.offset}")


def augment(pixels: UInt8Array, size: int, rng: np.random.Generator, spec: Augment) -> UInt8Array:
    """A random variation of `pixels` (H, W, 3), scaled to (size, size, 3).

    What is drawn from `rng` does not depend on `size`: one generator shows the same crop at every
    size. A crop that the picture is too narrow for is narrowed, and so may leave `spec.aspect`.
    """
    height, width = pixels.shape[:2]
    area = rng.uniform(*spec.area) * height * width
    aspect = math.exp(rng.uniform(*np.log(spec.aspect)))
    crop_width = min(max(math.sqrt(area * aspect), 1.0), width)
    crop_height = min(max(math.sqrt(area / aspect), 1.0), height)
    left = rng.random() * (width - crop_width)
    top = rng.random() * (height - crop_height)
    flipped = rng.random() < 0.5 and spec.flip
    gain = rng.uniform(1 - spec.gain, 1 + spec.gain)
    gains = gain * rng.uniform(1 - spec.channel_gain, 1 + spec.channel_gain, (3, 1))
    offset = rng.uniform(-spec.offset, spec.offset)

    box = (left, top, min(left + crop_width, width), min(top + crop_height, height))
    picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box=box)
    if flipped:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # What becomes of each of 256 values in each of 3 channels.
    table = np.clip(np.rint(np.arange(256) * gains + offset), 0, 255).astype(int)
    return np.array(picture.point(table.ravel().tolist()))
