"""What a point of a detector that skips has to beat: a smaller image, one mask for all pictures.

Both are free: they need no maskers. Under the masks of other pictures it shows whether its masks
look at the picture at all. How masks are made is told by `engines.evaluation.rivals`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engines.architecture import MapSize, only_resnet
from engines.caps import units_of
from engines.core import Engine, OperatingPoint, UInt8Array
from engines.detection.architecture import level_units_of
from engines.detection.intervals import Bounded, difference_at_50
from engines.errors import InvalidInput
from engines.evaluation.points import Float64Array
from engines.manifest import Manifest

if TYPE_CHECKING:
    from engines.evaluation.detection import DetectionResult

SMALLER_IMAGE, FIXED_MASK = "smaller image", "fixed mask"


@dataclass(frozen=True)
class DetectionRival:
    """A point that skips beside a free rival.

    against: which kind, one of the two above. rival: its name. ap50: the point's less the rival's,
    of masks where there are any. Both None where neither a smaller image nor `full` is as fast.
    """

    point: str
    against: str
    rival: str | None
    ap50: Bounded | None


@dataclass(frozen=True)
class ShuffledMasks:
    """What a point does when every picture gets the masks of another picture: its AP50, of masks
    where there are any, and that less its own, paired."""

    ap50: Bounded
    minus: Bounded


def rivals_of(
    results: Sequence[DetectionResult], cost: Callable[[DetectionResult], float], most: float
) -> list[DetectionRival]:
    """Every point that skips beside the best smaller image, or `full`, that costs at most `most`
    times as much, and beside its own fixed mask where that ran. Where no smaller image ran nothing
    is said of any."""
    sizes = [each for each in results if each.of is None and each.point.skips_nothing]
    fixed = {each.of: each for each in results if each.of is not None}
    found: list[DetectionRival] = []
    for result in results:
        if result.point.skips_nothing:
            continue
        limit = most * cost(result)
        fast = [each for each in sizes if cost(each) <= limit]
        best = max(fast, key=lambda each: each.accuracy.value, default=None)
        if any(each.point.name != "full" for each in sizes):
            found.append(_beside(result, best, SMALLER_IMAGE))
        if result.name in fixed:
            found.append(_beside(result, fixed[result.name], FIXED_MASK))
    return found


def shuffled_masks(result: DetectionResult, own: DetectionResult) -> ShuffledMasks:
    """result: of the point under other pictures' masks. own: under those of its maskers."""
    return ShuffledMasks(result.accuracy, difference_at_50(result.best, own.best))


def detector_units(manifest: Manifest, image_size: int) -> list[int]:
    """Units of every masker, the backbone's first. Raises InvalidInput for what finds no
    objects."""
    if manifest.detector is None:
        raise InvalidInput(f"'{manifest.name}' finds no objects: its task is {manifest.task}")
    net = only_resnet(manifest.architecture, "finding objects")
    levels = level_units_of(net, manifest.detector, MapSize(image_size, image_size))
    return [*units_of(net, image_size).tolist(), *levels]


def frequencies_in(
    engine: Engine, point: OperatingPoint, pictures: Iterable[UInt8Array]
) -> Float64Array:
    """Share of the pictures (1, S, S, 3) on which each unit is active at the point, (units,).
    Raises InvalidInput where the engine does not tell decisions."""
    told = [engine.infer(picture, [point]).arrays.get("decisions") for picture in pictures]
    decisions = [np.asarray(each[0], np.bool_) for each in told if each is not None]
    if not decisions:
        raise InvalidInput("this engine does not tell what its maskers decide")
    shares: Float64Array = np.stack(decisions).mean(axis=0)
    return shares


def _beside(result: DetectionResult, rival: DetectionResult | None, against: str) -> DetectionRival:
    if rival is None:
        return DetectionRival(result.name, against, None, None)
    ap50 = difference_at_50(result.best, rival.best)
    return DetectionRival(result.name, against, rival.name, ap50)
