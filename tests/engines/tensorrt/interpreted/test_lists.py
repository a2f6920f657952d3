"""Kernels that make lists against the reference's masks: exactly equal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engines.architecture import MapSize
from engines.tensorrt.kernels import reference
from engines.tensorrt.spec import DilateSpec, PartitionSpec
from tests.engines.tensorrt.interpreted.launching import launch
from tests.engines.tensorrt.interpreted.memory import POISON, poisoned

INFINITY = float("inf")
MOST = 2**31 - 1
MASKERS, MASKER = 3, 1


def partitioned(logits: Tensor, thresholds: list[float], caps: list[int]) -> reference.Listed:
    """What the kernel answers; other maskers have numbers that would show."""
    images, units = logits.shape
    columns = torch.full((images, MASKERS), float("nan"))
    columns[:, MASKER] = torch.tensor(thresholds)
    most = torch.full((images, MASKERS), -7, dtype=torch.int32)
    most[:, MASKER] = torch.tensor(caps, dtype=torch.int32)
    outputs = {
        "index": poisoned(images, units, dtype=torch.int32),
        "place": poisoned(images, units, dtype=torch.int32),
        "count": poisoned(images, dtype=torch.int32),
    }
    launch(
        PartitionSpec(MASKER),
        (images,),
        {"logits": logits, "thresholds": columns, "caps": most},
        {"num_units": units, "num_maskers": MASKERS},
        outputs,
    )
    return reference.Listed(*(each.tensor for each in outputs.values()))


def assert_as_reference(logits: Tensor, thresholds: list[float], caps: list[int]) -> Tensor:
    """The kernel's list equals the reference's; returns its counts."""
    found = partitioned(logits, thresholds, caps)
    clamped = torch.tensor(caps).clamp(0, logits.shape[1])
    wanted = reference.partition(logits, torch.tensor(thresholds), clamped)
    assert found.equals(wanted)
    return found.count


@pytest.mark.parametrize("units", [1, 7, 49, 1024, 1500])
def test_thresholds_and_caps_of_each_image(units: int) -> None:
    """1500 units take two steps; half of all logits tie with others."""
    torch.manual_seed(units)
    logits = torch.randn(4, units)
    logits[:, ::2] = (2 * logits[:, ::2]).round() / 2
    few = max(units // 5, 1)
    assert_as_reference(logits, [0.0, -INFINITY, 0.5, -1.0], [MOST, few, few, units])
    counts = assert_as_reference(logits, [INFINITY, -INFINITY, -INFINITY, 0.0], [9, MOST, 0, -5])
    assert counts.tolist() == [0, units, 0, 0]


def test_a_logit_at_its_threshold_is_active() -> None:
    threshold = 0.3
    logits = torch.tensor([[threshold, 0.29999998, 0.30000001]])
    found = partitioned(logits, [threshold], [MOST])
    assert found.count.tolist() == [2]
    assert found.index.tolist() == [[0, 2, 1]]


@pytest.mark.parametrize("cap", [0, 1, 2, 3, 4, 5, 6])
def test_ties_go_to_the_lower_index_and_both_zeros_are_equal(cap: int) -> None:
    logits = torch.tensor([[0.0, -0.0, 1.0, 0.0, 1.0, -0.0]])
    assert_as_reference(logits, [-1.0], [cap])
    assert_as_reference(logits, [0.0], [cap])


def test_extreme_logits_are_in_order() -> None:
    logits = torch.tensor([[-INFINITY, 1e38, -1e38, INFINITY, 1e-45, -1e-45, 3.0, -3.0]])
    for cap in range(9):
        assert_as_reference(logits, [-INFINITY], [cap])


def test_what_is_no_number_is_not_active_and_the_list_stays_whole() -> None:
    nan = float("nan")
    found = partitioned(torch.tensor([[nan, 1.0, nan, 2.0]]), [-INFINITY], [1])
    assert found.count.tolist() == [1]
    assert found.index.tolist() == [[3, 0, 1, 2]]


def dilated(place: Tensor, count: Tensor, patch: int, stride: int, read: MapSize) -> list[Tensor]:
    """The kernel's pixels of each image; behind them nothing was written."""
    images, spec = len(place), DilateSpec("fp16", patch, stride)
    outputs = {
        "index": poisoned(images, read.area, dtype=torch.int32),
        "num_pixels": poisoned(images, dtype=torch.int32),
    }
    x = torch.full((images, read.height, read.width, 8), float("nan"), dtype=torch.float16)
    inputs = {"place": place, "count": count, "x": x}
    launch(spec, (images,), inputs, spec.numbers(read), outputs)
    index, counts = outputs["index"].tensor, outputs["num_pixels"].tensor.tolist()
    for row, most in zip(index, counts, strict=True):
        assert torch.equal(row[most:], torch.full_like(row[most:], int(POISON)))
    return [row[:most] for row, most in zip(index, counts, strict=True)]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("patch", [1, 2, 3, 8])
@pytest.mark.parametrize("read", [MapSize(9, 11), MapSize(40, 31), MapSize(1, 1)], ids=str)
def test_pixels_that_a_3x3_reads(read: MapSize, patch: int, stride: int) -> None:
    """None, all, and some patches of images of one batch; partial patches at two edges."""
    torch.manual_seed(patch)
    units = MapSize(-(-read.height // stride), -(-read.width // stride)).patches(patch).area
    listed = reference.partition(
        torch.randn(4, units), torch.tensor([0.0, INFINITY, -INFINITY, 0.8]), torch.full((4,), MOST)
    )
    found = dilated(listed.place, listed.count, patch, stride, read)
    wanted = reference.dilate(listed.place, listed.count, patch, stride, read)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, wanted, strict=True))
    assert len(found[1]) == 0
    assert len(found[2]) == read.area or stride == 2


@pytest.mark.parametrize("count", [MOST, -MOST, -1, 10**6])
def test_garbage_stays_in_bounds(count: int) -> None:
    place = torch.tensor([[MOST, -MOST, 10**6, 3], [0, -1, 2**30, 5]], dtype=torch.int32)
    counts = torch.tensor([count, 2], dtype=torch.int32)
    for row in dilated(place, counts, 4, 1, MapSize(7, 8)):
        assert ((row >= 0) & (row < 56)).all()
