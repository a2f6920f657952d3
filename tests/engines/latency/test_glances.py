"""Predictions of points that glance: two looks, the second at a share of the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.bundle import read_bundle, write_bundle
from engines.errors import InvalidInput
from engines.latency.answers import answer
from engines.latency.identity import this_device
from engines.latency.predictor import MeasuredPredictor
from engines.latency.questions import Answer, Question
from engines.latency.tables import Shrink, write_table
from tests.engines.latency.cases import (
    ABACUS,
    BLOCKS,
    glancing,
    of_net,
    profile,
    spread,
    table,
)

STATIC_S = 5.5 + sum(10.0 + i for i in range(BLOCKS))
"""Stem, blocks, head and overhead of `profile()` with nothing asked."""
AGAIN = 0.25
BUNDLE = of_net()
GLANCING = glancing(BUNDLE, again=AGAIN)
BOTH_SIZES = (
    profile(size=16),
    profile(size=16, batch=2, scale=2.0),
    profile(size=32, scale=3.0),
    profile(size=32, batch=2, scale=5.0),
)


def of_looks(*, again: float = AGAIN, **changes: Any) -> MeasuredPredictor:
    """16 pixels take STATIC_S, 32 three times what `profile` says."""
    return MeasuredPredictor(
        table(*BOTH_SIZES, **changes),
        glancing(BUNDLE, again=again),
        device=ABACUS,
        precision="fp32",
        threads=1,
    )


SPREAD_LOOKS = of_looks(spreads=[spread(0.8, 0.9, 1.0, 1.5, 2.0)])


def test_a_point_that_glances_is_the_first_look_and_its_share_of_the_second() -> None:
    found = of_looks()
    first_s, second_s = found.looks("glance")
    assert first_s == pytest.approx(STATIC_S)
    assert second_s == pytest.approx(found.median("half")), "rates of those looked at again"
    assert found.median("glance") == pytest.approx(first_s + AGAIN * second_s)
    assert found.known("glance", 0.0) == first_s
    assert found.known("glance", 1.0) == first_s + second_s
    assert found.looks("half") == (0.0, found.median("half"))
    twice_s = found.looks("glance", batch=2)
    assert twice_s[0] == pytest.approx(2 * STATIC_S)


def test_its_quantiles_are_those_of_both_chances() -> None:
    found = of_looks(spreads=[spread(0.9, 1.0, 1.1)])
    first_s, second_s = found.looks("glance")
    both_s = first_s + second_s
    assert found.predict("glance", quantile=0.375) == pytest.approx(first_s, rel=0.01)
    assert found.predict("glance", quantile=0.74) < 1.1 * first_s
    assert found.predict("glance", quantile=0.76) > 0.9 * both_s
    assert found.predict("glance", quantile=0.875) == pytest.approx(both_s, rel=0.01)
    # Of two, neither is with 0.56, and both are with 0.06.
    pair = [found.predict("glance", batch=2, quantile=q) for q in (0.28, 0.75, 0.97)]
    first_s, second_s = found.looks("glance", batch=2)
    assert pair == pytest.approx([first_s, first_s + second_s / 2, first_s + second_s], rel=0.02)
    with pytest.raises(InvalidInput, match="quantile"):
        found.predict("glance", quantile=1.0)


@given(quantiles=st.lists(st.floats(0.001, 0.999), min_size=2, max_size=5))
def test_they_never_fall(quantiles: list[float]) -> None:
    ordered = [SPREAD_LOOKS.predict("glance", batch=2, quantile=q) for q in sorted(quantiles)]
    assert ordered == sorted(ordered)


def test_it_is_mixed_with_others_of_its_size() -> None:
    found = of_looks()
    first_s, second_s = found.looks("glance", batch=2)
    half_s = found.median("half", batch=2) / 2
    assert found.mixed(["half", "glance"], 0.5) == pytest.approx(half_s + first_s / 2)
    assert found.mixed(["half", "glance"], 0.9) == pytest.approx(half_s + (first_s + second_s) / 2)


def test_its_parts_add_up_to_what_is_expected_and_the_small_copy_is_among_them() -> None:
    found = of_looks()
    assert found.breakdown("glance").total_s == pytest.approx(found.median("glance"))
    shrinking = of_looks(shrinks=(Shrink(size=32, small=16, seconds=0.125),))
    assert shrinking.looks("glance")[0] == pytest.approx(STATIC_S + 0.125)
    assert shrinking.looks("glance", batch=2)[0] == pytest.approx(2 * STATIC_S + 0.25)
    assert shrinking.breakdown("glance").total_s == pytest.approx(shrinking.median("glance"))


def test_where_its_first_look_was_not_measured_it_is_refused() -> None:
    alone = MeasuredPredictor(table(), GLANCING, device=ABACUS, precision="fp32", threads=1)
    with pytest.raises(InvalidInput, match="image size 16 lies outside what was measured"):
        alone.predict("glance")
    assert alone.predict("full") > 0.0


@pytest.mark.parametrize("again", [0.0, 1.0])
def test_nobody_or_everybody_is_looked_at_again(again: float) -> None:
    found = of_looks(again=again)
    first_s, second_s = found.looks("glance")
    assert found.predict("glance", quantile=0.95) == pytest.approx(first_s + again * second_s)


# What `laud predict` answers.


@pytest.fixture
def measured(tmp_path: Path) -> str:
    """A bundle with its table beside it."""
    path = tmp_path / "abacus.laud"
    write_bundle(path, GLANCING.manifest, GLANCING.weights)
    made = table(
        *BOTH_SIZES,
        bundle=read_bundle(str(path)).hash,
        device=this_device(),
        spreads=[spread(0.9, 1.0, 1.1)],
    )
    write_table(path / made.file_name, made)
    return str(path)


def test_a_point_that_glances_is_answered_with_what_is_expected_and_a_quantile_of_both_chances(
    measured: str,
) -> None:
    answers = answer(Question(measured, threads=1))
    assert [each.point for each in answers] == ["full", "half", "small", "glance"]
    *_, glance = answers
    first_s, second_s = of_looks().looks("glance")
    assert glance.size == 32
    assert glance.ms == pytest.approx((first_s + AGAIN * second_s) * 1e3)
    assert glance.quantile_ms == pytest.approx((first_s + second_s) * 1.06 * 1e3, rel=0.01)
    assert glance.ratio == pytest.approx(glance.ms / glance.static_ms)
    assert sum(part.ms for part in glance.parts) == pytest.approx(glance.ms)


@pytest.mark.parametrize("device", ["v100", "rtx3060"])
def test_by_a_model_it_is_both_looks_too(measured: str, device: str) -> None:
    def predicted(point: str) -> Answer:
        (found,) = answer(Question(measured, point=point, device=device))
        return found

    glance, half, small = map(predicted, ("glance", "half", "small"))
    assert glance.ms == pytest.approx(small.ms + AGAIN * half.ms)
    assert glance.static_ms == half.static_ms
    assert glance.ratio == pytest.approx(glance.ms / glance.static_ms)
    assert sum(p.ms for p in glance.parts) == pytest.approx(glance.ms)
    assert [p.name for p in glance.parts] == [p.name for p in half.parts]


@pytest.mark.parametrize("options", [{"threads": 1}, {"device": "v100"}], ids=str)
def test_it_has_two_sizes_and_takes_no_other(measured: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="'glance' looks at two sizes of an image"):
        answer(Question(measured, point="glance", size=16, **options))
