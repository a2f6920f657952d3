"""Masks to check a design with: every stage at exactly the rate that was predicted for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engines.architecture import MapSize
from engines.bench.masks import BoolArray, Draw, Float64Array, MaskKind, draw_masks
from engines.core import Paradigm
from engines.latency.candidates import STATIC, Candidate, SkipRates, network_with

# Shifts what is rounded up by stage, so that not all stages round up in the same images.
_GOLDEN = (5**0.5 - 1) / 2


def design_masks(
    arch: str,
    choice: Sequence[Candidate],
    image: MapSize,
    rates: SkipRates,
    kind: MaskKind,
    *,
    batch: int,
    draws: int,
    seed: int,
) -> list[tuple[BoolArray, ...]]:
    """Per draw and masker of the network, decisions (batch, units).

    A stage's masks depend on its candidate alone, so that networks that share one run it on the
    same masks. Where a rate falls between two counts of units, or of executed blocks, images take
    one or the other so that their mean is the rate: a stage of three blocks has no half of them.
    """
    per_stage = [
        _stage_masks(arch, choice, s, image, rates, kind, batch=batch, draws=draws, seed=seed)
        for s, candidate in enumerate(choice)
        if candidate.paradigm is not Paradigm.STATIC
    ]
    return [tuple(mask for stage in per_stage for mask in stage[d]) for d in range(draws)]


def _stage_masks(
    arch: str,
    choice: Sequence[Candidate],
    stage: int,
    image: MapSize,
    rates: SkipRates,
    kind: MaskKind,
    *,
    batch: int,
    draws: int,
    seed: int,
) -> list[tuple[BoolArray, ...]]:
    alone = [STATIC] * len(choice)
    alone[stage] = choice[stage]
    net, rate = network_with(arch, alone), rates.of(choice[stage])
    found = []
    for d in range(draws):
        draw = draw_masks(net, image, kind, batch, np.random.default_rng([seed, d]))
        places = (np.arange(d * batch, (d + 1) * batch) + 0.5) / (draws * batch)
        found.append(_at(draw, rate, (places + stage * _GOLDEN) % 1.0))
    return found


def _at(draw: Draw, rate: float, places: Float64Array) -> tuple[BoolArray, ...]:
    """Decisions where image i rounds up when the fraction is above 1 - places[i]."""
    return tuple(
        ranks < np.floor(rate * total + places)[:, None]
        for ranks, total in zip(draw.ranks, draw.totals, strict=True)
    )
