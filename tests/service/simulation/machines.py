"""Machines of round numbers, and load that is laid out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.simulation.core import Ask, Machine, Offered
from tests.service.policy.waiting import dial


def machine(
    seconds: Sequence[float] = (1.0, 2.0, 4.0),
    accuracies: Sequence[float] = (0.7, 0.8, 0.9),
    *,
    max_batch: int = 1,
    fixed_s: float = 0.0,
    ratios: tuple[float, ...] = (1.0,),
    rested_ratio: float = 1.0,
    overhead_s: float = 0.0,
) -> Machine:
    """Without scatter, unless it is asked for."""
    points = dial(seconds, accuracies, max_batch=max_batch, fixed_s=fixed_s)
    return Machine(points, ratios, rested_ratio, overhead_s)


def offered(
    *requests: tuple[float, float],
    degrade: bool = True,
    allowed: tuple[int, ...] | None = None,
    decode_s: float = 0.0,
) -> Offered:
    """Requests as pairs of when and how long they may take."""
    at_s, slo_s = np.array(requests, np.float64).T
    return Offered(at_s, slo_s, (Ask(allowed, degrade),), decode_s=decode_s)
