"""Our engine as a contender: with masks, with everything active, and as its own free rivals.

A point that glances is two contenders, one that never looks again and one that always does: what a
picture happens to show decides nothing, and the share that the bundle records makes one of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engines.architecture import MapSize
from engines.bench.masks import BoolArray, fixed_masks
from engines.bench.pictures import Pictures
from engines.bench.plan import Subject
from engines.bench.work import rate_for_macs, size_for_macs
from engines.core import OperatingPoint, Output, UInt8Array, static_point
from engines.cpu.engine import CpuEngine
from engines.macs import static_macs

OURS, FIRST, BOTH = "ours", "first_look", "both_looks"
SMALLER, FIXED = "smaller image", "fixed mask"


class OwnEngine:
    """Our engine at one point, with the batches and forced decisions of every draw."""

    def __init__(
        self,
        engine: CpuEngine,
        point: OperatingPoint,
        inputs: Sequence[UInt8Array],
        decisions: Sequence[tuple[BoolArray, ...]] | None = None,
    ) -> None:
        """inputs: (N, S, S, 3) per draw. decisions: per draw, (N, units) per masker; None lets the
        maskers decide."""
        self._engine, self._inputs, self._decisions = engine, inputs, decisions
        self._points = [point] * len(inputs[0])
        self._draw = 0

    def load(self, draw: int) -> None:
        """See `Contender`."""
        self._draw = draw

    def run(self) -> Output:
        """See `Contender`."""
        forced = None if self._decisions is None else self._decisions[self._draw]
        return self._engine.infer(self._inputs[self._draw], self._points, forced)

    def answers(self) -> list[Output]:
        """Of every draw."""
        found = []
        for draw in range(len(self._inputs)):
            self.load(draw)
            found.append(self.run())
        return found

    @property
    def size(self) -> int:
        """Pixels on a side of its images."""
        return int(self._inputs[0].shape[1])


def own_engines(
    engine: CpuEngine,
    subject: Subject,
    inputs: Sequence[UInt8Array],
    decisions: Sequence[tuple[BoolArray, ...]] | None = None,
) -> dict[str, OwnEngine]:
    """What has to be timed of the subject's point: OURS, or FIRST and BOTH where it glances."""
    point = subject.point
    if point.glance is None:
        return {OURS: OwnEngine(engine, point, inputs, decisions)}
    return {
        FIRST: OwnEngine(engine, point.looking_once, inputs),
        BOTH: OwnEngine(engine, point.looking_twice, inputs),
    }


def expected(first: float, both: float, again: float) -> float:
    """What an image takes on the average, when so large a share of images is looked at again."""
    return first + again * (both - first)


def batches(pixels: UInt8Array, batch: int, draws: int) -> list[UInt8Array]:
    """That many batches of pictures (N, S, S, 3), taken in a ring."""
    ring = np.arange(draws * batch) % len(pixels)
    return [pixels[ring[i * batch : (i + 1) * batch]] for i in range(draws)]


def dense(engine: CpuEngine, subject: Subject, inputs: Sequence[UInt8Array]) -> OwnEngine:
    """Everything active and no masker asked, at the size of the inputs."""
    point = static_point("full", inputs[0].shape[1], len(subject.net.maskers))
    return OwnEngine(engine, point, inputs)


def free_rivals(
    engine: CpuEngine,
    subject: Subject,
    pictures: Pictures,
    inputs: Sequence[UInt8Array],
    macs: float,
) -> dict[str, OwnEngine]:
    """What reaches `macs` per image without trained masks.

    SMALLER: everything active, on an image of the size whose cost is nearest. FIXED: the same units
    for every image, the maskers that the point asks still evaluated (a percent or two).
    """
    net, batch = subject.net, len(inputs[0])
    size = size_for_macs(net, subject.size, macs)
    image = MapSize(subject.size, subject.size)
    mask = fixed_masks(net, image, batch)
    rate = rate_for_macs(net, image, [mask], macs / static_macs(net, image))
    return {
        SMALLER: dense(engine, subject, batches(pictures.at(size), batch, len(inputs))),
        FIXED: OwnEngine(engine, subject.point.second_look, inputs, [mask.at(rate)] * len(inputs)),
    }
