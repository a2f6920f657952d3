"""A masked-dense RegNet equals an oracle that computes only what is active.

Each comparison covers class logits, every decision, and the number of multiplications.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from engines.architecture import RegNet, RegNetStage
from engines.core import Paradigm
from engines.models import LaudRegNet, fold_batchnorm
from tests.engines.models.networks import (
    Wish,
    assert_computes_only_what_is_active,
    noise,
    random_network,
)

pytestmark = pytest.mark.torch

INFINITY = float("inf")
ALL: Wish = (-INFINITY, None)
NONE: Wish = (INFINITY, None)
SOME: Wish = (0.0, None)
UNASKED: Wish = (None, None)

PARADIGMS = [*Paradigm]
RAGGED = (19, 26)


def stage(
    paradigm: str, *, depth: int = 1, width: int = 6, group_width: int = 2, **grains: int
) -> RegNetStage:
    """A stage of that paradigm; granularities `patch` and `group` only where it takes them."""
    kind = Paradigm(paradigm)
    chosen: dict[str, Any] = {"paradigm": kind, "depth": depth, "width": width}
    if kind in (Paradigm.SPATIAL, Paradigm.SPATIAL_CHANNEL):
        chosen["spatial_granularity"] = grains.get("patch", 2)
    if kind.masks_channels:
        chosen["channel_granularity"] = grains.get("group", group_width)
    return RegNetStage(group_width=group_width, **chosen)


def network(paradigm: str, **options: Any) -> RegNet:
    """Two stages, in which blocks with and without projection and stride follow each other."""
    stages = (stage(paradigm, depth=2), stage(paradigm, depth=2, width=6, group_width=3))
    return RegNet(**{"stem_width": 6, "stages": stages, "num_classes": 3, **options})


def same(wish: Wish, model: LaudRegNet, images: int = 1) -> list[list[Wish]]:
    """One wish for every masker and image."""
    return [[wish] * len(model.net.maskers)] * images


# Every paradigm


@pytest.mark.parametrize("over", ["active", "map"])
@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_some_active(paradigm: str, over: str) -> None:
    model = random_network(network(paradigm, squeeze_over=over))
    [answer] = assert_computes_only_what_is_active(model, noise(1, 3, *RAGGED), same(SOME, model))
    shares = [len(d.active) / len(d.logits) for d in answer.decisions if d is not None]
    if paradigm not in ("static", "layer"):
        assert any(0 < share < 1 for share in shares)
    assert answer.macs["squeeze"] > 0


@pytest.mark.parametrize("wish", [ALL, NONE, UNASKED], ids=["all", "none", "unasked"])
@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_all_active_none_active_or_nothing_asked(paradigm: str, wish: Wish) -> None:
    model = random_network(network(paradigm))
    [answer] = assert_computes_only_what_is_active(model, noise(1, 3, 17, 17), same(wish, model))
    if wish == NONE and paradigm != "static":
        parts = ("conv1", "conv2", "conv3", "squeeze")
        assert [answer.macs[part] for part in parts] == [0, 0, 0, 0]
        assert answer.macs["projection"] > 0, "the shortcut always runs"
    if wish == UNASKED:
        assert answer.macs["spatial_masker"] == answer.macs["channel_masker"] == 0


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_images_of_a_batch_have_points_of_their_own(paradigm: str) -> None:
    """The mean of squeeze-and-excitation is each image's own, whatever others skip."""
    model = random_network(network(paradigm))
    count = len(model.net.maskers)
    mixed = [SOME, (0.3, 1), UNASKED, (None, 3), NONE, ALL, SOME, SOME][:count]
    wishes = [[ALL] * count, [NONE] * count, [SOME] * count, mixed]
    assert_computes_only_what_is_active(model, noise(4, 3, 15, 13), wishes)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (8, 1), (17, 21), (16, 16)], ids=str)
@pytest.mark.parametrize("over", ["active", "map"])
def test_any_image_size(size: tuple[int, int], over: str) -> None:
    model = random_network(network("spatial+channel", squeeze_over=over))
    assert_computes_only_what_is_active(model, noise(1, 3, *size), same(SOME, model))


@pytest.mark.parametrize("patch", [1, 3, 4, 7, 100])
def test_any_patch_size(patch: int) -> None:
    stages = (stage("spatial", patch=patch), stage("spatial", patch=patch, depth=2))
    model = random_network(RegNet(stem_width=6, stages=stages, num_classes=3))
    assert_computes_only_what_is_active(model, noise(1, 3, *RAGGED, seed=1), same(SOME, model))


@pytest.mark.parametrize(("group_width", "group"), [(1, 1), (2, 2), (2, 4), (2, 12), (12, 12)])
def test_any_number_of_whole_groups(group_width: int, group: int) -> None:
    stages = (stage("channel", width=12, group_width=group_width, group=group, depth=2),)
    model = random_network(RegNet(stem_width=6, stages=stages, num_classes=3))
    assert_computes_only_what_is_active(model, noise(2, 3, 14, 14), same(SOME, model, 2))


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_squeeze_ratio_and_folding(ratio: float, folded: bool) -> None:
    model = random_network(network("spatial+channel", squeeze_ratio=ratio))
    if folded:
        model = fold_batchnorm(model)
    [answer] = assert_computes_only_what_is_active(model, noise(1, 3, 20, 27), same(SOME, model))
    assert (answer.macs["squeeze"] > 0) is (ratio > 0)


def test_paradigm_of_each_stage_is_its_own() -> None:
    stages = tuple(stage(paradigm) for paradigm in PARADIGMS)
    model = random_network(RegNet(stem_width=6, stages=stages, num_classes=3))
    assert_computes_only_what_is_active(model, noise(2, 3, 34, 17), same(SOME, model, 2))


def test_float32_network() -> None:
    model = random_network(network("spatial+channel")).float()
    x = noise(2, 3, 18, 18).float()
    assert_computes_only_what_is_active(model, x, same(SOME, model, 2), tolerance=1e-5)


@pytest.mark.parametrize("cap", [0, 1, 3, 10**6])
@pytest.mark.parametrize("paradigm", PARADIGMS[1:])
def test_caps(paradigm: str, cap: int) -> None:
    model = random_network(network(paradigm))
    count = len(model.net.maskers)
    wishes: list[list[Wish]] = [[(None, cap)] * count, [(0.0, cap)] * count]
    for answer in assert_computes_only_what_is_active(model, noise(2, 3, 14, 14), wishes):
        assert all(d is not None and len(d.active) <= cap for d in answer.decisions)


# Anything


@st.composite
def networks(draw: st.DrawFn) -> RegNet:
    stages = []
    for _ in range(draw(st.integers(1, 3))):
        group_width = draw(st.sampled_from([1, 2]))
        stages.append(
            stage(
                draw(st.sampled_from(PARADIGMS)),
                depth=draw(st.integers(1, 2)),
                width=draw(st.sampled_from([4, 8])),
                group_width=group_width,
                patch=draw(st.integers(1, 5)),
                group=group_width * draw(st.sampled_from([1, 2])),
            )
        )
    return RegNet(
        stem_width=draw(st.sampled_from([4, 8])),
        stages=tuple(stages),
        num_classes=2,
        squeeze_ratio=draw(st.sampled_from([0.0, 0.25, 0.5])),
        squeeze_over=draw(st.sampled_from(["active", "map"])),
        folded=draw(st.booleans()),
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(net=networks(), data=st.data(), seed=st.integers(0, 10**6))
def test_any_network_image_and_points(net: RegNet, data: st.DataObject, seed: int) -> None:
    side = st.integers(1, 16)
    thresholds = st.sampled_from([None, -INFINITY, -0.3, 0.0, 0.3, INFINITY])
    wish = st.tuples(thresholds, st.sampled_from([None, None, 0, 1, 4, 100]))
    count = len(net.maskers)
    wishes = data.draw(
        st.lists(st.lists(wish, min_size=count, max_size=count), min_size=1, max_size=2)
    )
    x = noise(len(wishes), 3, data.draw(side), data.draw(side), seed=seed)
    assert_computes_only_what_is_active(random_network(net, seed), x, wishes)
