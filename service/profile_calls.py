"""The calls of the engine that are timed to know what points take, and in which order.

A point that glances is timed twice: its first look alone, and both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engines.architecture import MapSize, only_resnet
from engines.bench.masks import MaskKind, draw_masks
from engines.core import Engine, OperatingPoint, UInt8Array
from engines.latency.rates import second_look_rates
from engines.macs import static_macs
from engines.manifest import PointRecord
from engines.preprocessing import preprocess
from service.samples import sample_names, sample_path

if TYPE_CHECKING:
    from engines.cpu.engine import CpuEngine
    from service.model import Model

MOST_ROUNDS = 30

_DRAWS = 4


@dataclass(frozen=True)
class Call:
    """One way to call the engine, of points that do not look again by themselves.

    again: whether its images are computed at their point's own size; before that comes `glance`, a
    point that never looks again, where there is one. sizes: those that the network runs at. macs:
    of all its images. masks: to force upon `point`, (n, units) per masker, one after another; empty
    where the engine decides.
    """

    name: str
    again: bool
    macs: float
    images: UInt8Array
    glance: OperatingPoint | None
    point: OperatingPoint
    masks: tuple[tuple[npt.NDArray[np.bool_], ...], ...] = ()

    @property
    def count(self) -> int:
        """How many images it has."""
        return len(self.images)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Image sizes in the order in which the network runs at them."""
        looks = [] if self.glance is None else [self.glance.first_look]
        return tuple(look.image_size for look in [*looks, *([self.point] if self.again else [])])

    def run(self, engine: Engine, turn: int) -> None:
        """Call it; masks differ from turn to turn."""
        if self.glance is not None:
            engine.infer(self.images, (self.glance,) * self.count)
        if not self.again:
            return
        points = (self.point,) * self.count
        if self.masks and isinstance(engine, forcing()):
            engine.infer(self.images, points, self.masks[turn % len(self.masks)])
        else:
            engine.infer(self.images, points)


def rounds(
    calls: Sequence[Call], rng: np.random.Generator, settle: Callable[[int, int], object]
) -> Iterator[tuple[int, int]]:
    """Turn and call: every call once a turn, in random order, those of the same sizes together."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for i, call in enumerate(calls):
        by_size.setdefault(call.sizes, []).append(i)
    groups = list(by_size.values())
    for turn in range(MOST_ROUNDS):
        for alike in (groups[i] for i in rng.permutation(len(groups))):
            # Untimed: buffers are planned anew after a change of size.
            settle(min(alike, key=lambda i: calls[i].count), turn)
            yield from ((turn, which) for which in rng.permutation(alike).tolist())


def calls_of(model: Model, max_batch: int, rng: np.random.Generator) -> list[Call]:
    """Every point at every batch that is measured."""
    pictures = [sample_path(name).read_bytes() for name in sample_names()[:max_batch]]
    crop_ratio = model.manifest.preprocessing.crop_ratio
    inputs: dict[int, UInt8Array] = {}
    calls = []
    for record in model.manifest.points:
        point, size = record.point, record.point.image_size
        if size not in inputs:
            decoded = [preprocess(each, size, crop_ratio=crop_ratio) for each in pictures]
            inputs[size] = np.resize(np.stack(decoded), (max_batch, size, size, 3))
        never = None if point.glance is None else point.looking_once
        first, second = _macs(model, record)
        for count in batches(max_batch):
            images = inputs[size][:count]
            if never is not None:
                calls.append(Call(point.name, False, first * count, images, never, point))
            calls.append(
                Call(
                    point.name,
                    True,
                    (first + second) * count,
                    images,
                    never,
                    point.second_look,
                    tuple(_masks(model, record, count, rng)),
                )
            )
    return calls


def _macs(model: Model, record: PointRecord) -> tuple[float, float]:
    """Multiply-accumulates of an image's first look, 0 without one, and of its second."""
    glance, full = record.point.glance, model.manifest.full
    if glance is None or record.again is None:
        return 0.0, record.macs
    whole, small, own = (
        static_macs(model.manifest.architecture, MapSize(size, size))
        for size in (full.point.image_size, glance.image_size, record.point.image_size)
    )
    first = full.macs * small / whole
    rest = record.macs - first
    return first, rest / record.again if rest * record.again > 0.0 else full.macs * own / whole


def _masks(
    model: Model, record: PointRecord, count: int, rng: np.random.Generator
) -> Iterator[tuple[npt.NDArray[np.bool_], ...]]:
    """Masks as the point's maskers decide on the average, several for small batches."""
    point = record.point
    if point.asks_no_masker or not isinstance(model.engine, forcing()):
        return
    net = only_resnet(model.manifest.architecture, "measuring latency")
    image = MapSize(point.image_size, point.image_size)
    for _ in range(max(1, _DRAWS // count)):
        draw = draw_masks(net, image, MaskKind.CLUSTERED, count, rng)
        yield tuple(
            ranks < round(rate * total)
            for ranks, total, rate in zip(
                draw.ranks, draw.totals, second_look_rates(record), strict=True
            )
        )


def batches(max_batch: int) -> list[int]:
    """One image, two, and the largest: what lies between is nearly on a line."""
    return sorted({1, min(2, max_batch), max_batch})


def forcing() -> type[CpuEngine] | tuple[()]:
    """The engine whose maskers can be told what to decide; nothing where it was not built."""
    try:
        from engines.cpu.engine import CpuEngine
    except ImportError:
        return ()
    return CpuEngine
