"""Figures of points: what they are of, and that every row has the same keys."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engines.core import static_point
from engines.evaluation import LabelledImages, PointResult, differences, evaluate_points, summary
from engines.evaluation.statistics import wilson
from tests.engines.evaluation.by_colour import FULL, SKIP, SMALL, ByColour


def test_a_summary_has_one_row_a_point(pictures: LabelledImages) -> None:
    results = evaluate_points(ByColour(), [FULL, SMALL, SKIP], pictures)
    full, small, skip = summary(results, pictures.folder.labels)
    low, high = wilson(8, 9)
    assert full == {
        "name": "full",
        "image_size": 16,
        "accuracy": 8 / 9,
        "accuracy_low": low,
        "accuracy_high": high,
        "agreement": 1.0,
        "log_loss": pytest.approx(-math.log(1e-12) / 9),
        "macs_ratio": 1.0,
        "activation": 1.0,
        "images": 9,
    }
    assert (small["macs_ratio"], small["agreement"], small["image_size"]) == (0.3, 1.0, 8)
    assert (skip["accuracy"], skip["agreement"]) == (3 / 9, 2 / 9)
    assert skip["activation"] == 0.25


def test_a_network_without_maskers_is_all_active() -> None:
    result = PointResult(
        point=static_point("full", 8, 0),
        predictions=np.zeros(2, np.int64),
        losses=np.zeros(2),
        macs=np.ones(2),
        activation=np.ones((2, 0), np.float32),
    )
    assert summary([result], np.zeros(2, np.int64))[0]["activation"] == 1.0


def result_with(predictions: list[int], decisions: list[list[bool]] | None) -> PointResult:
    return PointResult(
        point=FULL,
        predictions=np.array(predictions),
        losses=np.zeros(len(predictions)),
        macs=np.ones(len(predictions)),
        activation=np.ones((len(predictions), 1), np.float32),
        decisions=None if decisions is None else np.array(decisions),
    )


def test_differences_are_shares_of_answers_and_of_decisions() -> None:
    ours = result_with([1, 2], [[True, False], [True, True]])
    exact = result_with([1, 3], [[True, True], [True, True]])
    assert differences([ours], [exact]) == [{"answers_differ": 0.5, "decisions_differ": 0.25}]
    silent = result_with([1, 2], None)
    assert differences([silent], [exact]) == [{"answers_differ": 0.5}]
