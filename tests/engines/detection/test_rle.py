from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from engines.detection.rle import coco_rle, mask_of_rle
from engines.detection.scenes import InstanceMask
from engines.errors import InvalidInput
from tests.engines.detection.tiny import discs


def test_runs_are_those_of_coco() -> None:
    coco_mask = pytest.importorskip("faster_coco_eval.core.mask")
    for seed in range(8):
        picture = discs(4, seed, height=31 + seed, width=57) > 0
        ours = coco_rle(InstanceMask.of(picture), 57, 31 + seed)
        theirs = coco_mask.encode(np.asfortranarray(picture.astype(np.uint8)))
        assert ours["size"] == list(theirs["size"])
        assert ours["counts"].encode() == bytes(theirs["counts"])
        assert (mask_of_rle((31 + seed, 57), ours["counts"]) == picture).all()


@pytest.mark.parametrize("edge", [np.s_[:, 0], np.s_[0, :], np.s_[:, -1], np.s_[-1, :], np.s_[:]])
def test_masks_at_the_edges_come_back(edge: Any) -> None:
    picture = np.zeros((5, 7), np.bool_)
    picture[edge] = True
    runs = coco_rle(InstanceMask.of(picture), 7, 5)
    assert (mask_of_rle((5, 7), runs["counts"]) == picture).all()


def test_a_mask_without_pixels_is_one_run() -> None:
    runs = coco_rle(InstanceMask(2, 1, np.zeros((2, 2), np.bool_)), 7, 5)
    assert not mask_of_rle((5, 7), runs["counts"]).any()


def test_a_mask_outside_its_picture_is_refused() -> None:
    with pytest.raises(InvalidInput, match="leaves its picture"):
        coco_rle(InstanceMask(6, 0, np.ones((2, 2), np.bool_)), 7, 5)


@pytest.mark.parametrize("counts", ["~", "o", "", "5", [1, -1, 35], [36]])
def test_damaged_runs_are_refused(counts: str | list[int]) -> None:
    with pytest.raises(InvalidInput):
        mask_of_rle((5, 7), counts)


def test_empty_masks_are_refused() -> None:
    with pytest.raises(InvalidInput, match="at least one pixel"):
        InstanceMask.of(np.zeros((3, 3), np.bool_))
    with pytest.raises(InvalidInput, match="not empty"):
        InstanceMask(0, 0, np.zeros((0, 3), np.bool_))


def test_only_the_box_is_laid_out() -> None:
    """As long a text, and as little memory, however high the picture is."""
    mask = InstanceMask(5, 3, np.ones((12, 6000), np.bool_))
    peaks = [_peak(partial(coco_rle, mask, 6100, height)) for height in (40, 60_000)]
    assert peaks[1] < 1.5 * peaks[0]


def _peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("seed", range(20))
def test_any_mask_comes_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 9, 2)
    picture = rng.random((height, width)) < rng.uniform(0.1, 0.95)
    picture[rng.integers(height), rng.integers(width)] = True
    runs = coco_rle(InstanceMask.of(picture), width, height)
    assert (mask_of_rle((height, width), runs["counts"]) == picture).all()
