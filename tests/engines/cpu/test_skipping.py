"""Skipping is real: what is skipped is not read, and what is not computed is left as it was.

A weight that is NaN turns every sum that it takes part in to NaN, even where it meets a zero. In
int8 there is no NaN: there, weights that are not read may be any others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from engines.architecture import ResNet
from engines.core import Float32Array, Paradigm
from tests.engines.cpu.cases import (
    BF16_ISAS,
    FP32_ISAS,
    KERNELS,
    bundle,
    load,
    net_of,
    pictures,
    point,
    stage,
    units,
)
from tests.engines.int8 import random_weights

Weights = dict[str, npt.NDArray[np.generic]]
Decisions = list[npt.NDArray[np.bool_]]

SIZE = 33
IMAGES = pictures(3, SIZE)
GROUP = 64
"""Whole vectors and whole steps of inputs for every kernel."""

FLOATS = tuple(("fp32", isa) for isa in FP32_ISAS) + tuple(("bf16", isa) for isa in BF16_ISAS)
kernels = pytest.mark.parametrize(("precision", "isa"), KERNELS)
floats = pytest.mark.parametrize(("precision", "isa"), FLOATS)

LAYERS = net_of(stage(Paradigm.LAYER, 8, depth=3), stage(Paradigm.LAYER, 12, depth=2))
GROUPS = net_of(stage(Paradigm.CHANNEL, 3 * GROUP, depth=2, group=GROUP), stem_width=8)
PATCHES = net_of(stage(Paradigm.SPATIAL, 8, depth=3, patch=2))


def scores(
    net: ResNet, weights: Weights, decisions: Decisions, precision: str, isa: str
) -> Float32Array:
    """Of as many images as the decisions are for."""
    count = len(decisions[0])
    points = [point([None] * len(net.maskers), size=SIZE)] * count
    source = bundle(net, weights=weights, scaled=precision == "int8")
    with load(source, isa=isa, precision=precision, threads=2) as engine:
        found = engine.infer(IMAGES[:count], points, decisions)
    answer: Float32Array = found.arrays["scores"].astype(np.float32)
    return answer


def spoiled(weights: Weights, prefix: str, precision: str) -> Weights:
    """The branch of a block is NaN, or in int8 random; its projection and maskers stay."""
    rng = np.random.default_rng(5)
    return {
        name: value
        if not name.startswith(f"{prefix}.conv")
        else np.full_like(value, np.nan)
        if precision != "int8"
        else rng.normal(size=value.shape).astype(np.float32)
        for name, value in weights.items()
    }


# Layers


@kernels
@pytest.mark.parametrize("skipped", [0, 1, 2, 3, 4])
def test_the_weights_of_a_skipped_block_are_not_read(
    precision: str, isa: str, skipped: int
) -> None:
    """The first block of either stage has a projection, which is computed all the same."""
    weights = random_weights(LAYERS)
    decisions: Decisions = [np.full((3, 1), block != skipped) for block in range(5)]
    wanted = scores(LAYERS, weights, decisions, precision, isa)
    assert np.isfinite(wanted).all()
    bad = spoiled(weights, LAYERS.blocks[skipped].name, precision)
    assert scores(LAYERS, bad, decisions, precision, isa).tobytes() == wanted.tobytes()


@kernels
def test_they_are_read_where_one_image_of_the_batch_wants_the_block(
    precision: str, isa: str
) -> None:
    """And touch that image alone."""
    weights = random_weights(LAYERS)
    decisions: Decisions = [np.ones((3, 1), bool) for _ in range(5)]
    decisions[1][[0, 2]] = False
    wanted = scores(LAYERS, weights, decisions, precision, isa)
    bad = spoiled(weights, "layer1.1", precision)
    found = scores(LAYERS, bad, decisions, precision, isa)
    assert [a.tobytes() == b.tobytes() for a, b in zip(found, wanted, strict=True)] == [
        True,
        False,
        True,
    ]


# Patches


@kernels
@pytest.mark.parametrize("net", [PATCHES, LAYERS], ids=["patches", "layers"])
def test_a_block_without_active_pixels_is_its_shortcut(
    precision: str, isa: str, net: ResNet
) -> None:
    """As if its branch ended in zeros: identity leaves every bit of the trunk."""
    weights = random_weights(net)
    decisions: Decisions = [np.ones((3, n), bool) for n in units(net, SIZE)]
    decisions[1][:] = False
    found = scores(net, weights, decisions, precision, isa)
    zero = dict(weights)
    for part in ("weight", "bias"):
        zero[f"layer1.1.conv3.{part}"] = np.zeros_like(weights[f"layer1.1.conv3.{part}"])
    decisions[1][:] = True
    assert found.tobytes() == scores(net, zero, decisions, precision, isa).tobytes()


@kernels
def test_nothing_active_reads_no_branch_at_all(precision: str, isa: str) -> None:
    weights = random_weights(PATCHES)
    decisions: Decisions = [np.zeros((2, n), bool) for n in units(PATCHES, SIZE)]
    wanted = scores(PATCHES, weights, decisions, precision, isa)
    for block in PATCHES.blocks:
        weights = spoiled(weights, block.name, precision)
    assert scores(PATCHES, weights, decisions, precision, isa).tobytes() == wanted.tobytes()
    assert np.isfinite(wanted).all()


@floats
@pytest.mark.parametrize(
    ("patch", "active"), [(1, [81, 1, 80, 77, 72]), (2, [25, 1, 24, 21, 21])], ids=["1", "2"]
)
def test_a_spoilt_pixel_reaches_its_neighbours_only(
    precision: str, isa: str, patch: int, active: list[int]
) -> None:
    """A patch of NaN in the corner of a map of 9x9, followed by the maskers of later blocks.

    A logit that is NaN is not active, so that activation counts the patches that were spoilt: first
    the one that was written, then one pixel further around it per block. Patches of two pixels
    whose first pixel is spoilt are skipped whole, and shield those behind them. Had a block written
    or read one pixel too many, the count would be another.
    """
    net = net_of(stage(Paradigm.SPATIAL, 8, depth=5, patch=patch))
    weights = spoiled(random_weights(net), "layer1.1", precision)
    # All logits are equal, so that under a cap the first patch is active.
    masker = "layer1.1.masker_spatial.weight"
    weights[masker] = np.zeros_like(weights[masker])
    at = point([None, None, -1e9, -1e9, -1e9], [None, 1, None, None, None], size=SIZE)
    source = bundle(net, weights=weights)
    for threads in (1, 2):
        with load(source, isa=isa, precision=precision, threads=threads) as engine:
            found = engine.infer(IMAGES[:1], [at]).activation[0]
        np.testing.assert_allclose(found * active[0], active, rtol=1e-6)


# Channel groups


@kernels
@pytest.mark.parametrize("active", [[0], [1], [2], [0, 2], [0, 1, 2], []], ids=str)
def test_weights_of_inactive_groups_are_not_read(
    precision: str, isa: str, active: list[int]
) -> None:
    """Neither as outputs of the first and second convolution, nor as inputs of the next."""
    weights = random_weights(GROUPS)
    mask = np.zeros((2, 3), bool)
    mask[:, active] = True
    decisions: Decisions = [mask, mask]
    wanted = scores(GROUPS, weights, decisions, precision, isa)
    assert np.isfinite(wanted).all()
    bad = _spoiled_groups(weights, [g for g in range(3) if g not in active], precision)
    assert scores(GROUPS, bad, decisions, precision, isa).tobytes() == wanted.tobytes()


@kernels
def test_groups_differ_per_image(precision: str, isa: str) -> None:
    """What one image skips, another computes."""
    weights = random_weights(GROUPS)
    mask = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0]], bool)
    decisions: Decisions = [mask, mask]
    wanted = scores(GROUPS, weights, decisions, precision, isa)
    bad = _spoiled_groups(weights, [1, 2], precision)
    found = scores(GROUPS, bad, decisions, precision, isa)
    assert [a.tobytes() == b.tobytes() for a, b in zip(found, wanted, strict=True)] == [
        True,
        False,
        True,
    ]


@kernels
def test_no_active_group_leaves_the_bias_of_the_last_convolution(precision: str, isa: str) -> None:
    """Its inputs are zeros then; pixels are active, so that the bias is added."""
    weights = random_weights(GROUPS)
    none: Decisions = [np.zeros((2, 3), bool)] * 2
    found = scores(GROUPS, weights, none, precision, isa)
    zero = dict(weights)
    for block in GROUPS.blocks:
        # In int8 the scale of a row of zeros is 1: its bias is the same.
        name = f"{block.name}.conv3.weight"
        zero[name] = np.zeros_like(weights[name])
    everything: Decisions = [np.ones((2, 3), bool)] * 2
    assert found.tobytes() == scores(GROUPS, zero, everything, precision, isa).tobytes()


def _spoiled_groups(weights: Weights, groups: list[int], precision: str) -> Weights:
    """Rows of conv1 and conv2 and columns of conv2 and conv3 that belong to these groups.

    In int8 they change their signs, since other magnitudes would change the scale of a row.
    """
    found = dict(weights)
    for block in GROUPS.blocks:
        for layer, axes in (("conv1", (0,)), ("conv2", (0, 1)), ("conv3", (1,))):
            value = np.array(weights[f"{block.name}.{layer}.weight"], np.float32)
            for axis in axes:
                for g in groups:
                    part = [slice(None)] * value.ndim
                    part[axis] = slice(g * GROUP, (g + 1) * GROUP)
                    value[tuple(part)] *= -1.0 if precision == "int8" else np.nan
            found[f"{block.name}.{layer}.weight"] = value
    return found
