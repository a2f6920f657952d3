"""Networks with int8 scales to write bundles from. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.architecture import Block, RegNet, ResNet, Stage
from engines.bundle import (
    BlockScales,
    Bundle,
    Calibration,
    Manifest,
    PointRecord,
    Preprocessing,
    Provenance,
    Quantisation,
    WeightsFile,
)
from engines.core import Paradigm, UInt8Array, static_point

PREPROCESSING = Preprocessing(
    crop_ratio=1.0, channel_order="bgr", mean=(104.0, 117.0, 123.4), std=(60.0, 50.0, 40.0)
)


STAGES = {
    "static": Stage(depth=2, width=6),
    "spatial": Stage(depth=2, width=6, paradigm=Paradigm.SPATIAL, spatial_granularity=3),
    "channel": Stage(depth=2, width=6, paradigm=Paradigm.CHANNEL, channel_granularity=2),
    "layer": Stage(depth=2, width=6, paradigm=Paradigm.LAYER),
    "joint": Stage(
        depth=2,
        width=6,
        paradigm=Paradigm.SPATIAL_CHANNEL,
        spatial_granularity=2,
        channel_granularity=3,
    ),
}


def net_of(*stages: str, **changes: Any) -> ResNet:
    """A folded network of stages by their names in STAGES."""
    chosen = tuple(STAGES[name] for name in stages)
    return ResNet(stem_width=5, stages=chosen, num_classes=4, folded=True, **changes)


def noise(count: int, size: int, seed: int = 0) -> UInt8Array:
    """Noise with blots, so that patches differ."""
    rng = np.random.default_rng(seed)
    blots = rng.integers(0, 128, (count, -(-size // 6), -(-size // 6), 3))
    wide = blots.repeat(6, axis=1).repeat(6, axis=2)[:, :size, :size]
    return (wide + rng.integers(0, 128, wide.shape)).astype(np.uint8)


def quantisation(net: ResNet, size: int = 32, scale: float = 1 / 64) -> Quantisation:
    """Every scale different, near `scale`; one point, `full`."""
    steps = iter(np.linspace(1.0, 1.5, 3 * len(net.blocks) + len(net.stages) + 2) * scale)
    return Quantisation(
        stem=next(steps),
        trunk=tuple(next(steps) for _ in net.stages),
        blocks=tuple(
            BlockScales(
                inner1=next(steps),
                inner2=next(steps),
                shortcut=next(steps) if block.projection else None,
            )
            for block in net.blocks
        ),
        features=next(steps),
        points=(full(net, size),),
        calibration=Calibration(images=1, split="validation", method="max", agreement=(1.0,)),
    )


def full(net: ResNet | RegNet, size: int) -> PointRecord:
    """The record of a point that was never measured."""
    maskers = len(net.maskers)
    return PointRecord(
        point=static_point("full", size, maskers),
        activation=(1.0,) * maskers,
        macs=1.0,
        macs_ratio=1.0,
    )


def bundle_of(
    net: ResNet | RegNet,
    weights: dict[str, npt.NDArray[np.generic]],
    scales: Quantisation | None,
    preprocessing: Preprocessing = PREPROCESSING,
) -> Bundle:
    """A bundle that was never on disk."""
    manifest = Manifest(
        name="int8",
        labels=tuple(f"class-{i}" for i in range(net.num_classes)),
        preprocessing=preprocessing,
        architecture=net,
        points=(full(net, 32),) if scales is None else scales.points,
        weights=WeightsFile(dtype="fp32", sha256="0" * 64),
        quantisation=scales,
        provenance=Provenance(config={}),
        versions={},
    )
    return Bundle(Path("int8.laud"), manifest, "0" * 64, weights)


def random_weights(net: ResNet | RegNet, seed: int = 0) -> dict[str, npt.NDArray[np.generic]]:
    """Weights that keep activations near 1, and maskers whose logits fall on both sides of 0."""
    rng = np.random.default_rng(seed)
    found: dict[str, npt.NDArray[np.generic]] = {}

    def layer(name: str, shape: tuple[int, ...]) -> None:
        spread = np.sqrt(2 / np.prod(shape[1:]))
        found[f"{name}.weight"] = rng.normal(0, spread, shape).astype(np.float32)
        found[f"{name}.bias"] = rng.normal(0, 0.2, shape[0]).astype(np.float32)

    layer("conv1", (net.stem_width, 3, net.stem_kernel, net.stem_kernel))
    for block in net.blocks:
        layer(f"{block.name}.conv1", (block.width, block.in_channels, 1, 1))
        layer(f"{block.name}.conv2", (block.width, block.width // block.conv_groups, 3, 3))
        layer(f"{block.name}.conv3", (block.out_channels, block.width, 1, 1))
        if block.projection:
            layer(f"{block.name}.downsample.0", (block.out_channels, block.in_channels, 1, 1))
        if block.squeeze_width:
            layer(f"{block.name}.se.fc1", (block.squeeze_width, block.width, 1, 1))
            layer(f"{block.name}.se.fc2", (block.width, block.squeeze_width, 1, 1))
        _maskers(block, rng, found)
    layer("fc", (net.num_classes, net.num_features))
    return found


def _maskers(
    block: Block, rng: np.random.Generator, found: dict[str, npt.NDArray[np.generic]]
) -> None:
    def put(name: str, values: npt.NDArray[np.float64]) -> None:
        found[f"{block.name}.{name}"] = values.astype(np.float32)

    channels, hidden = block.in_channels, block.channel_masker_hidden
    kinds = {"spatial": block.paradigm.masks_space, "channel": block.paradigm.masks_channels}
    for kind in (kind for kind, there in kinds.items() if there):
        put(f"masker_{kind}.mean", rng.uniform(0.2, 0.8, channels))
        put(f"masker_{kind}.std", rng.uniform(0.2, 0.5, channels))
    if kinds["spatial"]:
        put("masker_spatial.weight", rng.normal(size=channels))
    if kinds["channel"]:
        put("masker_channel.hidden.weight", rng.normal(size=(hidden, channels)))
        put("masker_channel.hidden.bias", rng.normal(size=hidden))
        put("masker_channel.out.weight", rng.normal(size=(block.num_groups, hidden)))
        put("masker_channel.out.bias", rng.normal(size=block.num_groups))
