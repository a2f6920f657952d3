"""Networks to measure that nobody trained: well-known shapes, seeded weights, any paradigm.

Weights are drawn so that activations keep a sane range through all blocks; what the network
answers means nothing, how long it takes does not depend on that.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.architecture import DEPTHS, Block, MapSize, ResNet, Stage
from engines.bundle import Bundle, Manifest, PointRecord, Preprocessing, Provenance, WeightsFile
from engines.core import OperatingPoint, Paradigm, static_point
from engines.errors import InvalidInput
from engines.macs import static_macs

DYNAMIC = "dynamic"
"""The point at which every masker is asked."""

PARADIGMS = ("spatial", "layer", "channel", "mix")
MIXES = {"layer": Paradigm.LAYER, "channel": Paradigm.CHANNEL}

_NUM_CLASSES = 1000
_STEM_WIDTH = 64
# ImageNet's statistics, as everybody uses them.
_PREPROCESSING = Preprocessing(
    crop_ratio=0.875,
    channel_order="rgb",
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
)
_NO_HASH = "0" * 64

Weights = dict[str, npt.NDArray[np.generic]]


def architecture(
    name: str, paradigm: str, *, patches: tuple[int, ...], group: int, mix: str
) -> ResNet:
    """`resnet50` or `resnet101` with every block dynamic.

    paradigm: one of PARADIGMS; `mix` skips patches in the first two stages and what `mix` names
    (`layer` or `channel`) in the others. patches: granularity S per stage. group: granularity G.
    Raises InvalidInput for an unknown name or a granularity that does not fit.
    """
    if name not in DEPTHS:
        raise InvalidInput(f"unknown network '{name}'; there are: {', '.join(DEPTHS)}")
    depths = DEPTHS[name]
    if paradigm not in PARADIGMS:
        raise InvalidInput(f"unknown paradigm '{paradigm}'; there are: {', '.join(PARADIGMS)}")
    if mix not in MIXES:
        raise InvalidInput(f"a mix ends in {' or '.join(MIXES)}, got '{mix}'")
    if len(patches) != len(depths) or min(patches) < 1:
        raise InvalidInput(
            f"{name} takes {len(depths)} patch sizes of at least 1, such as 8-4-2-1, "
            f"got {'-'.join(map(str, patches))}"
        )
    kinds = [Paradigm.SPATIAL] * 2 + [MIXES[mix]] * 2
    if paradigm != "mix":
        kinds = [Paradigm(paradigm)] * len(depths)
    widths = [_STEM_WIDTH * 2**i for i in range(len(depths))]
    if group < 1 or any(width % group for width in widths):
        raise InvalidInput(f"{name} takes a group of channels that divides 64, got {group}")
    return ResNet(
        stem_width=_STEM_WIDTH,
        stages=tuple(
            Stage(
                depth=depth,
                width=width,
                paradigm=kind,
                spatial_granularity=patch if kind is Paradigm.SPATIAL else None,
                channel_granularity=group if kind is Paradigm.CHANNEL else None,
            )
            for depth, width, kind, patch in zip(depths, widths, kinds, patches, strict=True)
        ),
        num_classes=_NUM_CLASSES,
        folded=True,
    )


def synthetic_bundle(name: str, net: ResNet, size: int, seed: int) -> Bundle:
    """A bundle in memory with the points `full` and DYNAMIC at `size` pixels."""
    manifest = Manifest(
        name=name,
        labels=tuple(f"class-{i}" for i in range(net.num_classes)),
        preprocessing=_PREPROCESSING,
        architecture=net,
        points=(
            _unmeasured(net, static_point("full", size, len(net.maskers))),
            _unmeasured(net, asking_point(DYNAMIC, size, len(net.maskers))),
        ),
        weights=WeightsFile(dtype="fp32", sha256=_NO_HASH),
        provenance=Provenance(config={"seed": seed}),
        versions={},
    )
    weights = random_weights(net, seed)
    return Bundle(Path(f"{name}.laud"), manifest, _NO_HASH, weights)


def asking_point(name: str, size: int, num_maskers: int) -> OperatingPoint:
    """A point that asks every masker."""
    return OperatingPoint(
        name=name, image_size=size, thresholds=(0.0,) * num_maskers, caps=(None,) * num_maskers
    )


def random_weights(net: ResNet, seed: int) -> Weights:
    """Float32 tensors of a folded network by name.

    Convolutions as He et al. (arXiv:1502.01852) draw them; the last one of a block is smaller by
    the root of its stage's depth, so that a stage multiplies variance by e at most. What is not a
    masker is the same whatever the paradigm.
    """
    rng, of_maskers = (np.random.default_rng([seed, stream]) for stream in range(2))
    found: Weights = {}

    def layer(name: str, shape: tuple[int, ...], gain: float = 2.0) -> None:
        spread = np.sqrt(gain / np.prod(shape[1:]), dtype=np.float32)
        found[f"{name}.weight"] = rng.standard_normal(shape, np.float32) * spread
        found[f"{name}.bias"] = rng.normal(0.0, 0.05, shape[0]).astype(np.float32)

    layer("conv1", (net.stem_width, 3, 7, 7))
    for block in net.blocks:
        depth = net.stages[block.stage].depth
        layer(f"{block.name}.conv1", (block.width, block.in_channels, 1, 1))
        layer(f"{block.name}.conv2", (block.width, block.width, 3, 3))
        layer(f"{block.name}.conv3", (block.out_channels, block.width, 1, 1), gain=1.0 / depth)
        if block.projection:
            shape = (block.out_channels, block.in_channels, 1, 1)
            layer(f"{block.name}.downsample.0", shape, gain=1.0)
        found.update(_maskers(block, of_maskers))
    layer("fc", (net.num_classes, net.num_features), gain=1.0)
    return found


def _maskers(block: Block, rng: np.random.Generator) -> Weights:
    channels, hidden = block.in_channels, block.channel_masker_hidden
    found: Weights = {}
    for kind, there in (
        ("spatial", block.paradigm.masks_space),
        ("channel", block.paradigm.masks_channels),
    ):
        if there:
            found[f"{block.name}.masker_{kind}.mean"] = np.full(channels, 0.5, np.float32)
            found[f"{block.name}.masker_{kind}.std"] = np.ones(channels, np.float32)
    shapes: dict[str, tuple[int, ...]] = {}
    if block.paradigm.masks_space:
        shapes["masker_spatial.weight"] = (channels,)
    if block.paradigm.masks_channels:
        shapes["masker_channel.hidden.weight"] = (hidden, channels)
        shapes["masker_channel.hidden.bias"] = (hidden,)
        shapes["masker_channel.out.weight"] = (block.num_groups, hidden)
        shapes["masker_channel.out.bias"] = (block.num_groups,)
    for part, shape in shapes.items():
        found[f"{block.name}.{part}"] = rng.standard_normal(shape, np.float32)
    return found


def _unmeasured(net: ResNet, point: OperatingPoint) -> PointRecord:
    macs = static_macs(net, MapSize(point.image_size, point.image_size))
    return PointRecord(
        point=point, activation=(1.0,) * len(net.maskers), macs=float(macs), macs_ratio=1.0
    )
