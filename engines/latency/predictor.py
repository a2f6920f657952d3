"""What a call will take here: a latency table, interpolated and compiled for one way of running.

A prediction is the sum of medians per part; its quantiles are that sum times quantiles of measured
over predicted for whole networks, because quantiles of parts do not add up. A point that glances
is two networks: what it is expected to take is the first and, for the share of images that the
bundle records, the second; its quantiles are those of both chances, who is looked at again and what
calls take.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np

from engines.architecture import MapSize, ResNet, only_resnet
from engines.bundle import Bundle
from engines.errors import InvalidInput, LatencyError
from engines.latency.core import HEAD, STEM, PartCost, Prediction
from engines.latency.grids import Grid, grid_between, grid_of
from engines.latency.identity import DeviceIdentity
from engines.latency.rates import (
    BoolArray,
    FloatArray,
    RateVector,
    asked_blocks,
    expected_rates,
    second_look_rates,
)
from engines.latency.tables import LatencyTable, PointRates, Spread, check_table
from engines.manifest import PointRecord

MEDIAN = 0.5

_LEVELS = 199


class MeasuredPredictor:
    """Predicts the calls of one bundle in one precision on as many threads as were measured."""

    def __init__(
        self,
        table: LatencyTable,
        bundle: Bundle,
        *,
        device: DeviceIdentity,
        precision: str,
        threads: int,
    ) -> None:
        """Raises LatencyError where the table is of another bundle or device, or has nothing for
        that precision or number of threads."""
        check_table(table, bundle, device)
        self._net = only_resnet(bundle.manifest.architecture, "latency prediction")
        manifest = bundle.manifest.at(precision) if precision == "int8" else bundle.manifest
        self._points = {record.point.name: record for record in manifest.points}
        self._profiles = {
            (p.size, p.batch): p
            for p in table.profiles
            if (p.precision, p.threads) == (precision, threads)
        }
        if not self._profiles:
            raise LatencyError(_nothing_for(table, precision, threads))
        self.precision, self.threads = precision, threads
        self.sizes = tuple(sorted({size for size, _ in self._profiles}))
        self.batches = tuple(sorted({batch for _, batch in self._profiles}))
        self._observed = {each.point: each for each in table.points if each.precision == precision}
        self._shrinks = {(each.size, each.small): each.seconds for each in table.shrinks}
        spread = _spread(table.spreads, precision, threads)
        self._ratios = (1.0, 1.0) if spread is None else spread.ratios
        self._noisy = spread is not None and spread.noisy
        self._grids: dict[tuple[int, int], Grid] = {}
        self._of_points: dict[tuple[str, int], float] = {}

    def predict(
        self,
        what: str | RateVector,
        *,
        size: int | None = None,
        batch: int = 1,
        quantile: float = MEDIAN,
    ) -> float:
        """Seconds that a call of `batch` images takes, with that probability or less.

        what: the name of an operating point, every image at it, or activation rates (then with
        `size`). A point that glances may take one of several times, few as likely as others. Sizes
        and batches between measured ones are interpolated. Raises InvalidInput for an unknown
        point, a quantile outside 0 to 1, rates that do not fit, or what lies outside the measured
        range.
        """
        if isinstance(what, str) and size is None and self._record(what).again is not None:
            return self.mixed([what] * batch, quantile)
        return self.median(what, size=size, batch=batch) * self.ratio(quantile)

    def median(self, what: str | RateVector, *, size: int | None = None, batch: int = 1) -> float:
        """The sum of medians, see `predict`; of a point that glances what is expected of these."""
        if isinstance(what, str):
            found = self._of_points.get((what, batch))
            if found is None or size is not None:
                found = self._median_of_point(what, size, batch)
            return found
        return self._grid_for(what, size, batch).seconds(what)

    def looks(self, point: str, *, size: int | None = None, batch: int = 1) -> tuple[float, float]:
        """Median seconds of a call for the first look at every image, 0 without a glance, and for
        the second at every image."""
        record = self._record(point)
        own = record.point.image_size if size is None else size
        second_s = self._grid_for(rates := self.rates(point), own, batch).seconds(rates)
        first = self._first_look(record)
        if first is None:
            return 0.0, second_s
        shrink_s = batch * self._shrinks.get((own, first[1]), 0.0)
        return self._grid_for(*first, batch).seconds(first[0]) + shrink_s, second_s

    def known(self, point: str, again: float, *, batch: int = 1) -> float:
        """Seconds of a call of which that share of images is looked at again, the median."""
        first_s, second_s = self.looks(point, batch=batch)
        return first_s + again * second_s

    def ratio(self, quantile: float) -> float:
        """Quantile of measured over predicted."""
        if not 0.0 < quantile < 1.0:
            raise InvalidInput(f"a quantile must be between 0 and 1, got {quantile}")
        place = quantile * (len(self._ratios) - 1)
        below = int(place)
        low, high = self._ratios[below], self._ratios[below + 1]
        return low + (place - below) * (high - low)

    @property
    def noisy(self) -> bool:
        """Whether the table was taken while something else ran, see `Spread.noisy`."""
        return self._noisy

    @property
    def ratios(self) -> tuple[float, ...]:
        """Measured over predicted, quantiles evenly spaced."""
        return self._ratios

    def mixed(self, points: Sequence[str], quantile: float = MEDIAN) -> float:
        """Seconds of one call whose images are at those points, one each and all of one size.

        What an image adds on a CPU does not depend on its batch mates. Raises InvalidInput for no
        point, points of different sizes, and what `predict` refuses.
        """
        if not points:
            raise InvalidInput("a batch has at least one image")
        if len({self._size_of(point) for point in points}) > 1:
            raise InvalidInput(f"images of one call have one size, those of {list(points)} do not")
        batch = len(points)
        shares = [again for point in points if (again := self._record(point).again) is not None]
        if not shares:
            total = sum(self.median(point, batch=batch) for point in points) / batch
            return total * self.ratio(quantile)
        self.ratio(quantile)  # refuses what is no quantile
        least = most = 0.0
        for point in points:
            first_s, second_s = self.looks(point, batch=batch)
            most += (first_s + second_s) / batch
            least += (first_s if self._record(point).again is not None else second_s) / batch
        return self._quantile(least, most, shares, quantile)

    def has_observed(self, point: str) -> bool:
        """Whether that point's rates were observed on pictures."""
        return point in self._observed

    def rates(self, point: str) -> RateVector:
        """What that point computes on the average, of images that it computes at its own size: as
        observed on pictures, else as the bundle records it, with active patches taken to be
        clustered."""
        record = self._record(point)
        asked = asked_blocks(self._net, record.point)
        observed = self._observed.get(point)
        if observed is not None:
            return _from_observed(observed, asked)
        return expected_rates(self._net, record.point, second_look_rates(record))

    def breakdown(
        self, what: str | RateVector, *, size: int | None = None, batch: int = 1
    ) -> Prediction:
        """Medians per part, of points that glance expected ones; these carry no compute and memory
        shares, since they were measured."""
        first, share = None, 1.0
        if isinstance(what, str):
            record = self._record(what)
            size = record.point.image_size if size is None else size
            what = self.rates(what)
            first, share = self._first_look(record), 1.0 if record.again is None else record.again
        grid = self._grid_for(what, size, batch)
        parts, overhead_s = share * grid.parts(what), share * grid.overhead_s
        if first is not None:
            small = self._grid_for(*first, batch)
            parts, overhead_s = parts + small.parts(first[0]), overhead_s + small.overhead_s
            overhead_s += batch * self._shrinks.get((size or 0, first[1]), 0.0)
        names = [STEM, *(block.name for block in self._net.blocks), HEAD]
        return Prediction(
            parts=tuple(
                PartCost(name, float(part), 0.0, 0.0, 0.0)
                for name, part in zip(names, parts, strict=True)
            ),
            overhead_s=overhead_s,
        )

    def _first_look(self, record: PointRecord) -> tuple[RateVector, int] | None:
        """Its rates and its size; None without a glance."""
        if record.point.glance is None:
            return None
        first = record.point.first_look
        rates = expected_rates(self._net, first, (1.0,) * len(record.activation))
        return rates, first.image_size

    def _quantile(
        self, least_s: float, most_s: float, shares: Sequence[float], quantile: float
    ) -> float:
        """Of calls that take from `least_s`, where none of those with `shares` is looked at again,
        to `most_s`, where all are.

        How many are is binomial; where shares differ their mean stands for all.
        """
        count, share = len(shares), sum(shares) / len(shares)
        again = np.arange(count + 1)
        chances = [
            comb(count, k) * share**k * (1.0 - share) ** (count - k) for k in range(count + 1)
        ]
        medians = least_s + (most_s - least_s) * again / count
        levels = np.linspace(0.0, 1.0, _LEVELS + 2)[1:-1]
        ratios = np.interp(levels, np.linspace(0.0, 1.0, len(self._ratios)), self._ratios)
        seconds = np.outer(medians, ratios).ravel()
        order = np.argsort(seconds, kind="stable")
        reached = np.cumsum(np.repeat(chances, _LEVELS)[order]) / _LEVELS
        place = min(int(np.searchsorted(reached, quantile)), len(order) - 1)
        return float(seconds[order[place]])

    def _median_of_point(self, point: str, size: int | None, batch: int) -> float:
        own = self._size_of(point)
        first_s, found = self.looks(point, size=size, batch=batch)
        again = self._record(point).again
        if again is not None:
            found = first_s + again * found
        if size is None or size == own:
            self._of_points[point, batch] = found
        return found

    def _size_of(self, point: str) -> int:
        return self._record(point).point.image_size

    def _record(self, point: str) -> PointRecord:
        record = self._points.get(point)
        if record is None:
            raise InvalidInput(
                f"no operating point '{point}'; there are: {', '.join(self._points)}"
            )
        return record

    def _grid_for(self, rates: RateVector, size: int | None, batch: int) -> Grid:
        if size is None:
            raise InvalidInput("activation rates need the size of the images")
        if len(rates.spatial) != len(self._net.blocks):
            raise InvalidInput(
                f"{len(self._net.blocks)} blocks need as many rates, got {len(rates.spatial)}"
            )
        grid = self._grids.get((size, batch))
        if grid is None:
            grid = self._grids[size, batch] = self._made(size, batch)
        return grid

    def _made(self, size: int, batch: int) -> Grid:
        lower, upper = _around(self.sizes, size, "image size")
        first, last = _around(self.batches, batch, "batch")
        by_batch = _shares(self._net, first, last, batch)
        small, large = (
            grid_between(self._measured(of, first), self._measured(of, last), by_batch)
            for of in (lower, upper)
        )
        return grid_between(small, large, _area_shares(self._net, lower, upper, size))

    def _measured(self, size: int, batch: int) -> Grid:
        try:
            return grid_of(self._profiles[size, batch], self._net)
        except KeyError:
            raise LatencyError(
                f"the latency table lacks batch {batch} at {size} pixels; measure again with: "
                "laud measure BUNDLE"
            ) from None


def _from_observed(observed: PointRates, asked: BoolArray) -> RateVector:
    return RateVector(
        np.array(observed.spatial), np.array(observed.dilated), np.array(observed.channel), asked
    )


def _around(measured: Sequence[int], wanted: int, what: str) -> tuple[int, int]:
    """The measured values next to `wanted`, both itself where it was measured."""
    if not measured[0] <= wanted <= measured[-1]:
        raise InvalidInput(
            f"{what} {wanted} lies outside what was measured, {measured[0]} to {measured[-1]}; "
            "laud measure takes more with --size and --batch"
        )
    lower = max(value for value in measured if value <= wanted)
    return lower, min(value for value in measured if value >= wanted)


def _shares(net: ResNet, first: int, last: int, wanted: int) -> FloatArray:
    """How far each part lies from one batch to the other, all alike: (blocks + 2,)."""
    share = 0.0 if first == last else (wanted - first) / (last - first)
    return np.full(len(net.blocks) + 2, share)


def _area_shares(net: ResNet, lower: int, upper: int, wanted: int) -> FloatArray:
    """How far each part lies from one image size to the other, by the area of its map.

    Maps are rounded up at every stage, so that two sizes may share a map; there the side decides.
    """
    if lower == upper:
        return np.zeros(len(net.blocks) + 2)
    areas = np.array([_areas(net, size) for size in (lower, upper, wanted)], np.float64)
    first, last, here = areas
    by_side = (wanted - lower) / (upper - lower)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(first == last, by_side, (here - first) / (last - first))
    return np.asarray(shares, np.float64)


def _areas(net: ResNet, size: int) -> list[int]:
    image = MapSize(size, size)
    blocks = [out.area for _, out in net.block_sizes(image)]
    return [net.stem_sizes(image)[0].area, *blocks, blocks[-1]]


def _spread(spreads: Sequence[Spread], precision: str, threads: int) -> Spread | None:
    for spread in spreads:
        if (spread.precision, spread.threads) == (precision, threads):
            return spread
    return None


def _nothing_for(table: LatencyTable, precision: str, threads: int) -> str:
    there = sorted({(p.precision, p.threads) for p in table.profiles})
    listed = ", ".join(f"{p} on {t} thread{'s' if t > 1 else ''}" for p, t in there)
    return (
        f"the latency table has nothing for {precision} on {threads} "
        f"thread{'s' if threads > 1 else ''}; it has: {listed}; measure it with: "
        f"laud measure BUNDLE --precision {precision} --threads {threads}"
    )
