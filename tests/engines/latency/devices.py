"""Devices whose costs can be computed by hand."""

from __future__ import annotations

from dataclasses import replace

from engines.latency.corrections import FIXED, Corrections
from engines.latency.hardware import Gpu
from engines.latency.operators import Target

UNLIMITED = 1e30

PLAIN = Gpu(
    name="plain",
    num_sms=1,
    lanes=1,
    frequency_hz=1.0,
    dram_bytes_per_s=4.0,
    l2_bytes_per_s=4.0 * UNLIMITED,
    launch_s=100.0,
    pipeline_depth=1,
    sector_bytes=4,
    typical_batch=1,
    sources={},
)
"""One multiply-accumulate and one word from DRAM per second, L2 for nothing, launches of 100 s.
A sector is a word: no transaction moves more than it is asked for."""

MEMORY = replace(PLAIN, frequency_hz=UNLIMITED)
"""Only words from DRAM and launches take time."""

CACHE = replace(MEMORY, dram_bytes_per_s=4.0 * UNLIMITED, l2_bytes_per_s=4.0)
"""Only words from L2 and launches take time."""

ARITHMETIC = replace(PLAIN, dram_bytes_per_s=4.0 * UNLIMITED)
"""Only arithmetic and launches take time."""


def on(device: Gpu, batch: float = 1, corrections: Corrections = FIXED) -> Target:
    return Target(device, batch, corrections)
