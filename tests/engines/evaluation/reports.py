"""Made-up reports: every kind of row, and comparisons of every outcome."""

from __future__ import annotations

from engines.evaluation.costs import Spread
from engines.evaluation.report import Answers, Kind, Report, Row, Shuffled, Timing
from engines.evaluation.rivals import Comparison
from engines.evaluation.statistics import Interval
from engines.evaluation.timing import Latency

FIXED = "skip-128 (fixed mask)"


def row(name: str, kind: Kind, p50_ms: float, log_loss: float, accuracy: float) -> Row:
    """Full is taken to have 8 ms and a log-loss of 0.3."""
    rise = log_loss - 0.3
    dial = kind is Kind.DIAL
    return Row(
        name=name,
        kind=kind,
        of="skip-128" if kind is Kind.FIXED else None,
        answers=Answers(
            image_size=128,
            accuracy=accuracy,
            accuracy_low=accuracy - 0.03,
            accuracy_high=accuracy + 0.02,
            agreement=0.95,
            log_loss=log_loss,
            macs_ratio=0.5,
            activation=0.75,
            images=575,
        ),
        difference=Interval(rise, rise - 0.02, rise + 0.02),
        latency=Latency(p50_ms, 1.1 * p50_ms, calls=200, noise=0.01, mean_ms=p50_ms),
        latency_ratio=p50_ms / 8.0,
        spread=Spread(
            macs_ratio_p5=0.47,
            macs_ratio_p95=0.53,
            macs_ratio_std=0.02,
            macs_worst_over_mean=1.14,
            macs_ratio_cap=0.6,
            under_cap=True,
            cost_difficulty_spearman=0.31,
            cost_difficulty_pearson=0.28,
            maskers_varying=0.8,
            blocks_varying=0.875,
            units_differ=0.139,
        )
        if dial
        else None,
        shuffled=Shuffled(0.8, 0.5, Interval(0.1, 0.05, 0.15)) if dial else None,
    )


def report(noise: float = 0.01) -> Report:
    """Of 575 pictures and six points, one of them of a baseline."""
    rows = (
        row("full", Kind.FULL, 8.0, 0.3, 0.92),
        row("size-144", Kind.SIZE, 6.4, 0.31, 0.915),
        row("size-112", Kind.SIZE, 4.2, 0.33, 0.906),
        row("skip-128", Kind.DIAL, 4.3, 0.32, 0.91),
        row(FIXED, Kind.FIXED, 4.2, 0.34, 0.9),
        row("clothing-static/full", Kind.BASELINE, 8.1, 0.29, 0.93),
    )
    return Report(
        bundle="ab" * 32,
        name="clothing",
        engine="cpu",
        precision="int8",
        isa="avx2",
        threads=1,
        folders=("validation", "test"),
        images=575,
        seed=0,
        resamples=4000,
        fixed_from="the evaluated pictures",
        timing=Timing(seconds=10.0, calls=200, noise=noise),
        rows=rows,
        comparisons=(
            Comparison(
                "skip-128", "free rival", "size-112", -0.01, -0.018, -0.002, wins="skip-128"
            ),
            Comparison("skip-128", "fixed mask", FIXED, -0.02, -0.05, 0.01, wins="neither"),
            Comparison("skip-128", "baseline"),
        ),
    )
