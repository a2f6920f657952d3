"""What `?explain=1` adds to an answer: per block what was computed of an image, and where.

Computed from the decisions of the maskers, which the engine tells anyway; nothing here runs unless
it is asked for. Pure functions. An image that was answered at first sight is explained as what it
was: the static network on the small copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engines.architecture import Block, MapSize, Masker, RegNet, ResNet
from engines.core import OperatingPoint
from engines.errors import EngineError
from engines.macs import (
    BlockRates,
    all_block_macs,
    executed_macs,
    masker_units,
    static_macs,
)
from service.model import Model
from service.request import Reply
from service.schemas.v1 import ExplainedBlock, ExplainedMasker, Explanation, SkipMap

Bools = npt.NDArray[np.bool_]
Fractions = npt.NDArray[np.float64]
Network = ResNet | RegNet


class Grid(NamedTuple):
    """What a spatial masker decided, bool (rows, columns), on patches of `patch` pixels of a map of
    that size; None: one patch, the whole map."""

    active: Bools
    size: MapSize
    patch: int | None


class Kept(NamedTuple):
    """How many of so many spatial maskers kept each patch, (rows, columns), on the finest of their
    grids, which lies on a map of that size."""

    counts: npt.NDArray[np.int64]
    maskers: int
    size: MapSize
    patch: int | None

    def shares(self, ys: Fractions, xs: Fractions) -> npt.NDArray[np.float64]:
        """Of the maskers, (len(ys), len(xs)), at those fractions of the map's height and width."""
        rows = _places(ys, self.size.height, self.patch)
        columns = _places(xs, self.size.width, self.patch)
        shares: npt.NDArray[np.float64] = self.counts[np.ix_(rows, columns)] / self.maskers
        return shares

    def skip_map(self) -> SkipMap:
        """As answers tell it."""
        return SkipMap(maskers=self.maskers, counts=self.counts.tolist())


@dataclass(frozen=True, slots=True)
class _Decided:
    """One masker's decisions on its block's output map. evaluated: whether its point asks it.

    units: (U,), None where the engine does not tell them.
    """

    masker: Masker
    block: Block
    size: MapSize
    activation: float
    evaluated: bool
    units: Bools | None

    @property
    def grid(self) -> Bools | None:
        """Patches (rows, columns) of a spatial masker."""
        if self.units is None or self.masker.kind != "spatial":
            return None
        patches = self.size.patches(self.block.granularity.spatial)
        return self.units.reshape(patches.height, patches.width)


@dataclass(frozen=True, slots=True)
class Computed:
    """What the blocks of a network computed of an image.

    grids: of the spatial maskers. macs: executed in the whole network, maskers included. Empty and
    None where the engine does not tell what its maskers decided.
    """

    blocks: list[ExplainedBlock]
    grids: list[Grid]
    macs: float | None


def explain(model: Model, reply: Reply) -> Explanation:
    """The explanation of one image; grids and shares are there where its decisions are."""
    net, point = model.manifest.architecture, reply.point
    at_first_sight = reply.looked_again is False
    shown = point.first_look if at_first_sight else point
    image = MapSize(shown.image_size, shown.image_size)
    computed = (
        _computed(net, image, _all_of(net, image))
        if at_first_sight
        else (computed_blocks(net, reply))
    )
    total = None
    if computed.macs is not None:
        total = round(computed.macs / static_macs(net, image), 4)
    blocks = computed.blocks
    if total is not None and point.glance is not None:
        blocks, total = _with_first_look(net, point, blocks, total, again=not at_first_sight)
    return Explanation(
        summary=summary(point, total, reply.looked_again),
        skips_nothing=point.skips_nothing,
        looked_again=reply.looked_again,
        image_size=shown.image_size,
        crop_ratio=model.manifest.preprocessing.crop_ratio,
        macs_ratio=total,
        map=map_of(computed.grids),
        blocks=blocks,
    )


def computed_blocks(net: Network, reply: Reply) -> Computed:
    """What was computed of an image at its point's own size. Raises EngineError for decisions that
    do not fit the network."""
    image = MapSize(reply.point.image_size, reply.point.image_size)
    return _computed(net, image, _decided(net, image, reply))


def _computed(net: Network, image: MapSize, decided: Sequence[_Decided]) -> Computed:
    ratios: list[float] | None = None
    macs: float | None = None
    if all(one.units is not None for one in decided):
        ratios, macs = _executed(net, image, decided)
    blocks = [
        ExplainedBlock(
            name=block.name,
            paradigm=block.paradigm.value,
            macs_ratio=ratios[i] if ratios else None,
            maskers=[_masker(one) for one in decided if one.masker.block == i],
        )
        for i, block in enumerate(net.blocks)
    ]
    told = [(one, grid) for one in decided if (grid := one.grid) is not None]
    grids = [Grid(grid, one.size, one.block.granularity.spatial) for one, grid in told]
    return Computed(blocks, grids, macs)


def summary(point: OperatingPoint, macs_ratio: float | None, again: bool | None = None) -> str:
    """What a point took of an image, in a sentence without its full stop."""
    where = f"'{point.name}' at {point.image_size}x{point.image_size} pixels"
    if point.glance is not None and again is not None:
        small = point.glance.image_size
        found = "less sure than" if again else "sure enough, at least"
        where = f"'{point.name}' at {small}x{small} pixels was {found} {point.glance.confidence:g}"
        where += f", {'then' if again else 'without'} {point.image_size}x{point.image_size}"
        if macs_ratio is None:
            return f"{where}; the engine does not tell what that took"
        where += ": it"
    if point.skips_nothing:
        return f"{where} skips nothing: every image is computed in full"
    if macs_ratio is None:
        return f"{where} skips; the engine does not tell where"
    return f"{where} took {macs_ratio:.1%} of the multiply-accumulates of skipping nothing"


def _decided(net: Network, image: MapSize, reply: Reply) -> list[_Decided]:
    # The official layout has grids of its own; it is there to be compared with, not to be served.
    point, told = reply.point, None if net.official_layout else reply.decisions
    sizes = [out for _, out in net.block_sizes(image)]
    counts = [masker_units(net.blocks[m.block], sizes[m.block], m.kind) for m in net.maskers]
    if told is not None and len(told) != sum(counts):
        raise EngineError(f"the engine told {len(told)} decisions, expected {sum(counts)}")
    ends = pairwise(accumulate(counts, initial=0))
    return [
        _Decided(
            masker=masker,
            block=net.blocks[masker.block],
            size=sizes[masker.block],
            activation=float(reply.activation[i]),
            evaluated=point.thresholds[i] is not None or point.caps[i] is not None,
            units=None if told is None else told[start:end],
        )
        for i, (masker, (start, end)) in enumerate(zip(net.maskers, ends, strict=True))
    ]


def _all_of(net: Network, image: MapSize) -> list[_Decided]:
    """What the static network decides: nothing is asked, and all is computed."""
    sizes = [out for _, out in net.block_sizes(image)]
    return [
        _Decided(
            masker=masker,
            block=net.blocks[masker.block],
            size=sizes[masker.block],
            activation=1.0,
            evaluated=False,
            units=np.ones(
                masker_units(net.blocks[masker.block], sizes[masker.block], masker.kind), np.bool_
            ),
        )
        for masker in net.maskers
    ]


def _with_first_look(
    net: Network, point: OperatingPoint, blocks: list[ExplainedBlock], total: float, *, again: bool
) -> tuple[list[ExplainedBlock], float]:
    """Shares of blocks and of the network, the first look's included, over the point's own size."""
    first, own = (MapSize(size, size) for size in (point.first_look.image_size, point.image_size))
    macs = zip(all_block_macs(net, first), all_block_macs(net, own), strict=True)
    small = [one.static / whole.static for one, whole in macs]
    small_total = static_macs(net, first) / static_macs(net, own)
    if again:
        small = [one + (block.macs_ratio or 0.0) for one, block in zip(small, blocks, strict=True)]
        small_total += total
    shares = zip(blocks, small, strict=True)
    return [
        block.model_copy(update={"macs_ratio": round(share, 4)}) for block, share in shares
    ], round(small_total, 4)


def _masker(one: _Decided) -> ExplainedMasker:
    granularity, kind, grid = one.block.granularity, one.masker.kind, one.grid
    return ExplainedMasker(
        kind=kind,
        granularity=granularity.spatial if kind == "spatial" else granularity.channel,
        evaluated=one.evaluated,
        activation=round(one.activation, 6),
        active=None if one.units is None else int(one.units.sum()),
        total=None if one.units is None else len(one.units),
        rows=None if grid is None else rows_of(grid),
    )


def rows_of(grid: Bools) -> list[str]:
    """A grid of patches as `ExplainedMasker` tells it."""
    return [(row.view(np.uint8) + ord("0")).tobytes().decode() for row in grid]


def _executed(
    net: Network, image: MapSize, decided: Sequence[_Decided]
) -> tuple[list[float], float]:
    """Multiply-accumulates per block over those of skipping nothing, and of the whole network.

    Maskers included, as `engines.macs` counts them.
    """
    macs, none = all_block_macs(net, image), len(net.blocks)
    # As of so many images, each of which runs the branch of one block; the last runs none.
    each = [
        _only(rates, np.eye(none + 1)[i]) for i, rates in enumerate(_rates(net, image, decided))
    ]
    totals = executed_macs(net, image, each)
    branches = totals[:none] - totals[none]
    ratios = [
        round(float(branch + block.projection) / block.static, 4)
        for branch, block in zip(branches, macs, strict=True)
    ]
    return ratios, float(branches.sum() + totals[none])


def _only(rates: BlockRates, image: npt.NDArray[np.float64]) -> BlockRates:
    """Rates that hold for one image of several, where `image` is 1, and are 0 for the others."""
    return BlockRates(
        spatial=rates.spatial * image,
        dilated=rates.dilated * image,
        channel=rates.channel * image,
        spatial_masker=rates.spatial_masker * image,
        channel_masker=rates.channel_masker * image,
        middle=(rates.spatial if rates.middle is None else rates.middle) * image,
    )


def _rates(net: Network, image: MapSize, decided: Sequence[_Decided]) -> list[BlockRates]:
    found = {(one.masker.block, one.masker.kind): one for one in decided}
    # A mean over the whole map needs the first two convolutions everywhere, or nowhere.
    whole = isinstance(net, RegNet) and net.squeeze_ratio > 0 and net.squeeze_over == "map"
    rates: list[BlockRates] = []
    for i, (block, (into, out)) in enumerate(zip(net.blocks, net.block_sizes(image), strict=True)):
        spatial, channel = found.get((i, "spatial")), found.get((i, "channel"))
        share = dilated = anywhere = 1.0
        if spatial is not None and spatial.grid is not None:
            pixels = active_pixels(spatial.grid, spatial.block.granularity.spatial, out)
            share, anywhere = float(pixels.mean()), float(pixels.any())
            stride = 1 if net.stride_in_1x1 else block.stride
            dilated = float(_dilated(pixels, stride, out if net.stride_in_1x1 else into).mean())
        units = np.ones(1, bool) if channel is None or channel.units is None else channel.units
        rates.append(
            BlockRates(
                spatial=share,
                dilated=anywhere if whole else dilated,
                channel=float(units.mean()),
                spatial_masker=float(spatial is not None and spatial.evaluated),
                channel_masker=float(channel is not None and channel.evaluated),
                middle=anywhere if whole else None,
            )
        )
    return rates


def active_pixels(grid: Bools, patch: int | None, size: MapSize) -> Bools:
    """Output pixels (H, W) that are active; partial patches end at the map's border."""
    if patch is None:
        return np.broadcast_to(grid, (size.height, size.width))
    return grid.repeat(patch, axis=0).repeat(patch, axis=1)[: size.height, : size.width]


def _dilated(pixels: Bools, stride: int, size: MapSize) -> Bools:
    """The pixels (H, W of `size`) that a 3x3 of that stride reads for `pixels`."""
    framed = np.zeros((size.height + 2, size.width + 2), bool)
    for y in range(3):
        for x in range(3):
            framed[y : y + size.height : stride, x : x + size.width : stride] |= pixels
    return framed[1:-1, 1:-1]


def kept_of(grids: Sequence[Grid]) -> Kept | None:
    """How many maskers kept each patch; None without any."""
    if not grids:
        return None
    finest = max(grids, key=lambda grid: grid.active.size)
    rows, columns = finest.active.shape
    middles_y = _middles(rows, finest.size.height, finest.patch)
    middles_x = _middles(columns, finest.size.width, finest.patch)
    counts = np.zeros((rows, columns), np.int64)
    for active, size, patch in grids:
        ys, xs = _places(middles_y, size.height, patch), _places(middles_x, size.width, patch)
        counts += active[np.ix_(ys, xs)]
    return Kept(counts, len(grids), finest.size, finest.patch)


def map_of(grids: Sequence[Grid]) -> SkipMap | None:
    """The map of spatial maskers; None without any."""
    kept = kept_of(grids)
    return None if kept is None else kept.skip_map()


def _middles(count: int, length: int, patch: int | None) -> Fractions:
    """Middles of the patches along a side of the map, as fractions of it."""
    starts = np.arange(count) * (patch or length)
    return (starts + np.minimum(starts + (patch or length), length)) / (2 * length)


def _places(middles: Fractions, length: int, patch: int | None) -> npt.NDArray[np.int64]:
    """Which patch of another map, `length` pixels long, lies at those fractions of it."""
    return (middles * length).astype(np.int64) // (patch or length)
