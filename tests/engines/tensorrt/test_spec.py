"""Specifications of kernels: what they refuse, and that grids cover everything. Needs no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engines.architecture import MapSize
from engines.errors import InvalidInput
from engines.tensorrt.spec import WHOLE_MAP, ConvSpec, DilateSpec, PartitionSpec

SPEC = ConvSpec("fp16", 24, 40, kernel=3, patch=4)


@pytest.mark.parametrize("patch", [1, 3, 4, 16, WHOLE_MAP])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("cc", [75, 86])
@pytest.mark.parametrize("size", [MapSize(9, 11), MapSize(1, 1), MapSize(56, 56)], ids=str)
def test_programs_cover_all_pixels_and_channels(
    size: MapSize, patch: int, stride: int, cc: int
) -> None:
    spec = replace(SPEC, patch=patch, stride=stride)
    tile, numbers = spec.tile(cc), spec.numbers(size)
    rows, columns, images = spec.grid(3, size, cc)
    assert images == 3
    assert columns * tile.columns >= spec.outputs > (columns - 1) * tile.columns
    area = numbers["out_height"] * numbers["out_width"]
    slots = area if patch == WHOLE_MAP else numbers["num_units"] * patch**2
    assert rows * tile.rows >= slots >= area
    assert slots > (rows - 1) * tile.rows


def test_a_map_of_half_precision_has_eight_channels_to_a_unit() -> None:
    assert [SPEC.pitch(channels) for channels in (1, 8, 12, 64)] == [8, 8, 16, 64]
    assert [replace(SPEC, dtype="fp32").pitch(channels) for channels in (1, 12)] == [1, 12]


def test_what_is_not_there_is_no_argument() -> None:
    def pointers(spec: ConvSpec) -> list[str]:
        arguments = spec.signature(86).arguments
        return [name.removesuffix("_ptr") for name in arguments if name.endswith("_ptr")]

    assert pointers(SPEC) == ["x", "index", "count", "weight", "bias", "y"]
    groups = ConvSpec("fp16", 24, 40, group=8, written=True)
    assert pointers(groups) == ["x", "groups", "num_groups", "weight", "bias", "y"]
    everything = replace(SPEC, group=8, read=True, add=True)
    assert pointers(everything) == [
        *("x", "index", "count", "groups", "num_groups", "weight", "bias", "residual", "y")
    ]


def test_sizes_follow_the_stride() -> None:
    assert DilateSpec("fp16", patch=4, stride=2).numbers(MapSize(9, 12)) == {
        "num_units": 4,
        "grid_width": 2,
        "height": 5,
        "width": 6,
        "read_height": 9,
        "read_width": 12,
    }
    assert PartitionSpec(3).signature(80).constants["MASKER"] == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"patch": None}, "has patches or groups"),
        ({"group": 8}, "groups are of inputs or outputs"),
        ({"read": True}, "those need a group"),
        ({"group": 7, "read": True}, r"7 channels does not divide \[24\]"),
        ({"group": 16, "read": True, "written": True}, r"does not divide \[24, 40\]"),
    ],
)
def test_what_is_no_convolution_that_skips(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        replace(SPEC, **changes)
