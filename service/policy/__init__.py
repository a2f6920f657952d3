"""Which operating point an image gets, and when: pure functions; standard library only."""

from __future__ import annotations

from collections.abc import Mapping

from service.policy.baselines import (
    Fixed,
    MaxAcc,
    MaxBatch,
    QueueThresholds,
    SlackFit,
    SlackFitN,
)
from service.policy.core import Policy
from service.policy.ours import Foresight

DEFAULT_POLICY = "foresight"

POLICIES: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        Foresight(),
        QueueThresholds(),
        SlackFit(),
        SlackFitN(),
        MaxBatch(),
        MaxAcc(),
        Fixed(),
    )
}
"""Every policy by name, ours first."""


def policy_named(name: str) -> Policy:
    """The policy of that name; `fixed:POINT` is the one point. ValueError lists the names."""
    kind, colon, point = name.partition(":")
    if colon and kind == Fixed().name:
        return Fixed(point, name)
    if name not in POLICIES:
        raise ValueError(
            f"no policy '{name:.64}'; there are: {', '.join(POLICIES)}, and fixed:POINT"
        )
    return POLICIES[name]
