"""GPUs as the analytic predictor sees them: frozen numbers, units in their names, all sourced.

Two sets. `paper` has the constants of LAUDNet's released simulator, which its published latencies
were computed with; `datasheet` has what the maker states, and says so where nobody states it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from engines.errors import InvalidInput

Constants = Literal["paper", "datasheet"]
WORD_BYTES = 4
L2_RATIO = 4
"""Bandwidth of L2 over DRAM's that the released simulator gives every device but the RTX 3090."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device in FP32, one multiply-accumulate per lane and cycle; no tensor cores.

    num_sms: processing elements. lanes: FP32 lanes of each. pipeline_depth: cycles until a result
    can be used; a processing element is full with lanes x depth outputs in flight. sector_bytes:
    what one memory transaction moves. launch_s: what every kernel costs besides. typical_batch:
    images per call that its published latencies are for. sources: where each number is from.
    """

    name: str
    num_sms: int
    lanes: int
    frequency_hz: float
    dram_bytes_per_s: float
    l2_bytes_per_s: float
    launch_s: float
    pipeline_depth: int
    sector_bytes: int
    typical_batch: int
    sources: Mapping[str, str] = field(compare=False, repr=False)

    @property
    def macs_per_s(self) -> float:
        """Peak FP32 multiply-accumulates per second of the whole device."""
        return self.num_sms * self.lanes * self.frequency_hz


SIMULATOR = "LAUDNet (arXiv:2308.15949), constants of its released simulator"
AMPERE = "NVIDIA A100 Tensor Core GPU Architecture whitepaper"
GA102 = "NVIDIA Ampere GA102 GPU Architecture whitepaper"
JIA = "Jia et al., Dissecting the NVIDIA Volta GPU Architecture via Microbenchmarking (1804.06826)"
RATIO = f"estimated: {L2_RATIO} times DRAM, as {SIMULATOR}; the maker states none"

SHARED_SOURCES = {
    "launch_s": f"{SIMULATOR}; no datasheet states it",
    "sector_bytes": "CUDA C++ Best Practices Guide, coalesced access: transactions of 32 bytes",
    "typical_batch": SIMULATOR,
}


def _paper(
    name: str,
    num_sms: int,
    lanes: int,
    frequency_hz: float,
    dram_bytes_per_s: float,
    typical_batch: int,
    l2_ratio: int = L2_RATIO,
) -> Gpu:
    numbers = (
        *("num_sms", "lanes", "frequency_hz", "dram_bytes_per_s", "l2_bytes_per_s"),
        *("launch_s", "pipeline_depth", "sector_bytes", "typical_batch"),
    )
    return Gpu(
        name=name,
        num_sms=num_sms,
        lanes=lanes,
        frequency_hz=frequency_hz,
        dram_bytes_per_s=dram_bytes_per_s,
        l2_bytes_per_s=l2_ratio * dram_bytes_per_s,
        launch_s=8e-6,
        pipeline_depth=4,
        sector_bytes=32,
        typical_batch=typical_batch,
        sources=MappingProxyType(dict.fromkeys(numbers, SIMULATOR)),
    )


def _datasheet(
    name: str,
    *,
    sms: tuple[int, int, str],
    frequency_hz: tuple[float, str],
    dram_bytes_per_s: tuple[float, str],
    l2_bytes_per_s: tuple[float, str],
    pipeline_depth: tuple[int, str],
    typical_batch: int,
) -> Gpu:
    return Gpu(
        name=name,
        num_sms=sms[0],
        lanes=sms[1],
        frequency_hz=frequency_hz[0],
        dram_bytes_per_s=dram_bytes_per_s[0],
        l2_bytes_per_s=l2_bytes_per_s[0],
        launch_s=8e-6,
        pipeline_depth=pipeline_depth[0],
        sector_bytes=32,
        typical_batch=typical_batch,
        sources=MappingProxyType(
            SHARED_SOURCES
            | {
                "num_sms": sms[2],
                "lanes": sms[2],
                "frequency_hz": frequency_hz[1],
                "dram_bytes_per_s": dram_bytes_per_s[1],
                "l2_bytes_per_s": l2_bytes_per_s[1],
                "pipeline_depth": pipeline_depth[1],
            }
        ),
    )


VOLTA_DEPTH = (4, f"{JIA}: dependent issue after 4 cycles on Volta")
LATER_DEPTH = (4, f"estimated: as Volta, {JIA}")
EARLIER_DEPTH = (6, f"{JIA}: dependent issue after 6 cycles on Maxwell and Pascal")

PAPER_GPUS = {
    gpu.name: gpu
    for gpu in (
        _paper("v100", 80, 64, 1.5e9, 700e9, 128),
        _paper("rtx3090", 82, 128, 1.25e9, 936e9, 128, l2_ratio=1),
        _paper("rtx3060", 28, 128, 1.777e9, 360e9, 128),
        _paper("tx2", 2, 128, 1.3e9, 59.7e9, 1),
        _paper("nano", 1, 128, 0.921e9, 25.6e9, 1),
    )
}

DATASHEET_GPUS = {
    gpu.name: gpu
    for gpu in (
        _datasheet(
            "v100",
            sms=(80, 64, "NVIDIA Tesla V100 GPU Architecture whitepaper"),
            frequency_hz=(1.53e9, "NVIDIA Tesla V100 GPU Architecture whitepaper, SXM2, boost"),
            dram_bytes_per_s=(900e9, "NVIDIA V100 datasheet, SXM2"),
            l2_bytes_per_s=(
                2048 * 1.53e9,
                f"{AMPERE}: A100 reads 2.3 times as fast as V100, so 2048 bytes per clock",
            ),
            pipeline_depth=VOLTA_DEPTH,
            typical_batch=128,
        ),
        _datasheet(
            "rtx3090",
            sms=(82, 128, GA102),
            frequency_hz=(1.695e9, f"{GA102}, boost"),
            dram_bytes_per_s=(936e9, GA102),
            l2_bytes_per_s=(L2_RATIO * 936e9, RATIO),
            pipeline_depth=LATER_DEPTH,
            typical_batch=128,
        ),
        _datasheet(
            "rtx3060",
            sms=(28, 128, "NVIDIA GeForce RTX 3060 specifications: 3584 CUDA cores"),
            frequency_hz=(1.777e9, "NVIDIA GeForce RTX 3060 specifications, boost"),
            dram_bytes_per_s=(360e9, "NVIDIA GeForce RTX 3060 specifications, 12 GB: 192 bit"),
            l2_bytes_per_s=(L2_RATIO * 360e9, RATIO),
            pipeline_depth=LATER_DEPTH,
            typical_batch=128,
        ),
        _datasheet(
            "tx2",
            sms=(2, 128, "NVIDIA Jetson TX2 module data sheet: 256 Pascal cores"),
            frequency_hz=(1.3e9, "NVIDIA Jetson TX2 module data sheet, highest clock"),
            dram_bytes_per_s=(59.7e9, "NVIDIA Jetson TX2 module data sheet: 128 bit LPDDR4"),
            l2_bytes_per_s=(L2_RATIO * 59.7e9, RATIO),
            pipeline_depth=EARLIER_DEPTH,
            typical_batch=1,
        ),
        _datasheet(
            "nano",
            sms=(1, 128, "NVIDIA Jetson Nano module data sheet: 128 Maxwell cores"),
            frequency_hz=(0.9216e9, "NVIDIA Jetson Nano module data sheet, highest clock"),
            dram_bytes_per_s=(25.6e9, "NVIDIA Jetson Nano module data sheet: 64 bit LPDDR4"),
            l2_bytes_per_s=(L2_RATIO * 25.6e9, RATIO),
            pipeline_depth=EARLIER_DEPTH,
            typical_batch=1,
        ),
        _datasheet(
            "a100",
            sms=(108, 64, AMPERE),
            frequency_hz=(1.41e9, f"{AMPERE}, boost"),
            dram_bytes_per_s=(1555e9, f"{AMPERE}, SXM4 with 40 GB"),
            l2_bytes_per_s=(5120 * 1.41e9, f"{AMPERE}: 5120 bytes per clock"),
            pipeline_depth=LATER_DEPTH,
            typical_batch=128,
        ),
        _datasheet(
            "l4",
            sms=(58, 128, "NVIDIA L4 datasheet: 30.3 TFLOPS of FP32 from 7424 CUDA cores"),
            frequency_hz=(2.04e9, "NVIDIA L4 product brief, boost"),
            dram_bytes_per_s=(300e9, "NVIDIA L4 datasheet"),
            l2_bytes_per_s=(
                58 * 25.6 * 2.04e9,
                "estimated: per SM and clock as V100 (2048 bytes over 80 SMs); its L2 is large, "
                "so that DRAM's bandwidth says little about it",
            ),
            pipeline_depth=LATER_DEPTH,
            typical_batch=128,
        ),
        _datasheet(
            "h100",
            sms=(132, 128, "NVIDIA H100 Tensor Core GPU Architecture whitepaper, SXM5"),
            frequency_hz=(1.98e9, "NVIDIA H100 datasheet, SXM5: from 67 TFLOPS of FP32"),
            dram_bytes_per_s=(3350e9, "NVIDIA H100 datasheet, SXM5: 3.35 TB/s"),
            l2_bytes_per_s=(5120 * 1.755e9, f"estimated: 5120 bytes per clock as {AMPERE}"),
            pipeline_depth=LATER_DEPTH,
            typical_batch=128,
        ),
    )
}

GPU_NAMES = tuple(DATASHEET_GPUS)


def gpu(name: str, constants: Constants = "datasheet") -> Gpu:
    """The device of that name, any case, spaces and hyphens ignored (`RTX 3090`).

    `paper` reproduces published latencies (with `corrections.PAPER`) and has five devices; anything
    else is better asked of `datasheet`, the default.
    Raises InvalidInput that lists the names for one that is unknown in that set of constants.
    """
    sets = {"paper": PAPER_GPUS, "datasheet": DATASHEET_GPUS}
    if constants not in sets:
        raise InvalidInput(f"constants must be 'paper' or 'datasheet', got '{constants}'")
    known = sets[constants]
    key = name.lower().replace(" ", "").replace("-", "").replace("_", "")
    if key not in known:
        where = " in the paper's constants" if constants == "paper" else ""
        raise InvalidInput(f"unknown GPU '{name}'{where}; there are {', '.join(known)}")
    return known[key]
