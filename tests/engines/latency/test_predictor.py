"""The measured predictor: sums of medians, quantiles of the whole, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.bundle import Bundle
from engines.errors import BundleError, InvalidInput, LatencyError
from engines.latency.core import HEAD, STEM
from engines.latency.predictor import MeasuredPredictor
from engines.latency.rates import RateVector
from engines.latency.tables import LatencyTable, PointRates
from tests.engines.latency.cases import (
    ABACUS,
    BLOCKS,
    NET,
    linear,
    of_net,
    profile,
    rates,
    spread,
    table,
)

BUNDLE = of_net()
STATIC_S = 3.0 + sum(10.0 + i for i in range(BLOCKS)) + 2.0 + 0.5
"""Stem, blocks, head and overhead of `profile()` with nothing asked."""
SPREAD = spread(0.8, 0.9, 1.0, 1.5, 2.0)
OBSERVED = PointRates(
    precision="fp32",
    point="half",
    spatial=(0.25,) * BLOCKS,
    dilated=(0.375,) * BLOCKS,
    channel=(0.5,) * BLOCKS,
)


def predictor(of: LatencyTable | None = None, **options: Any) -> MeasuredPredictor:
    asked = {"device": ABACUS, "precision": "fp32", "threads": 1, **options}
    return MeasuredPredictor(of or table(), BUNDLE, **asked)


SIZES = predictor(table(*(profile(size=s, scale=f) for s, f in ((16, 1.0), (32, 3.0), (64, 9.0)))))
BATCHES = predictor(table(*(profile(batch=b, scale=f) for b, f in ((1, 1.0), (2, 1.5), (6, 5.5)))))


# A point, or rates.


def test_a_point_that_skips_nothing_takes_its_static_time() -> None:
    assert predictor().predict("full") == pytest.approx(STATIC_S)


def test_rates_are_added_up_block_by_block() -> None:
    asked = rates(0.25, 0.375, 0.5)
    # Two blocks skip patches, one patches and channels, one channels, one itself, one is static.
    blocks = 2 * linear(0.25, 0.375, 1) + linear(0.25, 0.375, 0.5) + linear(1, 1, 0.5)
    layer = 0.75 * linear(0, 0, 1) + 0.25 * linear(1, 1, 1)
    wanted = 3.0 + blocks + layer + 15.0 + 2.0 + 0.5
    assert predictor().predict(asked, size=32) == pytest.approx(wanted)


def test_a_point_is_predicted_from_the_rates_that_the_bundle_records() -> None:
    found = predictor()
    half = found.rates("half")
    assert half.spatial.tolist() == [0.5, 0.5, 0.5, 1.0, 0.5, 1.0]
    assert half.channel.tolist() == [1.0, 1.0, 0.5, 0.5, 1.0, 1.0]
    assert found.predict("half") == found.predict(half, size=32)
    assert not found.has_observed("half")


def test_rates_observed_on_pictures_beat_those_that_the_bundle_records() -> None:
    found = predictor(table(points=[OBSERVED]))
    assert found.has_observed("half")
    assert not found.has_observed("full")
    assert found.rates("half").dilated.tolist() == [0.375] * BLOCKS
    assert found.predict("half") == found.predict(rates(0.25, 0.375, 0.5), size=32)
    assert found.predict("half") < predictor().predict("half")


def test_rates_observed_in_another_precision_do_not_count() -> None:
    other = OBSERVED.model_copy(update={"precision": "bf16"})
    assert not predictor(table(points=[other])).has_observed("half")


def test_a_point_is_predicted_at_its_own_size_or_at_one_that_is_given() -> None:
    assert SIZES.predict("full") == pytest.approx(3.0 * STATIC_S)
    assert SIZES.predict("small") == pytest.approx(STATIC_S)
    assert SIZES.predict("small", size=64) == pytest.approx(9.0 * STATIC_S)
    assert SIZES.predict("small") == pytest.approx(STATIC_S), "and that is not remembered"


def test_parts_are_named_and_add_up_to_the_median() -> None:
    found = predictor(table(spreads=[SPREAD]))
    for what in ("half", rates(0.3, 0.5, 0.9)):
        told = found.breakdown(what, size=32)
        assert [part.name for part in told.parts] == [
            STEM,
            *(block.name for block in NET.blocks),
            HEAD,
        ]
        assert told.total_s == pytest.approx(found.median(what, size=32))
        assert told.overhead_s == 0.5
        assert all(part.compute_s == part.memory_s == 0.0 for part in told.parts)
    assert found.breakdown("small", size=32).total_s == pytest.approx(STATIC_S)


# Quantiles.


def test_quantiles_are_those_of_measured_over_predicted_for_whole_networks() -> None:
    found = predictor(table(spreads=[spread(7.0, 8.0, threads=2), SPREAD]))
    assert found.ratios == SPREAD.ratios
    for quantile, ratio in ((0.25, 0.9), (0.5, 1.0), (0.625, 1.25), (0.75, 1.5), (0.95, 1.9)):
        assert found.ratio(quantile) == pytest.approx(ratio)
        assert found.predict("full", quantile=quantile) == pytest.approx(ratio * STATIC_S)
    assert found.median("full") == pytest.approx(STATIC_S), "the sum itself has no ratio"


@given(st.lists(st.floats(0.0, 1.0, exclude_min=True, exclude_max=True), min_size=2, max_size=5))
def test_a_higher_quantile_is_never_less(quantiles: list[float]) -> None:
    found = predictor(table(spreads=[SPREAD]))
    ratios = [found.ratio(quantile) for quantile in sorted(quantiles)]
    assert ratios == sorted(ratios)
    assert 0.8 <= ratios[0] <= ratios[-1] <= 2.0


def test_without_a_spread_every_quantile_is_the_sum_of_medians() -> None:
    found = predictor(table(spreads=[spread(7.0, 8.0, precision="int8")]))
    assert found.predict("full", quantile=0.99) == pytest.approx(STATIC_S)


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.5, 95.0, float("nan")])
def test_a_quantile_lies_between_0_and_1(quantile: float) -> None:
    with pytest.raises(InvalidInput, match="a quantile must be between 0 and 1, got"):
        predictor().predict("full", quantile=quantile)


# Sizes and batches between measured ones.


def test_between_batches_time_is_linear() -> None:
    assert BATCHES.batches == (1, 2, 6)
    for batch, scale in ((1, 1.0), (2, 1.5), (3, 2.5), (4, 3.5), (6, 5.5)):
        assert BATCHES.predict("full", batch=batch) == pytest.approx(scale * STATIC_S)


def test_between_sizes_every_part_goes_by_the_area_of_its_map() -> None:
    """At 48 pixels between 32 and 64 maps have 24 (stem), 12, 12, 6, 3, 2 and 1 on a side; at the
    ends they have 16, 8, 8, 4, 2, 1 and 1, and 32, 16, 16, 8, 4, 2 and 1. For the last one, whose
    map is the same at all of them, and for what comes behind it, the side of the image decides."""
    assert SIZES.sizes == (16, 32, 64)
    stem, shares = 320 / 768, [80 / 192, 80 / 192, 20 / 48, 5 / 12, 1.0, 0.5]
    parts = SIZES.breakdown("full", size=48).parts
    whole = [3.0, *(10.0 + i for i in range(BLOCKS)), 2.0]
    for part, seconds, share in zip(parts, whole, [stem, *shares, 0.5], strict=True):
        assert part.total_s == pytest.approx(seconds * (3.0 + 6.0 * share)), part.name


def test_the_stem_goes_by_the_map_of_its_convolution() -> None:
    """At 33 pixels it has 17 on a side, and 9 behind its pool."""
    stem, first, *_ = SIZES.breakdown("full", size=33).parts
    assert stem.total_s == pytest.approx(3.0 * (3.0 + 6.0 * 33 / 768))
    assert first.total_s == pytest.approx(10.0 * (3.0 + 6.0 * 17 / 192))


def test_where_two_sizes_share_a_map_the_side_decides() -> None:
    """At 60 and 64 pixels the last maps are the same."""
    found = predictor(table(profile(size=60), profile(size=64, scale=2.0)))
    assert found.breakdown("full", size=61).parts[-1].total_s == pytest.approx(2.0 * 1.25)


def test_sizes_and_batches_are_interpolated_together() -> None:
    four = [
        profile(size=size, batch=batch, scale=size / 32 * batch)
        for size in (32, 64)
        for batch in (1, 3)
    ]
    found = predictor(table(*four))
    assert found.predict("full", size=64, batch=2) == pytest.approx(4.0 * STATIC_S)
    between = found.predict("full", size=48, batch=2)
    assert between == pytest.approx(2.0 * found.predict("full", size=48, batch=1))
    assert 2.0 * STATIC_S < between < 4.0 * STATIC_S


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"size": 15}, "image size 15 lies outside what was measured, 16 to 64"),
        ({"size": 65}, "image size 65 lies outside what was measured, 16 to 64"),
        ({"batch": 0}, "batch 0 lies outside what was measured, 1 to 1"),
        ({"batch": 2}, "batch 2 lies outside what was measured, 1 to 1"),
    ],
)
def test_what_lies_outside_is_not_extrapolated(asked: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        SIZES.predict("full", **asked)
    with pytest.raises(InvalidInput, match=message):
        SIZES.predict(rates(), **{"size": 32, **asked})


def test_a_table_with_a_hole_says_so() -> None:
    found = predictor(table(profile(size=16), profile(size=32, batch=2)))
    with pytest.raises(LatencyError, match="lacks batch 1 at 32 pixels; measure again"):
        found.predict("full")


# A batch of several points.


def test_images_at_different_points_take_the_mean_of_their_batches() -> None:
    full, half = (BATCHES.predict(point, batch=2) for point in ("full", "half"))
    assert BATCHES.mixed(["full", "half"]) == pytest.approx((full + half) / 2)
    assert BATCHES.mixed(["half", "half"]) == pytest.approx(half)
    assert BATCHES.mixed(["full"]) == pytest.approx(BATCHES.predict("full"))


def test_a_mixed_batch_has_quantiles_too() -> None:
    found = predictor(table(spreads=[SPREAD]))
    assert found.mixed(["full"], 0.75) == pytest.approx(1.5 * STATIC_S)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "a batch has at least one image"),
        (["full", "fast"], "no operating point 'fast'; there are: full, half, small"),
        (["full", "small"], r"images of one call have one size, those of \['full', 'small'\]"),
        (["full"] * 7, "batch 7 lies outside"),
    ],
)
def test_what_is_no_batch_is_refused(points: list[str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        BATCHES.mixed(points)


# More work never seems faster.


SHARE = st.floats(0.0, 1.0)


@given(
    st.lists(st.tuples(*[SHARE] * 6), min_size=BLOCKS, max_size=BLOCKS),
    st.sampled_from([16, 20, 32, 48, 64]),
)
def test_computing_more_is_never_predicted_faster(
    drawn: list[tuple[float, ...]], size: int
) -> None:
    """The table's times only grow, so predictions do, in every block and at every size."""
    a, b = np.array(drawn).T.reshape(2, 3, BLOCKS)
    asked = np.ones(BLOCKS, np.bool_)
    less, more = (
        RateVector(*list(edge(a, b)), asked)  # type: ignore[call-arg]
        for edge in (np.minimum, np.maximum)
    )
    few, many = (SIZES.predict(each, size=size) for each in (less, more))
    assert few <= many * (1 + 1e-12)


# What it refuses.


def test_an_unknown_point_lists_those_there_are() -> None:
    for ask in (predictor().predict, predictor().rates, predictor().breakdown):
        with pytest.raises(
            InvalidInput, match="no operating point 'fast'; there are: full, half, small"
        ):
            ask("fast")


def test_rates_need_a_size() -> None:
    for ask in (predictor().predict, predictor().breakdown):
        with pytest.raises(InvalidInput, match="activation rates need the size of the images"):
            ask(rates())


@pytest.mark.parametrize("blocks", [1, BLOCKS - 1, BLOCKS + 1])
def test_rates_of_another_network_do_not_fit(blocks: int) -> None:
    for ask in (predictor().predict, predictor().breakdown):
        with pytest.raises(InvalidInput, match=f"{BLOCKS} blocks need as many rates, got {blocks}"):
            ask(rates(blocks=blocks), size=32)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"threads": 2}, "nothing for fp32 on 2 threads"),
        ({"precision": "bf16"}, "nothing for bf16 on 1 thread;"),
    ],
)
def test_what_was_not_measured_is_named_with_what_was(options: Any, wanted: str) -> None:
    there = table(profile(), profile(size=64), profile(precision="int8", threads=4))
    with pytest.raises(LatencyError) as refusal:
        predictor(there, **options)
    line = str(refusal.value)
    assert wanted in line
    assert "it has: fp32 on 1 thread, int8 on 4 threads;" in line
    asked = {"precision": "fp32", "threads": 1, **options}
    command = "laud measure BUNDLE --precision {precision} --threads {threads}".format(**asked)
    assert line.endswith(command)


def test_int8_of_a_bundle_without_scales_is_refused() -> None:
    with pytest.raises(BundleError, match="has no int8 scales"):
        predictor(table(profile(precision="int8")), precision="int8")


def test_a_table_of_something_else_is_refused() -> None:
    with pytest.raises(LatencyError, match="taken on Abacus 3000"):
        predictor(device=ABACUS.model_copy(update={"cpus": 1}))
    other = Bundle(BUNDLE.path, BUNDLE.manifest, "c" * 64, BUNDLE.weights)
    with pytest.raises(LatencyError, match="is of bundle abacus"):
        MeasuredPredictor(table(), other, device=ABACUS, precision="fp32", threads=1)
