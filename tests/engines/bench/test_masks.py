"""Masks to measure with: exactly as many units as asked, at random or in one place."""

from __future__ import annotations

import numpy as np
import pytest

from engines.architecture import MapSize, ResNet, Stage
from engines.bench.masks import BoolArray, MaskKind, draw_masks, fixed_masks
from engines.core import Paradigm
from engines.errors import InvalidInput

IMAGE = MapSize(224, 224)
DRAWN = (MaskKind.RANDOM, MaskKind.CLUSTERED)
RATES = (0.0, 0.1, 0.3, 0.5, 0.77, 1.0)


def patches(*sizes: int) -> ResNet:
    """Two blocks a stage; grids of 7x7 patches where sizes are 8, 4, 2, 1."""
    return ResNet(
        stages=tuple(
            Stage(depth=2, width=8, paradigm=Paradigm.SPATIAL, spatial_granularity=size)
            for size in sizes
        ),
        num_classes=2,
    )


def groups(group: int) -> ResNet:
    return ResNet(
        stages=(Stage(depth=3, width=64, paradigm=Paradigm.CHANNEL, channel_granularity=group),),
        num_classes=2,
    )


LAYERS = ResNet(stages=(Stage(depth=10, width=8, paradigm=Paradigm.LAYER),), num_classes=2)
SEVEN_BY_SEVEN = patches(8, 4, 2, 1)


def masks(
    net: ResNet, kind: MaskKind, rate: float, *, count: int = 3, seed: int = 0, size: int = 224
) -> tuple[BoolArray, ...]:
    rng = np.random.default_rng(seed)
    return draw_masks(net, MapSize(size, size), kind, count, rng).at(rate)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize(
    ("net", "size", "units"),
    [
        (SEVEN_BY_SEVEN, 224, [49] * 8),
        (patches(8, 4), 97, [16, 16, 16, 16]),
        (groups(4), 224, [16] * 3),
    ],
    ids=["patches", "ragged", "groups"],
)
def test_every_image_and_masker_has_exactly_the_rate(
    net: ResNet, size: int, units: list[int], kind: MaskKind, rate: float
) -> None:
    found = masks(net, kind, rate, size=size)
    assert [each.shape for each in found] == [(3, n) for n in units]
    for each, n in zip(found, units, strict=True):
        assert each.sum(axis=1).tolist() == [round(rate * n)] * 3


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", DRAWN)
def test_rate_of_layers_is_the_share_of_blocks_that_run(kind: MaskKind, rate: float) -> None:
    found = np.concatenate(masks(LAYERS, kind, rate), axis=1)
    assert found.shape == (3, 10)
    assert found.sum(axis=1).tolist() == [round(rate * 10)] * 3


def test_groups_as_wide_as_their_blocks_share_a_rate_too() -> None:
    found = np.concatenate(masks(groups(64), MaskKind.RANDOM, 0.67), axis=1)
    assert found.sum(axis=1).tolist() == [2] * 3


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("net", [SEVEN_BY_SEVEN, LAYERS, groups(4)], ids=["S", "layer", "G"])
def test_a_seed_draws_the_same_masks_and_another_seed_others(net: ResNet, kind: MaskKind) -> None:
    one, again, other = (masks(net, kind, 0.5, count=8, seed=seed) for seed in (1, 1, 2))
    assert all(map(np.array_equal, one, again))
    assert not all(map(np.array_equal, one, other))


@pytest.mark.parametrize("kind", DRAWN)
def test_images_of_a_batch_have_masks_of_their_own(kind: MaskKind) -> None:
    for each in masks(SEVEN_BY_SEVEN, kind, 0.5):
        assert len({row.tobytes() for row in each}) == 3


@pytest.mark.parametrize("kind", DRAWN)
def test_a_higher_rate_only_adds_units(kind: MaskKind) -> None:
    draw = draw_masks(SEVEN_BY_SEVEN, IMAGE, kind, 2, np.random.default_rng(0))
    for fewer, more in zip(draw.at(0.3), draw.at(0.6), strict=True):
        assert (fewer <= more).all()


def borders(units: BoolArray) -> float:
    """Share of neighbouring patches, on a 7x7 grid, of which only one is active."""
    grid = units.reshape(-1, 7, 7)
    return float(
        np.mean(
            np.concatenate(
                [
                    (grid[:, 1:] != grid[:, :-1]).ravel(),
                    (grid[:, :, 1:] != grid[:, :, :-1]).ravel(),
                ]
            )
        )
    )


def test_clustered_patches_hang_together_and_random_ones_do_not() -> None:
    scattered, clustered = (masks(SEVEN_BY_SEVEN, kind, 0.5, count=64)[0] for kind in DRAWN)
    assert borders(scattered) == pytest.approx(0.5, abs=0.03)
    assert borders(clustered) < 0.25


def test_clusters_are_in_the_same_place_in_every_block() -> None:
    first, *others = masks(SEVEN_BY_SEVEN, MaskKind.CLUSTERED, 0.4)
    for other in others:
        assert np.array_equal(first, other)


@pytest.mark.parametrize("net", [groups(4), LAYERS], ids=["groups", "layers"])
def test_clustered_groups_and_layers_are_one_run_in_a_ring(net: ResNet) -> None:
    found = masks(net, MaskKind.CLUSTERED, 0.4)
    rows = np.concatenate(found, axis=1) if net is LAYERS else found[0]
    for row in rows:
        assert (row & ~np.roll(row, 1)).sum() == 1


def test_fixed_masks_are_one_disc_for_every_image() -> None:
    found = fixed_masks(SEVEN_BY_SEVEN, IMAGE, 3).at(0.2)
    for each in found:
        assert each.sum(axis=1).tolist() == [round(0.2 * 49)] * 3
        assert (each == each[0]).all()
        assert each[0].reshape(7, 7)[2:5, 2:5].all()


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(InvalidInput, match="rate must be 0 to 1"):
        masks(SEVEN_BY_SEVEN, MaskKind.RANDOM, rate)


def test_trained_masks_cannot_be_drawn() -> None:
    with pytest.raises(InvalidInput, match="decided by the network"):
        masks(SEVEN_BY_SEVEN, MaskKind.TRAINED, 0.5)
