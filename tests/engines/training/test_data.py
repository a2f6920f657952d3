"""That batches depend on seed, epoch, step and size alone, and how they are made ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from engines.errors import InvalidInput
from engines.training.augment import Augment
from engines.training.data import Batches
from engines.training.pixels import PixelCache

NO_COLOUR = Augment(gain=0.0, channel_gain=0.0, offset=0.0)


def batches(count: int = 10, batch_size: int = 4, seed: int = 1) -> Batches:
    """Images of 20x24 noise."""
    pixels = np.random.default_rng(8).integers(0, 256, count * 20 * 24 * 3, np.uint8)
    cache = PixelCache(pixels, np.array([(20, 24)] * count))
    labels = np.arange(count)
    return Batches(cache, labels, batch_size=batch_size, seed=seed, augment=Augment())


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_batch_has_images_of_the_asked_size_and_labels() -> None:
    images, labels = batches().batch(0, 0, 16)
    assert images.shape == (4, 16, 16, 3)
    assert images.dtype == np.uint8
    assert labels.shape == (4,)
    assert labels.dtype == np.int64


def test_labels_are_those_of_the_images() -> None:
    values = np.repeat(np.arange(10, dtype=np.uint8) * 20, 8 * 8 * 3)
    cache = PixelCache(values, np.array([(8, 8)] * 10))
    made = Batches(cache, np.arange(10), batch_size=5, seed=0, augment=NO_COLOUR)
    for step in range(2):
        images, labels = made.batch(0, step, 4)
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels * 20)


def test_resumed_training_sees_the_same_batches() -> None:
    uninterrupted = batches()
    seen = [uninterrupted.batch(epoch, step, 16) for epoch in range(3) for step in range(2)]
    images, labels = batches().batch(2, 1, 16)
    np.testing.assert_array_equal(images, seen[-1][0])
    np.testing.assert_array_equal(labels, seen[-1][1])


def test_image_does_not_depend_on_its_batch_mates() -> None:
    together, alone = batches(batch_size=10), batches(batch_size=1)
    images, labels = together.batch(0, 0, 16)
    for step in range(10):
        image, label = alone.batch(0, step, 16)
        np.testing.assert_array_equal(image[0], images[step])
        assert label[0] == labels[step]


def test_epochs_and_seeds_vary_order_and_images() -> None:
    def picture_of_zero(seed: int, epoch: int) -> bytes:
        images, labels = batches(seed=seed, batch_size=10).batch(epoch, 0, 16)
        return bytes(images[labels == 0].data)

    cases = [(1, 0), (1, 1), (2, 0)]
    orders = {tuple(batches(seed=seed).epoch_order(epoch)) for seed, epoch in cases}
    assert len(orders) == len(cases)
    assert len({picture_of_zero(*case) for case in cases}) == len(cases)


def test_epoch_shows_every_image_once() -> None:
    order = batches(count=50).epoch_order(3)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(50))


def test_steps_follow_the_order_of_the_epoch() -> None:
    made = batches()
    labels = np.concatenate([made.batch(1, step, 8)[1] for step in range(2)])
    np.testing.assert_array_equal(labels, made.epoch_order(1)[:8])


@pytest.mark.parametrize(("count", "steps", "length"), [(8, 2, 4), (11, 2, 4), (3, 1, 3)])
def test_partial_batch_is_dropped_unless_it_is_the_only_one(
    count: int, steps: int, length: int
) -> None:
    made = batches(count=count)
    assert made.steps_per_epoch == steps
    assert len(made.batch(0, steps - 1, 8)[0]) == length


@pytest.mark.parametrize(("epoch", "step"), [(0, 2), (0, -1), (-1, 0)])
def test_step_outside_the_epoch_is_refused(epoch: int, step: int) -> None:
    with pytest.raises(InvalidInput, match=f"no step {step} in epoch {epoch}"):
        batches().batch(epoch, step, 8)


def test_wrong_number_of_labels_is_refused() -> None:
    cache = PixelCache(np.zeros(12, np.uint8), np.array([(2, 2)]))
    with pytest.raises(InvalidInput, match="1 images need as many labels, got 2"):
        Batches(cache, np.arange(2), batch_size=1, seed=0, augment=Augment())


@pytest.mark.parametrize(("batch_size", "seed"), [(0, 0), (1, -1)])
def test_impossible_batch_size_or_seed_is_refused(batch_size: int, seed: int) -> None:
    with pytest.raises(InvalidInput, match="batch_size must be at least 1 and seed at least 0"):
        batches(batch_size=batch_size, seed=seed)


def test_prefetch_gives_the_batches_in_order() -> None:
    jobs = [(0, 1, 16), (0, 0, 8), (5, 1, 12)]
    made = batches()
    results = list(made.prefetch(jobs))
    assert len(results) == 3
    for (images, labels), job in zip(results, jobs, strict=True):
        np.testing.assert_array_equal(images, made.batch(*job)[0])
        np.testing.assert_array_equal(labels, made.batch(*job)[1])


def test_prefetch_of_nothing_is_empty() -> None:
    assert not list(batches().prefetch([]))


def test_prefetch_makes_the_next_batch_while_one_is_used() -> None:
    asked: list[int] = []

    def jobs() -> Iterator[tuple[int, int, int]]:
        for epoch in range(5):
            asked.append(epoch)
            yield epoch, 0, 8

    coming = batches().prefetch(jobs())
    next(coming)
    assert asked == [0, 1]
    next(coming)
    assert asked == [0, 1, 2]


def test_prefetch_ends_its_thread_when_left_early() -> None:
    for _ in batches().prefetch((epoch, 0, 8) for epoch in range(1000)):
        assert len(prefetch_threads()) == 1
        break
    assert not prefetch_threads()


def test_prefetch_passes_errors_on_and_ends_its_thread() -> None:
    coming = batches().prefetch([(0, 0, 8), (0, 99, 8)])
    next(coming)
    with pytest.raises(InvalidInput, match="no step 99"):
        next(coming)
    assert not prefetch_threads()
