"""Work of given masks: held against the native engine's own count; rates and sizes for a budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engines.architecture import MapSize, ResNet
from engines.bench.masks import MaskKind, draw_masks
from engines.bench.networks import architecture, asking_point
from engines.bench.work import masked_macs, rate_for_macs, size_for_macs
from engines.errors import InvalidInput
from engines.macs import all_block_macs, fixed_macs, static_macs
from tests.engines.cpu.cases import bundle, load, net_of, pictures

IMAGE = MapSize(224, 224)


def resnet50(paradigm: str = "spatial") -> ResNet:
    return architecture("resnet50", paradigm, patches=(8, 4, 2, 1), group=16, mix="layer")


@pytest.mark.parametrize("options", [{}, {"stride_in_1x1": True}], ids=["3x3", "1x1"])
@pytest.mark.parametrize("size", [32, 33, 47])
@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_work_is_what_the_engine_counts(rate: float, size: int, options: dict[str, Any]) -> None:
    net = net_of(**options)
    image = MapSize(size, size)
    decisions = draw_masks(net, image, MaskKind.RANDOM, 3, np.random.default_rng(0)).at(rate)
    with load(bundle(net)) as engine:
        images = pictures(3, size)
        point = asking_point("dynamic", size, len(net.maskers))
        answer = engine.infer(images, [point] * 3, decisions)
    assert masked_macs(net, image, decisions) == pytest.approx(answer.macs, rel=1e-9)


def test_nothing_active_leaves_stem_shortcuts_classifier_and_maskers() -> None:
    net = resnet50("mix")
    decisions = draw_masks(net, IMAGE, MaskKind.RANDOM, 1, np.random.default_rng(0)).at(0.0)
    blocks = all_block_macs(net, IMAGE)
    never_skipped = sum(b.projection + b.spatial_masker + b.channel_masker for b in blocks)
    assert masked_macs(net, IMAGE, decisions)[0] == fixed_macs(net, IMAGE) + never_skipped


@pytest.mark.parametrize("paradigm", ["spatial", "channel", "mix"])
@pytest.mark.parametrize("share", [0.3, 0.4, 0.8])
def test_rate_is_found_for_a_share_of_the_work(paradigm: str, share: float) -> None:
    net = resnet50(paradigm)
    draws = [
        draw_masks(net, IMAGE, MaskKind.RANDOM, 1, np.random.default_rng(seed)) for seed in range(4)
    ]
    rate = rate_for_macs(net, IMAGE, draws, share)
    found = np.mean([masked_macs(net, IMAGE, draw.at(rate)) for draw in draws])
    # Whole units: a block or a group more or less.
    assert found / static_macs(net, IMAGE) == pytest.approx(share, abs=0.03)


def test_less_work_than_is_never_skipped_is_refused() -> None:
    net = resnet50()
    draws = [draw_masks(net, IMAGE, MaskKind.RANDOM, 1, np.random.default_rng(0))]
    with pytest.raises(InvalidInput, match=r"takes 0\.1\d\d"):
        rate_for_macs(net, IMAGE, draws, 0.05)


def test_smaller_image_costs_nearest_to_what_is_asked() -> None:
    net = resnet50()
    dense = static_macs(net, IMAGE)
    assert size_for_macs(net, 224, dense) == 224
    assert size_for_macs(net, 224, dense * 10) == 224
    # Of the sizes that cost as little (1 and 2 pixels) the larger.
    assert size_for_macs(net, 224, 0) == 2
    size = size_for_macs(net, 224, dense / 2)
    errors = {s: abs(static_macs(net, MapSize(s, s)) - dense / 2) for s in range(1, 225)}
    assert errors[size] == min(errors.values())
