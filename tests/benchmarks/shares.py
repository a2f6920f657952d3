"""How far chance moves the work of points that glance: is a miss on other photographs noise?

A point's confidence was set so that a share of the photographs of one folder (FIRST) is looked at
again; on another one (SECOND) it is another share, and so is the work. Here the photographs of both
are dealt anew, as many to either side, the confidence is set on the one and the work is counted on
the other, many times. Needs no torch:

    .venv/bin/python tests/benchmarks/shares.py zoo:clothing DIR/validation DIR/test
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from engines.bundle import read_bundle
from engines.core import OperatingPoint
from engines.cpu.engine import CpuEngine
from engines.evaluation.points import (
    Float64Array,
    LabelledImages,
    Trial,
    run_trials,
)
from engines.evaluation.pool import pool_folders
from engines.glance import confidence_for, looks_again

DEALS = 20_000
MISS = 0.05


def main() -> None:
    """Print, for each point that glances, what was realised and what chance would do."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("first", type=Path, metavar="FIRST")
    parser.add_argument("second", type=Path, metavar="SECOND")
    options = parser.parse_args()
    bundle = read_bundle(options.bundle)
    rng = np.random.default_rng(0)
    with CpuEngine(bundle, threads=1) as engine:
        points = [
            record.point
            for record in bundle.manifest.at(engine.precision).points
            if record.point.glance is not None
        ]
        if not points:
            raise SystemExit(f"no point of {options.bundle} glances")
        trials = [Trial(look) for p in points for look in (p.looking_once, p.looking_twice)]
        ratio = bundle.manifest.preprocessing.crop_ratio
        first, second = (
            run_trials(
                engine, trials, LabelledImages(pool_folders([dir], bundle.manifest.labels), ratio)
            )
            for dir in (options.first, options.second)
        )
    print(
        f"{engine.precision}; shares that are looked at again, work of SECOND against FIRST, its "
        f"95 % range by chance, how often chance misses by {MISS:.0%} or more, and that where the "
        "confidence is beyond doubt"
    )
    for place, point in enumerate(points):
        looks = [(each[2 * place], each[2 * place + 1]) for each in (first, second)]
        sure = [_known(once.confidences) for once, _ in looks]
        work = [float(looks[0][k].macs.mean()) for k in range(2)]
        print(_told(point, sure[0], sure[1], (work[0], work[1] - work[0]), rng))


def _told(
    point: OperatingPoint,
    first: Float64Array,
    second: Float64Array,
    work: tuple[float, float],
    rng: np.random.Generator,
) -> str:
    """A line about one point. work: of the first look, and of the second."""
    assert point.glance is not None
    shares = [float(looks_again(sure, point.glance.confidence).mean()) for sure in (first, second)]
    every = np.concatenate([first, second])
    dealt = np.empty(DEALS)
    for deal in range(DEALS):
        rng.shuffle(every)
        one, other = every[: len(first)], every[len(first) :]
        dealt[deal] = looks_again(other, confidence_for(one, shares[0])).mean()
    changes = _work(dealt, work) / _work(shares[0], work) - 1.0
    drawn = rng.binomial(len(second), shares[0], DEALS) / len(second)
    sampled = _work(drawn, work) / _work(shares[0], work) - 1.0
    low, high = np.quantile(changes, (0.025, 0.975))
    change = _work(shares[1], work) / _work(shares[0], work) - 1.0
    return (
        f"{point.name:<18} {shares[0]:.3f} {shares[1]:.3f}  {change:+.3f} "
        f"[{low:+.3f}, {high:+.3f}]  {(np.abs(changes) >= MISS).mean():.2f} "
        f"{(np.abs(sampled) >= MISS).mean():.2f}"
    )


def _work(share: Float64Array | float, work: tuple[float, float]) -> Float64Array:
    return np.asarray(work[0] + np.asarray(share) * work[1])


def _known(confidences: Float64Array | None) -> Float64Array:
    if confidences is None:
        raise SystemExit("the engine tells no confidences")
    return confidences


if __name__ == "__main__":
    main()
