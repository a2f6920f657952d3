"""The convolution that skips against torch: values, and that nothing else is touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from engines.architecture import MapSize
from engines.tensorrt.kernels import reference
from engines.tensorrt.spec import WHOLE_MAP, ConvSpec, Dtype
from tests.engines.tensorrt.interpreted.layers import MOST, Case

DTYPES: tuple[Dtype, ...] = ("fp32", "fp16")

PATCHES = ConvSpec("fp32", 24, 20, patch=4)
GROUPS = ConvSpec("fp32", 24, 48, group=8, written=True)
BOTH = ConvSpec("fp32", 24, 24, kernel=3, patch=2, group=4, read=True, written=True)


def garbled(listed: reference.Listed, count: int) -> reference.Listed:
    """With that count in the first image, and most entries out of range."""
    garbage = torch.tensor([MOST, -3, 2**30, -1, 123456789, -MOST], dtype=torch.int32)
    index = listed.index.clone()
    places = torch.arange(index.numel()).view(index.shape)
    spoilt = places % 3 != 1
    index[spoilt] = garbage[places % len(garbage)][spoilt]
    counts = listed.count.clone()
    counts[0] = count
    return reference.Listed(index, listed.place, counts)


def of(spec: ConvSpec, **changes: Any) -> ConvSpec:
    return replace(spec, **changes)


SPECS = {
    "1x1": PATCHES,
    "1x1 stride 2": of(PATCHES, stride=2),
    "3x3": of(PATCHES, kernel=3),
    "3x3 stride 2": of(PATCHES, kernel=3, stride=2, patch=3),
    "pixels": of(PATCHES, patch=1),
    "large patches": of(PATCHES, kernel=3, patch=16),
    "layer": of(PATCHES, patch=WHOLE_MAP),
    "layer 3x3 stride 2": of(PATCHES, kernel=3, stride=2, patch=WHOLE_MAP),
    "1x1 and residual": of(PATCHES, add=True),
    "3x3 and residual": of(PATCHES, kernel=3, patch=7, add=True),
    "layer and residual": of(PATCHES, patch=WHOLE_MAP, add=True),
    "3x3 and residual, no ReLU": of(PATCHES, kernel=3, add=True, relu=False),
    "one output and residual, no ReLU": of(
        PATCHES, kernel=3, outputs=1, patch=2, add=True, relu=False
    ),
    "no ReLU": of(PATCHES, kernel=3, relu=False),
    "to groups": GROUPS,
    "to groups of 1, stride 2": of(GROUPS, outputs=7, group=1, stride=2),
    "to groups wider than a tile": of(GROUPS, outputs=192, group=96),
    "within groups": of(GROUPS, inputs=48, kernel=3, read=True),
    "within groups of 3, stride 2": ConvSpec("fp32", 12, 12, 3, 2, None, 3, True, True),
    "from groups and residual": ConvSpec("fp32", 48, 20, group=8, read=True, add=True),
    "patches to groups": of(GROUPS, patch=3),
    "patches within groups": BOTH,
    "patches from groups and residual": ConvSpec("fp32", 24, 40, patch=4, group=4, read=True,
                                                 add=True),
    "layer within groups": of(BOTH, patch=WHOLE_MAP),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECS)
def test_values_and_what_is_left_alone(name: str, dtype: Dtype) -> None:
    """On maps that no patch divides; images of the batch have some, none, all and few units."""
    Case(of(SPECS[name], dtype=dtype), MapSize(9, 11)).check()


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("size", [MapSize(1, 1), MapSize(4, 8), MapSize(13, 5)], ids=str)
def test_other_batches_and_sizes(images: int, size: MapSize) -> None:
    for spec in (of(PATCHES, kernel=3, add=True), BOTH):
        Case(spec, size, images).check()


def test_more_channels_than_a_tile_has() -> None:
    Case(ConvSpec("fp16", 72, 136, patch=2, add=True), MapSize(5, 6), 2).check()


@pytest.mark.parametrize("count", [MOST, -MOST, -1, 10**6])
@pytest.mark.parametrize("name", ["3x3", "1x1 and residual", "within groups", "layer", "to groups",
                                  "patches from groups and residual"])  # fmt: skip
def test_garbage_is_left_out(name: str, count: int) -> None:
    """Counts and entries out of range are as if they were not there; red zones are whole."""
    case = Case(SPECS[name], MapSize(9, 11), 2)
    if case.spec.patch != WHOLE_MAP:
        case.patches = garbled(case.patches, count)
    else:
        # Its one unit is the map, whatever the list says.
        case.patches.count[0] = count
    case.groups = garbled(case.groups, count)
    case.check()
