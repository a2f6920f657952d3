"""What may be won by spending more on hard images: two image sizes of one network, by confidence.

Every image is answered at the small size; those of which the network is least sure again at the
large one. `two passes` is what that costs, and a free rival of masks itself. `one pass` leaves the
small answer of the hard images unpaid: no network that sees difficulty first and spends the same on
either side can do better. Costs are multiply-accumulates relative to the largest size. Needs no
torch; DIR is a folder with class folders (several are pooled):

    .venv/bin/python tests/benchmarks/cascade.py zoo:clothing DIR... --sizes 160,128,112,96,88,80
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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


def main() -> None:
    """Prints the sizes, then each pair of sizes and share of images that is answered again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--sizes", default="160,128,112,96,88,80,72,64")
    options = parser.parse_args()
    sizes = sorted({int(size) for size in options.sizes.split(",")}, reverse=True)
    results = _answers(options.bundle, options.folders, sizes)
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
    confidences = small.confidences
    if confidences is None:
        raise SystemExit("the engine tells no confidences")
    again = np.argsort(confidences, kind="stable")[: round(share * len(small.losses))]
    losses = small.losses.copy()
    losses[again] = large.losses[again]
    cheap, dear = (_cost(each, results[0]) for each in (small, large))
    costs = ((1 - share) * cheap + share * dear, cheap + share * dear)
    told = "  ".join(_beside(losses, cost, results) for cost in costs)
    print(
        f"{small.point.image_size:<5} {large.point.image_size:<5} {share:.1f}    "
        f"{losses.mean():.3f}     {told}"
    )


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
