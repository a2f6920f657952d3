"""Choosing points by measured latency: with a scripted clock, and on the native engine itself.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.bench.timing import LEAST_TOLERANCE
from engines.bundle import Accuracy, Bundle, PointRecord
from engines.core import Glance, OperatingPoint, Output, UInt8Array, static_point
from engines.errors import EngineError
from engines.evaluation import LabelledImages
from engines.export import dial as module
from engines.export.dial import Latencies, dialled, measure
from engines.export.drafts import changed
from engines.export.pictures import PixelCache
from engines.folders import scan_folder
from engines.latency.identity import this_device
from tests.engines.int8 import bundle_of, full, net_of, quantisation, random_weights

NET = net_of("spatial", "channel")
SIZES = (32, 24)
BUDGETS = {"full": None, "size-24": None, "skip-32-65": 0.65}


def quiet(line: str) -> None:
    """Takes progress lines."""


@pytest.fixture
def pictures(tmp_path: Path) -> LabelledImages:
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "validation" / label).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "validation" / label / f"{i}.png")
    return LabelledImages(scan_folder(tmp_path / "validation"), 1.0)


def record(
    point: OperatingPoint, log_loss: float, macs: float, again: float | None = None
) -> PointRecord:
    return PointRecord(
        point=point,
        accuracy=Accuracy(value=0.9, low=0.8, high=0.95, images=6, split="validation"),
        agreement=0.9,
        log_loss=log_loss,
        activation=(1.0,) * len(NET.maskers),
        macs=macs,
        macs_ratio=macs / 100,
        again=again,
    )


def records(losses: Sequence[float] = (0.3, 0.4, 0.5)) -> tuple[PointRecord, ...]:
    maskers = len(NET.maskers)
    skip = static_point("skip-32-65", 32, maskers).model_copy(
        update={"thresholds": (0.0,) * maskers, "caps": (3,) * maskers}
    )
    points = (static_point("full", 32, maskers), static_point("size-24", 24, maskers), skip)
    return tuple(
        record(point, loss, macs)
        for point, loss, macs in zip(points, losses, (100.0, 60.0, 65.0), strict=True)
    )


def bundle(losses: Sequence[float] = (0.3, 0.4, 0.5)) -> Bundle:
    return changed(bundle_of(NET, random_weights(NET), None), points=records(losses))


def integers(losses: Sequence[float]) -> Bundle:
    """With int8 scales, and in int8 these losses."""
    scales = quantisation(NET)
    note = scales.calibration.model_copy(update={"agreement": (0.99, 0.98, 0.97)})
    update = {"points": records(losses), "calibration": note}
    return changed(bundle(), quantisation=scales.model_copy(update=update))


class Ticking:
    """A clock that only an engine moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class TimedEngine:
    """Takes a given time per point, and remembers what it was asked."""

    name, precision = "cpu", "fp32"

    def __init__(self, clock: Ticking, times_s: dict[str, Iterator[float]]) -> None:
        self.clock, self.times_s = clock, times_s
        self.asked: list[tuple[str, UInt8Array]] = []
        self.is_closed = False

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        (point,) = points
        self.asked.append((point.name, images))
        self.clock.now_s += next(self.times_s[point.name])
        return Output({}, np.ones((1, 0), np.float32), np.ones(1), {})

    def close(self) -> None:
        self.is_closed = True

    def __enter__(self) -> TimedEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def always(seconds: float) -> Iterator[float]:
    while True:
        yield seconds


def in_turns(*seconds: float) -> Iterator[float]:
    while True:
        yield from seconds


def timed(**times_s: Iterator[float]) -> TimedEngine:
    return TimedEngine(Ticking(), {name.replace("_", "-"): of for name, of in times_s.items()})


def chosen(
    monkeypatch: pytest.MonkeyPatch,
    pictures: LabelledImages,
    engine: TimedEngine,
    source: Bundle,
    **options: Any,
) -> Bundle:
    monkeypatch.setattr(module, "load_engine", lambda *a, **k: engine)
    say = options.pop("say", quiet)
    return dialled(source, BUDGETS, pictures, say, clock=engine.clock, **options)


def names(of: Bundle, precision: str = "fp32") -> list[str]:
    return [record.point.name for record in of.manifest.at(precision).points]


# What is chosen


def test_a_point_that_is_neither_faster_nor_better_is_not_shipped(
    monkeypatch: pytest.MonkeyPatch, pictures: LabelledImages
) -> None:
    engine = timed(full=always(0.010), size_24=always(0.005), skip_32_65=always(0.006))
    found = chosen(monkeypatch, pictures, engine, bundle())
    assert names(found) == ["full", "size-24"]
    assert found.manifest.dial is not None
    full, small, skip = found.manifest.dial.candidates
    assert (full.kept, full.dominated_by, full.latency_ratio) == (True, None, 1.0)
    assert (small.kept, small.budget) == (True, None)
    assert small.latency_ms == pytest.approx(5.0)
    assert small.latency_ratio == pytest.approx(0.5)
    assert (skip.kept, skip.dominated_by, skip.budget) == (False, "size-24", 0.65)
    assert (skip.log_loss, skip.accuracy, skip.macs_ratio) == (0.5, 0.9, 0.65)
    assert engine.is_closed


def test_a_point_that_earns_its_keep_is_shipped(
    monkeypatch: pytest.MonkeyPatch, pictures: LabelledImages
) -> None:
    engine = timed(full=always(0.010), size_24=always(0.007), skip_32_65=always(0.005))
    assert names(chosen(monkeypatch, pictures, engine, bundle())) == [*BUDGETS]


def test_evidence_is_kept_though_everything_is_shipped(
    monkeypatch: pytest.MonkeyPatch, pictures: LabelledImages
) -> None:
    engine = timed(full=always(0.010), size_24=always(0.005), skip_32_65=always(0.006))
    found = chosen(monkeypatch, pictures, engine, bundle(), keep_all=True)
    assert names(found) == [*BUDGETS]
    assert found.manifest.dial is not None
    assert found.manifest.dial.candidates[2].dominated_by == "size-24"


def test_int8_decides_for_both_precisions(
    monkeypatch: pytest.MonkeyPatch, pictures: LabelledImages
) -> None:
    """In fp32 `size-24` is the better of the two, in int8 it is the worse."""
    engine = timed(full=always(0.010), size_24=always(0.006), skip_32_65=always(0.006))
    found = chosen(monkeypatch, pictures, engine, integers((0.3, 0.5, 0.4)))
    assert names(found) == names(found, "int8") == ["full", "skip-32-65"]
    assert found.manifest.quantisation is not None
    assert found.manifest.quantisation.calibration.agreement == (0.99, 0.97)
    assert found.manifest.dial is not None
    assert found.manifest.dial.precision == "int8"
    assert found.manifest.dial.candidates[1].log_loss == 0.5


def test_full_alone_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, pictures: LabelledImages
) -> None:
    alone = bundle_of(NET, random_weights(NET), None)
    engine = timed()
    assert chosen(monkeypatch, pictures, engine, alone) is alone
    assert not engine.asked


def test_where_nothing_can_be_measured_everything_is_shipped(
    monkeypatch: pytest.MonkeyPatch, pictures: LabelledImages
) -> None:
    def absent(*arguments: object, **options: object) -> object:
        raise EngineError("the cpu engine was not built")

    monkeypatch.setattr(module, "load_engine", absent)
    said: list[str] = []
    source = bundle()
    assert dialled(source, BUDGETS, pictures, said.append) is source
    assert said == [
        "latency cannot be measured, so every point is kept: the cpu engine was not built"
    ]


# How it is measured


def measured(pictures: LabelledImages, engine: TimedEngine, say: Any = quiet) -> Latencies:
    cache = PixelCache(pictures, "validation", quiet)
    return measure(engine, records(), cache, say, engine.clock)


def test_points_take_turns_one_picture_a_call(pictures: LabelledImages) -> None:
    engine = timed(full=always(0.010), size_24=always(0.005), skip_32_65=always(0.006))
    found = measured(pictures, engine)
    assert found.median_s == pytest.approx((0.010, 0.005, 0.006))
    assert found.noise_ratio == pytest.approx(0.0, abs=1e-9)
    assert found.tolerance == LEAST_TOLERANCE
    order = [name for name, _ in engine.asked]
    # Each run, here and below, follows a warming one of the same point.
    assert order == [name for name in BUDGETS for _ in range(2)] * (found.repeats + 1)
    assert {images.shape for _, images in engine.asked} == {(1, 32, 32, 3), (1, 24, 24, 3)}
    assert len({images.tobytes() for name, images in engine.asked if name == "full"}) == 6


def test_what_disturbs_equal_runs_is_the_noise(pictures: LabelledImages) -> None:
    """Every second timed run takes 4 % longer, of every point."""

    def unsteady(seconds: float) -> Iterator[float]:
        # A warming and a timed run each time, and before them two to see how long one takes.
        return in_turns(seconds, seconds, seconds, seconds * 1.04)

    engine = timed(full=unsteady(0.010), size_24=unsteady(0.005), skip_32_65=unsteady(0.006))
    found = measured(pictures, engine)
    assert found.noise_ratio == pytest.approx(0.04)
    assert found.tolerance == pytest.approx(0.08)


def test_a_glance_costs_its_first_look_and_its_share_of_the_second(
    pictures: LabelledImages,
) -> None:
    """A median over pictures would be that of one look or of both, whatever the share."""
    glance = Glance(image_size=24, confidence=0.5)
    point = full(NET, 32).point.model_copy(update={"name": "glance", "glance": glance})
    glancing = record(point, 0.3, 60, again=0.25)
    engine = timed(
        full=always(0.010), **{"glance+once": always(0.004), "glance+twice": always(0.014)}
    )
    cache = PixelCache(pictures, "validation", quiet)
    found = measure(
        engine, [record(full(NET, 32).point, 0.3, 100), glancing], cache, quiet, engine.clock
    )
    assert found.median_s == pytest.approx((0.010, 0.75 * 0.004 + 0.25 * 0.014))


def scripted(monkeypatch: pytest.MonkeyPatch, *noise_ratios: float) -> list[Latencies]:
    """Measurements of that noise in place of real ones, the points ever faster; the list of those
    that were not asked for."""
    left = [
        Latencies((1.0, 0.5, 0.6 + 0.01 * i), ratio, repeats=16)
        for i, ratio in enumerate(noise_ratios)
    ]
    monkeypatch.setattr(module, "measure", lambda *arguments: left.pop(0))
    return left


def test_noise_is_measured_again_until_it_can_be_believed(
    monkeypatch: pytest.MonkeyPatch, pictures: LabelledImages
) -> None:
    left = scripted(monkeypatch, 0.08, 0.01, 0.0)
    found = chosen(monkeypatch, pictures, timed(), bundle())
    assert found.manifest.dial is not None
    assert found.manifest.dial.noise_ratio == 0.01
    assert names(found) == ["full", "size-24"]
    assert len(left) == 1


def test_a_machine_that_never_gets_quiet_drops_nothing_and_is_told(
    monkeypatch: pytest.MonkeyPatch, pictures: LabelledImages
) -> None:
    """The more noise, the more points are equally fast: most would be dropped for nothing."""
    left = scripted(monkeypatch, 0.08, 0.05, 0.3, 0.0)
    said: list[str] = []
    found = chosen(monkeypatch, pictures, timed(), bundle(), say=said.append)
    assert names(found) == [*BUDGETS]
    assert found.manifest.dial is not None
    assert found.manifest.dial.noise_ratio == 0.05
    assert found.manifest.dial.candidates[2].dominated_by == "size-24"
    assert said[-1].startswith("the machine is not quiet (equal runs differ by 5.0%): every point")
    assert len(left) == 1


@pytest.mark.parametrize(
    ("seconds", "repeats"), [(1e-4, 64), (0.1, 64), (0.25, 40), (10.0, 16)], ids=str
)
def test_slow_networks_are_measured_less_often(
    pictures: LabelledImages, seconds: float, repeats: int
) -> None:
    """About a minute altogether, but never so seldom that noise cannot be told."""
    engine = timed(full=always(seconds), size_24=always(seconds), skip_32_65=always(seconds))
    said: list[str] = []
    assert measured(pictures, engine, said.append).repeats == repeats
    assert said[0] == f"measuring the latency of 3 points, about {repeats * 6 * seconds:.0f} s"


def test_where_time_is_short_pictures_are_taken_evenly_from_all() -> None:
    """What a detector takes depends on what lies in a picture."""

    class Numbered:
        def at(self, size: int) -> UInt8Array:
            numbers = np.arange(24, dtype=np.uint8)[:, None, None, None]
            return np.tile(numbers, (1, size, size, 3))

    engine = timed(full=always(10.0), size_24=always(10.0), skip_32_65=always(10.0))
    measure(engine, records(), Numbered(), quiet, engine.clock)
    seen = {int(images[0, 0, 0, 0]) for name, images in engine.asked if name == "full"}
    assert seen == {0, 3, 6, 9, 13, 16, 19, 23}


def test_the_native_engine_is_measured_as_it_serves(pictures: LabelledImages) -> None:
    """Nothing scripted: which points are kept is the machine's to say, `full` always is."""
    found = dialled(integers((0.3, 0.4, 0.5)), BUDGETS, pictures, quiet).manifest
    assert found.dial is not None
    assert found.dial.precision == "int8"
    assert found.dial.threads == 1
    assert found.dial.device == this_device().slug
    assert [candidate.name for candidate in found.dial.candidates] == [*BUDGETS]
    assert found.dial.candidates[0].kept
    assert all(candidate.latency_ms > 0 for candidate in found.dial.candidates)
    assert found.points[0].point == full(NET, 32).point
