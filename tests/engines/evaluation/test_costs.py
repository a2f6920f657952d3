"""How cost depends on the image: its spread, its worst, its correlation, and what varies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engines.architecture import ResNet, Stage
from engines.caps import macs_bound
from engines.core import OperatingPoint, Paradigm, static_point
from engines.evaluation.costs import spread_of
from engines.evaluation.points import PointResult

# At 32 px: 2 x 2 patches of its first block, then 2 groups of each of the two others.
NET = ResNet(
    stem_width=4,
    stages=(
        Stage(depth=1, width=4, paradigm=Paradigm.SPATIAL, spatial_granularity=4),
        Stage(depth=2, width=4, paradigm=Paradigm.CHANNEL, channel_granularity=2),
    ),
    num_classes=2,
    folded=True,
)
UNITS = 4 + 2 + 2
SKIP = OperatingPoint(name="skip", image_size=32, thresholds=(0.0,) * 3, caps=(None,) * 3)


def result(macs: list[float], point: OperatingPoint = SKIP, **more: Any) -> PointResult:
    count = len(macs)
    return PointResult(
        point=point,
        predictions=np.zeros(count, np.int64),
        losses=np.zeros(count),
        macs=np.array(macs),
        activation=np.ones((count, 3), np.float32),
        **more,
    )


def full(count: int, **more: Any) -> PointResult:
    return result([200.0] * count, static_point("full", 32, 3), **more)


def test_spread_is_relative_to_full_and_the_worst_to_the_mean() -> None:
    found = spread_of(result([*range(50, 151)]), full(101), NET)
    assert (found.macs_ratio_p5, found.macs_ratio_p95) == pytest.approx((55 / 200, 145 / 200))
    assert found.macs_ratio_std == pytest.approx(np.arange(101).std() / 200)
    assert found.macs_worst_over_mean == pytest.approx(1.5)


def test_dearer_images_are_those_that_full_is_unsure_of() -> None:
    sure = full(3, confidences=np.array([0.9, 0.8, 0.4]))
    found = spread_of(result([50.0, 60.0, 70.0]), sure, NET)
    assert found.cost_difficulty_spearman == pytest.approx(1.0)
    assert found.cost_difficulty_pearson == pytest.approx(0.9449, abs=1e-4)
    upside_down = spread_of(result([70.0, 60.0, 50.0]), sure, NET)
    assert upside_down.cost_difficulty_spearman == pytest.approx(-1.0)
    same = spread_of(result([60.0] * 3), sure, NET)
    assert (same.cost_difficulty_spearman, same.cost_difficulty_pearson) == (None, None)
    assert spread_of(result([1.0, 2.0, 3.0]), full(3), NET).cost_difficulty_pearson is None


def test_what_varies_between_images_is_counted_by_masker_block_and_unit() -> None:
    decisions = np.zeros((4, UNITS), np.bool_)
    decisions[:2, 0] = True  # one patch, on for two of four images
    decisions[:, 4] = True  # a group that is always on
    found = spread_of(result([1.0] * 4, decisions=decisions), full(4), NET)
    assert (found.maskers_varying, found.blocks_varying) == pytest.approx((1 / 3, 1 / 3))
    # 4 of the 6 pairs of images have one on and one off, in one unit of eight.
    assert found.units_differ == pytest.approx(4 / 6 / UNITS)
    alike = spread_of(result([1.0] * 4, decisions=np.ones((4, UNITS), np.bool_)), full(4), NET)
    assert (alike.maskers_varying, alike.blocks_varying, alike.units_differ) == (0.0, 0.0, 0.0)


def test_an_engine_that_tells_no_decisions_leaves_them_open() -> None:
    found = spread_of(result([1.0, 2.0]), full(2), NET)
    assert (found.maskers_varying, found.blocks_varying, found.units_differ) == (None,) * 3


def test_under_caps_no_image_exceeds_the_bound() -> None:
    capped = SKIP.model_copy(update={"caps": (2, 1, 1)})
    bound = macs_bound(NET, capped)
    base = full(2)
    kept = spread_of(result([bound, bound / 2], capped), base, NET)
    assert kept.macs_ratio_cap == pytest.approx(bound / 200)
    assert kept.under_cap is True
    assert spread_of(result([bound * 1.001, 1.0], capped), base, NET).under_cap is False


@pytest.mark.parametrize("caps", [(None, None, None), (2, 1, None)])
def test_without_a_cap_on_every_asked_masker_nothing_is_bounded(
    caps: tuple[int | None, ...],
) -> None:
    found = spread_of(result([1.0], SKIP.model_copy(update={"caps": caps})), full(1), NET)
    assert (found.macs_ratio_cap, found.under_cap) == (None, None)


def test_a_masker_that_is_not_asked_needs_no_cap() -> None:
    point = OperatingPoint(
        name="skip", image_size=32, thresholds=(0.0, None, None), caps=(2, None, None)
    )
    assert spread_of(result([1.0], point), full(1), NET).under_cap is True
