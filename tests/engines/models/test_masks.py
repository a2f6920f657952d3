"""Mask algebra alone: which units are active, and what patches and groups cover."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engines.architecture import MapSize
from engines.models import masks
from engines.models.masks import (
    Mask,
    Thresholds,
    decide_at_zero,
    dilate,
    expand_groups,
    expand_patches,
)
from tests.engines.models import oracle

pytestmark = pytest.mark.torch

INFINITY = float("inf")


def decided(
    logits: list[float], threshold: float, cap: int | None = None, dtype: str = "float32"
) -> list[int]:
    """Active units of one image."""
    caps = None if cap is None else torch.tensor([cap])
    values = torch.tensor([logits], dtype=getattr(torch, dtype))
    found = masks.decide(values, torch.tensor([threshold]), caps)
    assert found.dtype == values.dtype
    assert set(found[0].tolist()) <= {0.0, 1.0}
    units: list[int] = found[0].nonzero().flatten().tolist()
    return units


# Decisions


def test_a_logit_on_the_threshold_is_active() -> None:
    assert decided([0.5, 0.25, 0.75], 0.5) == [0, 2]


def test_a_cap_takes_higher_logits_and_of_equal_ones_the_first() -> None:
    assert decided([1.0, 3.0, 2.0, 3.0], -INFINITY, 2) == [1, 3]
    assert decided([2.0, 2.0, 1.0, 2.0], -INFINITY, 2) == [0, 1]
    assert decided([0.0] * 40, 0.0, 3) == [0, 1, 2]


def test_a_cap_never_adds_what_is_below_the_threshold() -> None:
    assert decided([1.0, -1.0, 2.0], 0.0, 3) == [0, 2]


@pytest.mark.parametrize("cap", [None, 0, 2, 9])
def test_infinite_thresholds(cap: int | None) -> None:
    count = 3 if cap is None else min(cap, 3)
    assert decided([3.0, 2.0, 1.0], -INFINITY, cap) == [*range(count)]
    assert decided([3.0, 2.0, 1.0], INFINITY, cap) == []


few = st.sampled_from([-1.0, -0.5, -0.0, 0.0, 0.5, 1.0, INFINITY, -INFINITY])


@settings(deadline=None)
@given(
    logits=st.lists(few, min_size=1, max_size=40),
    threshold=few,
    cap=st.none() | st.integers(0, 45),
    dtype=st.sampled_from(["float32", "float64", "bfloat16"]),
)
def test_decisions_are_those_of_the_oracle(
    logits: list[float], threshold: float, cap: int | None, dtype: str
) -> None:
    values = torch.tensor(logits, dtype=torch.float64).numpy()
    assert decided(logits, threshold, cap, dtype) == oracle.decide(values, threshold, cap)


def test_each_image_has_its_own_threshold_and_cap() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]] * 3)
    found = masks.decide(logits, torch.tensor([1.0, -5.0, -5.0]), torch.tensor([9, 9, 1]))
    assert found.tolist() == [[0, 1, 1], [1, 1, 1], [0, 0, 1]]


def test_thresholds_are_looked_up_by_masker() -> None:
    rule = Thresholds(torch.tensor([[0.0, 9.0], [9.0, 0.0]]), torch.tensor([[5, 5], [5, 1]]))
    logits = torch.tensor([[1.0, 1.0]] * 2)
    assert rule(0, logits).tolist() == [[1, 1], [0, 0]]
    assert rule(1, logits).tolist() == [[0, 0], [1, 0]]


def test_the_networks_own_threshold_is_zero() -> None:
    found = decide_at_zero(3, torch.tensor([[-0.001, 0.0, 0.001]], dtype=torch.float64))
    assert found.tolist() == [[0.0, 1.0, 1.0]]
    assert found.dtype == torch.float64


# What decisions cover


def drawn(rows: list[str]) -> Tensor:
    """A mask (1, 1, H, W) of `#` and `.`."""
    pixels: Tensor = torch.tensor([[[[float(c == "#") for c in row] for row in rows]]])
    return pixels


def text(pixels: Tensor) -> list[str]:
    assert pixels.shape[:2] == (1, 1)
    return ["".join("#" if value else "." for value in row) for row in pixels[0, 0].tolist()]


def test_patches_are_squares_cut_off_at_the_border() -> None:
    units = torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]])
    pixels = expand_patches(units, MapSize(2, 3), 2, MapSize(3, 5))
    assert text(pixels) == ["##..#", "##..#", "..##."]


def test_one_patch_covers_the_map() -> None:
    units = torch.tensor([[1.0], [0.0]])
    pixels = expand_patches(units, MapSize(1, 1), None, MapSize(2, 3))
    assert pixels.shape == (2, 1, 2, 3)
    assert pixels.flatten(1).tolist() == [[1.0] * 6, [0.0] * 6]


@settings(deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), patch=st.integers(1, 10), data=st.data())
def test_a_pixel_follows_its_patch(
    height: int, width: int, patch: int, data: st.DataObject
) -> None:
    size = MapSize(height, width)
    grid = size.patches(patch)
    units = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=grid.area, max_size=grid.area))
    pixels = expand_patches(torch.tensor([units]), grid, patch, size)[0, 0]
    for i in range(height):
        for j in range(width):
            assert float(pixels[i, j]) == units[i // patch * grid.width + j // patch]


def test_groups_are_consecutive_channels() -> None:
    channels = expand_groups(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 3)
    assert channels.shape == (2, 6, 1, 1)
    assert channels.flatten(1).tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]


def test_a_3x3_reads_the_neighbours_of_its_pixel() -> None:
    assert text(dilate(drawn(["#....", ".....", ".....", "....."]), 1, MapSize(4, 5))) == [
        "##...",
        "##...",
        ".....",
        ".....",
    ]


def test_a_strided_3x3_reads_around_every_other_pixel() -> None:
    assert text(dilate(drawn(["..#", "...", "#.."]), 2, MapSize(5, 6))) == [
        "...###",
        "...###",
        "......",
        "##....",
        "##....",
    ]


@settings(deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    stride=st.sampled_from([1, 2]),
    data=st.data(),
)
def test_dilation_is_the_receptive_field(
    height: int, width: int, stride: int, data: st.DataObject
) -> None:
    rows, columns = -(-height // stride), -(-width // stride)
    every = [(i, j) for i in range(rows) for j in range(columns)]
    active = data.draw(st.lists(st.sampled_from(every), unique=True))
    pixels = torch.zeros(1, 1, rows, columns)
    for i, j in active:
        pixels[0, 0, i, j] = 1.0
    found = dilate(pixels, stride, MapSize(height, width))
    assert found.shape == (1, 1, height, width)
    wanted = oracle.receptive_field(active, stride, (height, width))
    assert {(i, j) for i, j in found[0, 0].nonzero().tolist()} == wanted


def test_gradients_pass_from_pixels_to_their_patches() -> None:
    units = torch.full((1, 6), 0.5, requires_grad=True)
    pixels = expand_patches(units, MapSize(2, 3), 2, MapSize(3, 5))
    [gradient] = torch.autograd.grad(pixels.sum(), units)
    assert gradient.tolist() == [[4, 4, 2, 2, 2, 1]], "as many as there are pixels"


def test_a_mask_counts_its_units() -> None:
    units = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    mask = Mask(0, 0, "channel", logits=units, units=units)
    assert mask.total == 4
    assert mask.active.tolist() == [3, 1]
    assert mask.rate.tolist() == [0.75, 0.25]
