"""What may be won by spending more on hard images: two image sizes of one network, by confidence.

Every image is answered at the small size; those of which the network is least sure again at the
large one. `two passes` is what that costs, and a free rival of masks itself. `one pass` leaves the
small answer of the hard images unpaid: no network that sees difficulty first and spends the same on
either side can do better. Costs are multiply-accumulates relative to the largest size. Needs no
torch; DIR is a folder with class folders (several are pooled):

    .venv/bin/python tests/benchmarks/cascade.py zoo:clothing DIR... --sizes 128,112,96,80,64

With --judge, pair, share and least confidence are chosen on DIR, one for each limit of the mean
cost, and so is the single size that they are compared with; other folders judge them:

    .venv/bin/python tests/benchmarks/cascade.py zoo:clothing DIR/validation --judge DIR/test
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from engines.bundle import read_bundle
from engines.core import static_point
from engines.cpu.engine import CpuEngine
from engines.evaluation.points import Float64Array, LabelledImages, PointResult, evaluate_points
from engines.evaluation.pool import pool_folders
from engines.evaluation.statistics import Interval, paired_difference

_SHARES = (0.2, 0.3, 0.4)
_LIMITS = (0.4, 0.5, 0.6, 0.75, 0.9)


def main() -> None:
    """Prints the sizes, then each pair of sizes and share of images that is answered again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--judge", type=Path, nargs="+", metavar="DIR", default=())
    parser.add_argument("--sizes", default="128,112,96,88,80,72,64")
    options = parser.parse_args()
    sizes = sorted({int(size) for size in options.sizes.split(",")}, reverse=True)
    results = _answers(options.bundle, options.folders, sizes)
    if options.judge:
        _judge(results, _answers(options.bundle, options.judge, sizes))
        return
    full = results[0]
    print("px    cost  log-loss   minus the largest")
    for result in results:
        print(
            f"{result.point.image_size:<5} {_cost(result, full):.3f} {result.losses.mean():.3f}"
            f"      {_told(paired_difference(result.losses, full.losses))}"
        )
    print("\nafter a log-loss: minus that of the best size at most as dear, 95 % interval")
    print("small large share  log-loss  one pass                         two passes")
    for large, small in combinations(results, 2):
        for share in _SHARES:
            _print_pair(large, small, share, results)


def _answers(bundle: str, folders: Sequence[Path], sizes: Sequence[int]) -> list[PointResult]:
    found = read_bundle(bundle)
    images = pool_folders(folders, found.manifest.labels)
    maskers = len(found.manifest.architecture.maskers)
    points = [static_point(f"size-{size}", size, maskers) for size in sizes]
    labelled = LabelledImages(images, found.manifest.preprocessing.crop_ratio)
    with CpuEngine(found) as engine:
        return evaluate_points(engine, points, labelled)


def _print_pair(
    large: PointResult, small: PointResult, share: float, results: Sequence[PointResult]
) -> None:
    again = np.argsort(_confidences(small), kind="stable")[: round(share * len(small.losses))]
    losses = small.losses.copy()
    losses[again] = large.losses[again]
    cheap, dear = (_cost(each, results[0]) for each in (small, large))
    costs = ((1 - share) * cheap + share * dear, cheap + share * dear)
    told = "  ".join(_beside(losses, cost, results) for cost in costs)
    print(
        f"{small.point.image_size:<5} {large.point.image_size:<5} {share:.1f}    "
        f"{losses.mean():.3f}     {told}"
    )


@dataclass(frozen=True)
class _Cascade:
    """Places of the small and the large size; asked again below the confidence `least`."""

    small: int
    large: int
    least: float

    def run(self, results: Sequence[PointResult]) -> tuple[Float64Array, float]:
        """Log-losses of all images, and the mean cost of both passes."""
        small, large = results[self.small], results[self.large]
        again = _confidences(small) < self.least
        losses = np.where(again, large.losses, small.losses)
        cost = _cost(small, results[0]) + float(again.mean()) * _cost(large, results[0])
        return losses, cost


def _judge(chosen_on: Sequence[PointResult], judged_on: Sequence[PointResult]) -> None:
    """Print, for each limit, the best cascade and the best size, chosen here and judged there."""
    every = [
        _Cascade(small, large, float(np.quantile(_confidences(chosen_on[small]), share)))
        for large, small in combinations(range(len(chosen_on)), 2)
        for share in _SHARES
    ]
    print("limit  small large below  cost  log-loss  size log-loss  minus the size, 95 % interval")
    for limit in _LIMITS:
        fitting = [each for each in every if each.run(chosen_on)[1] <= limit]
        sizes = [k for k, one in enumerate(chosen_on) if _cost(one, chosen_on[0]) <= limit]
        if not fitting or not sizes:
            continue
        best = min(fitting, key=lambda each: float(each.run(chosen_on)[0].mean()))
        rival = judged_on[min(sizes, key=lambda k: float(chosen_on[k].losses.mean()))]
        losses, cost = best.run(judged_on)
        small, large = (judged_on[k].point.image_size for k in (best.small, best.large))
        print(
            f"{limit:<6} {small:<5} {large:<5} {best.least:.3f}  {cost:.3f} {losses.mean():.3f}"
            f"     {rival.point.image_size:<4} {rival.losses.mean():.3f}"
            f"     {_told(paired_difference(losses, rival.losses))}"
        )


def _confidences(result: PointResult) -> Float64Array:
    if result.confidences is None:
        raise SystemExit("the engine tells no confidences")
    return result.confidences


def _beside(losses: Float64Array, cost: float, results: Sequence[PointResult]) -> str:
    """The cost, and the loss minus that of the best size that costs no more."""
    rivals = [result for result in results if _cost(result, results[0]) <= cost]
    best = min(rivals, key=lambda result: float(result.losses.mean()))
    found = paired_difference(losses, best.losses)
    return f"{cost:.3f} {_told(found)} {best.point.image_size:<3} px"


def _cost(result: PointResult, full: PointResult) -> float:
    return float(result.macs.mean() / full.macs.mean())


def _told(found: Interval) -> str:
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


if __name__ == "__main__":
    main()
