"""Histograms of activations and where ranges are clipped."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from engines.architecture import ResNet, Stage
from engines.bundle import Preprocessing
from engines.core import OperatingPoint, Paradigm, static_point
from engines.export.ranges import METHODS, Histogram, Method, observe
from engines.models.resnet import LaudResNet

pytestmark = pytest.mark.torch

PLAIN = Preprocessing(
    crop_ratio=1.0, channel_order="rgb", mean=(127.5, 127.5, 127.5), std=(64.0, 64.0, 64.0)
)
NET = ResNet(
    stem_width=4,
    stages=(
        Stage(depth=2, width=4, paradigm=Paradigm.SPATIAL, spatial_granularity=2),
        Stage(depth=1, width=4, paradigm=Paradigm.CHANNEL, channel_granularity=2),
    ),
    num_classes=2,
    folded=True,
)


def histogram(*parts: Tensor) -> Histogram:
    found = Histogram()
    for part in parts:
        found.add(part)
    return found


def noise(count: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    values: Tensor = torch.randn(count, generator=torch.Generator().manual_seed(seed)) * scale
    return values


# Histograms


def test_every_value_is_counted_once_as_the_range_grows() -> None:
    parts = [noise(1000, scale, i) for i, scale in enumerate([1.0, 0.1, 37.0, 5.0, 40.0])]
    found = histogram(*parts)
    assert found.counts.sum() == 5000
    values = torch.cat(parts).abs().numpy()
    assert found.largest == values.max()
    mean = found.counts @ found.middles / 5000
    assert mean == pytest.approx(values.mean(), rel=0.01)


def test_two_histograms_become_one() -> None:
    one, other = noise(1000, 1.0, 1), noise(1000, 100.0, 2)
    for both in (histogram(one).merged(histogram(other)), histogram(other).merged(histogram(one))):
        assert both.counts.sum() == 2000
        assert both.largest == torch.cat([one, other]).abs().max()
        assert both.range("percentile") == pytest.approx(
            histogram(other, one).range("percentile"), rel=0.01
        )


@pytest.mark.parametrize("method", METHODS)
def test_what_is_always_zero_still_has_a_scale(method: Method) -> None:
    assert histogram(torch.zeros(3, 4)).range(method) == 1.0
    assert histogram(torch.zeros(3)).merged(histogram(noise(9))).range("max") > 0


def test_the_maximum_is_exact() -> None:
    assert histogram(torch.tensor([0.1, -7.25, 3.0])).range("max") == 7.25


def test_a_percentile_leaves_one_in_ten_thousand_out() -> None:
    values = torch.cat([torch.rand(99_995), torch.full((5,), 50.0)])
    assert histogram(values).range("percentile") == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("steps", [255, 127])
def test_least_squares_clip_where_nothing_else_would_be_better(steps: int) -> None:
    values = noise(200_000).abs() ** 1.5
    found = histogram(values)

    def error(limit: float) -> float:
        scale = limit / steps
        rounded = torch.clamp(torch.round(values / scale), max=steps) * scale
        return float(((rounded - values).double() ** 2).sum())

    best = found.range("mse", steps)
    assert best < found.range("max")
    assert error(best) <= 1.02 * min(error(c * found.largest) for c in np.linspace(0.2, 1, 50))


# Observing a network


def observed(points: list[OperatingPoint]) -> dict[str, Histogram]:
    torch.manual_seed(0)
    model = LaudResNet(NET)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "masker_" in name:
                value.normal_()
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    ranges = observe(model, points, lambda size: images[:, :size, :size], PLAIN, lambda line: None)
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in model.modules()
    ), "it is still watched"
    return ranges._found


FULL = static_point("full", 32, 3)
SMALL = static_point("small", 24, 3)
NOTHING = OperatingPoint(
    name="nothing", image_size=32, thresholds=(1e30, 1e30, 1e30), caps=(None, None, None)
)


def test_every_tensor_that_is_rounded_is_seen_whole() -> None:
    found = observed([FULL])
    assert set(found) == {
        "stem",
        "features",
        *(f"layer{b}.{part}" for b in ("1.0", "2.0") for part in ("shortcut",)),
        *(f"layer{b}.{part}" for b in ("1.0", "1.1", "2.0") for part in ("inner1", "inner2")),
        *(f"layer{b}.output" for b in ("1.0", "1.1", "2.0")),
    }
    counts = {name: histogram.counts.sum() for name, histogram in found.items()}
    assert counts["stem"] == 20 * 8 * 8 * 4
    assert counts["layer1.0.output"] == 20 * 8 * 8 * 16
    assert counts["layer2.0.inner1"] == 20 * 8 * 8 * 4
    assert counts["layer2.0.inner2"] == 20 * 4 * 4 * 4
    assert counts["layer2.0.shortcut"] == 20 * 4 * 4 * 16
    assert counts["features"] == 20 * 16


def test_every_point_adds_what_it_makes() -> None:
    one, both = observed([FULL]), observed([FULL, SMALL])
    assert both["stem"].counts.sum() == one["stem"].counts.sum() * (1 + 6 * 6 / (8 * 8))
    skipped = observed([NOTHING])
    assert skipped["layer2.0.inner2"].largest == 0, "channels that are skipped are zero"
    assert one["layer2.0.inner2"].largest > 0


def test_the_trunk_has_one_scale_a_stage() -> None:
    torch.manual_seed(0)
    model = LaudResNet(NET)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    ranges = observe(model, [FULL], lambda size: images, PLAIN, lambda line: None)
    scales = ranges.scales("max")
    largest = [ranges._found[f"layer1.{i}.output"].largest for i in (0, 1)]
    assert scales["trunk"] == (
        max(largest) / 255,
        ranges._found["layer2.0.output"].largest / 255,
    )
    shortcuts = [block.shortcut for block in scales["blocks"]]
    assert shortcuts[0] == ranges._found["layer1.0.shortcut"].largest / 127
    assert shortcuts[1] is None
