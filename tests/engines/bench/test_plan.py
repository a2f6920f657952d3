"""What may be asked of `laud bench engine`, and which network and point it means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines.architecture import ResNet, Stage
from engines.bench.plan import Plan, patch_sizes, subject
from engines.bundle import write_bundle
from engines.core import Paradigm
from engines.errors import BundleError, InvalidInput
from tests.engines.bundles import SIZE, SKIP, manifest, weights
from tests.engines.int8 import full


def plan(**options: Any) -> Plan:
    return Plan(**{"arch": "resnet50", "rate": 0.5, **options})


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    """Two maskers, the points `full` and `skip` at SIZE."""
    path = tmp_path / "small.laud"
    write_bundle(path, manifest(), weights())
    return str(path)


def test_network_by_name_is_spatial_at_224_pixels_unless_said_otherwise() -> None:
    found = subject(plan())
    assert (found.paradigm, found.size) == ("spatial", 224)
    assert [stage.spatial_granularity for stage in found.net.stages] == [8, 4, 2, 1]
    assert set(found.point.thresholds) == {0.0}


def test_network_by_name_takes_paradigm_granularity_and_size() -> None:
    found = subject(plan(paradigm="channel", group=16, size=64))
    assert (found.paradigm, found.size) == ("channel", 64)
    assert {stage.channel_granularity for stage in found.net.stages} == {16}
    assert {stage.paradigm for stage in found.net.stages} == {Paradigm.CHANNEL}


def test_drawn_masks_of_a_bundle_ask_every_masker(bundle: str) -> None:
    found = subject(plan(arch=bundle))
    assert found.paradigm == "mix"
    assert found.point.thresholds == (0.0, 0.0)
    assert found.point.caps == (None, None)
    assert found.size == SIZE
    assert subject(plan(arch=bundle, size=48)).size == 48


def test_trained_masks_of_a_bundle_are_those_of_its_point(bundle: str, tmp_path: Path) -> None:
    asked = plan(arch=bundle, masks="trained", rate=None, images=tmp_path)
    assert subject(asked).point == SKIP


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"precision": "fp16"}, "--precision must be one of fp32, bf16, int8, got 'fp16'"),
        ({"masks": "none"}, "--masks must be one of random, clustered, trained, got 'none'"),
        ({"rate_of": "time"}, "--rate-of must be one of units, macs, got 'time'"),
        ({"rate": 1.5}, "--rate must be 0 to 1, got 1.5"),
        ({"rate": float("nan")}, "--rate must be 0 to 1, got nan"),
        ({"rate": None}, "--masks random needs --rate, 0 to 1"),
        ({"batch": 0}, "--batch must be at least 1, got 0"),
        ({"threads": 0}, "--threads must be at least 1, got 0"),
        ({"repeats": 3}, "--repeats must be at least 4, got 3"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"size": 0}, "--size must be 1 to 4096 pixels, got 0"),
        ({"mix": "layer"}, "it goes with --paradigm mix"),
        ({"masks": "trained", "rate": None}, "nobody trained the masks of resnet50"),
        ({"point": "full"}, "--point goes with a bundle"),
        ({"arch": "zoo:clothing", "paradigm": "layer"}, "leave out --paradigm"),
        ({"arch": "zoo:clothing", "patches": (1,)}, "leave out --granularity"),
        ({"arch": "zoo:clothing", "group": 8}, "leave out --group"),
        ({"arch": "zoo:clothing", "masks": "trained"}, "leave out --rate"),
        ({"arch": "zoo:clothing", "masks": "trained", "rate": None}, "with --images DIR"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused_before_anything_is_read(
    options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidInput, match=reason):
        plan(**options)


def test_unknown_network_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InvalidInput, match="'resnet18'; there are: resnet50, resnet101, or a bun"):
        subject(plan(arch="resnet18"))
    with pytest.raises(BundleError, match=r"'gone\.laud' is not a bundle"):
        subject(plan(arch="gone.laud"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"point": "gone"}, "no operating point 'gone'; it has: full, skip"),
        ({"point": "full"}, "full does not ask a masker"),
        ({"size": 32}, "the thresholds of 'skip' are for 24 pixels: leave out --size"),
    ],
    ids=str,
)
def test_trained_masks_need_a_point_that_has_some(
    bundle: str, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    asked = plan(arch=bundle, masks="trained", rate=None, images=tmp_path, **options)
    with pytest.raises(InvalidInput, match=reason):
        subject(asked)


def test_point_that_skips_nothing_is_measured_against_another_size(
    bundle: str, tmp_path: Path
) -> None:
    asked = plan(
        arch=bundle, masks="trained", rate=None, images=tmp_path, point="full", against_size=48
    )
    assert subject(asked).point.name == "full"


def test_size_of_the_other_network_is_checked() -> None:
    with pytest.raises(InvalidInput, match="--against-size must be 1 to 4096 pixels, got 0"):
        plan(against_size=0)


def test_trained_masks_in_int8_need_scales(bundle: str, tmp_path: Path) -> None:
    asked = plan(arch=bundle, masks="trained", rate=None, images=tmp_path, precision="int8")
    with pytest.raises(BundleError, match="no int8 scales"):
        subject(asked)


def test_bundle_without_maskers_has_nothing_to_skip(tmp_path: Path) -> None:
    net = ResNet(stages=(Stage(depth=1, width=2),), num_classes=2, folded=True)
    path = tmp_path / "static.laud"
    write_bundle(path, manifest(architecture=net, points=(full(net, SIZE),)), weights())
    with pytest.raises(InvalidInput, match="has no masker: there is nothing to skip"):
        subject(plan(arch=str(path)))


def test_patch_sizes_are_numbers_with_dashes() -> None:
    assert patch_sizes("8-4-2-1") == (8, 4, 2, 1)
    assert patch_sizes("7") == (7,)
    for text in ("", "8-x", "8,4"):
        with pytest.raises(InvalidInput, match="such as 8-4-2-1"):
            patch_sizes(text)
