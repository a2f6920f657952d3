"""What a call computes, as one vector: expected, given, or told by the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engines.architecture import MapSize
from engines.core import Output
from engines.errors import EngineError, InvalidInput
from engines.latency.core import uniform_rates
from engines.latency.rates import (
    RateVector,
    asked_blocks,
    block_rates,
    executed_rates,
    expected_rates,
    rate_vector,
)
from engines.macs import BlockRates
from tests.engines.cpu.cases import bundle, load, pictures, point
from tests.engines.latency.cases import BLOCKS, NET, rates

SIZE = 32
IMAGE = MapSize(SIZE, SIZE)
MASKERS = len(NET.maskers)
ASKING = point([0.0] * MASKERS, size=SIZE)
EVERY = np.ones(BLOCKS, np.bool_)
# Maps of 8, 8, 4, 2, 1 and 1 pixels on a side come out of the blocks of NET.


def activation(rate: float) -> list[float]:
    return [rate] * MASKERS


def same(a: RateVector, b: RateVector) -> bool:
    return all(
        np.allclose(getattr(a, what), getattr(b, what), rtol=1e-12)
        for what in ("spatial", "dilated", "channel", "asked")
    )


# Expected.


@pytest.mark.parametrize("clustered", [True, False])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_one_rate_for_all_maskers_is_the_uniform_one(rate: float, clustered: bool) -> None:
    found = expected_rates(NET, ASKING, activation(rate), clustered=clustered)
    wanted = rate_vector(uniform_rates(NET, rate, IMAGE, clustered=clustered))
    assert same(found, wanted)


def test_each_masker_has_its_own_rate() -> None:
    shares = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    found = expected_rates(NET, ASKING, shares)
    assert found.spatial.tolist() == [0.1, 0.2, 0.3, 1.0, 0.6, 1.0]
    assert found.channel.tolist() == [1.0, 1.0, 0.4, 0.5, 1.0, 1.0]
    assert found.asked.tolist() == [True] * 5 + [False], "the last block has no masker"
    assert (found.dilated >= found.spatial).all()
    assert found.dilated[4] == 0.6, "a layer is computed whole or not at all"


def test_scattered_patches_need_more_pixels_than_clustered_ones() -> None:
    together, apart = (
        expected_rates(NET, ASKING, activation(0.3), clustered=clustered)
        for clustered in (True, False)
    )
    assert apart.dilated[0] > together.dilated[0] > 0.3


def test_where_one_patch_is_the_map_nothing_is_dilated() -> None:
    tiny = point([0.0] * MASKERS, size=8)
    found = expected_rates(NET, tiny, activation(0.5))
    assert found.dilated[0] == 0.5, "a map of 2 pixels has one patch of 2"


def test_too_few_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        expected_rates(NET, ASKING, [0.5])


# Asked.


@pytest.mark.parametrize(
    ("thresholds", "caps", "asked"),
    [
        ([None] * 6, [None] * 6, []),
        ([0.0] * 6, [None] * 6, [0, 1, 2, 3, 4]),
        ([None] * 6, [0, None, None, None, None, None], [0]),
        ([None, None, None, 0.5, None, None], [None] * 6, [2]),
        ([None, None, 0.5, None, None, -1.0], [None] * 6, [2, 4]),
    ],
)
def test_a_block_is_asked_where_a_masker_has_a_threshold_or_a_cap(
    thresholds: list[float | None], caps: list[int | None], asked: list[int]
) -> None:
    found = asked_blocks(NET, point(thresholds, caps, size=SIZE))
    assert np.flatnonzero(found).tolist() == asked


# As one value per block, and back.


def test_one_value_per_block_and_back_is_the_same() -> None:
    given = expected_rates(NET, ASKING, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert same(rate_vector(block_rates(given, NET)), given)


def test_blocks_ask_only_the_maskers_that_they_have() -> None:
    found = block_rates(rates(0.5, 0.75, 0.25), NET)
    assert [(b.spatial_masker, b.channel_masker) for b in found] == [
        (1.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0),
    ]  # fmt: skip
    assert {(b.spatial, b.dilated, b.channel) for b in found} == {(0.5, 0.75, 0.25)}
    resting = block_rates(rates(asked=False), NET)
    assert set(resting) == {BlockRates()}


# As the engine tells.


def pixels_of(*blocks: tuple[int, int]) -> Any:
    return np.array([blocks], np.int64)


def output(pixels: Any, shares: list[list[float]]) -> Output:
    return Output(
        arrays={},
        activation=np.array(shares, np.float32),
        macs=np.zeros(len(shares)),
        durations_s={},
        pixels=pixels,
    )


def test_pixels_are_told_as_shares_of_the_map_that_each_convolution_computes() -> None:
    """The first convolution of a block with a stride runs on the larger map before it."""
    pixels = pixels_of((32, 48), (16, 64), (4, 16), (4, 16), (1, 4), (1, 1))
    found = executed_rates(NET, IMAGE, output(pixels, [[1.0, 1.0, 1.0, 0.25, 0.5, 1.0]]), EVERY)
    assert found.spatial.tolist() == [0.5, 0.25, 0.25, 1.0, 1.0, 1.0]
    assert found.dilated.tolist() == [0.75, 1.0, 0.25, 1.0, 1.0, 1.0]
    assert found.channel.tolist() == [1.0, 1.0, 0.25, 0.5, 1.0, 1.0]
    assert found.asked is EVERY


def test_with_the_stride_in_the_first_convolution_its_map_is_the_one_behind_the_block() -> None:
    net = NET.model_copy(update={"stride_in_1x1": True})
    pixels = pixels_of((32, 48), (16, 64), (4, 16), (4, 4), (1, 1), (1, 1))
    found = executed_rates(net, IMAGE, output(pixels, [[1.0] * 6]), EVERY)
    assert found.dilated[2] == 1.0


def test_images_of_a_call_are_averaged() -> None:
    one = [(64, 64), (64, 64), (16, 64), (4, 16), (0, 0), (1, 1)]
    two = [(0, 0), (32, 64), (16, 64), (4, 16), (1, 4), (1, 1)]
    shares = [[1.0, 1.0, 1.0, 0.5, 1.0, 0.0], [0.0, 0.5, 1.0, 0.0, 1.0, 1.0]]
    found = executed_rates(NET, IMAGE, output(np.array([one, two]), shares), EVERY)
    assert found.spatial.tolist() == [0.5, 0.75, 1.0, 1.0, 0.5, 1.0]
    assert found.dilated[4] == 0.5
    assert found.channel[2] == 0.25


def test_the_engine_reports_what_it_was_made_to_decide() -> None:
    """Masks made by hand: half of the map, a patch in a corner, one group of channels."""
    left = np.zeros((4, 4), np.bool_)
    left[:, :2] = True
    corner = np.zeros((4, 4), np.bool_)
    corner[0, 0] = True
    decided = [
        left.reshape(1, -1),
        corner.reshape(1, -1),
        np.array([[True, False, False, False]]),
        np.array([[True, False, False, False]]),
        np.array([[True, True, False, False]]),
        np.array([[False]]),
    ]
    with load(bundle(NET)) as engine:
        told = engine.infer(pictures(1, SIZE), [ASKING], decided)
    found = executed_rates(NET, IMAGE, told, asked_blocks(NET, ASKING))
    # 4 of 8 columns and one beside them; 2 x 2 pixels and one more right and below.
    assert found.spatial.tolist() == [0.5, 4 / 64, 0.25, 1.0, 0.0, 1.0]
    # With a stride of 2, output 0 and 1 read inputs -1 to 3: 4 x 4 of 64.
    assert found.dilated.tolist() == [40 / 64, 9 / 64, 16 / 64, 1.0, 0.0, 1.0]
    assert found.channel.tolist() == [1.0, 1.0, 0.25, 0.5, 1.0, 1.0]


def test_an_engine_that_does_not_tell_is_refused() -> None:
    with pytest.raises(EngineError, match="does not tell which pixels"):
        executed_rates(NET, IMAGE, output(None, [[1.0] * 6]), EVERY)


# What is no rate.


@pytest.mark.parametrize("what", ["spatial", "dilated", "channel"])
@pytest.mark.parametrize("value", [float("nan"), -1e-9, 1.0 + 1e-9, float("inf")])
def test_shares_are_0_to_1(what: str, value: float) -> None:
    values = {name: np.ones(BLOCKS) for name in ("spatial", "dilated", "channel")}
    values[what] = np.array([*[1.0] * (BLOCKS - 1), value])
    with pytest.raises(InvalidInput, match=f"rates '{what}' must be 0 to 1, got "):
        RateVector(**values, asked=EVERY)


@pytest.mark.parametrize("shape", [(1,), (BLOCKS + 1,), (BLOCKS, 1), ()])
def test_there_is_one_number_per_block(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="rates 'channel' must have one number per block"):
        RateVector(np.ones(BLOCKS), np.ones(BLOCKS), np.ones(shape), EVERY)
