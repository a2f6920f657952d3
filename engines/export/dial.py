"""The dial: which candidates ship, by the latency that they have on this machine.

Multiply-accumulates do not tell: skipping saves reading weights, a smaller image does not, and both
cost time that no count knows. So every candidate is measured on the native engine, as it serves.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

import numpy as np

from engines.architecture import MapSize
from engines.bench.timing import MOST_DIFFERENCE, interleave, noise, tolerance
from engines.bundle import Bundle, Dial, DialCandidate, PointRecord, Quantisation
from engines.core import Engine, OperatingPoint, UInt8Array
from engines.errors import BundleError, EngineError
from engines.evaluation import LabelledImages
from engines.export.drafts import changed
from engines.export.front import Candidate, Verdict, front
from engines.export.pictures import PixelCache, Pixels, Say
from engines.latency.identity import this_device
from engines.macs import static_macs
from engines.registry import load_engine

LEAST_GAIN = 0.03
"""Share of the latency of `full` by which a point has to be faster than a better one: in service
every call takes some tenths of a millisecond beside its work, in which .1 ms is lost."""

_THREADS = 1
_PICTURES = 24
_FEWEST_REPEATS = 16
_MOST_REPEATS = 64
_WISHED_S = 60.0
_SAY_EVERY_S = 5.0
_ATTEMPTS = 3

Clock = Callable[[], float]


@dataclass(frozen=True)
class Latencies:
    """Seconds a picture per point, medians of `repeats` runs. noise_ratio: see `Dial`. worst_s: of
    points that glance, both looks."""

    median_s: tuple[float, ...]
    noise_ratio: float
    repeats: int
    worst_s: tuple[float | None, ...] = ()

    @property
    def tolerance(self) -> float:
        """The share up to which two latencies are equal."""
        return tolerance(self.noise_ratio)

    @property
    def too_noisy(self) -> bool:
        """Whether nothing should be concluded from them."""
        return self.noise_ratio > MOST_DIFFERENCE


def dialled(
    bundle: Bundle,
    budgets: Mapping[str, float | None],
    pictures: LabelledImages,
    say: Say,
    *,
    keep_all: bool = False,
    clock: Clock = time.perf_counter,
) -> Bundle:
    """As `chosen`, of a classifier; some of these pictures are run."""
    few = LabelledImages(pictures.folder.thinned(_PICTURES), pictures.crop_ratio)
    pixels = PixelCache(few, "validation", say)
    return chosen(bundle, budgets, pixels, say, keep_all=keep_all, clock=clock)


def chosen(
    bundle: Bundle,
    budgets: Mapping[str, float | None],
    pixels: Pixels,
    say: Say,
    *,
    least_gain: float = LEAST_GAIN,
    keep_all: bool = False,
    clock: Clock = time.perf_counter,
) -> Bundle:
    """The bundle with those of its points that are worth their latency, and the evidence.

    Judged in int8 where it has scales, else in fp32; one image a call, one thread. budgets: what
    each point was calibrated to, by name. pixels: what is run. least_gain: see `LEAST_GAIN`.
    keep_all: measure, drop nothing. Where the native engine cannot run the network, or the machine
    is not quiet enough to tell, `say` hears of it and nothing is dropped.
    """
    precision: Literal["fp32", "int8"] = "fp32" if bundle.manifest.quantisation is None else "int8"
    records = bundle.manifest.at(precision).points
    if len(records) == 1:
        return bundle
    try:
        device = this_device().slug
        engine = load_engine(bundle, kind="cpu", threads=_THREADS, precision=precision)
    except (EngineError, BundleError) as error:
        say(f"latency cannot be measured, so every point is kept: {error}")
        return bundle
    with engine:
        found = _quietest(engine, records, pixels, say, clock)
    if found.too_noisy:
        say(
            f"the machine is not quiet (equal runs differ by {found.noise_ratio:.1%}): every point "
            "is kept; export again when nothing else runs, to drop what is not worth its latency"
        )
    verdicts = front(_candidates(records, found), found.tolerance, least_gain)
    if keep_all or found.too_noisy:
        verdicts = {name: Verdict(True, each.dominated_by) for name, each in verdicts.items()}
    dial = Dial(
        device=device,
        precision=precision,
        threads=_THREADS,
        repeats=found.repeats,
        noise_ratio=found.noise_ratio,
        tolerance_ratio=found.tolerance,
        least_gain_ratio=least_gain,
        candidates=tuple(
            _evidence(record, _budget(bundle, record, budgets), latency_s, found, verdicts)
            for record, latency_s in zip(records, found.median_s, strict=True)
        ),
    )
    return _shipped(bundle, dial)


def _quietest(
    engine: Engine, records: Sequence[PointRecord], pixels: Pixels, say: Say, clock: Clock
) -> Latencies:
    """The first measurement that can be believed, or the least noisy of three."""
    found: list[Latencies] = []
    for _ in range(_ATTEMPTS):
        found.append(measure(engine, records, pixels, say, clock))
        if not found[-1].too_noisy:
            break
        say(f"equal runs differ by {found[-1].noise_ratio:.1%}: the machine is not quiet")
    return min(found, key=lambda each: each.noise_ratio)


def measure(
    engine: Engine,
    records: Sequence[PointRecord],
    pixels: Pixels,
    say: Say,
    clock: Clock = time.perf_counter,
) -> Latencies:
    """Latency of one picture at every point, in turns: what disturbs one disturbs all.

    Of a point that glances, that of its first look and the share of the second that its record
    says: a median over pictures would be that of one or the other.
    """
    timed = [point for record in records for point, _ in _looks(record)]
    runners = {point.name: _Runner(engine, point, pixels.at(point.image_size)) for point in timed}
    begin = clock()
    for runner in runners.values():
        # Once for buffers, once to see how long it takes.
        runner.run()
        runner.run()
    # Every timed run has an untimed one before it.
    round_s = clock() - begin
    wished = int(_WISHED_S / max(round_s, 1e-9))
    repeats = max(_FEWEST_REPEATS, min(_MOST_REPEATS, wished)) // 2 * 2
    say(f"measuring the latency of {len(records)} points, about {repeats * round_s:.0f} s")
    next(iter(runners.values())).say = _progress(say, 2 * repeats)
    count = len(pixels.at(timed[0].image_size))
    # As many as there is time for, evenly from all: what is looked at costs what lies in it.
    some = np.linspace(0, count - 1, min(count, repeats // 2)).astype(int).tolist()
    for runner in runners.values():
        runner.draws = some
    times = interleave(runners, repeats=repeats, draws=len(some), clock=clock)
    return Latencies(
        median_s=tuple(
            sum(part * statistics.median(times[point.name]) for point, part in _looks(record))
            for record in records
        ),
        noise_ratio=statistics.median(noise(each).difference for each in times.values()),
        repeats=repeats,
        worst_s=tuple(
            None if record.again is None else statistics.median(times[_looks(record)[-1][0].name])
            for record in records
        ),
    )


def _looks(record: PointRecord) -> list[tuple[OperatingPoint, float]]:
    """What is timed for a point, and the part of each: one who glances never or always."""
    point = record.point
    if record.again is None:
        return [(point, 1.0)]
    once, twice = (
        look.model_copy(update={"name": f"{point.name}+{what}"})
        for look, what in ((point.looking_once, "once"), (point.looking_twice, "twice"))
    )
    return [(once, 1.0 - record.again), (twice, record.again)]


class _Runner:
    """One point as a contender of `engines.bench.timing.interleave`."""

    def __init__(self, engine: Engine, point: OperatingPoint, pixels: UInt8Array) -> None:
        self._engine, self._points, self._pixels = engine, [point], pixels
        self._image = pixels[:1]
        self.draws: Sequence[int] = range(len(pixels))
        self.say: Callable[[], None] = lambda: None

    def load(self, draw: int) -> None:
        """See `Contender`."""
        self.say()
        place = self.draws[draw]
        self._image = self._pixels[place : place + 1]

    def run(self) -> object:
        """See `Contender`."""
        return self._engine.infer(self._image, self._points)


def _progress(say: Say, total: int) -> Callable[[], None]:
    done, said = 0, time.monotonic()

    def progress() -> None:
        nonlocal done, said
        if time.monotonic() - said > _SAY_EVERY_S:
            said = time.monotonic()
            say(f"measured {done / total:.0%}")
        done += 1

    return progress


def _candidates(records: Sequence[PointRecord], found: Latencies) -> list[Candidate]:
    return [
        Candidate(
            name=record.point.name,
            latency_s=latency_s,
            log_loss=_loss(record),
            accuracy=_accuracy(record),
            skips=not record.point.skips_nothing,
            worst_s=worst_s,
        )
        for record, latency_s, worst_s in zip_longest(records, found.median_s, found.worst_s)
    ]


def _budget(
    bundle: Bundle, record: PointRecord, budgets: Mapping[str, float | None]
) -> float | None:
    """What it was calibrated to; of a point that glances, what it takes of its own size's work."""
    if record.point.glance is None:
        return budgets[record.point.name]
    size = MapSize(record.point.image_size, record.point.image_size)
    return min(record.macs / static_macs(bundle.manifest.architecture, size), 1.0)


def _evidence(
    record: PointRecord,
    budget: float | None,
    latency_s: float,
    found: Latencies,
    verdicts: Mapping[str, Verdict],
) -> DialCandidate:
    verdict = verdicts[record.point.name]
    return DialCandidate(
        name=record.point.name,
        image_size=record.point.image_size,
        budget=budget,
        latency_ms=latency_s * 1e3,
        latency_ratio=latency_s / found.median_s[0],
        log_loss=_loss(record),
        accuracy=_accuracy(record),
        macs_ratio=record.macs_ratio,
        kept=verdict.kept,
        dominated_by=verdict.dominated_by,
    )


def _shipped(bundle: Bundle, dial: Dial) -> Bundle:
    """The bundle with the points that the dial keeps, the same in every precision."""
    manifest = bundle.manifest
    kept = [i for i, candidate in enumerate(dial.candidates) if candidate.kept]
    scales = manifest.quantisation
    if scales is not None:
        content = {name: getattr(scales, name) for name in Quantisation.model_fields}
        agreement = tuple(scales.calibration.agreement[i] for i in kept)
        content["calibration"] = scales.calibration.model_copy(update={"agreement": agreement})
        content["points"] = tuple(scales.points[i] for i in kept)
        scales = Quantisation.model_validate(content)
    points = tuple(manifest.points[i] for i in kept)
    return changed(bundle, points=points, quantisation=scales, dial=dial)


def _loss(record: PointRecord) -> float | None:
    if record.log_loss is None and record.detection is None:
        raise BundleError(f"the log-loss of '{record.point.name}' was never measured")
    return record.log_loss


def _accuracy(record: PointRecord) -> float:
    if record.accuracy is None:
        raise BundleError(f"the accuracy of '{record.point.name}' was never measured")
    return record.accuracy.value
