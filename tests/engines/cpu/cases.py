"""Networks, pictures and points to try the native engine with. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from engines.architecture import MapSize, ResNet, Stage
from engines.bundle import Bundle, Preprocessing
from engines.core import OperatingPoint, Output, Paradigm, UInt8Array
from engines.cpu import _native
from engines.cpu.engine import CpuEngine
from engines.cpu.loading import ISA_VARIABLE
from engines.macs import masker_units
from tests.engines.int8 import bundle_of, quantisation, random_weights

BGR = Preprocessing(
    crop_ratio=1.0, channel_order="bgr", mean=(104.0, 117.0, 123.4), std=(60.0, 50.0, 40.0)
)
RGB = BGR.model_copy(update={"channel_order": "rgb"})

FP32_ISAS = tuple(_native.supported_isas("fp32"))
INT8_ISAS = tuple(_native.supported_isas("int8"))
BF16_ISAS = tuple(_native.supported_isas("bf16"))
KERNELS = tuple(
    (precision, isa)
    for precision, isas in (("fp32", FP32_ISAS), ("bf16", BF16_ISAS), ("int8", INT8_ISAS))
    for isa in isas
)
"""(precision, instruction set) of everything that this machine can run, the best first."""

SIZE = 33
NET = ResNet(
    stem_width=12,
    stages=(
        Stage(depth=3, width=8, paradigm=Paradigm.SPATIAL, spatial_granularity=4),
        Stage(
            depth=2,
            width=12,
            paradigm=Paradigm.SPATIAL_CHANNEL,
            spatial_granularity=2,
            channel_granularity=3,
        ),
        Stage(depth=2, width=16, paradigm=Paradigm.CHANNEL, channel_granularity=4),
        Stage(depth=2, width=20, paradigm=Paradigm.LAYER),
    ),
    num_classes=7,
    folded=True,
)
"""Every way to skip, maps of 9, 5, 3 and 2 pixels, and no width that fills a vector of 16."""
MASKERS = len(NET.maskers)


def net_of(*stages: Stage, **changes: Any) -> ResNet:
    """A folded network of those stages, with fields of NET replaced."""
    fields = {name: getattr(NET, name) for name in ResNet.model_fields}
    return ResNet(**{**fields, "stages": stages or NET.stages, **changes})


def stage(
    paradigm: Paradigm, width: int, *, depth: int = 1, patch: int = 2, group: int = 1
) -> Stage:
    """A stage with only the granularities that its paradigm takes."""
    space = paradigm in (Paradigm.SPATIAL, Paradigm.SPATIAL_CHANNEL)
    return Stage(
        depth=depth,
        width=width,
        paradigm=paradigm,
        spatial_granularity=patch if space else None,
        channel_granularity=group if paradigm.masks_channels else None,
    )


@st.composite
def networks(draw: st.DrawFn) -> ResNet:
    """Small ones of every paradigm per stage, with widths and granularities that fit nothing."""
    stages = []
    for _ in range(draw(st.integers(1, 3))):
        width = draw(st.sampled_from([1, 2, 3, 5, 8, 12, 16, 20, 24, 36]))
        divisors = [g for g in range(1, width + 1) if width % g == 0]
        stages.append(
            stage(
                draw(st.sampled_from(Paradigm)),
                width,
                depth=draw(st.integers(1, 3)),
                patch=draw(st.sampled_from([1, 2, 3, 4, 5, 8])),
                group=draw(st.sampled_from(divisors)),
            )
        )
    return ResNet(
        stem_width=draw(st.sampled_from([1, 3, 8, 12, 20])),
        stages=tuple(stages),
        num_classes=draw(st.sampled_from([1, 2, 5, 17])),
        stem_pool=draw(st.sampled_from(["padded", "trailing"])),
        stride_in_1x1=draw(st.booleans()),
        folded=True,
    )


def bundle(
    net: ResNet = NET,
    seed: int = 0,
    *,
    preprocessing: Preprocessing = BGR,
    scaled: bool = False,
    scale: float = 1 / 64,
    weights: Mapping[str, npt.NDArray[np.generic]] | None = None,
) -> Bundle:
    """Random weights unless some are given; scaled: with int8 scales, near `scale`."""
    return bundle_of(
        net,
        random_weights(net, seed) if weights is None else dict(weights),
        quantisation(net, scale=scale) if scaled else None,
        preprocessing,
    )


def load(
    source: Bundle,
    *,
    isa: str = "",
    precision: str | None = "fp32",
    threads: int | None = 1,
    poison: bool = True,
) -> CpuEngine:
    """An engine held to an instruction set (empty: the best)."""
    with patch.dict(os.environ, {ISA_VARIABLE: isa}):
        return CpuEngine(source, precision=precision, threads=threads, poison=poison)


def pictures(n: int, size: int = SIZE, seed: int = 0) -> UInt8Array:
    """Noise over blots, so that patches differ: (n, size, size, 3)."""
    rng = np.random.default_rng(seed)
    blots = rng.integers(-90, 91, (n, -(-size // 6), -(-size // 6), 3))
    large = blots.repeat(6, axis=1).repeat(6, axis=2)[:, :size, :size]
    noise = rng.normal(128.0, 40.0, (n, size, size, 3))
    return np.clip(noise + large, 0, 255).astype(np.uint8)


def point(
    thresholds: Sequence[float | None],
    caps: Sequence[int | None] | None = None,
    *,
    size: int = SIZE,
    name: str = "some",
) -> OperatingPoint:
    """An operating point; caps None: no caps."""
    return OperatingPoint(
        name=name,
        image_size=size,
        thresholds=tuple(thresholds),
        caps=tuple([None] * len(thresholds) if caps is None else caps),
    )


def varied_points(maskers: int = MASKERS, size: int = SIZE) -> list[OperatingPoint]:
    """Five: everything; the positive logits; nothing; one unit each; some maskers not asked."""
    mixed = [None if m % 3 == 0 else -0.3 for m in range(maskers)]
    return [
        point([None] * maskers, size=size, name="full"),
        point([0.0] * maskers, size=size, name="half"),
        point([1e9] * maskers, size=size, name="none"),
        point([None] * maskers, [1] * maskers, size=size, name="capped"),
        point(mixed, [None if m % 2 else 2 for m in range(maskers)], size=size, name="mixed"),
    ]


def units(net: ResNet, size: int) -> list[int]:
    """How many units each masker decides on."""
    sizes = net.block_sizes(MapSize(size, size))
    return [masker_units(net.blocks[m.block], sizes[m.block][1], m.kind) for m in net.maskers]


def random_decisions(
    net: ResNet, n: int, size: int, rate: float, seed: int = 0
) -> list[npt.NDArray[np.bool_]]:
    """Per masker (n, units), each active with that probability."""
    rng = np.random.default_rng(seed)
    return [rng.random((n, count)) < rate for count in units(net, size)]


def same(one: Output, i: int, other: Output, j: int) -> bool:
    """Whether two images were answered alike, to the last bit."""
    return all(
        a[i].tobytes() == b[j].tobytes()
        for a, b in (
            (one.arrays["scores"], other.arrays["scores"]),
            (one.arrays["probabilities"], other.arrays["probabilities"]),
            (one.arrays["decisions"], other.arrays["decisions"]),
            (one.activation, other.activation),
            (one.macs, other.macs),
        )
    )
