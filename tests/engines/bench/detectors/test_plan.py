"""What may be asked of `laud bench engine` where the bundle finds objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines.bench.detectors.plan import DetectorPlan, check_options, subjects
from engines.bundle import finds_objects, write_bundle
from engines.errors import BundleError, InvalidInput
from tests.engines.bundles import manifest, weights
from tests.engines.cpu.detectors import MASKED, SMALL, bundle

HERE = Path()


def plan(arch: str = "zoo:nuclei", **options: Any) -> DetectorPlan:
    return DetectorPlan(arch, **{"images": HERE, **options})


@pytest.fixture
def classifier(tmp_path: Path) -> str:
    path = tmp_path / "classifier.laud"
    write_bundle(path, manifest(), weights())
    return str(path)


def test_a_detector_is_known_by_its_bundle(classifier: str) -> None:
    assert finds_objects("zoo:nuclei")
    assert not finds_objects("resnet50")
    assert not finds_objects("gone.laud")
    assert not finds_objects(classifier)


def test_without_a_point_the_cheapest_that_skips_is_measured() -> None:
    of = subjects(plan())
    skipping = [r for r in of.bundle.manifest.points if not r.point.skips_nothing]
    assert of.point == min(skipping, key=lambda record: record.macs).point
    assert (of.static, of.static_size) == (of.bundle, of.point.image_size)


def test_the_static_one_may_have_another_size() -> None:
    of = subjects(plan(point="skip-384-60", against_size=512))
    assert (of.point.image_size, of.static_size) == (384, 512)
    assert subjects(plan(point="full")).point.skips_nothing


def test_the_static_one_may_be_another_detector_with_the_same_labels(tmp_path: Path) -> None:
    same, other = bundle(SMALL, MASKED), bundle()
    named = same.manifest.model_copy(update={"labels": ("nucleus",)})
    write_bundle(tmp_path / "same.laud", named, dict(same.weights))
    write_bundle(tmp_path / "other.laud", other.manifest, dict(other.weights))
    of = subjects(plan(against=str(tmp_path / "same.laud")))
    assert of.static.manifest.architecture == SMALL
    with pytest.raises(InvalidInput, match="has other labels: thing-0, thing-1, thing-2"):
        subjects(plan(against=str(tmp_path / "other.laud")))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"images": None}, "name annotated ones with --images DIR"),
        ({"precision": "fp16"}, "--precision must be one of fp32, bf16, int8, got 'fp16'"),
        ({"threads": 0}, "--threads must be at least 1, got 0"),
        ({"repeats": 3}, "--repeats must be at least 4, got 3"),
        ({"emptiest": 0.0}, "--emptiest must be above 0 and at most 1, got 0.0"),
        ({"emptiest": float("nan")}, "--emptiest must be above 0"),
        ({"against_size": 0}, "--against-size must be a multiple of 32"),
        ({"against_size": 500}, "at most 4096 pixels, got 500"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        plan(**options)


def test_what_does_not_fit_the_bundle_is_refused(classifier: str) -> None:
    with pytest.raises(InvalidInput, match="no operating point 'gone'; it has: full"):
        subjects(plan(point="gone"))
    with pytest.raises(BundleError, match="finds no objects: its task is classification"):
        subjects(plan(against=classifier))


def test_options_of_classifiers_are_refused_by_name() -> None:
    check_options("zoo:nuclei", {"rate": None, "masks": None})
    with pytest.raises(InvalidInput, match="leave out --rate, --batch"):
        check_options("zoo:nuclei", {"rate": 0.5, "masks": None, "batch": 1})
