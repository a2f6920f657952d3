"""Masks to measure with: which units of a network are active, at an exact rate. No torch.

A draw ranks the units of every masker; at a rate, the first ones are active. So the masks of one
draw are nested: a higher rate only adds units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from engines.architecture import Block, MapSize, ResNet
from engines.errors import InvalidInput
from engines.macs import masker_units

BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

_NUM_WAVES = 6
_CYCLES_PER_MAP = 0.7
_GOLDEN = (5**0.5 - 1) / 2


class MaskKind(StrEnum):
    """random: every unit alike, the worst case for neighbourhoods. clustered: blobs, the same place
    in every block. trained: what the network's own maskers decide."""

    RANDOM = "random"
    CLUSTERED = "clustered"
    TRAINED = "trained"


@dataclass(frozen=True)
class Draw:
    """Ranks for a batch of N images.

    ranks: (N, units) per masker; lower ranks become active first. totals: per masker, how many
    ranks there are. Maskers of one unit (blocks that are skipped whole) share one ranking, so that
    a rate is the share of them that is executed.
    """

    ranks: tuple[Int64Array, ...]
    totals: tuple[int, ...]

    def at(self, rate: float) -> tuple[BoolArray, ...]:
        """Decisions (N, units) per masker: exactly round(rate x total) of each ranking."""
        if not 0.0 <= rate <= 1.0:
            raise InvalidInput(f"the rate must be 0 to 1, got {rate}")
        return tuple(
            ranks < round(rate * total)
            for ranks, total in zip(self.ranks, self.totals, strict=True)
        )


@dataclass(frozen=True)
class _Placing:
    """How the units of one image are ranked.

    patches: from rows (P, 1) and columns (1, Q) of their centres, 0 to 1, to (P, Q); high values
    become active first. others: the ranks of that many channel groups, or of whole blocks.
    """

    patches: Callable[[Float64Array, Float64Array], Float64Array]
    others: Callable[[int], Int64Array]


def draw_masks(
    net: ResNet, image: MapSize, kind: MaskKind, count: int, rng: np.random.Generator
) -> Draw:
    """Rank the units of `net` for `count` images of that size; InvalidInput for trained masks."""
    if kind is MaskKind.TRAINED:
        raise InvalidInput("trained masks are decided by the network, they cannot be drawn")
    place = _random if kind is MaskKind.RANDOM else _clustered
    return _stacked(net, image, [_ranks(net, image, place(rng)) for _ in range(count)])


def fixed_masks(net: ResNet, image: MapSize, count: int) -> Draw:
    """The same units for every image, where they cost least: one disc in the middle of the map,
    groups and blocks spread evenly."""
    middle = _Placing(
        patches=lambda rows, columns: -np.hypot(rows - 0.5, columns - 0.5),
        others=lambda total: _ranked((np.arange(total) * _GOLDEN) % 1.0),
    )
    return _stacked(net, image, [_ranks(net, image, middle)] * count)


def _random(rng: np.random.Generator) -> _Placing:
    return _Placing(
        patches=lambda rows, columns: rng.random((rows.size, columns.size)),
        others=rng.permutation,
    )


def _clustered(rng: np.random.Generator) -> _Placing:
    # One smooth field an image, looked up by every grid: what is worth computing is in one place.
    waves = rng.normal(0.0, _CYCLES_PER_MAP, (_NUM_WAVES, 2))
    phases = rng.uniform(0.0, 1.0, _NUM_WAVES)

    def field(rows: Float64Array, columns: Float64Array) -> Float64Array:
        turns = rows[..., None] * waves[:, 0] + columns[..., None] * waves[:, 1] + phases
        return np.asarray(np.cos(2 * np.pi * turns).sum(axis=-1), np.float64)

    def window(total: int) -> Int64Array:
        return (np.arange(total) - int(rng.integers(total))) % total

    return _Placing(patches=field, others=window)


def _ranks(net: ResNet, image: MapSize, placing: _Placing) -> list[Int64Array]:
    """Ranks per masker of one image."""
    sizes = net.block_sizes(image)
    found: dict[int, Int64Array] = {}
    for alike in _single(net, image):
        ranks = placing.others(len(alike))
        found.update((masker, ranks[[i]]) for i, masker in enumerate(alike))
    for i, masker in enumerate(net.maskers):
        block = net.blocks[masker.block]
        if i in found:
            continue
        if masker.kind == "channel":
            found[i] = placing.others(block.num_groups)
        else:
            centres = _centres(block, sizes[masker.block][1])
            found[i] = _ranked(-placing.patches(*centres).ravel())
    return [found[i] for i in range(len(net.maskers))]


def _single(net: ResNet, image: MapSize) -> list[list[int]]:
    """Maskers that decide on one unit only, per kind: no rate between 0 and 1 fits one of them."""
    sizes = net.block_sizes(image)
    found: dict[str, list[int]] = {}
    for i, masker in enumerate(net.maskers):
        if masker_units(net.blocks[masker.block], sizes[masker.block][1], masker.kind) == 1:
            found.setdefault(masker.kind, []).append(i)
    return list(found.values())


def _centres(block: Block, size: MapSize) -> tuple[Float64Array, Float64Array]:
    """Rows (P, 1) and columns (1, Q) of the middle of each patch, as shares of the map."""
    patch = block.granularity.spatial or max(size.height, size.width)
    grid = size.patches(patch)

    def middles(count: int, pixels: int) -> Float64Array:
        first = np.arange(count) * patch
        return np.asarray((first + np.minimum(first + patch, pixels)) / (2 * pixels), np.float64)

    rows, columns = middles(grid.height, size.height), middles(grid.width, size.width)
    return rows[:, None], columns[None, :]


def _ranked(keys: npt.NDArray[np.floating]) -> Int64Array:
    """The place of each key in ascending order; ties to the lower index."""
    ranks = np.empty(len(keys), np.int64)
    ranks[np.argsort(keys, kind="stable")] = np.arange(len(keys))
    return ranks


def _stacked(net: ResNet, image: MapSize, parts: list[list[Int64Array]]) -> Draw:
    ranks = tuple(np.stack(of_masker) for of_masker in zip(*parts, strict=True))
    shared = {masker: len(alike) for alike in _single(net, image) for masker in alike}
    units = [each.shape[1] for each in ranks]
    return Draw(ranks, tuple(shared[i] if i in shared else units[i] for i in range(len(ranks))))
