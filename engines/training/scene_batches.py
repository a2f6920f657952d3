"""Batches of varied scenes with what the losses need, each a pure function of seed, epoch, step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from engines.architecture import MapSize
from engines.core import Float32Array, UInt8Array
from engines.detection.architecture import LEVEL_UNITS
from engines.detection.scenes import BoolArray, Int64Array, Scene
from engines.errors import ConfigError, ImageError
from engines.preprocessing import decode
from engines.training.detection_config import DetectionConfig
from engines.training.scene_augment import Shown, show

_ORDER, _PICTURE = 3, 4
_MOST_CACHED_BYTES = 2**30

_RADIUS = 3.0
"""A place answers for an object whose centre is nearer than this, in its level's units."""
_NEAREST, _FARTHEST = 4.0, 8.0
"""The farthest side of an object, in units of the level that answers for it."""


@dataclass(frozen=True, eq=False)
class Target:
    """What is to be found in one image.

    places: int64 (P,), the object that each place answers for, -1 for none. mask_boxes (M, 4) and
    mask_pixels, bool (M, S, S), S samples on a side: some objects, their boxes a little off, and
    what lies in them.
    """

    boxes: Float32Array
    labels: Int64Array
    places: Int64Array
    mask_boxes: Float32Array
    mask_pixels: BoolArray


SceneBatch = tuple[UInt8Array, list[Target]]


class ScenePixels:
    """Decoded pictures of scenes, kept in memory as long as they fit into a gigabyte."""

    def __init__(self, scenes: tuple[Scene, ...]) -> None:
        self.scenes = scenes
        self._kept: dict[int, UInt8Array] = {}
        self._bytes = 0

    def __getitem__(self, index: int) -> UInt8Array:
        """Pixels (H, W, 3) of a scene. Raises ConfigError for a picture that cannot be used."""
        if (found := self._kept.get(index)) is not None:
            return found
        scene = self.scenes[index]
        try:
            pixels = decode(scene.file.read_bytes())
        except ImageError as error:
            raise ConfigError(f"{scene.file}: {error}") from None
        if pixels.shape[:2] != (scene.height, scene.width):
            raise ConfigError(
                f"{scene.file}: {pixels.shape[1]}x{pixels.shape[0]} pixels, its annotations are of "
                f"{scene.width}x{scene.height}"
            )
        if self._bytes + pixels.nbytes <= _MOST_CACHED_BYTES:
            self._bytes += pixels.nbytes
            self._kept[index] = pixels
        return pixels


class SceneBatches:
    """Shuffled, varied scenes. Nothing is remembered between calls."""

    def __init__(self, pixels: ScenePixels, config: DetectionConfig) -> None:
        self._pixels, self._config = pixels, config
        size = MapSize(config.crop_size, config.crop_size)
        self._maps = tuple(
            MapSize(size.height // stride, size.width // stride) for stride in (4, 8, 16, 32)
        )

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; with fewer pictures than one batch, one partial batch."""
        return max(len(self._pixels.scenes) // self._config.batch_size, 1)

    def batch(self, epoch: int, step: int) -> SceneBatch:
        """Images (B, size, size, 3) and their targets; epoch and step count from 0."""
        seed, count = self._config.seed, self._config.batch_size
        order = np.random.default_rng((_ORDER, seed, epoch)).permutation(len(self._pixels.scenes))
        chosen = order[step * count : (step + 1) * count]
        shown = [self._show(epoch, int(index)) for index in chosen]
        return np.stack([each.pixels for each, _ in shown]), [target for _, target in shown]

    def prefetch(self, jobs: Iterable[tuple[int, int]]) -> Iterator[SceneBatch]:
        """Batches for each (epoch, step), the next made on a thread while one is used."""
        with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
            coming: Future[SceneBatch] | None = None
            for job in jobs:
                ready, coming = coming, pool.submit(self.batch, *job)
                if ready is not None:
                    yield ready.result()
            if coming is not None:
                yield coming.result()

    def _show(self, epoch: int, index: int) -> tuple[Shown, Target]:
        config = self._config
        rng = np.random.default_rng((_PICTURE, config.seed, epoch, index))
        shown = show(
            self._pixels[index],
            self._pixels.scenes[index],
            image_size=config.image_size,
            size=config.crop_size,
            rng=rng,
            spec=config.data,
        )
        boxes, pixels = mask_targets(
            shown, config.mask_objects, config.mask_jitter, config.detector.mask_size, rng
        )
        places = answering_places(shown.boxes, self._maps)
        return shown, Target(shown.boxes, shown.labels, places, boxes, pixels)


def answering_places(boxes: Float32Array, maps: tuple[MapSize, ...]) -> Int64Array:
    """For each place of all levels the object (N, 4) that it answers for, or -1: (P,).

    As in FCOS: a place within an object and near its centre, on the level for its size; of several
    objects the smallest. Only the few places around each centre are looked at.
    """
    answers: list[Int64Array] = []
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    # Small ones come last: what is written last holds.
    order = np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(axis=1), kind="stable")
    for level, (unit, size) in enumerate(zip(LEVEL_UNITS, maps, strict=True)):
        stride = 2 * unit
        reach = int(_RADIUS * unit / stride) + 1
        offsets = np.arange(-reach, reach + 1)
        dy, dx = (grid.ravel() for grid in np.meshgrid(offsets, offsets, indexing="ij"))
        columns = np.rint(centres[order, :1] / stride).astype(np.int64) + dx
        rows = np.rint(centres[order, 1:] / stride).astype(np.int64) + dy
        x, y = columns * stride, rows * stride
        left, top, right, bottom = (boxes[order, side, None] for side in range(4))
        sides = np.stack((x - left, y - top, right - x, bottom - y))
        farthest = sides.max(axis=0)
        lowest = _NEAREST * unit if level else 0.0
        highest = np.inf if level == len(LEVEL_UNITS) - 1 else _FARTHEST * unit
        near = (
            np.maximum(np.abs(x - centres[order, :1]), np.abs(y - centres[order, 1:]))
            < _RADIUS * unit
        )
        fits = (
            near
            & (sides.min(axis=0) > 0)
            & (farthest > lowest)
            & (farthest <= highest)
            & (columns >= 0) & (columns < size.width) & (rows >= 0) & (rows < size.height)
        )  # fmt: skip
        answer = np.full(size.area, -1, np.int64)
        which, _ = fits.nonzero()
        answer[(rows * size.width + columns)[fits]] = order[which]
        answers.append(answer)
    return np.concatenate(answers)


def mask_targets(
    shown: Shown, most: int, jitter: float, size: int, rng: np.random.Generator
) -> tuple[Float32Array, BoolArray]:
    """Boxes (M, 4) of at most that many objects, each side off by up to `jitter` of their size, and
    what of the object lies in them, (M, size, size)."""
    if shown.masks is None or not len(shown.boxes):
        return np.zeros((0, 4), np.float32), np.zeros((0, size, size), np.bool_)
    chosen = rng.permutation(len(shown.boxes))[:most]
    boxes = shown.boxes[chosen]
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    last = shown.pixels.shape[0] - 1
    off = boxes + sides * rng.uniform(-jitter, jitter, boxes.shape)
    moved: Float32Array = np.clip(off, 0, last + 1).astype(np.float32)
    # Samples at the centres of a grid over the box, each the nearest pixel's.
    grid = (np.arange(size) + 0.5) / size
    x, y = (
        np.clip(moved[:, k, None] + grid * (moved[:, k + 2] - moved[:, k])[:, None], 0, last)
        .astype(np.int64)
        for k in (0, 1)
    )  # fmt: skip
    pixels = shown.masks[chosen[:, None, None], y[:, :, None], x[:, None, :]]
    return moved, pixels
