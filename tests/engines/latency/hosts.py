"""Machines made up for tests, with numbers that make arithmetic easy."""

from __future__ import annotations

from typing import Any

from engines.latency.host import (
    BarrierCost,
    GemmTable,
    Host,
    KernelUnits,
    MemoryLevel,
    PrecisionCosts,
)
from engines.latency.identity import DeviceIdentity

MACS_PER_S = 1e9
CACHE = 2**30

UNITS = KernelUnits(
    element_bytes=4,
    vector=8,
    panel=16,
    tile_rows=4,
    input_unit=1,
    depth_unit=1,
    channel_unit=1,
)


def flat_table(taps: int, macs_per_s: float = MACS_PER_S) -> GemmTable:
    """The same speed in every shape."""
    line = (macs_per_s,) * 2
    return GemmTable.model_validate(
        {
            "taps": taps,
            "rows": (1, 64),
            "inputs": (1, 64),
            "outputs": (1, 64),
            "macs_per_s": ((line, line), (line, line)),
        }
    )


def costs(**changes: Any) -> PrecisionCosts:
    """Nothing but arithmetic costs anything, unless `changes` say so."""
    free = dict.fromkeys(
        (
            *("segment_s", "late_byte_s", "scattered_byte_s", "pool_number_s", "pool_channel_s"),
            *("score_channel_s", "prepare_pixel_s", "class_s", "call_s"),
        ),
        0.0,
    )
    numbers: dict[str, Any] = {
        **free,
        "units": UNITS,
        "pointwise": flat_table(1),
        "spatial": flat_table(9),
        "stream_bytes_per_s": 1e12,
        "parallel_ratio": 1.0,
        "stem_macs_per_s": MACS_PER_S,
        **changes,
    }
    return PrecisionCosts(**numbers)


def host(**changes: Any) -> Host:
    """Four CPUs and one cache of CACHE bytes; `changes` are those of `costs`, of both precisions,
    or parts of a Host."""
    parts: dict[str, Any] = {
        "device": DeviceIdentity(cpu="Made up", cpus=4, isa={"fp32": "avx2", "int8": "avx2"}),
        "memory": (
            MemoryLevel(
                name="L2", size_bytes=CACHE, read_bytes_per_s=1e12, all_read_bytes_per_s=4e12
            ),
            MemoryLevel(
                name="memory",
                size_bytes=2**40,
                read_bytes_per_s=1e10,
                all_read_bytes_per_s=2e10,
            ),
        ),
        "barriers": (
            BarrierCost(threads=1, barrier_s=0.0),
            BarrierCost(threads=2, barrier_s=0.0),
            BarrierCost(threads=4, barrier_s=0.0),
        ),
        "list_pixel_s": 0.0,
        "noise_ratio": 1.1,
    }
    parts.update({name: changes.pop(name) for name in parts if name in changes})
    arithmetic = costs(**changes)
    int8 = arithmetic.model_copy(update={"units": UNITS.model_copy(update={"element_bytes": 1})})
    return Host(**parts, precisions={"fp32": arithmetic, "int8": int8})
