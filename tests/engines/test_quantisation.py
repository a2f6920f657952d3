"""From floats to the integers of int8: rounding, scales, the folded normalisation, refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.architecture import ResNet, Stage
from engines.bundle import BlockScales, Preprocessing, Quantisation
from engines.core import Float32Array, Paradigm
from engines.errors import CheckpointError, InvalidInput
from engines.quantisation import QuantisedLayer, quantise_network, stem_border
from tests.engines.int8 import PREPROCESSING, quantisation, random_weights

NET = ResNet(
    stem_width=4,
    stages=(
        Stage(depth=2, width=3),
        Stage(depth=1, width=4, paradigm=Paradigm.CHANNEL, channel_granularity=2),
    ),
    num_classes=5,
    folded=True,
)
SCALES = quantisation(NET)
TRUNK = SCALES.trunk[0]


def layers(**changes: Any) -> dict[str, QuantisedLayer]:
    """The network's layers, with some tensors replaced."""
    return quantise_network(NET, {**random_weights(NET), **changes}, SCALES, PREPROCESSING)


def rounded(weight: Float32Array) -> QuantisedLayer:
    """A layer of four outputs and one weight per input, as the second block's first."""
    return layers(**{"layer1.1.conv1.weight": weight[:, :, None, None]})["layer1.1.conv1"]


def first_of_block(row: list[float]) -> Float32Array:
    weight = np.zeros((3, 12), np.float32)
    weight[0, : len(row)] = row
    return weight


# Weights


def test_each_output_channel_uses_its_range_to_the_full() -> None:
    weight = random_weights(NET)["layer1.1.conv1.weight"][:, :, 0, 0].astype(np.float32)
    layer = rounded(weight)
    assert layer.weight.dtype == np.int8
    assert layer.weight.shape == (3, 12, 1, 1)
    step = steps(weight)
    np.testing.assert_allclose(
        layer.weight[:, :, 0, 0] * step[:, None], weight, atol=step.max() * 1.001
    )
    quanta = layer.weight[:, :, 0, 0].astype(int)
    pairs = np.abs(quanta[:, 0::2] + quanta[:, 1::2]).max(axis=1)
    assert all((np.abs(quanta).max(axis=1) == 127) | (pairs == 128))


def test_two_neighbours_together_stay_below_what_16_bits_hold() -> None:
    """They meet two activations of 255 in one 16-bit sum on CPUs without dot products."""
    layer = rounded(first_of_block([1.0, 1.0, -1.0, -1.0, 1.0, -1.0]))
    assert layer.weight[0, :6, 0, 0].tolist() == [64, 64, -64, -64, 64, -64]
    # Their sum is 128.0 steps, but each half rounds up: the larger of the two gives one back.
    layer = rounded(first_of_block([64.5, 63.5, 0.0, 0.0, -63.5, -64.5]))
    assert layer.weight[0, :6, 0, 0].tolist() == [64, 64, 0, 0, -64, -64]
    layer = rounded(first_of_block([65.5, 62.5, 0.0, 0.0, -61.5, -66.5]))
    assert layer.weight[0, :6, 0, 0].tolist() == [66, 62, 0, 0, -62, -66]
    layer = rounded(first_of_block([66.6, 61.6, 0.0, 0.0, -61.6, -66.6]))
    assert sum(layer.weight[0, :2, 0, 0].tolist()) == 128
    assert sum(layer.weight[0, 4:6, 0, 0].tolist()) == -128


@pytest.mark.parametrize("seed", range(5))
def test_no_pair_of_any_layer_exceeds_the_limit(seed: int) -> None:
    """Neighbours are channels; in the stem they follow each other in a row of pixels."""
    rng = np.random.default_rng(seed)
    even = {
        name: rng.choice([1.0, -1.0, 0.504, 0.496, 0.502], value.shape).astype(np.float32)
        for name, value in random_weights(NET).items()
        if name.endswith(".weight") and ".masker_" not in name
    }
    for name, layer in layers(**even).items():
        quanta = layer.weight.astype(int)
        if name == "conv1":
            quanta = quanta.transpose(0, 3, 1, 2).reshape(len(quanta), 21, 7)
        whole = quanta.shape[1] // 2 * 2
        pairs = quanta[:, 0:whole:2] + quanta[:, 1:whole:2]
        assert np.abs(pairs).max() == 128, name


def test_halves_go_to_the_even_number() -> None:
    layer = rounded(first_of_block([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]))
    assert layer.weight[0, :8, 0, 0].tolist() == [127, 0, 2, 2, 0, -2, -2, 126]


def steps(weight: Float32Array) -> Float32Array:
    """The scale per output channel of (out, in, ...) weights that are no stem's."""
    whole = weight.shape[1] // 2 * 2
    pairs = np.abs(weight[:, 0:whole:2] + weight[:, 1:whole:2]).reshape(len(weight), -1)
    single = np.abs(weight).reshape(len(weight), -1).max(axis=1) / np.float32(127)
    step: Float32Array = np.maximum(single, pairs.max(axis=1) / np.float32(128))
    return step


@pytest.mark.parametrize("tiny", [0.0, 1e-45, 1e-40])
def test_a_channel_of_nothing_is_zero_or_clamped_but_finite(tiny: float) -> None:
    layer = rounded(first_of_block([tiny, -tiny]))
    assert np.isfinite(layer.scale).all()
    assert not layer.weight[1].any()
    assert np.abs(layer.weight.astype(int)).max() <= 127
    assert layer.scale[1] == np.float32(TRUNK / SCALES.blocks[1].inner1)


def test_16_bit_weights_are_widened_first() -> None:
    half = {name: value.astype(np.float16) for name, value in random_weights(NET).items()}
    wide = {name: value.astype(np.float32) for name, value in half.items()}
    for one, other in zip(
        quantise_network(NET, half, SCALES, PREPROCESSING).values(),
        quantise_network(NET, wide, SCALES, PREPROCESSING).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(one.weight, other.weight)
        np.testing.assert_array_equal(one.scale, other.scale)
        np.testing.assert_array_equal(one.bias, other.bias)


# Layers


def test_layers_are_those_of_the_network_in_order() -> None:
    assert list(layers()) == [
        "conv1",
        *("layer1.0.conv1", "layer1.0.conv2", "layer1.0.conv3"),
        *("layer1.0.downsample.0", "layer1.0.downsample.0:skipped"),
        *("layer1.1.conv1", "layer1.1.conv2", "layer1.1.conv3"),
        *("layer2.0.conv1", "layer2.0.conv2", "layer2.0.conv3"),
        *("layer2.0.downsample.0", "layer2.0.downsample.0:skipped"),
        "fc",
    ]
    assert layers()["fc"].weight.shape == (5, 16)


def expected(
    name: str, scale_in: float, scale_out: float, add: float = 0.0
) -> tuple[Float32Array, Float32Array]:
    weights = random_weights(NET)
    step = steps(weights[f"{name}.weight"].astype(np.float32))
    bias = weights[f"{name}.bias"].astype(np.float64)
    return (
        (step.astype(np.float64) * scale_in / scale_out).astype(np.float32),
        (bias / scale_out + add).astype(np.float32),
    )


FIRST, SECOND, LAST = SCALES.blocks
SHORTCUT = FIRST.shortcut or 0.0
STEP = SHORTCUT / TRUNK


@pytest.mark.parametrize(
    ("name", "scales", "residual"),
    [
        ("layer1.0.conv1", (SCALES.stem, FIRST.inner1), 0.0),
        ("layer1.0.conv2", (FIRST.inner1, FIRST.inner2), 0.0),
        ("layer1.0.conv3", (FIRST.inner2, TRUNK, -128 * STEP), float(np.float32(STEP))),
        ("layer1.0.downsample.0", (SCALES.stem, SHORTCUT, 128.0), 0.0),
        ("layer1.0.downsample.0:skipped", (SCALES.stem, TRUNK), 0.0),
        ("layer1.1.conv1", (TRUNK, SECOND.inner1), 0.0),
        ("layer1.1.conv3", (SECOND.inner2, TRUNK), 1.0),
        ("layer2.0.conv1", (TRUNK, LAST.inner1), 0.0),
        ("layer2.0.conv3", (LAST.inner2, SCALES.trunk[1]), None),
        ("fc", (SCALES.features, 1.0), 0.0),
    ],
)
def test_a_layer_goes_from_the_scale_before_it_to_its_own(
    name: str, scales: tuple[float, ...], residual: float | None
) -> None:
    layer = layers()[name]
    if residual is None:
        assert layer.residual == float(np.float32((LAST.shortcut or 0.0) / SCALES.trunk[1]))
        scales = (*scales, -128 * ((LAST.shortcut or 0.0) / SCALES.trunk[1]))
    else:
        assert layer.residual == residual
    scale, bias = expected(name.removesuffix(":skipped"), *scales)
    np.testing.assert_allclose(layer.scale, scale, rtol=2e-7)
    np.testing.assert_allclose(layer.bias, bias, rtol=2e-7)


def test_a_projection_has_one_weight_for_both_ends() -> None:
    found = layers()
    both = found["layer2.0.downsample.0"], found["layer2.0.downsample.0:skipped"]
    assert both[0].weight is both[1].weight


# The stem


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_the_stem_takes_raw_bytes_in_rgb_order(order: Any) -> None:
    """Its integers say about the same of an image as the float convolution of normalised values."""
    preprocessing = PREPROCESSING.model_copy(update={"channel_order": order})
    weights = random_weights(NET)
    stem = quantise_network(NET, weights, SCALES, preprocessing)["conv1"]
    patch = np.random.default_rng(1).integers(0, 256, (7, 7, 3))
    values = patch if order == "rgb" else patch[:, :, ::-1]
    normalised = (values - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    wanted = np.einsum("ocij,ijc->o", weights["conv1.weight"].astype(float), normalised)
    wanted += weights["conv1.bias"].astype(float)
    sums = np.einsum("ocij,ijc->o", stem.weight.astype(int), patch)
    found = (sums * stem.scale.astype(float) + stem.bias) * SCALES.stem
    np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())


def test_an_image_of_the_mean_is_the_bias_whatever_rounding_did() -> None:
    """The mean of the rounded weights is taken off, so that their error is not multiplied by it."""
    preprocessing = PREPROCESSING.model_copy(update={"mean": (104.0, 117.0, 123.0)})
    weights = random_weights(NET)
    stem = quantise_network(NET, weights, SCALES, preprocessing)["conv1"]
    sums = np.einsum("ocij,c->o", stem.weight.astype(int), [123, 117, 104])
    found = sums * stem.scale.astype(float) + stem.bias
    wanted = weights["conv1.bias"].astype(float) / SCALES.stem
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(stem.bias).max())


@pytest.mark.parametrize(("order", "border"), [("rgb", [0, 118, 255]), ("bgr", [255, 118, 0])])
def test_outside_the_image_lies_the_nearest_byte_to_the_mean(order: Any, border: list[int]) -> None:
    preprocessing = Preprocessing(
        crop_ratio=1.0, channel_order=order, mean=(-3.0, 117.6, 300.0), std=(1.0, 1.0, 1.0)
    )
    found = stem_border(preprocessing)
    assert found.dtype == np.uint8
    assert found.tolist() == border


# Refusals


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name", ["conv1.weight", "layer1.0.conv2.weight", "layer2.0.downsample.0.bias", "fc.bias"]
)
def test_a_tensor_with_a_number_that_is_none_is_named(name: str, value: float) -> None:
    broken = random_weights(NET)[name].copy()
    broken.flat[-1] = value
    with pytest.raises(CheckpointError, match=f"'{name}' has values that are not finite"):
        layers(**{name: broken})


def test_a_missing_tensor_is_named() -> None:
    weights = random_weights(NET)
    del weights["layer1.1.conv3.weight"]
    with pytest.raises(CheckpointError, match=r"missing: layer1\.1\.conv3\.weight"):
        quantise_network(NET, weights, SCALES, PREPROCESSING)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_scale_that_is_none_is_named(value: float) -> None:
    """Even of scales that nobody validated."""
    blocks = [*SCALES.blocks]
    blocks[1] = BlockScales.model_construct(inner1=0.1, inner2=value, shortcut=None)
    content = {**{name: getattr(SCALES, name) for name in Quantisation.model_fields}}
    scales = Quantisation.model_construct(**{**content, "blocks": tuple(blocks)})
    with pytest.raises(
        InvalidInput, match=rf"'layer1\.1\.inner2' must be a positive .* got {value}"
    ):
        quantise_network(NET, random_weights(NET), scales, PREPROCESSING)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_scales_that_float32_cannot_hold_are_refused(scale: float) -> None:
    scales = SCALES.model_copy(update={"stem": scale})
    with pytest.raises(InvalidInput, match=r"'(conv1|layer1\.0\.conv1)' does not fit float32"):
        quantise_network(NET, random_weights(NET), scales, PREPROCESSING)


def test_batch_norm_has_to_be_folded() -> None:
    net = NET.model_copy(update={"folded": False})
    with pytest.raises(InvalidInput, match="folded"):
        quantise_network(net, random_weights(NET), SCALES, PREPROCESSING)


def test_it_needs_no_torch() -> None:
    code = "import sys; import engines.quantisation; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=root, timeout=60, check=False).returncode == 0
