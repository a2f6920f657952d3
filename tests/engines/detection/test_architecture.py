"""Which maps a detector's maskers look at."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from engines.detection.architecture import LEVELS, Detector, macs_per_object


def test_levels_look_at_their_own_stage_unless_told() -> None:
    detector = Detector(level_patches=(4, 2, 1, 1))
    assert detector.looks == tuple(range(LEVELS))
    assert detector.windows == (4, 2, 1, 1)
    assert Detector().windows == ()


def test_a_window_covers_what_a_patch_does() -> None:
    later = Detector(level_patches=(4, 2, 1, 1), level_looks=(2, 2, 2, 3))
    assert later.windows == (1, 1, 1, 1)
    earlier = Detector(level_patches=(6, 4, 4, 2), level_looks=(1, 3, 0, 2))
    assert earlier.windows == (3, 1, 16, 4)


def test_patches_smaller_than_a_pixel_that_is_looked_at_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"16 px of level 0 .* stage 3, 32 px wide"):
        Detector(level_patches=(4, 2, 1, 1), level_looks=(3, 2, 2, 3))
    with pytest.raises(ValidationError, match="needs level_patches"):
        Detector(level_looks=(2, 2, 2, 3))
    with pytest.raises(ValidationError, match="less than 4"):
        Detector(level_patches=(4, 2, 1, 1), level_looks=(4, 2, 2, 3))


def test_a_mask_costs_the_square_of_what_it_is_made_from() -> None:
    whole, half = Detector(), Detector(roi_size=7)
    assert (whole.mask_size, half.mask_size) == (28, 14)
    assert macs_per_object(whole) == 4 * macs_per_object(half) > 0
    for size in (1, 29):
        with pytest.raises(ValidationError, match="roi_size"):
            Detector(roi_size=size)
