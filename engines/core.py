"""The nouns that every engine, tool and the service share. Loads neither torch nor a web framework.

A network has *maskers*, in execution order; inside a block the spatial masker comes before the
channel masker. Vectors named `thresholds`, `caps` and `activation` have one entry per masker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Annotated, Protocol, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engines.errors import InvalidInput

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]

MAX_IMAGE_SIZE = 4096
MAX_THREADS = 1024


class FrozenModel(BaseModel):
    """A validated value: immutable, unknown keys refused, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Paradigm(StrEnum):
    """What a stage may skip (LAUDNet, arXiv:2308.15949)."""

    STATIC = "static"
    SPATIAL = "spatial"
    CHANNEL = "channel"
    LAYER = "layer"
    SPATIAL_CHANNEL = "spatial+channel"

    @property
    def masks_space(self) -> bool:
        """Whether its blocks have a spatial masker (layer skipping is spatial with one patch)."""
        return self in (Paradigm.SPATIAL, Paradigm.LAYER, Paradigm.SPATIAL_CHANNEL)

    @property
    def masks_channels(self) -> bool:
        """Whether its blocks have a channel masker."""
        return self in (Paradigm.CHANNEL, Paradigm.SPATIAL_CHANNEL)


@dataclass(frozen=True, slots=True)
class Granularity:
    """What one decision covers: a square patch `spatial` output pixels wide (None: the whole map),
    or `channel` consecutive channels of the bottleneck."""

    spatial: int | None = None
    channel: int | None = None


class Glance(FrozenModel):
    """A first answer, from a smaller copy of the image with nothing skipped, and when it is enough.

    image_size: pixels on a side of the copy. confidence: an image is looked at again, at the
    point's own size and thresholds, where its most probable class has less; that second answer then
    holds. At 0 none is looked at again, at 1 every one.
    """

    image_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)]
    confidence: Annotated[float, Field(ge=0.0, le=1.0)]


class OperatingPoint(FrozenModel):
    """One selectable trade-off: an image size and, per masker, a threshold and a cap; with a
    `glance`, only for images that need it.

    A unit (patch or channel group) is active when its logit >= threshold; threshold None leaves
    every unit active. Under a cap, higher logits go first, ties to the lower index.
    """

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][\w.+-]*$")]
    image_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)]
    thresholds: tuple[float | None, ...]
    caps: tuple[Annotated[int, Field(ge=0)] | None, ...]
    glance: Glance | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.thresholds) != len(self.caps):
            raise ValueError(
                f"point '{self.name}' has {len(self.thresholds)} thresholds but "
                f"{len(self.caps)} caps; both need one entry per masker"
            )
        if self.glance is not None and self.glance.image_size >= self.image_size:
            raise ValueError(
                f"point '{self.name}' glances at {self.glance.image_size} px, which must be less "
                f"than its own {self.image_size}"
            )
        return self

    @property
    def asks_no_masker(self) -> bool:
        """True when no masker has a threshold or a cap."""
        return all(t is None for t in self.thresholds) and all(c is None for c in self.caps)

    @property
    def skips_nothing(self) -> bool:
        """True when the static network runs for every image: no threshold, no cap, no glance."""
        return self.glance is None and self.asks_no_masker

    @property
    def first_look(self) -> OperatingPoint:
        """What a point that glances does for every image: the static network on the small copy."""
        if self.glance is None:
            raise InvalidInput(f"point '{self.name}' does not glance")
        return static_point(self.name, self.glance.image_size, len(self.thresholds))

    @property
    def second_look(self) -> OperatingPoint:
        """What it does for images that it looks at again; without a glance, the point itself."""
        return self.model_copy(update={"glance": None})

    @property
    def looking_once(self) -> OperatingPoint:
        """The point where no image is looked at again. Raises InvalidInput without a glance."""
        return self.glancing(0.0)

    @property
    def looking_twice(self) -> OperatingPoint:
        """The point where every image is looked at again. Raises InvalidInput without a glance."""
        return self.glancing(1.0)

    def glancing(self, confidence: float) -> OperatingPoint:
        """The point with another confidence in its glance."""
        if self.glance is None:
            raise InvalidInput(f"point '{self.name}' does not glance")
        glance = Glance(image_size=self.glance.image_size, confidence=confidence)
        return self.model_copy(update={"glance": glance})


def static_point(name: str, image_size: int, num_maskers: int) -> OperatingPoint:
    """The point that skips nothing at `image_size` pixels."""
    return OperatingPoint(
        name=name,
        image_size=image_size,
        thresholds=(None,) * num_maskers,
        caps=(None,) * num_maskers,
    )


@dataclass(frozen=True, slots=True)
class Output:
    """What an engine answers for a batch of N images.

    arrays: the task's results by name; classification has `probabilities`, float32 (N, classes).
    Detection has `counts`, int64 (N,): how many of an image's D places are filled, surest first;
    `boxes`, float32 (N, D, 4), in pixels of the image; `scores`, float32, and `labels`, int64,
    (N, D); segmentation also `masks`, float32 (N, D, M, M), probabilities over each box.
    Besides, `decisions` may be there: bool (N, units), those of all maskers side by side, in
    detection the backbone's first; and `again`, bool (N,), where a point glances: which images were
    computed at their point's own size. Of the others activation, decisions and pixels are 0.
    activation: share of active units per image and masker, float32 (N, maskers).
    macs: multiply-accumulates executed per image, maskers included, float64 (N,).
    durations_s: seconds per stage of the engine (`prepare`, `network`), for the whole batch.
    parts_s: what `network` consists of, float64 (blocks + 2,): stem, every block, head. Detection
    has (blocks + 5,): stem, every block, pyramid, dense heads, choice of objects, masks.
    pixels: per block how many output pixels were active and on how many its first convolution was
    computed, int64 (N, blocks, 2). Both None where an engine does not tell.
    """

    arrays: Mapping[str, npt.NDArray[np.generic]]
    activation: Float32Array
    macs: npt.NDArray[np.float64]
    durations_s: Mapping[str, float]
    parts_s: npt.NDArray[np.float64] | None = None
    pixels: npt.NDArray[np.int64] | None = None


class Engine(Protocol):
    """A loaded network that answers images; owns its buffers and threads."""

    @property
    def name(self) -> str:
        """Which engine: `cpu`, `reference` or `tensorrt`."""

    @property
    def precision(self) -> str:
        """Arithmetic of the convolutions, for example `fp32`."""

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        """Run uint8 NHWC `images` of one size, one point per image; normalisation is inside.

        An image's answer does not depend on its batch mates. The output belongs to the caller.
        Raises InvalidInput for a wrong dtype, shape or point, EngineError once closed.
        """

    def close(self) -> None:
        """Release buffers and threads; further calls of `infer` are refused."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def check_batch(images: UInt8Array, points: Sequence[OperatingPoint], num_maskers: int) -> None:
    """Refuse what no engine can run: raises InvalidInput that names the fault."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        got = getattr(images, "dtype", type(images).__name__)
        raise InvalidInput(f"images must be a uint8 array, got {got}")
    if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
        raise InvalidInput(
            f"images must have shape (N, H, W, 3) with N, H and W at least 1, got {images.shape}"
        )
    if len(points) != images.shape[0]:
        raise InvalidInput(f"{images.shape[0]} images need as many points, got {len(points)}")
    for point in points:
        if len(point.thresholds) != num_maskers:
            raise InvalidInput(
                f"point '{point.name}' has {len(point.thresholds)} thresholds, "
                f"this network has {num_maskers} maskers"
            )
        if images.shape[1:3] != (point.image_size, point.image_size):
            raise InvalidInput(
                f"point '{point.name}' takes images of {point.image_size}x{point.image_size}, "
                f"got {images.shape[1]}x{images.shape[2]}"
            )
