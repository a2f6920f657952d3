"""The masked-dense network equals an oracle that computes only what is active.

Each comparison covers class logits, every decision, and the number of multiplications.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from engines.architecture import ResNet, Stage
from engines.core import Paradigm
from engines.models.resnet import LaudResNet, fold_batchnorm
from tests.engines.models.networks import (
    Wish,
    assert_computes_only_what_is_active,
    exact_network,
    integers,
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
RAGGED = (37, 50)


def stage(
    paradigm: str, *, depth: int = 1, width: int = 4, patch: int = 2, group: int = 2
) -> Stage:
    """A stage of that paradigm; granularities are given only where it takes them."""
    kind = Paradigm(paradigm)
    chosen: dict[str, Any] = {"depth": depth, "width": width, "paradigm": kind}
    if kind in (Paradigm.SPATIAL, Paradigm.SPATIAL_CHANNEL):
        chosen["spatial_granularity"] = patch
    if kind.masks_channels:
        chosen["channel_granularity"] = group
    return Stage(**chosen)


def network(paradigm: str, **options: Any) -> ResNet:
    """Two stages of two blocks: with projection and without, with stride and without."""
    stages = (stage(paradigm, depth=2), stage(paradigm, depth=2, width=6))
    return ResNet(**{"stem_width": 8, "stages": stages, "num_classes": 3, **options})


def same(wish: Wish, model: LaudResNet, images: int = 1) -> list[list[Wish]]:
    """One wish for every masker and image."""
    return [[wish] * len(model.net.maskers)] * images


# Every paradigm, size and place of the stride


@pytest.mark.parametrize("stride_in_1x1", [False, True], ids=["stride on 3x3", "stride on 1x1"])
@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_some_active(paradigm: str, stride_in_1x1: bool) -> None:
    model = random_network(network(paradigm, stride_in_1x1=stride_in_1x1))
    [answer] = assert_computes_only_what_is_active(model, noise(1, 3, *RAGGED), same(SOME, model))
    shares = [len(d.active) / len(d.logits) for d in answer.decisions if d is not None]
    if paradigm not in ("static", "layer"):
        assert any(0 < share < 1 for share in shares)


@pytest.mark.parametrize("wish", [ALL, NONE, UNASKED], ids=["all", "none", "unasked"])
@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_all_active_none_active_or_nothing_asked(paradigm: str, wish: Wish) -> None:
    model = random_network(network(paradigm))
    [answer] = assert_computes_only_what_is_active(model, noise(1, 3, 33, 33), same(wish, model))
    if wish == NONE and paradigm != "static":
        assert [answer.macs[part] for part in ("conv1", "conv2", "conv3")] == [0, 0, 0]
        assert answer.macs["projection"] > 0, "the shortcut always runs"
    if wish == UNASKED:
        assert answer.macs["spatial_masker"] == answer.macs["channel_masker"] == 0


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_images_of_a_batch_have_points_of_their_own(paradigm: str) -> None:
    model = random_network(network(paradigm))
    count = len(model.net.maskers)
    mixed = [SOME, (0.3, 1), UNASKED, (None, 3), NONE, ALL, SOME, SOME][:count]
    wishes = [[ALL] * count, [NONE] * count, [SOME] * count, mixed]
    assert_computes_only_what_is_active(model, noise(4, 3, 21, 18), wishes)


@pytest.mark.parametrize("size", [(3, 3), (5, 3), (8, 1), (17, 31), (32, 32)])
@pytest.mark.parametrize("stem_pool", ["padded", "trailing"])
def test_any_image_size(size: tuple[int, int], stem_pool: str) -> None:
    model = random_network(network("spatial+channel", stem_pool=stem_pool))
    assert_computes_only_what_is_active(model, noise(1, 3, *size), same(SOME, model))


@pytest.mark.parametrize("patch", [1, 2, 3, 4, 5, 7, 13, 100])
def test_any_patch_size(patch: int) -> None:
    """Maps are 10x13 and 5x7: most patches do not divide them and end at the border."""
    stages = (stage("spatial", patch=patch), stage("spatial", patch=patch, depth=2))
    model = random_network(ResNet(stem_width=8, stages=stages, num_classes=3))
    assert_computes_only_what_is_active(model, noise(1, 3, *RAGGED, seed=1), same(SOME, model))


@pytest.mark.parametrize("group", [1, 2, 3, 6])
def test_any_group_size(group: int) -> None:
    stages = (stage("channel", width=6, group=group, depth=2),)
    model = random_network(ResNet(stem_width=8, stages=stages, num_classes=3))
    assert_computes_only_what_is_active(model, noise(2, 3, 20, 20), same(SOME, model, 2))


def test_paradigm_of_each_stage_is_its_own() -> None:
    stages = tuple(stage(paradigm) for paradigm in PARADIGMS)
    model = random_network(ResNet(stem_width=8, stages=stages, num_classes=3))
    assert_computes_only_what_is_active(model, noise(2, 3, 40, 33), same(SOME, model, 2))


def test_block_without_projection() -> None:
    """A stem as wide as the first stage's output leaves the first block's shortcut bare."""
    net = ResNet(stem_width=16, stages=(stage("spatial+channel", depth=2),), num_classes=3)
    assert not any(block.projection for block in net.blocks)
    model = random_network(net)
    [answer] = assert_computes_only_what_is_active(model, noise(1, 3, 26, 19), same(SOME, model))
    assert answer.macs["projection"] == 0


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_folded_network(paradigm: str) -> None:
    model = fold_batchnorm(random_network(network(paradigm)))
    assert_computes_only_what_is_active(model, noise(1, 3, 20, 27), same(SOME, model))


def test_float32_network() -> None:
    model = random_network(network("spatial+channel")).float()
    x = noise(2, 3, 24, 24).float()
    assert_computes_only_what_is_active(model, x, same(SOME, model, 2), tolerance=1e-5)


# Caps and ties


@pytest.mark.parametrize("cap", [0, 1, 3, 10**6])
@pytest.mark.parametrize("paradigm", PARADIGMS[1:])
def test_caps(paradigm: str, cap: int) -> None:
    model = random_network(network(paradigm))
    count = len(model.net.maskers)
    wishes: list[list[Wish]] = [[(None, cap)] * count, [(0.0, cap)] * count]
    for answer in assert_computes_only_what_is_active(model, noise(2, 3, 22, 22), wishes):
        assert all(d is not None and len(d.active) <= cap for d in answer.decisions)


def test_ties_at_threshold_and_cap() -> None:
    """In whole numbers logits repeat: some equal the threshold, some lie on both sides of a cap."""
    stages = (
        stage("spatial", patch=1),
        stage("channel", width=16, group=1),
        stage("spatial+channel", width=16, patch=1, group=1),
    )
    net = ResNet(stem_width=16, stages=stages, num_classes=3, folded=True)
    wishes: list[list[Wish]] = [[(0.0, None)] * 4, [(None, 3)] * 4, [(0.0, 5)] * 4]
    at_threshold = at_cap = 0
    for seed in range(4):
        x = integers(3, 3, 37, 26, seed=seed)
        for answer in assert_computes_only_what_is_active(exact_network(net, seed), x, wishes):
            for found in filter(None, answer.decisions):
                skipped, active = np.delete(found.logits, found.active), found.logits[found.active]
                at_threshold += int((found.logits == 0.0).sum())
                at_cap += int(np.isin(skipped, active).sum())
    assert at_threshold > 10
    assert at_cap > 10


def test_untrained_maskers_tie_everywhere_so_a_cap_takes_the_first() -> None:
    model = LaudResNet(network("spatial+channel")).double().eval()
    wishes: list[list[Wish]] = [[(0.0, 2)] * len(model.net.maskers)]
    [answer] = assert_computes_only_what_is_active(model, noise(1, 3, 30, 30), wishes)
    assert all(d is not None and d.active == [0, 1] for d in answer.decisions)


# Anything


@st.composite
def networks(draw: st.DrawFn) -> ResNet:
    stages = [
        stage(
            draw(st.sampled_from(PARADIGMS)),
            depth=draw(st.integers(1, 2)),
            width=draw(st.sampled_from([2, 4])),
            patch=draw(st.integers(1, 5)),
            group=draw(st.sampled_from([1, 2])),
        )
        for _ in range(draw(st.integers(1, 3)))
    ]
    return ResNet(
        stem_width=draw(st.sampled_from([4, 8])),
        stages=tuple(stages),
        num_classes=2,
        stem_pool=draw(st.sampled_from(["padded", "trailing"])),
        stride_in_1x1=draw(st.booleans()),
        folded=draw(st.booleans()),
    )


@settings(max_examples=80, deadline=None, derandomize=True)
@given(net=networks(), data=st.data(), seed=st.integers(0, 10**6))
def test_any_network_image_and_points(net: ResNet, data: st.DataObject, seed: int) -> None:
    side = st.integers(1, 30)
    thresholds = st.sampled_from([None, -INFINITY, -0.3, 0.0, 0.3, INFINITY])
    wish = st.tuples(thresholds, st.sampled_from([None, None, 0, 1, 4, 100]))
    count = len(net.maskers)
    wishes = data.draw(
        st.lists(st.lists(wish, min_size=count, max_size=count), min_size=1, max_size=2)
    )
    x = noise(len(wishes), 3, data.draw(side), data.draw(side), seed=seed)
    assert_computes_only_what_is_active(random_network(net, seed), x, wishes)
