"""Maskers of the pyramid's levels that a bundle gets wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engines.errors import BundleError
from tests.engines.cpu.detectors import DYNAMIC, SKIPPING, bundle, load, random_weights


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [("weight", np.nan, "not finite"), ("std", 0.0, "not positive"), ("mean", None, "missing")],
)
def test_maskers_that_cannot_decide_are_named(part: str, value: Any, says: str) -> None:
    weights = random_weights(SKIPPING, DYNAMIC)
    name = f"dense.level_maskers.2.{part}"
    if value is None:
        del weights[name]
    else:
        weights[name] = np.full_like(weights[name], value)
    with (
        pytest.raises(BundleError, match=rf"{says}: dense\.level_maskers\.2\.{part}"),
        load(bundle(SKIPPING, DYNAMIC, weights=weights)),
    ):
        pass
