"""`laud measure`: take the latency table of a bundle on this machine.

Every way of running is measured in rounds that go through all masks in random order, so that a slow
spell of the machine falls on all of them alike; medians are taken per block.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from engines.architecture import MapSize, ResNet
from engines.bench.masks import BoolArray, Draw, MaskKind, draw_masks
from engines.bench.networks import asking_point
from engines.core import OperatingPoint, Output, UInt8Array, static_point
from engines.cpu.engine import CpuEngine
from engines.errors import EngineError
from engines.latency.rates import FloatArray, executed_rates
from engines.latency.tables import BlockTable, Curve, Profile
from engines.macs import masker_units

RATES = (0.0, 0.1, 0.25, 0.4, 0.6, 0.8, 1.0)
CROSSED_RATES = (0.0, 0.3, 0.6, 1.0)
"""Where blocks skip patches and channels, every pair of these."""

_DIGITS = 6


@dataclass(frozen=True)
class MaskPlan:
    """What the maskers are made to decide in one configuration of a profile."""

    kind: MaskKind
    spatial: float
    channel: float


@dataclass
class _Samples:
    """Runs of one configuration; everything per run."""

    parts: list[FloatArray] = field(default_factory=list)
    active: list[FloatArray] = field(default_factory=list)
    dilated: list[FloatArray] = field(default_factory=list)
    units: list[FloatArray] = field(default_factory=list)
    overheads: list[float] = field(default_factory=list)


def timed(
    engine: CpuEngine,
    images: UInt8Array,
    points: Sequence[OperatingPoint],
    decisions: Sequence[BoolArray] | None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, Output]:
    """Seconds of one call as its caller sees them, and its output."""
    begin = clock()
    output = engine.infer(images, points, decisions)
    return clock() - begin, output


def mask_plans(net: ResNet) -> tuple[MaskPlan, ...]:
    """The configurations that a profile goes through."""
    space = any(block.paradigm.masks_space for block in net.blocks)
    scattered = any(block.granularity.spatial is not None for block in net.blocks)
    crossed = any(b.paradigm.masks_space and b.paradigm.masks_channels for b in net.blocks)
    kinds = [MaskKind.CLUSTERED, MaskKind.RANDOM] if scattered or not space else [MaskKind.RANDOM]
    if not net.maskers:
        return ()
    pairs = (
        [(s, c) for s in CROSSED_RATES for c in CROSSED_RATES]
        if crossed
        else [(rate, rate) for rate in RATES]
    )
    return tuple(MaskPlan(kind, *pair) for kind in kinds for pair in pairs)


def decisions_of(net: ResNet, draw: Draw, spatial: float, channel: float) -> list[BoolArray]:
    """Decisions (N, units) per masker at one rate for patches and layers, one for channels."""
    by_kind = {"spatial": draw.at(spatial), "channel": draw.at(channel)}
    return [by_kind[masker.kind][i] for i, masker in enumerate(net.maskers)]


def profiles_of(
    engine: CpuEngine,
    net: ResNet,
    inputs: Mapping[int, UInt8Array],
    batches: Sequence[int],
    *,
    repeats: int,
    rng: np.random.Generator,
    after_round: Callable[[int], None] = lambda done: None,
) -> list[Profile]:
    """Measure every size and batch: every configuration of `mask_plans`, and nothing masked.

    inputs: images (N, S, S, 3) by size S, N at least the largest batch. A round is one call of
    every configuration at every size and batch; there are `repeats`.
    """
    ways = [(size, batch) for size in inputs for batch in batches]
    plans: list[MaskPlan | None] = [None, *mask_plans(net)]
    samples = {way: {plan: _Samples() for plan in plans} for way in ways}
    for done in range(repeats):
        for which in rng.permutation(len(ways)):
            size, batch = ways[which]
            order = [plans[i] for i in rng.permutation(len(plans))]
            # Untimed: buffers are planned anew after a change of size, and caches hold another's.
            _run(engine, net, inputs[size], batch, order[0], rng)
            for plan in order:
                whole, output = _run(engine, net, inputs[size], batch, plan, rng)
                _keep(samples[size, batch][plan], whole, output, net, MapSize(size, size))
        after_round(done + 1)
    return [_profile(engine, net, *way, samples[way]) for way in ways]


def _run(
    engine: CpuEngine,
    net: ResNet,
    images: UInt8Array,
    batch: int,
    plan: MaskPlan | None,
    rng: np.random.Generator,
) -> tuple[float, Output]:
    size = images.shape[1]
    chosen = images[rng.permutation(len(images))[:batch]]
    if plan is None:
        points = [static_point("resting", size, len(net.maskers))] * batch
        return timed(engine, chosen, points, None)
    draw = draw_masks(net, MapSize(size, size), plan.kind, batch, rng)
    points = [asking_point("asking", size, len(net.maskers))] * batch
    return timed(engine, chosen, points, decisions_of(net, draw, plan.spatial, plan.channel))


def _keep(samples: _Samples, whole: float, output: Output, net: ResNet, image: MapSize) -> None:
    if output.parts_s is None:
        raise EngineError("this engine does not tell what its parts took")
    rates = executed_rates(net, image, output, np.ones(len(net.blocks), np.bool_))
    samples.parts.append(output.parts_s)
    samples.active.append(rates.spatial)
    samples.dilated.append(rates.dilated)
    samples.units.append(output.activation.mean(axis=0, dtype=np.float64))
    samples.overheads.append(whole - output.durations_s["network"])


def _profile(
    engine: CpuEngine,
    net: ResNet,
    size: int,
    batch: int,
    samples: Mapping[MaskPlan | None, _Samples],
) -> Profile:
    every = [one for each in samples.values() for one in each.overheads]
    return Profile(
        precision=engine.precision,
        threads=engine.threads,
        size=size,
        batch=batch,
        overhead_s=float(np.median(every)),
        static_s=tuple(float(v) for v in np.median(samples[None].parts, axis=0)),
        blocks=tuple(
            _block_table(net, index, MapSize(size, size), samples)
            for index, block in enumerate(net.blocks)
            if block.paradigm.masks_space or block.paradigm.masks_channels
        ),
    )


def _block_table(
    net: ResNet, index: int, image: MapSize, samples: Mapping[MaskPlan | None, _Samples]
) -> BlockTable:
    maskers = {m.kind: i for i, m in enumerate(net.maskers) if m.block == index}
    out = net.block_sizes(image)[index][1]
    scattered = "spatial" in maskers and masker_units(net.blocks[index], out, "spatial") > 1
    runs = {
        kind: [
            run
            for plan, each in samples.items()
            if plan is not None and (plan.kind is kind or not scattered)
            for run in _runs(each, index, maskers)
        ]
        for kind in (MaskKind.CLUSTERED, MaskKind.RANDOM)
    }
    channel = tuple(sorted({run.channel for run in runs[MaskKind.RANDOM]}))
    return BlockTable(
        block=index,
        channel=channel,
        clustered=_curve(runs[MaskKind.CLUSTERED], channel),
        random=_curve(runs[MaskKind.RANDOM], channel) if scattered else None,
    )


@dataclass(frozen=True)
class _Run:
    """One block in one run. units: share of its patches; the rest as in `Curve`."""

    units: float
    channel: float
    active: float
    dilated: float
    seconds: float


def _runs(
    samples: _Samples, block: int, maskers: Mapping[Literal["spatial", "channel"], int]
) -> Iterator[_Run]:
    for parts, active, dilated, units in zip(
        samples.parts, samples.active, samples.dilated, samples.units, strict=True
    ):
        yield _Run(
            units=round(float(units[maskers["spatial"]]), _DIGITS) if "spatial" in maskers else 1.0,
            channel=(
                round(float(units[maskers["channel"]]), _DIGITS) if "channel" in maskers else 1.0
            ),
            active=float(active[block]),
            dilated=float(dilated[block]),
            seconds=float(parts[block + 1]),
        )


def _curve(runs: Sequence[_Run], channel: Sequence[float]) -> Curve:
    """Medians over runs of as many active patches and channels."""
    cells: dict[tuple[float, float], list[float]] = defaultdict(list)
    shares: dict[float, list[tuple[float, float]]] = defaultdict(list)
    for run in runs:
        cells[run.channel, run.units].append(run.seconds)
        shares[run.units].append((run.active, run.dilated))
    units = sorted(shares)
    active, dilated = np.array([np.mean(shares[each], axis=0) for each in units]).T
    # Partial patches may make more of them cover less: that is noise of the draw.
    keep = [0, *(i for i in range(1, len(units)) if active[i] > active[:i].max())]
    return Curve(
        active=tuple(float(active[i]) for i in keep),
        dilated=tuple(float(dilated[i]) for i in keep),
        seconds=tuple(tuple(_median(cells, row, units[i]) for i in keep) for row in channel),
    )


def _median(cells: dict[tuple[float, float], list[float]], channel: float, units: float) -> float:
    """Of the runs there are; where a pair did not come up, of the nearest one."""
    there = min(cells, key=lambda cell: abs(cell[0] - channel) + abs(cell[1] - units))
    return float(np.median(cells[there]))
