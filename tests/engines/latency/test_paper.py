"""The published model, number by number."""

from __future__ import annotations

from collections import Counter

import pytest

from engines.architecture import MapSize
from engines.latency import paper
from engines.latency.corrections import PAPER
from engines.latency.gpu import target
from engines.latency.hardware import gpu
from engines.latency.operators import Conv, Tile, conv_tile
from engines.latency.paper import (
    OPERATORS,
    PaperVector,
    check_paper,
    paper_vectors,
    predicted_s,
)

VECTORS = paper_vectors()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_a_published_latency_is_reproduced(vector: PaperVector) -> None:
    assert predicted_s(vector) == pytest.approx(vector.expected_s, rel=vector.tolerance)


@pytest.mark.parametrize(
    "vector", [v for v in VECTORS if v.tile is not None], ids=lambda vector: vector.name
)
def test_a_published_tile_is_chosen(vector: PaperVector) -> None:
    assert vector.tile is not None
    assert vector.tiles is not None
    a = vector.arguments
    shape = Conv(a["in_channels"], a["out_channels"], MapSize(a["size"], a["size"]), a["kernel"])
    on = target(gpu(vector.device, "paper"), vector.batch, PAPER)
    assert conv_tile(on, shape) == Tile(*vector.tile, vector.tiles)


def test_every_operator_is_compared() -> None:
    assert {v.operator for v in VECTORS} == set(OPERATORS)
    assert len({v.name for v in VECTORS}) == len(VECTORS) == 109
    static = [v for v in VECTORS if v.operator == "network" and len(v.arguments) == 1]
    per_device = Counter(v.device for v in static if "figure" not in v.name)
    assert per_device == dict.fromkeys(("v100", "rtx3090", "rtx3060", "tx2", "nano"), 4)


def test_only_skipped_channels_are_drawn_at_random() -> None:
    drawn = [v for v in VECTORS if v.monte_carlo]
    assert drawn
    assert all(v.arguments["paradigm"] == "channel" for v in drawn)
    assert all(v.tolerance == 0.015 for v in drawn)
    assert all(v.tolerance == 0.005 for v in VECTORS if not v.monte_carlo)


def test_the_check_reports_the_largest_errors_and_no_miss() -> None:
    check = check_paper()
    assert check.vectors == len(VECTORS)
    assert check.misses == ()
    errors = {v.name: abs(predicted_s(v) / v.expected_s - 1) for v in VECTORS}
    assert check.max_rel_error == max(errors[v.name] for v in VECTORS if not v.monte_carlo)
    assert check.max_rel_error_monte_carlo == max(errors[v.name] for v in VECTORS if v.monte_carlo)
    assert check == check_paper()


def test_a_wrong_number_is_a_miss_that_says_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = VECTORS[0].model_copy(update={"expected_s": VECTORS[0].expected_s * 2})
    monkeypatch.setattr(paper, "paper_vectors", lambda: (wrong, VECTORS[1]))
    (miss,) = check_paper().misses
    assert (miss.name, miss.expected_s, miss.tolerance) == (wrong.name, wrong.expected_s, 0.005)
    assert miss.rel_error == pytest.approx(0.5, abs=1e-3)
    assert miss.predicted_s == predicted_s(wrong)
