"""Latency tables: what was measured of one bundle on one device, as a file beside the bundle."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from engines.bundle import Bundle
from engines.core import MAX_IMAGE_SIZE, MAX_THREADS, FrozenModel, Paradigm
from engines.errors import LatencyError
from engines.latency.files import read_model, write_model
from engines.latency.identity import DeviceIdentity
from engines.manifest import Rate

TABLE_SCHEMA = 1
MOST_SHIFT = 1.08
"""How far whole calls may lie off the sum of their parts before a table is called noisy."""


Seconds = Annotated[float, Field(ge=0.0)]
Ratio = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class Curve(FrozenModel):
    """A block's time over what is active, its maskers asked.

    One kind of masks (clustered or random): active: shares of its output pixels, ascending;
    dilated: the shares of pixels that its first convolution needed; seconds: (channels, pixels),
    one row per share in `BlockTable.channel`.
    """

    active: Annotated[tuple[Rate, ...], Field(min_length=1)]
    dilated: tuple[Rate, ...]
    seconds: tuple[tuple[Seconds, ...], ...]

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        columns = len(self.active)
        if len(self.dilated) != columns or any(len(row) != columns for row in self.seconds):
            raise ValueError(f"a curve over {columns} shares needs as many values in every row")
        _check_ascending(self.active, "active")
        return self


class BlockTable(FrozenModel):
    """Medians of one block. channel: shares of its inner channels, ascending ((1,): no channel
    masker). random: None where patches cannot be scattered, which is then the same."""

    block: Annotated[int, Field(ge=0)]
    channel: Annotated[tuple[Rate, ...], Field(min_length=1)]
    clustered: Curve
    random: Curve | None = None

    @model_validator(mode="after")
    def _rows_agree(self) -> Self:
        _check_ascending(self.channel, "channel")
        for curve in (self.clustered, self.random):
            if curve is not None and len(curve.seconds) != len(self.channel):
                raise ValueError(
                    f"block {self.block}: {len(curve.seconds)} rows for "
                    f"{len(self.channel)} channel shares"
                )
        return self


class Profile(FrozenModel):
    """One way to run the network, median seconds per call of `batch` images of `size` pixels.

    overhead_s: what the call takes besides its parts. static_s: stem, every block, head when no
    masker is asked. blocks: those that have maskers.
    """

    precision: str
    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)]
    size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)]
    batch: Count
    overhead_s: Seconds
    static_s: tuple[Seconds, ...]
    blocks: tuple[BlockTable, ...]


class PointRates(FrozenModel):
    """What an operating point computed on pictures, per block, means over images (see
    `engines.macs.BlockRates`)."""

    precision: str
    point: str
    spatial: tuple[Rate, ...]
    dilated: tuple[Rate, ...]
    channel: tuple[Rate, ...]


class Shrink(FrozenModel):
    """Median seconds to make the small copy of one image that points which glance look at first,
    `small` pixels of `size`."""

    size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)]
    small: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)]
    seconds: Seconds


class Spread(FrozenModel):
    """Measured over predicted of whole networks, `ratios` ascending, their quantiles evenly spaced
    from the least to the largest. calls: of how many calls."""

    precision: str
    threads: Count
    calls: Count
    ratios: Annotated[tuple[Ratio, ...], Field(min_length=2)]

    @property
    def shift(self) -> float:
        """Whole calls over the sum of their parts, in the median."""
        return self.ratios[len(self.ratios) // 2]

    @property
    def noisy(self) -> bool:
        """Whether whole calls took another time than their parts just before: the machine was not
        quiet, and nothing should be built on the table."""
        return abs(math.log(self.shift)) > math.log(MOST_SHIFT)

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if any(a > b for a, b in pairwise(self.ratios)):
            raise ValueError("ratios must ascend: they are quantiles")
        return self


class LatencyTable(FrozenModel):
    """All that was measured of one bundle on one device. pictures: what `points` were observed on;
    None: on nothing, then the bundle's own activation rates hold. shrinks: where points glance."""

    schema_version: Literal[1] = 1
    bundle: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    name: str
    device: DeviceIdentity
    engine: Literal["cpu"] = "cpu"
    version: str
    pictures: str | None
    profiles: Annotated[tuple[Profile, ...], Field(min_length=1)]
    points: tuple[PointRates, ...]
    spreads: tuple[Spread, ...]
    shrinks: tuple[Shrink, ...] = ()

    @property
    def file_name(self) -> str:
        """`latency-<device>.json`."""
        return table_name(self.device)


def merged(old: LatencyTable, new: LatencyTable) -> LatencyTable:
    """Both tables in one; where both have measured the same, the new one holds.

    Raises LatencyError unless they are of one bundle, device and version.
    """
    for what in ("bundle", "device", "version"):
        if getattr(old, what) != getattr(new, what):
            raise LatencyError(
                f"a latency table of another {what} is there; name another file with -o"
            )

    def joined(of: str, key: Callable[[Any], object]) -> tuple[Any, ...]:
        return tuple({key(each): each for each in (*getattr(old, of), *getattr(new, of))}.values())

    return new.model_copy(
        update={
            "profiles": joined("profiles", lambda p: (p.precision, p.threads, p.size, p.batch)),
            "points": joined("points", lambda p: (p.precision, p.point)),
            "spreads": joined("spreads", lambda s: (s.precision, s.threads)),
            "shrinks": joined("shrinks", lambda s: (s.size, s.small)),
            "pictures": new.pictures or old.pictures,
        }
    )


def table_name(device: DeviceIdentity) -> str:
    """Name of that device's table beside a bundle's manifest."""
    return f"latency-{device.slug}.json"


def write_table(path: Path, table: LatencyTable) -> None:
    """Write in one step: a kill leaves the old file or none. OSError where that cannot be."""
    write_model(path, table)


def read_table(path: Path) -> LatencyTable:
    """Read a table; LatencyError that says what is wrong with it and how to get a new one."""
    return read_model(
        path,
        LatencyTable,
        newest=TABLE_SCHEMA,
        what="a latency table",
        command="laud measure BUNDLE",
    )


def check_table(table: LatencyTable, bundle: Bundle, device: DeviceIdentity) -> None:
    """Raise LatencyError unless the table was taken of this bundle on this device."""
    again = f"measure here with: laud measure {bundle.ref}"
    if table.bundle != bundle.hash:
        raise LatencyError(
            f"the latency table is of bundle {table.name} ({table.bundle[:12]}), not of "
            f"{bundle.manifest.name} ({bundle.hash[:12]}); {again}"
        )
    if table.device != device:
        raise LatencyError(
            f"the latency table was taken on {_spelled(table.device)}; this is "
            f"{_spelled(device)}; {again}"
        )
    blocks = bundle.manifest.architecture.blocks
    dynamic = [i for i, b in enumerate(blocks) if b.paradigm is not Paradigm.STATIC]
    fits = all(
        len(profile.static_s) == len(blocks) + 2 and [b.block for b in profile.blocks] == dynamic
        for profile in table.profiles
    ) and all(
        len(rates) == len(blocks)
        for point in table.points
        for rates in (point.spatial, point.dilated, point.channel)
    )
    if not fits:
        raise LatencyError(
            f"the latency table does not fit a network of {len(blocks)} blocks, {len(dynamic)} of "
            f"them with maskers; {again}"
        )


def _spelled(device: DeviceIdentity) -> str:
    sets = ", ".join(f"{precision} {isa}" for precision, isa in sorted(device.isa.items()))
    return f"{device.cpu} with {device.cpus} CPUs ({sets})"


def _check_ascending(values: tuple[float, ...], what: str) -> None:
    if any(a >= b for a, b in pairwise(values)):
        raise ValueError(f"shares '{what}' must ascend, got {values}")
