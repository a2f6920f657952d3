"""How a point's cost and decisions depend on the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engines.architecture import RegNet, ResNet
from engines.caps import macs_bound, units_of
from engines.core import OperatingPoint
from engines.evaluation.points import PointResult
from engines.evaluation.statistics import pearson, spearman

# Sums over blocks are rounded; a bound that an image meets exactly is kept.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Spread:
    """What images cost at one point, in multiply-accumulates, and how its maskers differ.

    macs_ratio_p5, macs_ratio_p95, macs_ratio_std: over the mean of `full`.
    macs_worst_over_mean: the dearest image over the point's mean.
    macs_ratio_cap: what no image can exceed under the point's caps, over the mean of `full`;
    under_cap: whether no image did. None where a masker that is asked has no cap.
    cost_difficulty_spearman, cost_difficulty_pearson: correlation of an image's cost with
    1 - confidence of `full`; None where either does not vary.
    maskers_varying, blocks_varying: share of all maskers, and of blocks with one, that decide
    differently on at least two images. units_differ: how likely two images are to have one unit
    decided differently, mean over units. None where the engine does not tell decisions.
    """

    macs_ratio_p5: float
    macs_ratio_p95: float
    macs_ratio_std: float
    macs_worst_over_mean: float
    macs_ratio_cap: float | None = None
    under_cap: bool | None = None
    cost_difficulty_spearman: float | None = None
    cost_difficulty_pearson: float | None = None
    maskers_varying: float | None = None
    blocks_varying: float | None = None
    units_differ: float | None = None


@dataclass(frozen=True)
class _Variation:
    maskers: float
    blocks: float
    units: float


def spread_of(result: PointResult, full: PointResult, net: ResNet | RegNet) -> Spread:
    """Of a point of a network `net`, beside its `full` on the same images."""
    base = float(full.macs.mean())
    low, high = np.quantile(result.macs, [0.05, 0.95]) / base
    bound = _bound(net, result.point)
    unsure = None if full.confidences is None else 1.0 - full.confidences
    varies = _variation(result, net)
    return Spread(
        macs_ratio_p5=float(low),
        macs_ratio_p95=float(high),
        macs_ratio_std=float(result.macs.std() / base),
        macs_worst_over_mean=float(result.macs.max() / result.macs.mean()),
        macs_ratio_cap=None if bound is None else bound / base,
        under_cap=None if bound is None else bool(result.macs.max() <= bound * (1 + _ROUNDING)),
        cost_difficulty_spearman=None if unsure is None else spearman(result.macs, unsure),
        cost_difficulty_pearson=None if unsure is None else pearson(result.macs, unsure),
        maskers_varying=varies.maskers if varies else None,
        blocks_varying=varies.blocks if varies else None,
        units_differ=varies.units if varies else None,
    )


def _bound(net: ResNet | RegNet, point: OperatingPoint) -> float | None:
    capped = [cap is not None for cap in point.caps]
    asked = [t is not None or cap for t, cap in zip(point.thresholds, capped, strict=True)]
    bounded = point.glance is not None or any(asked)
    return macs_bound(net, point) if bounded and asked == capped else None


def _variation(result: PointResult, net: ResNet | RegNet) -> _Variation | None:
    if result.decisions is None or not net.maskers:
        return None
    count = len(result.decisions)
    often = result.decisions.mean(axis=0)
    # Of all ordered pairs of different images; with one image there is none.
    pairs = 2 * often * (1 - often) * count / max(count - 1, 1)
    ends = np.cumsum(units_of(net, result.point.image_size))
    varying = [bool(part.any()) for part in np.split(pairs, ends[:-1])]
    blocks = {masker.block for masker in net.maskers}
    moved = {m.block for m, varies in zip(net.maskers, varying, strict=True) if varies}
    return _Variation(
        maskers=sum(varying) / len(varying),
        blocks=len(moved) / len(blocks),
        units=float(pairs.mean()),
    )
