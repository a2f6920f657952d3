"""An image's answer is one string of bits: whatever is beside it, came before it or computes it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.architecture import ResNet
from engines.core import Output, Paradigm
from engines.cpu.engine import CpuEngine
from tests.engines.cpu.cases import (
    KERNELS,
    MASKERS,
    NET,
    SIZE,
    bundle,
    load,
    net_of,
    pictures,
    random_decisions,
    same,
    stage,
    units,
    varied_points,
)

POINTS = varied_points()
IMAGES = pictures(5)

WIDE = net_of(
    stage(Paradigm.SPATIAL, 24, depth=2, patch=4),
    stage(Paradigm.CHANNEL, 64, depth=2, group=16),
    stage(Paradigm.SPATIAL_CHANNEL, 96, depth=2, patch=1, group=8),
    stage(Paradigm.LAYER, 160, depth=1),
    stem_width=40,
)
"""Wide enough at the end for its weights to be shared out among threads, not its pixels."""

kernels = pytest.mark.parametrize(("precision", "isa"), KERNELS)


def engine(precision: str, isa: str, net: ResNet = NET, threads: int = 1) -> CpuEngine:
    return load(
        bundle(net, scaled=precision == "int8"), isa=isa, precision=precision, threads=threads
    )


def assert_same(one: Output, other: Output) -> None:
    """Both have the same number of images."""
    assert [same(one, i, other, i) for i in range(len(one.macs))] == [True] * len(other.macs)


@kernels
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [1, 1, 1, 1, 0]], ids=str)
def test_neighbours_and_place_change_no_bit(precision: str, isa: str, order: list[int]) -> None:
    with engine(precision, isa) as one:
        alone = [one.infer(IMAGES[i : i + 1], [POINTS[i]]) for i in range(5)]
        together = one.infer(IMAGES[order], [POINTS[i] for i in order])
    for place, i in enumerate(order):
        assert same(together, place, alone[i], 0), f"image {i} at place {place}"


@kernels
def test_an_image_may_have_any_point_beside_any_other(precision: str, isa: str) -> None:
    with engine(precision, isa, threads=2) as one:
        alone = {
            (i, p): one.infer(IMAGES[i : i + 1], [POINTS[p]]) for i in range(5) for p in range(5)
        }

        @settings(max_examples=30, deadline=None, derandomize=True)
        @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=9))
        def holds(batch: list[tuple[int, int]]) -> None:
            together = one.infer(IMAGES[[i for i, _ in batch]], [POINTS[p] for _, p in batch])
            for place, of in enumerate(batch):
                assert same(together, place, alone[of], 0)

        holds()


def test_these_answers_differ() -> None:
    """Otherwise the tests above would show little."""
    with engine("fp32", "") as one:
        by_point = one.infer(IMAGES[[0] * 5], POINTS).arrays["scores"]
        by_image = one.infer(IMAGES, POINTS[:1] * 5).arrays["scores"]
    assert len({row.tobytes() for row in by_point}) == 5
    assert len({row.tobytes() for row in by_image}) == 5


@kernels
@pytest.mark.parametrize("net", [NET, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_change_no_bit(precision: str, isa: str, net: ResNet, threads: int) -> None:
    points = varied_points(len(net.maskers))
    with engine(precision, isa, net) as one, engine(precision, isa, net, threads) as many:
        for size in (1, 5):
            assert_same(
                one.infer(IMAGES[:size], points[-size:]), many.infer(IMAGES[:size], points[-size:])
            )


@kernels
def test_large_batches_in_several_passes(precision: str, isa: str) -> None:
    """So many that a block takes its images in chunks."""
    net = net_of(stage(Paradigm.SPATIAL_CHANNEL, 64, depth=2, patch=5, group=8), stem_width=16)
    size, count = 96, 12
    images, points = pictures(count, size), varied_points(4, size) * 3
    with engine(precision, isa, net, 2) as one:
        together = one.infer(images, points[:count])
        for i in (0, 3, 6, 11):
            alone = one.infer(images[i : i + 1], points[i : i + 1])
            assert same(together, i, alone, 0), f"image {i}"


@kernels
def test_what_came_before_does_not_matter(precision: str, isa: str) -> None:
    """Calls with other sizes, batches, points and decisions in between leave nothing behind."""
    with engine(precision, isa, threads=2) as one:
        wanted = one.infer(IMAGES, POINTS)
        for size, batch, place in [(48, 1, 0), (7, 5, 2), (33, 2, 1), (1, 1, 3), (64, 3, 2)]:
            points = varied_points(size=size)
            one.infer(pictures(batch, size), points[place : place + 1] * batch)
            assert_same(one.infer(IMAGES, POINTS), wanted)
            decisions = random_decisions(NET, batch, size, 0.5, seed=size)
            one.infer(pictures(batch, size), points[:1] * batch, decisions)
            assert_same(one.infer(IMAGES, POINTS), wanted)
            assert same(one.infer(IMAGES[3:4], POINTS[3:4]), 0, wanted, 3)


@kernels
def test_scratch_memory_is_never_read_before_it_is_written(precision: str, isa: str) -> None:
    """Poisoned and fresh memory give the same bits, and no kernel wrote into a guard zone."""
    source = bundle(scaled=precision == "int8")
    for rate in (0.0, 0.4, 1.0):
        decisions = random_decisions(NET, 5, SIZE, rate)
        answers = []
        for poison in (True, False):
            with load(source, isa=isa, precision=precision, poison=poison) as one:
                one.infer(pictures(5, seed=9), POINTS)
                answers.append(one.infer(IMAGES, POINTS, decisions))
        assert_same(*answers)
        assert np.isfinite(answers[0].arrays["scores"]).all()


@kernels
def test_loading_again_gives_the_same_engine(precision: str, isa: str) -> None:
    with engine(precision, isa) as first:
        wanted = first.infer(IMAGES, POINTS)
        with engine(precision, isa) as second:
            assert_same(second.infer(IMAGES, POINTS), wanted)


def test_answers_belong_to_the_caller() -> None:
    with engine("fp32", "") as one:
        first = one.infer(IMAGES, POINTS)
        kept = {name: value.copy() for name, value in first.arrays.items()}
        second = one.infer(IMAGES[::-1].copy(), POINTS)
        for name, value in kept.items():
            np.testing.assert_array_equal(first.arrays[name], value)
        second.arrays["probabilities"][:] = 0
        assert_same(one.infer(IMAGES, POINTS), first)
    np.testing.assert_array_equal(first.arrays["scores"], kept["scores"])


def test_images_are_only_read() -> None:
    frozen = np.frombuffer(IMAGES.tobytes(), np.uint8).reshape(IMAGES.shape)
    assert not frozen.flags.writeable
    with engine("fp32", "") as one:
        assert_same(one.infer(frozen, POINTS), one.infer(IMAGES, POINTS))
    assert frozen.tobytes() == IMAGES.tobytes()


def test_an_answer_has_the_promised_shapes() -> None:
    with engine("fp32", "") as one:
        found = one.infer(IMAGES, POINTS)
    shapes = {name: (array.dtype, array.shape) for name, array in found.arrays.items()}
    single = np.dtype(np.float32)
    assert shapes == {
        "probabilities": (single, (5, 7)),
        "scores": (single, (5, 7)),
        "decisions": (np.dtype(np.bool_), (5, sum(units(NET, SIZE)))),
    }
    assert (found.activation.dtype, found.activation.shape) == (single, (5, MASKERS))
    assert (found.macs.dtype, found.macs.shape) == (np.dtype(np.float64), (5,))
    assert found.durations_s.keys() == {"prepare", "network"}
    assert all(seconds >= 0 for seconds in found.durations_s.values())
    assert found.parts_s is not None
    assert found.parts_s.shape == (len(NET.blocks) + 2,)
    np.testing.assert_allclose(found.parts_s.sum(), found.durations_s["network"], atol=1e-9)
    assert found.pixels is not None
    assert found.pixels.shape == (5, len(NET.blocks), 2)
    np.testing.assert_allclose(found.arrays["probabilities"].sum(axis=1), 1.0, atol=1e-6)
