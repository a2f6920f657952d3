"""A machine as the model of our native engine sees it: measured numbers, units in their names.

`engines.latency.host_measuring` takes them; a file holds them, so that a network can be costed for
a machine that is not here.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from engines.core import MAX_THREADS, FrozenModel
from engines.errors import InvalidInput
from engines.latency.files import read_model, write_model
from engines.latency.identity import DeviceIdentity

HOST_SCHEMA = 1
# A level of the memory serves all that is read over and over while that is at most this share of
# it. The rest is for what else a process touches, and for caches that neighbours share.
_FITS = 0.25

Positive = Annotated[float, Field(gt=0.0)]
Seconds = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Axis = Annotated[tuple[Count, ...], Field(min_length=1)]


class GemmTable(FrozenModel):
    """How fast one thread runs a layer whose weights are cached, over its shape.

    rows: pixels. inputs: input channels of each tap. outputs: output channels. All ascending.
    macs_per_s: multiply-accumulates per second, indexed [rows][inputs][outputs].
    """

    taps: Literal[1, 9]
    rows: Axis
    inputs: Axis
    outputs: Axis
    macs_per_s: tuple[tuple[tuple[Positive, ...], ...], ...]

    @model_validator(mode="after")
    def _shape_fits(self) -> Self:
        for name in ("rows", "inputs", "outputs"):
            axis = getattr(self, name)
            if any(a >= b for a, b in pairwise(axis)):
                raise ValueError(f"{name} must ascend, got {axis}")
        table = self.macs_per_s
        if (
            len(table) != len(self.rows)
            or any(len(plane) != len(self.inputs) for plane in table)
            or any(len(line) != len(self.outputs) for plane in table for line in plane)
        ):
            raise ValueError("macs_per_s must have one number per rows, inputs and outputs")
        return self

    def seconds(self, rows: float, inputs: float, outputs: float) -> float:
        """What one thread takes for a layer of that shape; 0 without rows or outputs.

        Time and not speed is interpolated: a kernel takes so much per row, per tile and per step,
        which makes it linear in each dimension, also towards no inputs, where finishing a row still
        costs something. Above the largest measured shape speed stays the same.
        """
        if rows <= 0 or outputs <= 0:
            return 0.0
        corners = [
            _weights(axis, at)
            for axis, at in ((self.rows, rows), (self.inputs, inputs), (self.outputs, outputs))
        ]
        total = 0.0
        for (r, a), (k, b), (n, c) in product(*corners):
            macs = self.taps * self.rows[r] * self.inputs[k] * self.outputs[n]
            total += a * b * c * macs / self.macs_per_s[r][k][n]
        return max(total, 0.0)


class KernelUnits(FrozenModel):
    """In what a kernel counts. element_bytes: of an activation and of a weight. vector: output
    channels that are skipped together; panel: that are computed together. tile_rows: pixels that
    are computed together. input_unit: input channels that are skipped together. depth_unit,
    channel_unit: what a layer's inputs and a map's channels are padded to."""

    element_bytes: Count
    vector: Count
    panel: Count
    tile_rows: Count
    input_unit: Count
    depth_unit: Count
    channel_unit: Count


class PrecisionCosts(FrozenModel):
    """What arithmetic of one precision costs here, on one thread where nothing else is said.

    pointwise, spatial: 1x1 and 3x3 layers. segment_s: per tile and tap, for each further run of
    input channels under channel skipping. late_byte_s: what each byte of weights adds to the time
    of a layer when it comes from memory; scattered_byte_s: the same where channels are skipped,
    which no prefetching foresees. stream_bytes_per_s: the most that a kernel reads from memory.
    parallel_ratio: speed of a thread while all compute, over one alone.
    pool_number_s, pool_channel_s: pooling a map, per number of it, and per window and channel.
    score_channel_s: a logit from means, per channel. stem_macs_per_s: the first convolution with
    its max pool. prepare_pixel_s: uint8 to what the stem reads. class_s: softmax, per class.
    call_s: what a call from Python takes besides.
    """

    units: KernelUnits
    pointwise: GemmTable
    spatial: GemmTable
    segment_s: Seconds
    late_byte_s: Seconds
    scattered_byte_s: Seconds
    stream_bytes_per_s: Positive
    parallel_ratio: Annotated[float, Field(gt=0.0, le=1.0)]
    pool_number_s: Seconds
    pool_channel_s: Seconds
    score_channel_s: Seconds
    stem_macs_per_s: Positive
    prepare_pixel_s: Seconds
    class_s: Seconds
    call_s: Seconds

    @model_validator(mode="after")
    def _taps_fit(self) -> Self:
        if (self.pointwise.taps, self.spatial.taps) != (1, 9):
            raise ValueError("pointwise is the table of 1 tap and spatial that of 9")
        return self


class MemoryLevel(FrozenModel):
    """A cache or, last, the memory. size_bytes: of the memory, what was read to measure it.
    read_bytes_per_s: by one thread; all_read_bytes_per_s: by as many as there are CPUs."""

    name: str
    size_bytes: Count
    read_bytes_per_s: Positive
    all_read_bytes_per_s: Positive


class BarrierCost(FrozenModel):
    """One meeting of that many threads."""

    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)]
    barrier_s: Seconds


class Host(FrozenModel):
    """One machine, measured.

    memory: from the first-level cache to the memory. list_pixel_s: listing what a mask leaves
    active, per pixel that any convolution computes. noise_ratio: the 95 % quantile over the median
    of one layer that is timed over and over. precisions: by name, those that `device` has kernels
    for.
    """

    schema_version: Literal[1] = 1
    device: DeviceIdentity
    memory: Annotated[tuple[MemoryLevel, ...], Field(min_length=1)]
    barriers: Annotated[tuple[BarrierCost, ...], Field(min_length=1)]
    list_pixel_s: Seconds
    noise_ratio: Annotated[float, Field(ge=1.0)]
    precisions: Annotated[dict[str, PrecisionCosts], Field(min_length=1)]

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if set(self.precisions) != set(self.device.isa):
            raise ValueError(
                f"precisions {sorted(self.precisions)} are not those of the device, "
                f"{sorted(self.device.isa)}"
            )
        for what, values in (
            ("memory by size_bytes", [level.size_bytes for level in self.memory]),
            ("barriers by threads", [barrier.threads for barrier in self.barriers]),
        ):
            if any(a >= b for a, b in pairwise(values)):
                raise ValueError(f"{what} must ascend, got {values}")
        return self

    def costs(self, precision: str) -> PrecisionCosts:
        """InvalidInput for a precision that this machine cannot run."""
        try:
            return self.precisions[precision]
        except KeyError:
            raise InvalidInput(
                f"'{self.device.cpu}' was not measured in '{precision}'; "
                f"there are: {', '.join(self.precisions)}"
            ) from None

    def distance(self, working_set_bytes: float) -> float:
        """How far a working set of that size lies between the last cache (0) and memory (1)."""
        if len(self.memory) == 1:
            return 1.0
        cache, memory = (1.0 / level.read_bytes_per_s for level in self.memory[-2:])
        if memory <= cache:
            return 0.0
        there = 1.0 / self.read_bytes_per_s(working_set_bytes, 1)
        return min(max((there - cache) / (memory - cache), 0.0), 1.0)

    def read_bytes_per_s(self, working_set_bytes: float, threads: int) -> float:
        """How fast that many threads together read what a working set of that size holds.

        Between a quarter of a level and all of it, time moves from this level's to the next one's.
        """
        speeds = [self._speed(level, threads) for level in self.memory]
        for level, here, beyond in zip(self.memory, speeds, speeds[1:], strict=False):
            if working_set_bytes < level.size_bytes:
                fits = _FITS * level.size_bytes
                share = max(0.0, math.log(max(working_set_bytes, 1.0) / fits) / -math.log(_FITS))
                return 1.0 / ((1.0 - share) / here + share / beyond)
        return speeds[-1]

    def _speed(self, level: MemoryLevel, threads: int) -> float:
        if threads >= self.device.cpus:
            return level.all_read_bytes_per_s
        return min(threads * level.read_bytes_per_s, level.all_read_bytes_per_s)

    def barrier_s(self, threads: int) -> float:
        """One meeting of that many threads, interpolated; 0 for one."""
        if threads == 1:
            return 0.0
        counts = [barrier.threads for barrier in self.barriers]
        costs = [barrier.barrier_s for barrier in self.barriers]
        if threads <= counts[0]:
            return costs[0]
        return sum(share * costs[i] for i, share in _weights(counts, min(threads, counts[-1])))

    def thread_speed(self, precision: str, threads: int) -> float:
        """Speed of each of that many threads, over that of one alone."""
        if threads == 1:
            return 1.0
        busy = min((threads - 1) / (self.device.cpus - 1), 1.0)
        return 1.0 + (self.costs(precision).parallel_ratio - 1.0) * busy


def write_host(path: Path, host: Host) -> None:
    """Write in one step: a kill leaves the old file or none. OSError where that cannot be."""
    write_model(path, host)


def read_host(path: Path) -> Host:
    """Read a measured machine; LatencyError that says what is wrong and how to get a new one."""
    return read_model(
        path,
        Host,
        newest=HOST_SCHEMA,
        what="the description of a machine",
        command="laud measure device",
    )


def _weights(axis: Sequence[int], at: float) -> tuple[tuple[int, float], ...]:
    """Which entries of an ascending axis, and how much of each, make up `at`.

    Below the first entry the line through the first two goes on; above the last one, what is
    looked up grows in proportion.
    """
    last = len(axis) - 1
    if at >= axis[last] or last == 0:
        return ((last, at / axis[last]),)
    i = max(bisect_right(axis, at) - 1, 0)
    share = (at - axis[i]) / (axis[i + 1] - axis[i])
    return ((i, 1.0 - share), (i + 1, share))
