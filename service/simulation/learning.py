"""Costs as the service would learn them on a simulated machine; needs what the service needs."""

from __future__ import annotations

from collections.abc import Callable

from service.costs import ModelCosts
from service.simulation.core import Costs, Machine


def learnt_costs(machine: Machine, clock: Callable[[], float]) -> Costs:
    """What the service would know of this machine: corrected by what calls then take."""
    return ModelCosts(
        machine.dial,
        [point.accuracy for point in machine.dial.points],
        ratios=machine.ratios,
        rested_ratio=machine.rested_ratio,
        clock=clock,
    )
