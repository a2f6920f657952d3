"""Networks by name: their shapes, and weights under which activations stay sane."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engines.architecture import MapSize, ResNet, only_resnet
from engines.bench.networks import architecture, random_weights, synthetic_bundle
from engines.core import Paradigm
from engines.cpu.weights import expected_shapes
from engines.errors import InvalidInput
from engines.macs import static_macs
from tests.engines.cpu.cases import load, pictures


def net(name: str = "resnet50", paradigm: str = "spatial", **options: Any) -> ResNet:
    asked = {"patches": (8, 4, 2, 1), "group": 64, "mix": "layer", **options}
    return architecture(name, paradigm, **asked)


@pytest.mark.parametrize(("name", "giga"), [("resnet50", 4.09), ("resnet101", 7.80)])
def test_network_is_as_large_as_the_published_one(name: str, giga: float) -> None:
    assert static_macs(net(name), MapSize(224, 224)) / 1e9 == pytest.approx(giga, abs=0.01)


@pytest.mark.parametrize("mix", ["layer", "channel"])
def test_mix_skips_patches_early_and_what_it_names_late(mix: str) -> None:
    stages = net(paradigm="mix", mix=mix, patches=(4, 2, 1, 1), group=32).stages
    assert [stage.paradigm for stage in stages] == [Paradigm.SPATIAL] * 2 + [Paradigm(mix)] * 2
    assert [stage.spatial_granularity for stage in stages] == [4, 2, None, None]
    group = 32 if mix == "channel" else None
    assert [stage.channel_granularity for stage in stages] == [None, None, group, group]


@pytest.mark.parametrize("paradigm", ["spatial", "layer", "channel", "mix"])
def test_bundle_has_every_tensor_and_a_point_that_asks_every_masker(paradigm: str) -> None:
    bundle = synthetic_bundle("resnet50", net(paradigm=paradigm), 64, seed=0)
    shapes = {name: value.shape for name, value in bundle.weights.items()}
    assert shapes == expected_shapes(only_resnet(bundle.manifest.architecture, "a test"))
    full, dynamic = (record.point for record in bundle.manifest.points)
    assert full.skips_nothing
    assert set(dynamic.thresholds) == {0.0}
    assert (full.image_size, dynamic.image_size) == (64, 64)


def test_weights_follow_the_seed_and_the_trunk_not_the_paradigm() -> None:
    one, again, other = (random_weights(net(), seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["conv1.weight"], other["conv1.weight"])
    layers = random_weights(net(paradigm="layer"), 1)
    trunk = [name for name in one if ".masker_" not in name]
    assert all(np.array_equal(one[name], layers[name]) for name in trunk)


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_scores_stay_in_a_sane_range_through_all_blocks(name: str) -> None:
    bundle = synthetic_bundle(name, net(name), 64, seed=0)
    with load(bundle, poison=False) as engine:
        scores = engine.infer(pictures(2, 64), [bundle.manifest.full.point] * 2).arrays["scores"]
    assert 0.1 < np.asarray(scores, np.float64).std() < 10.0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": "resnet18"}, "unknown network 'resnet18'; there are: resnet50, resnet101"),
        ({"paradigm": "both"}, "unknown paradigm 'both'; there are: spatial, layer, channel, mix"),
        ({"paradigm": "mix", "mix": "spatial"}, "a mix ends in layer or channel, got 'spatial'"),
        ({"patches": (8, 4)}, "takes 4 patch sizes of at least 1, such as 8-4-2-1, got 8-4"),
        ({"patches": (8, 4, 2, 0)}, "got 8-4-2-0"),
        ({"paradigm": "channel", "group": 48}, "a group of channels that divides 64, got 48"),
        ({"paradigm": "channel", "group": 0}, "got 0"),
    ],
    ids=str,
)
def test_what_fits_no_network_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        net(**options)
