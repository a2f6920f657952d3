"""What an evaluation found, as figures: one row a point, and each point beside its rivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from engines.bench.timing import MOST_DIFFERENCE
from engines.evaluation.costs import Spread
from engines.evaluation.points import Int64Array, PointResult
from engines.evaluation.rivals import Comparison
from engines.evaluation.statistics import Interval, wilson
from engines.evaluation.timing import Latency


@dataclass(frozen=True)
class Answers:
    """What a point answers, and at which work.

    accuracy: with its 95 % Wilson interval. agreement: share of answers equal to those of `full`.
    log_loss: mean, natural logarithm. macs_ratio: mean multiply-accumulates over those of `full`.
    activation: mean over maskers.
    """

    image_size: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    agreement: float
    log_loss: float
    macs_ratio: float
    activation: float
    images: int


class Kind(StrEnum):
    """What a row is of: `full`; a point that skips; a smaller image with nothing skipped; a mask
    that is the same for every image; a point of another network."""

    FULL = "full"
    DIAL = "dial"
    SIZE = "size"
    FIXED = "fixed"
    BASELINE = "baseline"


@dataclass(frozen=True)
class Shuffled:
    """A point when every image gets another image's masks. rise: of its log-loss, paired."""

    accuracy: float
    log_loss: float
    rise: Interval


@dataclass(frozen=True)
class Timing:
    """How latency was measured: for how many seconds, as asked; calls of each; the worst noise."""

    seconds: float
    calls: int
    noise: float

    @property
    def too_noisy(self) -> bool:
        """Whether nothing should be concluded from these latencies."""
        return self.noise > MOST_DIFFERENCE


def timing_of(seconds: float | None, latencies: Mapping[str, Latency]) -> Timing | None:
    """Of these latencies; None where nothing was timed."""
    if seconds is None:
        return None
    calls = next(iter(latencies.values())).calls
    return Timing(seconds, calls, max(of.noise for of in latencies.values()))


@dataclass(frozen=True)
class Row:
    """The figures of one point. What was not measured is None.

    of: the point that a fixed mask belongs to. difference: of its log-loss to that of `full`.
    latency_ratio: of `Latency.mean_ms`, to `full`. again: share of images that a point which
    glances looked at again. macs_ratio_recorded: what the bundle promises. spread: of points that
    skip. differs: shares that are not as the reference has them, see `differences`.
    """

    name: str
    kind: Kind
    answers: Answers
    difference: Interval
    of: str | None = None
    latency: Latency | None = None
    latency_ratio: float | None = None
    again: float | None = None
    macs_ratio_recorded: float | None = None
    spread: Spread | None = None
    shuffled: Shuffled | None = None
    differs: dict[str, float] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """One key per figure; the same keys for every row, but for those of `differs`."""
        timed, rise = self.latency, self.shuffled.rise if self.shuffled else None
        return {
            "name": self.name,
            "kind": str(self.kind),
            "of": self.of,
            **asdict(self.answers),
            "again": self.again,
            "macs_ratio_recorded": self.macs_ratio_recorded,
            "log_loss_minus_full": self.difference.mean,
            "log_loss_minus_full_low": self.difference.low,
            "log_loss_minus_full_high": self.difference.high,
            "latency_p50_ms": timed.p50_ms if timed else None,
            "latency_p95_ms": timed.p95_ms if timed else None,
            "latency_mean_ms": timed.mean_ms if timed else None,
            "latency_ratio": self.latency_ratio,
            "latency_noise": timed.noise if timed else None,
            **{
                each.name: getattr(self.spread, each.name) if self.spread else None
                for each in fields(Spread)
            },
            "shuffled_accuracy": self.shuffled.accuracy if self.shuffled else None,
            "shuffled_log_loss": self.shuffled.log_loss if self.shuffled else None,
            "shuffled_rise": rise.mean if rise else None,
            "shuffled_rise_low": rise.low if rise else None,
            "shuffled_rise_high": rise.high if rise else None,
            **self.differs,
        }


@dataclass(frozen=True)
class Report:
    """All that an evaluation found. bundle: its hash. fixed_from: where fixed masks come from."""

    bundle: str
    name: str
    engine: str
    precision: str
    isa: str | None
    threads: int | None
    folders: tuple[str, ...]
    images: int
    seed: int
    resamples: int
    fixed_from: str | None
    timing: Timing | None
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def cost(self) -> str:
        """What makes a rival as fast as a point: measured latency, else work."""
        return "latency" if self.timing else "macs"

    def flat(self) -> dict[str, Any]:
        """As `laud evaluate --json` prints it."""
        return {
            "bundle": self.bundle,
            "name": self.name,
            "engine": self.engine,
            "precision": self.precision,
            "isa": self.isa,
            "threads": self.threads,
            "folders": list(self.folders),
            "images": self.images,
            "seed": self.seed,
            "resamples": self.resamples,
            "fixed_from": self.fixed_from,
            "latency_seconds": self.timing.seconds if self.timing else None,
            "latency_calls": self.timing.calls if self.timing else None,
            "latency_noise": self.timing.noise if self.timing else None,
            "compared_by": self.cost,
            "points": [row.flat() for row in self.rows],
            "comparisons": [asdict(each) for each in self.comparisons],
        }


def answers_of(result: PointResult, full: PointResult, labels: Int64Array) -> Answers:
    """labels: (N,), the right class of every image."""
    right = result.right(labels)
    low, high = wilson(right, len(labels))
    return Answers(
        image_size=result.point.image_size,
        accuracy=right / len(labels),
        accuracy_low=low,
        accuracy_high=high,
        agreement=float((result.predictions == full.predictions).mean()),
        log_loss=float(result.losses.mean()),
        macs_ratio=float(result.macs.mean() / full.macs.mean()),
        activation=float(result.activation.mean()) if result.activation.size else 1.0,
        images=len(labels),
    )


def summary(
    results: Sequence[PointResult], labels: Int64Array
) -> list[dict[str, str | int | float]]:
    """One row a point, its name and its `Answers`; the first point is `full`."""
    full = results[0]
    return [
        {"name": result.point.name, **asdict(answers_of(result, full, labels))}
        for result in results
    ]


def differences(
    results: Sequence[PointResult], reference: Sequence[PointResult]
) -> list[dict[str, float]]:
    """Per point, shares of answers and of mask decisions that are not those of the reference."""
    rows: list[dict[str, float]] = []
    for result, wanted in zip(results, reference, strict=True):
        row = {"answers_differ": float((result.predictions != wanted.predictions).mean())}
        if result.decisions is not None and wanted.decisions is not None:
            unequal = result.decisions != wanted.decisions
            row["decisions_differ"] = float(unequal.mean()) if unequal.size else 0.0
        rows.append(row)
    return rows
