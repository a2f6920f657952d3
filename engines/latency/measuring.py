"""What `laud measure BUNDLE` does: profiles, rates of the points on pictures, and the spread of
measured over predicted for whole networks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from engines.architecture import MapSize, only_resnet
from engines.bench.masks import MaskKind, draw_masks
from engines.bench.networks import asking_point
from engines.bench.pictures import FEWEST_PICTURES, FolderPictures, MadeUpPictures, Pictures
from engines.bundle import Bundle
from engines.core import MAX_IMAGE_SIZE, MAX_THREADS, UInt8Array
from engines.cpu.engine import CpuEngine
from engines.cpu.shrinking import shrunk
from engines.cpu.threads import available_cpus
from engines.errors import InvalidInput
from engines.latency.identity import DeviceIdentity, this_device
from engines.latency.predictor import MeasuredPredictor
from engines.latency.profiling import decisions_of, mask_plans, profiles_of, timed
from engines.latency.rates import asked_blocks, executed_rates, network_sizes
from engines.latency.tables import LatencyTable, PointRates, Profile, Shrink, Spread
from engines.manifest import PRECISIONS

BATCHES = (1, 2, 4)
REPEATS = 10
SPREAD_CALLS = 400
MOST_BATCH = 256

_SPREAD_QUANTILES = 201
_MOST_OBSERVED = 100
_FEWEST_COPIES = 20
_SAY_EVERY_S = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class MeasurePlan:
    """What to measure. None: all precisions that bundle and machine have, the sizes of the points
    and of their glances, one thread and all CPUs. images: folder of pictures [made-up ones]; only
    with it the points' rates are observed. repeats: runs of every configuration."""

    precisions: tuple[str, ...] | None = None
    sizes: tuple[int, ...] | None = None
    batches: tuple[int, ...] = BATCHES
    threads: tuple[int, ...] | None = None
    images: Path | None = None
    repeats: int = REPEATS
    calls: int = SPREAD_CALLS
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InvalidInput for what cannot be measured, whatever the bundle."""
        for what, values, most in (
            ("precision", self.precisions, None),
            ("size", self.sizes, MAX_IMAGE_SIZE),
            ("batch", self.batches, MOST_BATCH),
            ("number of threads", self.threads, MAX_THREADS),
        ):
            if values is None:
                continue
            if not values or len(set(values)) < len(values):
                raise InvalidInput(f"every {what} is to be given once, got {values}")
            for value in values:
                if most is None and value not in PRECISIONS:
                    raise InvalidInput(
                        f"unknown precision '{value}'; there are: {', '.join(PRECISIONS)}"
                    )
                if most is not None and not 1 <= int(value) <= most:
                    raise InvalidInput(f"a {what} is 1 to {most}, got {value}")
        if self.seed < 0:
            raise InvalidInput(f"a seed is 0 or more, got {self.seed}")
        if self.repeats < 3:
            raise InvalidInput(f"at least 3 repeats make a median, got {self.repeats}")
        if self.calls < 20:
            raise InvalidInput(f"at least 20 calls are needed for a spread, got {self.calls}")


def measure(bundle: Bundle, plan: MeasurePlan, say: Say = lambda line: None) -> LatencyTable:
    """Take the table; `say` hears of progress.

    Raises EngineError or BundleError where a precision cannot run here, ConfigError for the folder
    of pictures.
    """
    device = this_device()
    manifest = bundle.manifest
    net = only_resnet(manifest.architecture, "measuring latency")
    precisions = plan.precisions or _precisions(bundle, device)
    threads = plan.threads or tuple(sorted({1, available_cpus()}))
    if max(threads) > device.cpus:
        raise InvalidInput(f"threads must be 1 to {device.cpus} here, got {max(threads)}")
    sizes = plan.sizes or network_sizes([record.point for record in manifest.points])
    batches = tuple(sorted(plan.batches))
    for precision in precisions:
        # What cannot run here is refused before anything else was measured for minutes.
        CpuEngine(bundle, threads=1, precision=precision).close()
    pictures = _pictures(bundle, plan, max(batches))
    inputs = {size: _at_least(pictures.at(size), max(batches)) for size in sorted(sizes)}
    calls = (len(mask_plans(net)) + 2) * len(sizes) * len(batches)
    rounds = len(precisions) * len(threads) * plan.repeats
    say(
        f"{manifest.name} on {device.cpu}, {device.cpus} CPUs, load {os.getloadavg()[0]:.2f}: "
        f"{rounds} rounds of {calls} calls; pictures: {pictures.source}"
    )
    shrinks = _shrinks(bundle, inputs, plan.repeats)
    progress = _Progress(rounds, say)
    profiles: list[Profile] = []
    points: list[PointRates] = []
    spreads: list[Spread] = []
    draft: LatencyTable | None = None
    for precision in precisions:
        for count in threads:
            rng = np.random.default_rng([plan.seed, count, PRECISIONS.index(precision)])
            with CpuEngine(bundle, threads=count, precision=precision) as engine:
                profiles += profiles_of(
                    engine,
                    net,
                    inputs,
                    batches,
                    repeats=plan.repeats,
                    rng=rng,
                    after_round=lambda _, p=precision, t=count: progress.step(p, t),  # type: ignore[misc]
                )
                if plan.images is not None and count == threads[0]:
                    points += _observed(engine, bundle, pictures)
                draft = LatencyTable(
                    bundle=bundle.hash,
                    name=manifest.name,
                    device=device,
                    version=version("laudserve"),
                    pictures=None if plan.images is None else pictures.source,
                    profiles=tuple(profiles),
                    points=tuple(points),
                    spreads=(),
                    shrinks=shrinks,
                )
                predictor = MeasuredPredictor(
                    draft, bundle, device=device, precision=precision, threads=count
                )
                say(f"{precision}, threads: {count}: {plan.calls} mixed calls for the quantiles")
                spreads.append(_spread(engine, predictor, bundle, inputs, plan.calls, rng))
    if draft is None:
        raise InvalidInput("nothing was asked to be measured")
    return draft.model_copy(update={"spreads": tuple(spreads)})


def _precisions(bundle: Bundle, device: DeviceIdentity) -> tuple[str, ...]:
    """All that bundle and machine have."""
    scaled = bundle.manifest.quantisation is not None
    return tuple(p for p in PRECISIONS if p in device.isa and (p != "int8" or scaled))


def _pictures(bundle: Bundle, plan: MeasurePlan, batch: int) -> Pictures:
    if plan.images is None:
        return MadeUpPictures(plan.seed)
    crop_ratio = bundle.manifest.preprocessing.crop_ratio
    return FolderPictures(plan.images, crop_ratio, max(FEWEST_PICTURES, batch))


def _at_least(pixels: UInt8Array, count: int) -> UInt8Array:
    return pixels if len(pixels) >= count else np.resize(pixels, (count, *pixels.shape[1:]))


class _Progress:
    """Says how many rounds are done, now and then."""

    def __init__(self, rounds: int, say: Say) -> None:
        self._rounds, self._say, self._done = rounds, say, 0
        self._begin = self._said = time.monotonic()

    def step(self, precision: str, threads: int) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._said < _SAY_EVERY_S and self._done < self._rounds:
            return
        self._said = now
        left = (now - self._begin) / self._done * (self._rounds - self._done)
        self._say(
            f"{self._done} of {self._rounds} rounds ({precision}, threads: {threads}), "
            f"about {left:.0f} s left"
        )


def _shrinks(bundle: Bundle, inputs: Mapping[int, UInt8Array], repeats: int) -> tuple[Shrink, ...]:
    """How long small copies take, of every pair of sizes at which a point glances."""
    points = [record.point for record in bundle.manifest.points]
    pairs = {(p.image_size, p.glance.image_size) for p in points if p.glance is not None}
    found = []
    for size, small in sorted(pair for pair in pairs if pair[0] in inputs):
        taken_s = []
        for turn in range(max(repeats, _FEWEST_COPIES)):
            image = inputs[size][turn % len(inputs[size])][None]
            begin_s = time.perf_counter()
            shrunk(image, small)
            taken_s.append(time.perf_counter() - begin_s)
        found.append(Shrink(size=size, small=small, seconds=float(np.median(taken_s))))
    return tuple(found)


def _observed(engine: CpuEngine, bundle: Bundle, pictures: Pictures) -> list[PointRates]:
    """What every point computes on pictures, one image a call; one that glances on those that it
    looks at again, or where it does at none on all."""
    net, found = only_resnet(bundle.manifest.architecture, "measuring latency"), []
    for record in bundle.manifest.at(engine.precision).points:
        point, size = record.point, record.point.image_size
        image, asked = MapSize(size, size), asked_blocks(net, record.point)
        shown = pictures.at(size)[:_MOST_OBSERVED]
        if point.glance is not None:
            again = [bool(engine.infer(p[None], [point]).arrays["again"][0]) for p in shown]
            shown = shown[again] if any(again) else shown
        rates = [
            executed_rates(net, image, engine.infer(pixels[None], [point.second_look]), asked)
            for pixels in shown
        ]
        mean = {
            what: tuple(float(v) for v in np.mean([getattr(r, what) for r in rates], axis=0))
            for what in ("spatial", "dilated", "channel")
        }
        found.append(PointRates(precision=engine.precision, point=point.name, **mean))
    return found


def _spread(
    engine: CpuEngine,
    predictor: MeasuredPredictor,
    bundle: Bundle,
    inputs: dict[int, UInt8Array],
    calls: int,
    rng: np.random.Generator,
) -> Spread:
    """Measured over predicted of calls that mix points, sizes, batches, masks and rates.

    Where rates were observed, every call is at one of the bundle's points, and images differ in
    what they skip; else masks are forced, whose rates are known. Which images are looked at again
    is no error of a prediction: it is compared with what is predicted for those.
    """
    net = only_resnet(bundle.manifest.architecture, "measuring latency")
    points = [r.point for r in bundle.manifest.at(engine.precision).points]
    observed = [
        point
        for point in points
        if point.image_size in inputs
        and predictor.has_observed(point.name)
        and network_sizes([point])[0] >= predictor.sizes[0]
    ]
    ratios = []
    for _ in range(calls):
        batch = int(rng.choice(predictor.batches))
        if observed:
            point = observed[int(rng.integers(len(observed)))]
            images = inputs[point.image_size]
            chosen = images[rng.integers(0, len(images), batch)]
            whole, output = timed(engine, chosen, [point] * batch, None)
            again = float(output.arrays["again"].mean()) if point.glance is not None else 1.0
            ratios.append(whole / predictor.known(point.name, again, batch=batch))
            continue
        size = int(rng.choice(predictor.sizes))
        chosen = inputs[size][rng.integers(0, len(inputs[size]), batch)]
        image = MapSize(size, size)
        kind = MaskKind.RANDOM if rng.integers(2) else MaskKind.CLUSTERED
        draw = draw_masks(net, image, kind, batch, rng)
        decisions = decisions_of(net, draw, *rng.uniform(0.1, 1.0, 2))
        asking = asking_point("asking", size, len(net.maskers))
        whole, output = timed(engine, chosen, [asking] * batch, decisions)
        rates = executed_rates(net, image, output, asked_blocks(net, asking))
        ratios.append(whole / predictor.median(rates, size=size, batch=batch))
    evenly = np.quantile(ratios, np.linspace(0.0, 1.0, _SPREAD_QUANTILES))
    return Spread(
        precision=engine.precision,
        threads=engine.threads,
        calls=calls,
        ratios=tuple(map(float, evenly)),
    )
