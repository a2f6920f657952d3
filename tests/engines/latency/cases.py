"""Networks, tables and a machine whose predictions can be computed by hand. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engines.architecture import ResNet
from engines.bundle import Bundle, PointRecord
from engines.core import Glance, OperatingPoint, Paradigm, static_point
from engines.latency.answers import answer
from engines.latency.host import (
    BarrierCost,
    GemmTable,
    Host,
    KernelUnits,
    MemoryLevel,
    PrecisionCosts,
)
from engines.latency.identity import DeviceIdentity
from engines.latency.questions import Answer, Question
from engines.latency.rates import RateVector
from engines.latency.tables import BlockTable, Curve, LatencyTable, PointRates, Profile, Spread
from tests.engines.cpu.cases import bundle, net_of, stage

ABACUS = DeviceIdentity(cpu="Abacus 3000", cpus=4, isa={"fp32": "avx2", "int8": "avx2"})

NET = net_of(
    stage(Paradigm.SPATIAL, 8, depth=2, patch=2),
    stage(Paradigm.SPATIAL_CHANNEL, 8, patch=2, group=2),
    stage(Paradigm.CHANNEL, 8, group=2),
    stage(Paradigm.LAYER, 8),
    stage(Paradigm.STATIC, 8),
)
"""Six blocks, six maskers, every way to skip and a block that cannot."""

BLOCKS = len(NET.blocks)
OVERHEAD_S = 0.5
MACS_PER_S = 1e9
STEM_S, HEAD_S = 3.0, 2.0

Seconds = Callable[[float, float, float], float]
"""Of a block, from its active share, its dilated share and its channels."""

PIXELS = (0.0, 0.25, 0.5, 1.0)
CLUSTERED = (0.0, 0.375, 0.625, 1.0)
SCATTERED = (0.0, 0.75, 0.875, 1.0)
CHANNELS = (0.0, 0.5, 1.0)


def linear(x: float, dilated: float, y: float) -> float:
    """What a block takes: something fixed, pixels, dilated pixels, channels, pixels x channels."""
    return 1.0 + 2.0 * x + 4.0 * dilated + 8.0 * y + 16.0 * x * y


def block_table(net: ResNet, index: int, seconds: Seconds = linear) -> BlockTable:
    """What a block would be measured to take under `seconds`; static shares are 1."""
    block = net.blocks[index]
    channel = CHANNELS if block.paradigm.masks_channels else (1.0,)
    patches = block.granularity.spatial is not None
    pixels = PIXELS if patches else (0.0, 1.0) if block.paradigm is Paradigm.LAYER else (1.0,)

    def curve(dilated: Sequence[float]) -> Curve:
        rows = tuple(
            tuple(seconds(x, d, y) for x, d in zip(pixels, dilated, strict=True)) for y in channel
        )
        return Curve(active=pixels, dilated=tuple(dilated), seconds=rows)

    return BlockTable(
        block=index,
        channel=channel,
        clustered=curve(CLUSTERED if patches else pixels),
        random=curve(SCATTERED) if patches else None,
    )


def profile(
    net: ResNet = NET, *, seconds: Seconds = linear, scale: float = 1.0, **changes: Any
) -> Profile:
    """Of one image of 32 pixels on one thread unless changed; everything takes `scale` as long.

    Block i takes 10 + i with nothing asked.
    """
    content: dict[str, Any] = {
        "precision": "fp32",
        "threads": 1,
        "size": 32,
        "batch": 1,
        "overhead_s": OVERHEAD_S * scale,
        "static_s": tuple(
            scale * s for s in (STEM_S, *(10.0 + i for i in range(len(net.blocks))), HEAD_S)
        ),
        "blocks": tuple(
            block_table(net, i, lambda x, d, y: scale * seconds(x, d, y))
            for i, block in enumerate(net.blocks)
            if block.paradigm is not Paradigm.STATIC
        ),
    }
    return Profile(**{**content, **changes})


def of_net(net: ResNet = NET, *, size: int = 32) -> Bundle:
    """A bundle with the points `full`, `half` (every masker at 0.5) and `small` (at half size)."""
    made = bundle(net)

    def record(point: OperatingPoint, activation: float) -> PointRecord:
        return PointRecord(
            point=point,
            activation=(activation,) * len(net.maskers),
            macs=1.0,
            macs_ratio=1.0,
        )

    asked = OperatingPoint(
        name="half",
        image_size=size,
        thresholds=(0.0,) * len(net.maskers),
        caps=(None,) * len(net.maskers),
    )
    points = (
        record(static_point("full", size, len(net.maskers)), 1.0),
        record(asked, 0.5),
        record(static_point("small", size // 2, len(net.maskers)), 1.0),
    )
    manifest = made.manifest.model_copy(update={"points": points, "name": "abacus"})
    return Bundle(made.path, manifest, "a" * 64, made.weights)


def glancing(of: Bundle, *, again: float = 0.25) -> Bundle:
    """With a point `glance` too: what `half` does, for images that half the size leaves unsure."""
    half = next(record for record in of.manifest.points if record.point.name == "half")
    glance = Glance(image_size=half.point.image_size // 2, confidence=0.5)
    point = half.point.model_copy(update={"name": "glance", "glance": glance})
    rates = tuple(again * rate for rate in half.activation)
    record = half.model_copy(update={"point": point, "again": again, "activation": rates})
    points = (*of.manifest.points, record)
    manifest = of.manifest.model_copy(update={"points": points})
    return Bundle(of.path, manifest, of.hash, of.weights)


def table(
    *profiles: Profile,
    points: Sequence[PointRates] = (),
    spreads: Sequence[Spread] = (),
    **changes: Any,
) -> LatencyTable:
    """Of `of_net()` on the ABACUS, one profile unless some are given."""
    content: dict[str, Any] = {
        "bundle": "a" * 64,
        "name": "abacus",
        "device": ABACUS,
        "version": "0.1.0",
        "pictures": None,
        "profiles": profiles or (profile(),),
        "points": tuple(points),
        "spreads": tuple(spreads),
    }
    return LatencyTable(**{**content, **changes})


def spread(*ratios: float, threads: int = 1, precision: str = "fp32") -> Spread:
    """Those ratios, evenly spaced quantiles."""
    return Spread(precision=precision, threads=threads, calls=100, ratios=ratios)


def one(what: str, **options: Any) -> Answer:
    """The only answer to a question."""
    (found,) = answer(Question(what, **options))
    return found


def rates(
    spatial: float = 1.0,
    dilated: float = 1.0,
    channel: float = 1.0,
    *,
    asked: bool = True,
    blocks: int = BLOCKS,
) -> RateVector:
    """The same in every block."""
    x, dil, y = (np.full(blocks, share) for share in (spatial, dilated, channel))
    return RateVector(x, dil, y, np.full(blocks, asked))


def gemm(taps: int, macs_per_s: float) -> GemmTable:
    """One speed for every shape."""
    return GemmTable.model_validate(
        {
            "taps": taps,
            "rows": (1,),
            "inputs": (1,),
            "outputs": (1,),
            "macs_per_s": (((macs_per_s,),),),
        }
    )


def costs(macs_per_s: float) -> PrecisionCosts:
    """Kernels of one speed; nothing but arithmetic takes time worth speaking of."""
    nothing: dict[str, Any] = dict.fromkeys(PrecisionCosts.model_fields, 0.0)
    units = dict.fromkeys(KernelUnits.model_fields, 1) | {"element_bytes": 4}
    return PrecisionCosts.model_validate(
        nothing
        | {
            "units": units,
            "pointwise": gemm(1, macs_per_s),
            "spatial": gemm(9, macs_per_s),
            "stream_bytes_per_s": 1e15,
            "parallel_ratio": 1.0,
            "stem_macs_per_s": macs_per_s,
            "call_s": 1e-6,
        }
    )


def host(device: DeviceIdentity = ABACUS, macs_per_s: float = MACS_PER_S) -> Host:
    """A machine of one speed in every precision that the device has."""
    return Host(
        device=device,
        memory=(
            MemoryLevel(
                name="memory",
                size_bytes=2**30,
                read_bytes_per_s=1e15,
                all_read_bytes_per_s=1e15,
            ),
        ),
        barriers=(BarrierCost(threads=2, barrier_s=0.0),),
        list_pixel_s=0.0,
        noise_ratio=1.1,
        precisions={precision: costs(macs_per_s) for precision in device.isa},
    )
