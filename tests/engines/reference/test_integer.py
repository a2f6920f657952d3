"""The integer reference: a case worked out by hand, the float reference, and what skipping keeps.

Needs torch only where it is held against the float reference.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engines.architecture import MapSize, ResNet, Stage
from engines.bundle import BlockScales, Bundle, Preprocessing, Quantisation
from engines.core import OperatingPoint, Output, Paradigm, UInt8Array, static_point
from engines.errors import BundleError, CheckpointError, EngineError, InvalidInput
from engines.macs import masker_units, static_macs
from engines.reference import integer
from engines.reference.integer import IntegerReference
from tests.engines.int8 import (
    STAGES,
    bundle_of,
    full,
    net_of,
    noise,
    quantisation,
    random_weights,
)

Weights = dict[str, npt.NDArray[np.generic]]

PLAIN = Preprocessing(
    crop_ratio=1.0, channel_order="rgb", mean=(127.5, 127.5, 127.5), std=(64.0, 64.0, 64.0)
)


def point(
    net: ResNet, size: int, threshold: float | None, cap: int | None = None
) -> OperatingPoint:
    n = len(net.maskers)
    return OperatingPoint(
        name="some", image_size=size, thresholds=(threshold,) * n, caps=(cap,) * n
    )


def scores_of(output: Output) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = output.arrays["scores"].astype(np.float32)
    return found


# Worked out by hand: one pixel, one inner channel, every number a fraction of a power of two

ONE = 127 / 128
HAND = ResNet(
    stem_width=1,
    stages=(Stage(depth=1, width=1, paradigm=Paradigm.LAYER),),
    num_classes=2,
    folded=True,
)


def hand_weights() -> Weights:
    def centre(size: int, inputs: Sequence[float]) -> npt.NDArray[np.float64]:
        kernel = np.zeros((1, len(inputs), size, size))
        kernel[0, :, size // 2, size // 2] = inputs
        return kernel

    def columns(*values: float) -> npt.NDArray[np.float64]:
        return np.array(values)[:, None, None, None]

    weights = {
        "conv1.weight": centre(7, [ONE, 0, 0]),
        "conv1.bias": [0.0],
        "layer1.0.conv1.weight": columns(ONE / 2),
        "layer1.0.conv1.bias": [0.5],
        # Taps beside the centre meet zeros around the map, whatever they are.
        "layer1.0.conv2.weight": np.where(centre(3, [1]) == 1, ONE, -ONE),
        "layer1.0.conv2.bias": [0.0],
        "layer1.0.conv3.weight": columns(2 * ONE, -2 * ONE, ONE, 0),
        "layer1.0.conv3.bias": [0.25, 0, 0, 0.5],
        "layer1.0.downsample.0.weight": columns(ONE, ONE, -ONE, 2 * ONE),
        "layer1.0.downsample.0.bias": [0, 0, 0, -1],
        "layer1.0.masker_spatial.mean": [0.0],
        "layer1.0.masker_spatial.std": [1.0],
        "layer1.0.masker_spatial.weight": [1.0],
        "fc.weight": [[ONE, 0, 0, -ONE], [0, 0, 0, ONE / 2]],
        "fc.bias": [1, -0.75],
    }
    return {name: np.array(value, np.float32) for name, value in weights.items()}


HAND_SCALES = Quantisation(
    stem=1.0,
    trunk=(1.0,),
    blocks=(BlockScales(inner1=0.5, inner2=2.0, shortcut=0.5),),
    features=0.5,
    points=(full(HAND, 1),),
    calibration=quantisation(HAND).calibration,
)


@pytest.mark.parametrize(
    ("threshold", "scores", "active"),
    [
        # The stem: 127 * 128 / 128 - 64 * 127 / 128 = 63.5, to the even 64. The mean of the map is
        # 64, so that the masker's logit is 5, where it is clipped.
        # Active: conv1 63.5 + 1 -> 64, conv2 15.875 -> 16, conv3 63.5, -63.5, 31.75 and 0; the
        # shortcut has 127 + 128 = 255, 255, -127 + 128 = 1 and 254 - 2 + 128 -> 255, in halves.
        # Together 63.5 + .25 + 63.5 -> 127, 0, 31.75 - 63.5 -> 0 and .5 + 63.5 = 64.
        # Features 254, 0, 0 and 128.
        (5.0, [127 * (254 - 128) / 256 + 1, 127 * 128 / 512 - 0.75], 1.0),
        # Skipped: 63.5 -> 64, 64, -63.5 -> 0 and 127 - 1 = 126; features 128, 128, 0 and 252.
        (5.0001, [127 * (128 - 252) / 256 + 1, 127 * 252 / 512 - 0.75], 0.0),
    ],
    ids=["active", "skipped"],
)
def test_a_case_worked_out_by_hand(threshold: float, scores: list[float], active: float) -> None:
    preprocessing = Preprocessing(
        crop_ratio=1.0, channel_order="rgb", mean=(64.0, 9.0, 9.0), std=(1.0, 1.0, 1.0)
    )
    engine = IntegerReference(bundle_of(HAND, hand_weights(), HAND_SCALES, preprocessing))
    image = np.array([[[[128, 200, 201]]]], np.uint8)
    found = engine.infer(image, [point(HAND, 1, threshold)])
    assert scores_of(found)[0].tolist() == scores
    assert found.activation.tolist() == [[active]]
    shares = np.exp(np.array(scores) - max(scores))
    assert found.arrays["probabilities"].dtype == np.float32
    np.testing.assert_allclose(found.arrays["probabilities"][0], shares / shares.sum(), atol=1e-7)


def test_the_channels_of_a_bgr_network_are_reversed() -> None:
    """Blue takes the weight of the first channel, and the image stays RGB."""
    preprocessing = Preprocessing(
        crop_ratio=1.0, channel_order="bgr", mean=(64.0, 9.0, 9.0), std=(1.0, 1.0, 1.0)
    )
    engine = IntegerReference(bundle_of(HAND, hand_weights(), HAND_SCALES, preprocessing))
    found = engine.infer(np.array([[[[3, 4, 128]]]], np.uint8), [point(HAND, 1, 5.0)])
    assert scores_of(found)[0].tolist() == [127 * 126 / 256 + 1, 127 * 128 / 512 - 0.75]


def test_lanes_are_summed_apart_and_rounded_at_every_step() -> None:
    """Sixteen lanes; in one sum from left to right the small ones would be lost."""
    row = np.zeros((1, 40), np.float32)
    row[0, [0, 16, 32]] = 1.0, 2.0**-24, 2.0**-24
    row[0, 1] = 2.0**-24
    row[0, 17] = 2.0**-24
    ones = np.ones((1, 40), np.float32)
    # Lane 0 loses its small ones, lane 1 keeps both: 1 + 2^-23.
    assert integer._dot(row, ones)[0, 0] == np.float32(1 + 2.0**-23)


# Against the float reference


def calibrated(net: ResNet, weights: Weights, images: UInt8Array, seed: int = 0) -> Bundle:
    """A bundle whose scales fit what its activations are on these images."""
    pytest.importorskip("torch")
    from engines.export.ranges import observe
    from engines.models.checkpoints import load_strictly
    from engines.models.resnet import LaudResNet

    model = LaudResNet(net)
    load_strictly(model, weights)
    size = images.shape[1]
    still = static_point("full", size, len(net.maskers))
    ranges = observe(model, [still], lambda size: images, PLAIN, lambda line: None)
    scales = quantisation(net, size).model_copy(update=ranges.scales("max"))
    return bundle_of(net, weights, scales, PLAIN)


CASES = [
    *((name, pool, early, 31) for name in STAGES for pool, early in [("padded", False)]),
    *(("joint", pool, early, 40) for pool, early in [("trailing", True), ("trailing", False)]),
    ("spatial", "padded", True, 33),
    ("channel", "trailing", False, 8),
    ("spatial", "trailing", True, 1),
]


@pytest.mark.torch
@pytest.mark.parametrize(("stages", "pool", "early", "size"), CASES)
def test_it_is_near_the_float_reference(stages: str, pool: Any, early: bool, size: int) -> None:
    """Every paradigm, both strides and pools, ragged maps: within a few quanta of 8 bits."""
    pytest.importorskip("torch")
    from engines.reference.engine import ReferenceEngine

    net = net_of(stages, stages, stem_pool=pool, stride_in_1x1=early)
    weights, images = random_weights(net), noise(8, size)
    bundle = calibrated(net, weights, images)
    with ReferenceEngine.from_bundle(bundle) as floats, IntegerReference(bundle) as integers:
        for chosen in (static_point("full", size, len(net.maskers)), point(net, size, 0.0)):
            points = [chosen] * len(images)
            wanted = floats.infer(images, points)
            found = integers.infer(images, points)
            # A logit near its threshold may fall on the other side.
            same = (found.activation == wanted.activation).all(axis=1)
            assert same.sum() >= len(images) / 4
            np.testing.assert_array_equal(found.macs[same], wanted.macs[same])
            logs = centred(np.log(wanted.arrays["probabilities"][same].astype(np.float64)))
            gap = centred(scores_of(found)[same].astype(np.float64)) - logs
            assert np.abs(gap).mean() < 0.08 * logs.std()


def centred(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Per image: softmax does not know their sum."""
    shifted: npt.NDArray[np.float64] = scores - scores.mean(axis=1, keepdims=True)
    return shifted


@pytest.mark.torch
@pytest.mark.parametrize("stages", ["spatial", "channel", "layer", "joint"])
@pytest.mark.parametrize("cap", [0, 1, 2, 10**9])
def test_a_cap_decides_as_everywhere_among_its_own_logits(stages: str, cap: int) -> None:
    """Higher logits first, ties to the lower index: what `engines.models.masks.decide` says."""
    torch = pytest.importorskip("torch")
    from engines.models.masks import decide

    rng = np.random.default_rng(cap % 7)
    net = net_of(stages)
    engine = IntegerReference(bundle_of(net, random_weights(net), quantisation(net), PLAIN))
    size = MapSize(32, 32)
    for threshold, few in itertools.product((None, 0.0, 2.0), (True, False)):
        logits = rng.integers(-1, 3, 12) if few else rng.normal(size=12)
        one = integer.IntegerPass(engine._integers, size, point(net, 32, threshold, cap), None)
        found, asked = one.decide(logits.astype(np.float32))
        wanted = decide(
            torch.tensor(logits[None], dtype=torch.float32),
            torch.tensor([-float("inf") if threshold is None else threshold]),
            torch.tensor([cap]),
        )
        np.testing.assert_array_equal(found, wanted[0].bool().numpy())
        assert asked == 1.0


# What skipping keeps


def units_of(net: ResNet, size: int) -> list[int]:
    sizes = net.block_sizes(MapSize(size, size))
    return [masker_units(net.blocks[m.block], sizes[m.block][1], m.kind) for m in net.maskers]


def decided(net: ResNet, size: int, count: int, active: bool) -> list[npt.NDArray[np.bool_]]:
    return [np.full((count, units), active) for units in units_of(net, size)]


@pytest.mark.parametrize("stages", ["spatial", "layer"])
@pytest.mark.parametrize("size", [1, 17, 32])
def test_skipped_pixels_keep_their_bytes(stages: str, size: int) -> None:
    """Block by block: what a block without projection skips comes out as it went in."""
    net = net_of(stages)
    engine = IntegerReference(bundle_of(net, random_weights(net), quantisation(net), PLAIN))
    rng = np.random.default_rng(0)
    decisions = [rng.integers(0, 2, units).astype(np.uint8) for units in units_of(net, size)]
    block, (size_in, _) = net.blocks[1], net.block_sizes(MapSize(size, size))[1]
    x = rng.integers(0, 256, (size_in.height, size_in.width, block.in_channels)).astype(np.uint8)
    one = integer.IntegerPass(
        engine._integers, MapSize(size, size), point(net, size, 0.0), decisions
    )
    one.activation.append(1.0)
    scales = quantisation(net)
    y = one._block(x, scales.trunk[0], block, scales.blocks[1])
    patch = block.granularity.spatial
    grid = size_in.patches(patch)
    kept = ~integer.expand(decisions[1].astype(bool), grid, patch, size_in)
    np.testing.assert_array_equal(y[kept], x[kept])
    assert kept.all() or (y[~kept] != x[~kept]).any()


def test_a_network_that_skips_all_is_its_shortcuts() -> None:
    """Weights of the residual branches do not matter then, to the last bit."""
    net = net_of("spatial", "layer")
    weights, images = random_weights(net), noise(2, 32)
    other = {
        name: np.multiply(value, 0.5) if ".conv" in name else value
        for name, value in weights.items()
    }
    answers = [
        scores_of(
            IntegerReference(bundle_of(net, each, quantisation(net), PLAIN)).infer(
                images, [point(net, 32, None)] * 2, decided(net, 32, 2, active)
            )
        )
        for each in (weights, other)
        for active in (False, True)
    ]
    np.testing.assert_array_equal(answers[0], answers[2])
    assert (answers[1] != answers[3]).all()


def test_skipped_channels_are_exactly_zero() -> None:
    """Whatever the weights that make them and that read them."""
    net = net_of("channel")
    weights, images = random_weights(net), noise(2, 32)
    decisions = decided(net, 32, 2, True)
    for units in decisions:
        units[:, 1] = False
    engine = IntegerReference(bundle_of(net, weights, quantisation(net), PLAIN))
    wanted = scores_of(engine.infer(images, [point(net, 32, 0.0)] * 2, decisions))
    # Rows of the first two convolutions may be anything; scales per channel keep others as are.
    changed = {name: np.array(value) for name, value in weights.items()}
    for block in net.blocks:
        for conv in ("conv1", "conv2"):
            changed[f"{block.name}.{conv}.weight"][2:4] *= -3
            changed[f"{block.name}.{conv}.bias"][2:4] += 7
    engine = IntegerReference(bundle_of(net, changed, quantisation(net), PLAIN))
    found = scores_of(engine.infer(images, [point(net, 32, 0.0)] * 2, decisions))
    np.testing.assert_array_equal(found, wanted)


# Points and decisions


def test_every_active_decision_is_the_static_network() -> None:
    net = net_of("joint", "layer")
    engine = IntegerReference(bundle_of(net, random_weights(net), quantisation(net), PLAIN))
    images = noise(2, 32)
    still = engine.infer(images, [static_point("full", 32, len(net.maskers))] * 2)
    forced = engine.infer(images, [point(net, 32, 1e30)] * 2, decided(net, 32, 2, True))
    assert forced.arrays["decisions"].shape == (2, sum(units_of(net, 32)))
    assert forced.arrays["decisions"].all()
    np.testing.assert_array_equal(scores_of(still), scores_of(forced))
    assert still.macs.tolist() == [static_macs(net, MapSize(32, 32))] * 2
    assert (forced.macs > still.macs).all(), "maskers that were asked cost something"


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    net = net_of("joint", "channel")
    engine = IntegerReference(bundle_of(net, random_weights(net), quantisation(net), PLAIN))
    images = noise(3, 20)
    points = [point(net, 20, 0.0), static_point("full", 20, len(net.maskers)), point(net, 20, 0.5)]
    together = engine.infer(images, points)
    for i in range(3):
        alone = engine.infer(images[i : i + 1], points[i : i + 1])
        np.testing.assert_array_equal(scores_of(alone)[0], scores_of(together)[i])
        np.testing.assert_array_equal(alone.activation[0], together.activation[i])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d[:-1], "2 maskers need as many decisions, got 1"),
        (lambda d: [d[0], d[1][:1]], r"'layer1\.1\.spatial' must be .* shape \(2, 9\), got bool"),
        (lambda d: [d[0].astype(np.int64), d[1]], r"'layer1\.0\.spatial' must be .* got int64"),
    ],
)
def test_decisions_that_fit_no_masker_are_refused(change: Any, says: str) -> None:
    net = net_of("spatial")
    engine = IntegerReference(bundle_of(net, random_weights(net), quantisation(net), PLAIN))
    with pytest.raises(InvalidInput, match=says):
        engine.infer(noise(2, 32), [point(net, 32, 0.0)] * 2, change(decided(net, 32, 2, True)))


# Refusals


def test_a_bundle_without_scales_is_refused() -> None:
    net = net_of("static")
    with pytest.raises(BundleError, match=r"'int8\.laud' has no int8 scales"):
        IntegerReference(bundle_of(net, random_weights(net), None))


def test_a_tensor_that_is_not_finite_is_named() -> None:
    net = net_of("spatial")
    weights = random_weights(net)
    weights["layer1.1.masker_spatial.weight"][2] = np.nan
    with pytest.raises(CheckpointError, match=r"'layer1\.1\.masker_spatial\.weight'"):
        IntegerReference(bundle_of(net, weights, quantisation(net)))


def test_a_closed_one_answers_no_more() -> None:
    net = net_of("static")
    with IntegerReference(bundle_of(net, random_weights(net), quantisation(net))) as engine:
        pass
    with pytest.raises(EngineError, match="closed"):
        engine.infer(noise(1, 32), [static_point("full", 32, 0)])


def test_it_needs_no_torch() -> None:
    code = "import sys; import engines.reference.integer; sys.exit('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[3]
    assert subprocess.run(command, cwd=root, timeout=60, check=False).returncode == 0
