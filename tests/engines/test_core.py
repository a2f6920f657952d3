"""The shared nouns: what paradigms mask, what a point may be, and what no engine can run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from engines.core import (
    MAX_IMAGE_SIZE,
    OperatingPoint,
    Paradigm,
    check_batch,
    static_point,
)
from engines.errors import InvalidInput

POINT = OperatingPoint(name="skip", image_size=8, thresholds=(0.5, None), caps=(None, 3))


@pytest.mark.parametrize(
    ("paradigm", "space", "channels"),
    [
        ("static", False, False),
        ("spatial", True, False),
        ("layer", True, False),
        ("channel", False, True),
        ("spatial+channel", True, True),
    ],
)
def test_what_a_paradigm_masks(paradigm: str, space: bool, channels: bool) -> None:
    assert Paradigm(paradigm).masks_space is space
    assert Paradigm(paradigm).masks_channels is channels


# Operating points


def test_a_static_point_skips_nothing() -> None:
    point = static_point("full", 224, 3)
    assert (point.thresholds, point.caps) == ((None,) * 3, (None,) * 3)
    assert point.skips_nothing


@pytest.mark.parametrize("wish", [{"thresholds": (None, -100.0)}, {"caps": (None, 100)}])
def test_a_threshold_or_a_cap_is_enough_to_skip(wish: dict[str, Any]) -> None:
    """Even one that every unit passes: its masker has to be asked."""
    nothing = static_point("full", 8, 2).model_dump()
    assert not OperatingPoint.model_validate({**nothing, **wish}).skips_nothing


def test_a_network_without_maskers_has_points() -> None:
    assert static_point("full", 8, 0).skips_nothing


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_size": 0}, "greater than or equal to 1"),
        ({"image_size": MAX_IMAGE_SIZE + 1}, "less than or equal to 4096"),
        ({"caps": (None,)}, "'skip' has 2 thresholds but 1 caps"),
        ({"caps": (None, -1)}, "greater than or equal to 0"),
        ({"thresholds": (float("nan"), None)}, "finite number"),
        ({"thresholds": (float("-inf"), None)}, "finite number"),
        ({"name": ""}, "at least 1 character"),
        ({"name": "n" * 65}, "at most 64 characters"),
        ({"name": "a b"}, "pattern"),
        ({"name": "-a"}, "pattern"),
        ({"limit": 3}, "Extra inputs are not permitted"),
    ],
    ids=str,
)
def test_a_wrong_point_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        OperatingPoint.model_validate({**POINT.model_dump(), **change})


@pytest.mark.parametrize("name", ["full", "224px", "a_b-c.d+e"])
def test_names_of_points(name: str) -> None:
    assert static_point(name, 8, 1).name == name


def test_a_point_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        POINT.image_size = 9


# What no engine can run


IMAGES = np.zeros((2, 8, 8, 3), np.uint8)


def test_a_fitting_batch_passes() -> None:
    check_batch(IMAGES, [POINT, static_point("full", 8, 2)], 2)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (IMAGES.astype(np.float32), "uint8 array, got float32"),
        (IMAGES.astype(np.int8), "uint8 array, got int8"),
        (IMAGES.tolist(), "uint8 array, got list"),
        (IMAGES[0], r"\(N, H, W, 3\) .* got \(8, 8, 3\)"),
        (IMAGES.transpose(0, 3, 1, 2), r"got \(2, 3, 8, 8\)"),
        (IMAGES[..., :1], r"got \(2, 8, 8, 1\)"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"got \(2, 8, 8, 4\)"),
        (IMAGES[:0], "N, H and W at least 1"),
        (IMAGES[:, :0], "N, H and W at least 1"),
        (IMAGES[:, :, :0], "N, H and W at least 1"),
        (IMAGES[:, :6, :6], "'skip' takes images of 8x8, got 6x6"),
        (IMAGES[:, :6], "'skip' takes images of 8x8, got 6x8"),
        (IMAGES[:, :, :6], "'skip' takes images of 8x8, got 8x6"),
    ],
)
def test_wrong_images_are_refused(images: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        check_batch(images, [POINT] * 2, 2)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_every_image_needs_one_point(count: int) -> None:
    with pytest.raises(InvalidInput, match=f"2 images need as many points, got {count}"):
        check_batch(IMAGES, [POINT] * count, 2)


def test_a_point_of_another_network_is_named() -> None:
    other = static_point("other", 8, 5)
    with pytest.raises(InvalidInput, match="'other' has 5 thresholds, this network has 2 maskers"):
        check_batch(IMAGES, [POINT, other], 2)


def test_points_of_two_sizes_do_not_share_a_batch() -> None:
    with pytest.raises(InvalidInput, match="'large' takes images of 16x16, got 8x8"):
        check_batch(IMAGES, [POINT, static_point("large", 16, 2)], 2)
