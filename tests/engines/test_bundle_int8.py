"""Bundles with int8 scales: which are refused, and which points a precision has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from engines.architecture import ResNet
from engines.bundle import (
    MANIFEST,
    Manifest,
    Quantisation,
    read_bundle,
    write_bundle,
)
from engines.core import static_point
from engines.errors import BundleError, InvalidInput
from tests.engines.bundles import NET, SIZE, manifest, weights
from tests.engines.detection.manifests import detector_manifest
from tests.engines.detection.networks import NET as DETECTING
from tests.engines.int8 import quantisation


def content(**changes: Any) -> dict[str, Any]:
    """Scales of the small network and its points, as they were measured in int8."""
    points = [record.model_dump() for record in manifest().points]
    points[1]["macs_ratio"] = 0.66
    scales = quantisation(NET, SIZE).model_dump()
    note = {**scales["calibration"], "agreement": (1.0, 0.98)}
    return {**scales, "points": points, "calibration": note, **changes}


def block(index: int, **changes: Any) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = content()["blocks"]
    return [each | (changes if i == index else {}) for i, each in enumerate(blocks)]


def points(**changes: Any) -> list[dict[str, Any]]:
    """Those of the manifest, with fields of the last one's point replaced."""
    first, last = content()["points"]
    return [first, last | {"point": last["point"] | changes}]


def test_scales_are_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "small.laud"
    write_bundle(path, manifest(quantisation=content()), weights())
    assert read_bundle(path).manifest.quantisation == Quantisation(**content())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_floats_have_the_points_of_the_manifest(precision: str) -> None:
    whole = manifest(quantisation=content())
    assert whole.at(precision) == whole


def test_int8_has_its_own_points() -> None:
    whole = manifest(quantisation=content())
    found = whole.at("int8")
    assert isinstance(found, Manifest)
    assert found.points == Quantisation(**content()).points
    assert (whole.point("skip").macs_ratio, found.point("skip").macs_ratio) == (0.65, 0.66)
    assert found.model_copy(update={"points": whole.points}) == whole


def test_int8_without_scales_names_the_bundle_and_the_command() -> None:
    with pytest.raises(BundleError, match=r"'small' has no int8 scales.*--int8 --calibrate DIR"):
        manifest().at("int8")


def test_an_unknown_precision_lists_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="'fp8'; there are: fp32, bf16, int8"):
        manifest().at("fp8")


@pytest.mark.parametrize("value", [0.0, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize(
    "where", ["stem", "features", "trunk.1", "blocks.0.inner1", "blocks.1.shortcut"]
)
def test_a_scale_that_is_not_positive_and_finite_is_named(where: str, value: float) -> None:
    broken = content()
    *path, last = where.split(".")
    target: Any = {**broken, "trunk": [*broken["trunk"]], "blocks": block(0)}
    whole = target
    for step in path:
        target = target[int(step) if step.isdigit() else step]
    target[int(last) if last.isdigit() else last] = value
    with pytest.raises(ValidationError) as caught:
        manifest(quantisation=whole)
    assert ".".join(map(str, caught.value.errors()[0]["loc"])) == f"quantisation.{where}"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trunk": (0.1,)}, "1 trunk scales for 2 stages"),
        ({"blocks": block(0)[:1]}, "scales of 1 blocks for 2 blocks"),
        ({"blocks": block(0, shortcut=None)}, r"layer1\.0 needs a shortcut scale"),
        ({"blocks": block(1, inner3=0.1)}, "Extra inputs are not permitted"),
        ({"zero_point": 3}, "Extra inputs are not permitted"),
        ({"points": points()[:1]}, "int8 points are full at 24 px instead of full at 24 px, skip"),
        ({"points": points(name="slip")}, "slip at 24 px instead of .* skip at 24 px"),
        ({"points": points(image_size=32)}, "skip at 32 px instead of .* skip at 24 px"),
        ({"points": points()[::-1]}, "must be 'full' and skip nothing"),
        ({"points": ()}, "must be 'full' and skip nothing"),
        ({"points": points(thresholds=(0.1,), caps=(None,))}, "'skip' has 1 entries for 2 maskers"),
        ({"calibration": {**content()["calibration"], "agreement": (1.0,)}}, "1 agreements for 2"),
    ],
    ids=str,
)
def test_scales_that_do_not_fit_the_network_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        manifest(quantisation=content(**changes))


def test_a_block_without_projection_takes_no_shortcut_scale() -> None:
    stage = NET.stages[0].model_copy(update={"depth": 2})
    deep = ResNet(stem_width=4, stages=(stage,), num_classes=2, folded=True)
    scales = quantisation(deep, SIZE).model_dump()
    scales["blocks"][1]["shortcut"] = 0.1
    records = [
        {**manifest().points[0].model_dump(), "point": static_point("full", SIZE, 2).model_dump()}
    ]
    with pytest.raises(ValidationError, match=r"layer1\.1 takes no shortcut scale"):
        manifest(architecture=deep, points=records, quantisation={**scales, "points": records})


@pytest.mark.parametrize("change", [{"folded": False}, {"folded": False, "official_layout": True}])
def test_batch_norm_has_no_int8_form(change: dict[str, bool]) -> None:
    with pytest.raises(ValidationError, match="needs a network with folded batch norm"):
        manifest(architecture=NET.model_copy(update=change), quantisation=content())


def detecting(**changes: Any) -> Manifest:
    """A small detector with int8 scales, fields of which are replaced."""
    floats = detector_manifest()
    scales = quantisation(DETECTING, 64).model_dump()
    own = {"sums": (0.1,) * 4, "pyramid": 0.1, "classes": (0.1,), "boxes": (0.1,)}
    note = {**scales["calibration"], "agreement": (1.0, 0.9)}
    return changed_manifest(
        floats,
        quantisation={
            **scales,
            "features": None,
            "detector": {**own, "masks": (0.1, 0.1), **changes.pop("detector", {})},
            "points": floats.model_dump()["points"],
            "calibration": note,
            **changes,
        },
    )


def changed_manifest(before: Manifest, **changes: Any) -> Manifest:
    return Manifest.model_validate({**before.model_dump(), **changes})


def test_a_detector_has_scales_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "things.laud"
    written = detecting()
    halves = {name: value.astype(np.float16) for name, value in weights().items()}
    write_bundle(path, written, halves)
    assert read_bundle(path).manifest.quantisation == written.quantisation


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"features": 0.1}, "a detector has no such"),
        ({"detector": {"classes": (0.1, 0.1)}}, "2 scales of classes for 1 layers"),
        ({"detector": {"boxes": (0.1, 0.1)}}, "2 scales of boxes for 1 layers"),
        ({"detector": {"masks": (0.1,)}}, "1 scales of masks for 2 layers"),
        ({"detector": {"sums": (0.1,) * 3}}, "Field required"),
        ({"detector": {"pyramid": 0.0}}, "greater than 0"),
    ],
)
def test_scales_that_do_not_fit_the_detector_are_refused(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        detecting(**changes)


def test_scales_of_the_other_kind_are_refused() -> None:
    with pytest.raises(ValidationError, match="a detector has no such"):
        manifest(quantisation=content(features=None))
    own = detecting().model_dump()["quantisation"]["detector"]
    with pytest.raises(ValidationError, match="others have none of them"):
        manifest(quantisation=content(detector=own))
    with pytest.raises(ValidationError, match="a detector has its own int8 scales"):
        changed_manifest(
            detecting(),
            quantisation={**detecting().model_dump()["quantisation"], "detector": None},
        )


def test_a_file_with_a_broken_scale_says_which(tmp_path: Path) -> None:
    path = tmp_path / "small.laud"
    write_bundle(path, manifest(quantisation=content()), weights())
    file = path / MANIFEST
    found = json.loads(file.read_text("utf-8"))
    found["quantisation"]["features"] = float("nan")
    file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    with pytest.raises(BundleError, match=r"quantisation\.features: Input should be a finite"):
        read_bundle(path)


def test_the_demo_reads_as_before() -> None:
    """A bundle that was written when there were no scales keeps its identity."""
    assert len(read_bundle("zoo:clothing").hash) == 64
