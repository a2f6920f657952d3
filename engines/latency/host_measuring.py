"""`laud measure device`: takes the numbers of `engines.latency.host.Host` on this machine.

Whatever is timed is a part of the native engine itself. Parts take turns, in an order that changes
from round to round, so that a slow spell of the machine falls on all alike; medians are kept.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from engines.architecture import ResNet, Stage
from engines.bench.networks import asking_point, synthetic_bundle
from engines.bundle import BlockScales, Bundle, Calibration, Quantisation
from engines.core import Paradigm
from engines.cpu import _native
from engines.cpu.engine import CpuEngine
from engines.errors import EngineError
from engines.latency.host import (
    BarrierCost,
    GemmTable,
    Host,
    KernelUnits,
    MemoryLevel,
    PrecisionCosts,
)
from engines.latency.identity import DeviceIdentity, this_device
from engines.manifest import PRECISIONS

Say = Callable[[str], None]
Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure. rounds: turns of every part. turn_s: what a turn should last at least.
    rows, inputs, outputs: shapes of layers, see `GemmTable`."""

    rounds: int = 15
    turn_s: float = 1e-3
    rows: tuple[int, ...] = (1, 4, 16, 64, 256)
    inputs: tuple[int, ...] = (16, 64, 256, 1024)
    outputs: tuple[int, ...] = (16, 64, 512)


_COLUMNS = 14
_DEEPEST_3X3 = 512
_GROUP = 16
_NOISE_REPEATS = 101
_LEAST_FAR_BYTES = 256 * 2**20
# Of the map whose lists are timed: every second patch is active, and the others are reached by the
# neighbourhoods of these but for the 2 x 2 pixels in their middle.
_LIST_SIZE, _LIST_PATCH = 56, 4
_LISTED_PIXELS = _LIST_SIZE**2 * (0.5 + 0.5 + 0.5 * 12 / 16)
_TINY_SIZE = 224
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_FALLBACK_CACHES = {"L1": 32 * 2**10, "L2": 2**20, "L3": 32 * 2**20}


def measure_host(say: Say = lambda line: None, effort: Effort | None = None) -> Host:
    """Measure this machine; `say` hears of progress. Takes about twenty seconds.

    Raises EngineError where the native engine cannot run.
    """
    effort = effort or Effort()
    device = this_device()
    say(f"{device.cpu}, {device.cpus} CPUs, {', '.join(map(' '.join, device.isa.items()))}")
    say("memory, barriers and lists")
    memory = _memory(device.cpus, effort)
    barriers = _barriers(device.cpus, effort)
    lists = _medians(
        {
            "lists": partial(
                _native.time_lists,
                size=_LIST_SIZE,
                patch=_LIST_PATCH,
                calls=_calls(effort, 20e-6),
            )
        },
        effort,
    )
    precisions = {}
    for precision in PRECISIONS:
        if precision in device.isa:
            say(f"{precision} kernels ({device.isa[precision]})")
            precisions[precision] = _precision(device, precision, effort)
    say("noise")
    return Host(
        device=device,
        memory=memory,
        barriers=barriers,
        list_pixel_s=lists["lists"] / _LISTED_PIXELS,
        noise_ratio=_noise_ratio(device),
        precisions=precisions,
    )


def _medians(trials: Mapping[Key, Callable[[], float]], effort: Effort) -> dict[Key, float]:
    """The median of each over the rounds."""
    order = list(trials)
    shuffle = random.Random(0).shuffle
    found: dict[Key, list[float]] = {key: [] for key in order}
    for _ in range(effort.rounds):
        shuffle(order)
        for key in order:
            found[key].append(trials[key]())
    return {key: statistics.median(values) for key, values in found.items()}


def _calls(effort: Effort, call_s: float) -> int:
    return max(1, int(effort.turn_s / call_s))


def _memory(cpus: int, effort: Effort) -> tuple[MemoryLevel, ...]:
    caches = cache_sizes()
    sizes = {**caches, "memory": _far_bytes(caches)}
    trials = {}
    for name, size in sizes.items():
        read = size if name == "memory" else size // 4
        for threads in {1, cpus}:
            together = read if name in ("L3", "memory") else read * threads
            together = max(together, 4096 * threads)
            trials[name, threads] = partial(_read_byte_s, together, threads, effort)
    speeds = {key: 1.0 / taken for key, taken in _medians(trials, effort).items()}
    return tuple(
        MemoryLevel(
            name=name,
            size_bytes=size,
            read_bytes_per_s=speeds[name, 1],
            all_read_bytes_per_s=speeds[name, cpus],
        )
        for name, size in sizes.items()
    )


def _read_byte_s(num_bytes: int, threads: int, effort: Effort) -> float:
    passes = _calls(effort, num_bytes / 20e9)
    return _native.time_reading(num_bytes=num_bytes, threads=threads, passes=passes) / num_bytes


def cache_sizes(caches: Path = _CACHES) -> dict[str, int]:
    """Bytes of the data caches of the first CPU, by level; usual ones if nothing tells."""
    found: dict[str, int] = {}
    for folder in sorted(caches.glob("index*")):
        try:
            level, kind, size = (
                (folder / name).read_text("ascii").strip() for name in ("level", "type", "size")
            )
            unit = {"K": 2**10, "M": 2**20, "G": 2**30}[size[-1]]
            if kind != "Instruction":
                found[f"L{int(level)}"] = int(size[:-1]) * unit
        except (OSError, ValueError, KeyError, IndexError):
            continue
    sizes = dict(sorted(found.items()))
    ascends = list(sizes.values()) == sorted(set(sizes.values()))
    return sizes if sizes and ascends else dict(_FALLBACK_CACHES)


def _far_bytes(caches: Mapping[str, int]) -> int:
    """What no cache holds from one round to the next."""
    return max(_LEAST_FAR_BYTES, 2 * max(caches.values()))


def _barriers(cpus: int, effort: Effort) -> tuple[BarrierCost, ...]:
    counts = sorted({1, cpus} | {2**i for i in range(1, 11) if 2**i < cpus})
    trials = {
        threads: partial(_native.time_barriers, threads=threads, count=_calls(effort, 1e-6))
        for threads in counts
    }
    found = _medians(trials, effort)
    return tuple(BarrierCost(threads=threads, barrier_s=found[threads]) for threads in counts)


@dataclass(frozen=True, slots=True)
class _Shape:
    """A layer to time; see `LayerShape` in engines/cpu/csrc/measure.hpp."""

    rows: int
    inputs: int
    outputs: int
    taps: int = 1
    residual: bool = False
    group: int = 0
    copies: int = 1


_MIDDLE = _Shape(192, 256, 256)
"""A layer of a middle stage."""


def _layer(
    precision: str, isa: str, effort: Effort, shape: _Shape, threads: int = 1
) -> Callable[[], float]:
    """Times a layer on that many threads at once: their median of seconds per call."""

    def once(calls: int) -> float:
        taken = _native.time_layer(
            precision,
            isa,
            rows=shape.rows,
            columns=min(shape.rows, _COLUMNS),
            taps=shape.taps,
            inputs=shape.inputs,
            outputs=shape.outputs,
            residual=shape.residual,
            group=shape.group,
            copies=shape.copies,
            threads=threads,
            calls=calls,
        )
        return statistics.median(taken)

    calls = max(_calls(effort, once(1)), shape.copies)
    return lambda: once(calls)


def _table_trials(
    layer: Callable[[_Shape], Callable[[], float]], taps: Literal[1, 9], effort: Effort
) -> dict[Hashable, Callable[[], float]]:
    # The last 1x1 of a block, which is as large as all its others together, adds to its outputs.
    return {
        (taps, m, k, n): layer(_Shape(m, k, n, taps, residual=taps == 1))
        for m in effort.rows
        for k in _inputs(taps, effort)
        for n in effort.outputs
    }


def _table(found: Mapping[Hashable, float], taps: Literal[1, 9], effort: Effort) -> GemmTable:
    inputs = _inputs(taps, effort)
    return GemmTable(
        taps=taps,
        rows=effort.rows,
        inputs=inputs,
        outputs=effort.outputs,
        macs_per_s=tuple(
            tuple(
                tuple(taps * m * k * n / found[taps, m, k, n] for n in effort.outputs)
                for k in inputs
            )
            for m in effort.rows
        ),
    )


def _inputs(taps: int, effort: Effort) -> tuple[int, ...]:
    deepest = max(effort.inputs) if taps == 1 else _DEEPEST_3X3
    return tuple(dict.fromkeys(min(k, deepest) for k in effort.inputs))


def _difference(a: Callable[[], float], b: Callable[[], float]) -> Callable[[], float]:
    """One right after the other: a slow spell then changes both."""
    return lambda: a() - b()


def _ratio(a: Callable[[], float], b: Callable[[], float]) -> Callable[[], float]:
    return lambda: a() / b()


def _precision(device: DeviceIdentity, precision: str, effort: Effort) -> PrecisionCosts:
    isa = device.isa[precision]
    units = KernelUnits.model_validate(_native.kernel_units(precision, isa))
    layer = partial(_layer, precision, isa, effort)
    group = -(-_GROUP // units.input_unit) * units.input_unit
    half = 16 * group
    wide, few = _Shape(192, 2 * half, 256, taps=9), _Shape(16, 512, 1024)
    weights = few.inputs * few.outputs * units.element_bytes
    copies = -(-_far_bytes(cache_sizes()) // weights)
    far = replace(few, copies=copies)
    masker = partial(_native.time_masker, precision, isa)
    windows, calls = 8 * 8, _calls(effort, 100e-6)
    trials: dict[Hashable, Callable[[], float]] = {
        **_table_trials(layer, 1, effort),
        **_table_trials(layer, 9, effort),
        "runs": _difference(layer(replace(wide, group=group)), layer(replace(wide, group=half))),
        "late": _difference(layer(far), layer(few)),
        "scattered": _difference(
            layer(replace(far, group=group)), layer(replace(few, group=group))
        ),
        "streamed": layer(replace(far, rows=1)),
        "beside": _ratio(layer(_MIDDLE), layer(_MIDDLE, threads=device.cpus)),
        "pooled": partial(masker, size=64, channels=512, patch=8, pools=True, calls=calls),
        "pixels": partial(masker, size=8, channels=512, patch=1, pools=True, calls=calls),
        "scored": partial(masker, size=8, channels=512, patch=1, pools=False, calls=calls),
    }
    found = _medians(trials, effort)
    tiles = -(-wide.rows // units.tile_rows) * -(-wide.outputs // units.panel)
    numbers, scored = windows * 512, found["scored"]
    # Of 8 x 8 windows, with 64 pixels each and with one: the difference is 63 numbers a channel.
    pool_number_s = max(found["pooled"] - found["pixels"], 0.0) / (63 * numbers)
    return PrecisionCosts(
        units=units,
        pointwise=_table(found, 1, effort),
        spatial=_table(found, 9, effort),
        segment_s=max(found["runs"], 0.0) / (tiles * 9 * (half // group - 1)),
        # Weights that computing hides not at all are late by as long as reading them takes.
        late_byte_s=min(max(found["late"], 0.0), found["streamed"]) / weights,
        scattered_byte_s=max(found["scattered"], 0.0) / (weights / 2),
        stream_bytes_per_s=weights / found["streamed"],
        parallel_ratio=min(found["beside"], 1.0),
        pool_number_s=pool_number_s,
        pool_channel_s=max((found["pixels"] - scored) / numbers - pool_number_s, 0.0),
        score_channel_s=scored / numbers,
        **_whole_calls(precision, effort),
    )


def _whole_calls(precision: str, effort: Effort) -> dict[str, float]:
    """What only a whole call shows, from a network whose single block hardly counts."""
    net = ResNet(
        stem_width=64,
        stages=(Stage(depth=1, width=16, paradigm=Paradigm.LAYER),),
        num_classes=1000,
        folded=True,
    )
    bundle = _with_scales(synthetic_bundle("tiny", net, _TINY_SIZE, 0))
    images = np.full((1, _TINY_SIZE, _TINY_SIZE, 3), 127, np.uint8)
    points = [asking_point("asks", _TINY_SIZE, 1)]
    found: dict[str, list[float]] = {"stem": [], "prepare": [], "head": [], "call": []}
    with CpuEngine(bundle, threads=1, precision=precision) as engine:
        engine.infer(images, points)
        for _ in range(2 * effort.rounds + 1):
            begin = time.perf_counter()
            output = engine.infer(images, points)
            taken = time.perf_counter() - begin
            if output.parts_s is None:
                raise EngineError("this engine does not tell what its parts took")
            found["stem"].append(float(output.parts_s[0]))
            found["head"].append(float(output.parts_s[-1]))
            found["prepare"].append(output.durations_s["prepare"])
            found["call"].append(taken - sum(output.durations_s.values()))
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {
        "stem_macs_per_s": 3 * 49 * 64 * (_TINY_SIZE // 2) ** 2 / medians["stem"],
        "prepare_pixel_s": medians["prepare"] / _TINY_SIZE**2,
        "class_s": medians["head"] / net.num_classes,
        "call_s": medians["call"],
    }


def _with_scales(bundle: Bundle) -> Bundle:
    """Any scales do: how long arithmetic takes does not depend on them."""
    manifest = bundle.manifest
    blocks = manifest.architecture.blocks
    scales = Quantisation(
        stem=1.0,
        trunk=(1.0,) * len(manifest.architecture.stages),
        blocks=tuple(
            BlockScales(inner1=1.0, inner2=1.0, shortcut=1.0 if block.projection else None)
            for block in blocks
        ),
        features=1.0,
        points=manifest.points,
        calibration=Calibration(images=1, split="none", method="max", agreement=(1.0, 1.0)),
    )
    return replace(bundle, manifest=manifest.model_copy(update={"quantisation": scales}))


def _noise_ratio(device: DeviceIdentity) -> float:
    precision = next(iter(device.isa))
    trial = _layer(precision, device.isa[precision], Effort(turn_s=2e-3), _MIDDLE)
    taken = sorted(trial() for _ in range(_NOISE_REPEATS))
    return max(1.0, float(np.quantile(taken, 0.95)) / statistics.median(taken))
