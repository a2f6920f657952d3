"""Batches of training images, each a pure function of seed, epoch, step and size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from engines.core import UInt8Array
from engines.errors import InvalidInput
from engines.folders import ImageFolder, check_same_classes, find_split, scan_folder
from engines.training.augment import Augment, augment
from engines.training.pixels import PixelCache, evaluation_pixels, open_cache

__all__ = [
    "Augment",
    "Batches",
    "ImageFolder",
    "PixelCache",
    "augment",
    "check_same_classes",
    "evaluation_pixels",
    "find_split",
    "open_cache",
    "scan_folder",
]

Int64Array = npt.NDArray[np.int64]
Batch = tuple[UInt8Array, Int64Array]

# First words of the seeds, so that the order of an epoch and an image of it share no numbers.
_ORDER, _IMAGE = 1, 2


class Batches:
    """Shuffled, augmented batches of cached images.

    Nothing is remembered between calls: a training that was interrupted goes on with the very
    images that it would have seen.
    """

    def __init__(
        self,
        cache: PixelCache,
        labels: Int64Array,
        *,
        batch_size: int,
        seed: int,
        augment: Augment,
    ) -> None:
        """`labels` (N,) are those of the N images in `cache`. Raises InvalidInput."""
        if len(labels) != len(cache):
            raise InvalidInput(f"{len(cache)} images need as many labels, got {len(labels)}")
        if batch_size < 1 or seed < 0:
            raise InvalidInput(
                f"batch_size must be at least 1 and seed at least 0, got {batch_size} and {seed}"
            )
        self._cache, self._labels = cache, labels
        self._batch_size, self._seed, self._augment = batch_size, seed, augment

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; with fewer images than one batch, one partial batch."""
        return max(len(self._cache) // self._batch_size, 1)

    def epoch_order(self, epoch: int) -> Int64Array:
        """The images of `epoch` in the order in which they come, (N,)."""
        rng = np.random.default_rng((_ORDER, self._seed, epoch))
        return rng.permutation(len(self._cache))

    def batch(self, epoch: int, step: int, size: int) -> Batch:
        """Images (B, size, size, 3) and labels (B,) of one step; both count from 0."""
        if epoch < 0 or not 0 <= step < self.steps_per_epoch:
            raise InvalidInput(
                f"no step {step} in epoch {epoch}: an epoch has {self.steps_per_epoch} steps"
            )
        first = step * self._batch_size
        chosen = self.epoch_order(epoch)[first : first + self._batch_size]
        images = [self._image(epoch, int(index), size) for index in chosen]
        return np.stack(images), self._labels[chosen]

    def prefetch(self, jobs: Iterable[tuple[int, int, int]]) -> Iterator[Batch]:
        """Batches for each (epoch, step, size) in order, the next made while one is used.

        One thread makes them; it ends with the iterator, also when that is left early. `jobs` is
        read one ahead.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
            coming: Future[Batch] | None = None
            for job in jobs:
                ready, coming = coming, pool.submit(self.batch, *job)
                if ready is not None:
                    yield ready.result()
            if coming is not None:
                yield coming.result()

    def _image(self, epoch: int, index: int, size: int) -> UInt8Array:
        rng = np.random.default_rng((_IMAGE, self._seed, epoch, index))
        return augment(self._cache[index], size, rng, self._augment)
