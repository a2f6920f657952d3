"""Networks to judge predictors by: each with a latency table, and cases that the table lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from engines.architecture import MapSize, ResNet, only_resnet
from engines.bench.masks import MaskKind, draw_masks
from engines.bench.networks import architecture, asking_point, synthetic_bundle
from engines.bench.pictures import Pictures
from engines.bundle import Bundle, read_bundle
from engines.core import OperatingPoint, UInt8Array
from engines.cpu.engine import CpuEngine
from engines.latency.profiling import decisions_of, mask_plans, timed
from engines.latency.rates import (
    FloatArray,
    RateVector,
    asked_blocks,
    executed_rates,
    expected_rates,
    network_sizes,
)
from engines.macs import masker_units

Say = Callable[[str], None]


@dataclass(frozen=True)
class Held:
    """One case: a way to run a network that its table was not made from.

    kind: of masks; TRAINED: the point's own. spatial, channel: rates of forced masks.
    """

    size: int
    batch: int
    kind: MaskKind
    spatial: float = 1.0
    channel: float = 1.0
    point: str | None = None
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subject:
    """A network with what its table is made from and what it is judged by."""

    name: str
    precision: str
    threads: int
    bundle: Bundle
    sizes: tuple[int, ...]
    batches: tuple[int, ...]
    repeats: int
    cases: tuple[Held, ...]


@dataclass
class Runs:
    """Calls of one case: seconds, parts (blocks + 2,) and rates of each."""

    seconds: list[float] = field(default_factory=list)
    parts: list[FloatArray] = field(default_factory=list)
    rates: list[RateVector] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        """Of the calls."""
        return float(np.median(self.seconds))

    @property
    def mean_rates(self) -> RateVector:
        """Over the calls."""
        mean = [
            np.mean([getattr(each, what) for each in self.rates], axis=0)
            for what in ("spatial", "dilated", "channel")
        ]
        return RateVector(mean[0], mean[1], mean[2], self.rates[0].asked)


def demo(precision: str, threads: int, bundle: Bundle | None = None) -> Subject:
    """The bundle that ships: its own masks at every point, and forced ones between its sizes.

    Points that glance are two of these. bundle: another one instead.
    """
    bundle = bundle or read_bundle("zoo:clothing")
    points = bundle.manifest.at(precision).points
    sizes = network_sizes([record.point for record in points])
    between = [(a + b) // 2 for a, b in pairwise(sizes)]
    own = tuple(
        Held(
            r.point.image_size,
            batch,
            MaskKind.TRAINED,
            point=r.point.name,
            held_out=(
                *(() if r.point.skips_nothing else ("masks",)),
                *(("batch",) if batch == 3 else ()),
            ),
        )
        for r in points
        if r.point.glance is None
        for batch in (1, 3)
        # With nothing skipped, one image at a time, is what a table is made of.
        if batch == 3 or not r.point.skips_nothing
    )
    forced = _forced(
        only_resnet(bundle.manifest.architecture, "the benchmark"),
        between,
        (1, 3),
        ((0.33, 0.7), (0.72, 0.33), (0.5, 0.5)),
    )
    return Subject(
        f"zoo:clothing {precision}", precision, threads, bundle, sizes, (1, 4), 8, own + forced
    )


def synthetic(
    name: str, paradigm: str, precision: str, threads: int, pictures: Pictures, say: Say
) -> Subject:
    """A well-known network with random weights, dynamic in every block."""
    net = architecture(name, paradigm, patches=(8, 4, 2, 1), group=16, mix="channel")
    bundle = synthetic_bundle(name, net, 224, seed=0)
    if precision == "int8":
        from engines.bench.scales import with_scales

        bundle = with_scales(bundle, pictures, say)
    cases = _forced(net, (192,), (1, 2), ((0.33, 0.33), (0.7, 0.7))) + _forced(
        net, (224,), (1,), ((0.15, 0.15), (0.5, 0.5))
    )
    return Subject(
        f"{name} {paradigm} {precision}", precision, threads, bundle, (160, 224), (1, 4), 5, cases
    )


def _forced(
    net: ResNet,
    sizes: tuple[int, ...] | list[int],
    batches: tuple[int, ...],
    rates: tuple[tuple[float, float], ...],
) -> tuple[Held, ...]:
    """Clustered and random masks in turns."""
    found: list[Held] = []
    for size in sizes:
        for batch in batches:
            for spatial, channel in rates:
                kind = (MaskKind.CLUSTERED, MaskKind.RANDOM)[len(found) % 2]
                held = ["masks"]
                held += ["rate"] if has_new_rate(net, size, spatial, channel) else []
                held += ["size"] if size != 224 else []
                held += ["batch"] if batch not in (1, 4) else []
                found.append(Held(size, batch, kind, spatial, channel, held_out=tuple(held)))
    return tuple(found)


def has_new_rate(net: ResNet, size: int, spatial: float, channel: float) -> bool:
    """Whether some masker decides on a number of units that no table of that size is made from.

    Few units have few rates: of four channel groups every number is measured, of one block both.
    """
    sizes = net.block_sizes(MapSize(size, size))
    measured = {s for plan in mask_plans(net) for s in (plan.spatial, plan.channel)}
    for masker in net.maskers:
        units = masker_units(net.blocks[masker.block], sizes[masker.block][1], masker.kind)
        rate = spatial if masker.kind == "spatial" else channel
        if units > 1 and round(rate * units) not in {round(r * units) for r in measured}:
            return True
    return False


def point_of(subject: Subject, case: Held) -> OperatingPoint:
    """The point that a case asks: the bundle's, or one that asks every masker."""
    if case.point is not None:
        return subject.bundle.manifest.at(subject.precision).point(case.point).point
    return asking_point("asking", case.size, len(subject.bundle.manifest.architecture.maskers))


def rates_before(subject: Subject, case: Held) -> RateVector:
    """What is known of a case from activation rates alone, before any mask is."""
    net = only_resnet(subject.bundle.manifest.architecture, "the benchmark")
    point = point_of(subject, case)
    if case.point is not None:
        record = subject.bundle.manifest.at(subject.precision).point(case.point)
        return expected_rates(net, point, record.activation)
    by_kind = {"spatial": case.spatial, "channel": case.channel}
    activation = [by_kind[masker.kind] for masker in net.maskers]
    return expected_rates(net, point, activation, clustered=case.kind is not MaskKind.RANDOM)


def run_case(
    engine: CpuEngine,
    subject: Subject,
    case: Held,
    images: UInt8Array,
    calls: int,
    rng: np.random.Generator,
) -> Runs:
    """Call the engine `calls` times, each on other pictures and masks; the first one untimed."""
    net = only_resnet(subject.bundle.manifest.architecture, "the benchmark")
    point = point_of(subject, case)
    image, asked = MapSize(case.size, case.size), asked_blocks(net, point)
    runs = Runs()
    for call in range(calls + 1):
        chosen = images[rng.integers(0, len(images), case.batch)]
        decisions = None
        if case.point is None:
            draw = draw_masks(net, image, case.kind, case.batch, rng)
            decisions = decisions_of(net, draw, case.spatial, case.channel)
        seconds, output = timed(engine, chosen, [point] * case.batch, decisions)
        if call == 0 or output.parts_s is None:
            continue
        runs.seconds.append(seconds)
        runs.parts.append(output.parts_s)
        runs.rates.append(executed_rates(net, image, output, asked))
    return runs
