"""A detector that skips is judged under its own masks, one mask for all, and other pictures'. No
torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faster_coco_eval")

from engines.bundle import read_bundle
from engines.core import Output
from engines.cpu.detector import CpuDetector
from engines.detection.read import read_folder
from engines.errors import InvalidInput
from engines.evaluation.detection import DetectionPlan, DetectionReport, square
from engines.evaluation.detection_rivals import detector_units, frequencies_in
from engines.evaluation.detection_run import evaluate_detector
from engines.evaluation.report import Kind
from tests.engines.cpu.cases import bundle as classifier
from tests.engines.cpu.detectors import RAGGED, bundle, full, load
from tests.engines.detection.tiny import write_nuclei
from tests.engines.evaluation.skipping import NET, SIZE, UNITS, skipping_bundle


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"test": (3, 0, 5, 1), "validation": (2, 4)}
    return write_nuclei(tmp_path_factory.mktemp("pictures"), counts)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return skipping_bundle(tmp_path_factory.mktemp("bundles") / "things.laud")


@pytest.fixture(scope="module")
def evaluated(path: Path, root: Path) -> Callable[..., DetectionReport]:
    def run(**plan: object) -> DetectionReport:
        return evaluate_detector(
            path,
            root / "test",
            DetectionPlan(threads=1, **plan),  # type: ignore[arg-type]
        )

    return run


def test_a_fixed_mask_has_the_patches_most_often_active_at_equal_work(
    evaluated: Callable[..., DetectionReport], path: Path
) -> None:
    report = evaluated(fixed_masks=True)
    static, skips, fixed = report.results
    assert [each.name for each in report.results] == ["full", "skip", "skip (fixed mask)"]
    assert fixed.decisions is not None
    assert skips.decisions is not None
    assert fixed.decisions.shape == skips.decisions.shape == (4, sum(UNITS))
    assert (fixed.decisions == fixed.decisions[0]).all()
    assert not (skips.decisions == skips.decisions[0]).all(), "or there is nothing to fix"
    often = skips.decisions.mean(axis=0)
    kept = fixed.decisions[0]
    assert often[kept].min() >= often[~kept].max()
    # The nearest number of patches: one of them is at most so much.
    assert abs(fixed.dense_macs - skips.dense_macs) < 0.03 * static.dense_macs
    assert fixed.cost_area_correlation is None
    assert [each.against for each in report.rivals()] == ["fixed mask"]
    assert report.shuffles == {}


def test_any_image_size_may_be_a_rival(evaluated: Callable[..., DetectionReport]) -> None:
    report = evaluated(sizes=(96, SIZE, 32))
    assert [each.name for each in report.results] == ["full", "skip", "size-96", "size-32"]
    large, small = report.results[2:]
    assert [each.kind for each in (large, small)] == [Kind.SIZE, Kind.SIZE]
    full = report.results[0]
    assert large.dense_macs == pytest.approx(full.dense_macs * (96 / SIZE) ** 2, rel=0.02)
    assert small.dense_macs == pytest.approx(full.dense_macs * (32 / SIZE) ** 2, rel=0.02)
    only = evaluated(points=("skip",), sizes=(32,))
    assert [each.name for each in only.results] == ["skip", "size-32"]


def test_it_may_be_made_from_other_pictures(
    evaluated: Callable[..., DetectionReport], path: Path, root: Path
) -> None:
    report = evaluated(fixed_masks=True, fixed_from=root / "validation")
    fixed = report.results[-1]
    scenes = read_folder(root / "validation").scenes
    skips = report.results[1].point
    with CpuDetector(report.bundle, threads=1) as engine:
        often = frequencies_in(engine, skips, (square(s, SIZE)[np.newaxis] for s in scenes))
    assert fixed.decisions is not None
    kept = fixed.decisions[0]
    assert often[kept].min() >= often[~kept].max()
    assert report.flat()["fixed_from"] == str(root / "validation")


def test_an_engine_that_tells_nothing_makes_no_masks(path: Path) -> None:
    class Silent(CpuDetector):
        def infer(self, *call: Any, **more: Any) -> Output:
            output = super().infer(*call, **more)
            arrays = {name: of for name, of in output.arrays.items() if name != "decisions"}
            return replace(output, arrays=arrays)

    source = read_bundle(path)
    blank = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    with (
        Silent(source, threads=1) as engine,
        pytest.raises(InvalidInput, match="does not tell what its maskers decide"),
    ):
        frequencies_in(engine, source.manifest.point("skip").point, [blank])


def test_other_pictures_masks_cost_what_they_cost(
    evaluated: Callable[..., DetectionReport],
) -> None:
    report = evaluated(shuffled=True)
    assert report.shuffles.keys() == {"skip"}
    rows = {row["name"]: row for row in report.flat()["points"]}
    assert rows["full"]["shuffled_ap50"] is None
    skip = rows["skip"]
    assert skip["shuffled_ap50_minus"] == pytest.approx(skip["shuffled_ap50"] - skip["mask_ap50"])
    assert skip["shuffled_ap50_low"] <= skip["shuffled_ap50_minus"] <= skip["shuffled_ap50_high"]


def test_units_are_those_of_backbone_and_levels() -> None:
    source = bundle(NET, RAGGED)
    assert detector_units(source.manifest, SIZE) == UNITS
    with load(source) as engine:
        output = engine.infer(np.zeros((1, SIZE, SIZE, 3), np.uint8), [full(SIZE, len(UNITS))])
    assert output.arrays["decisions"].shape == (1, sum(UNITS))
    with pytest.raises(InvalidInput, match="finds no objects"):
        detector_units(classifier().manifest, SIZE)
