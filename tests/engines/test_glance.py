"""Points that glance: who is looked at again, what is answered, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from pydantic import ValidationError

from engines.bundle import PointRecord, read_bundle
from engines.caps import macs_bound
from engines.core import Glance, OperatingPoint, Output, UInt8Array, static_point
from engines.cpu.engine import CpuEngine
from engines.errors import InvalidInput
from engines.glance import confidence_for, looks_again, run_glances
from engines.shrinking import shrunk

SIZE, SMALL, UNITS = 8, 4, 3
PLAIN = static_point("full", SIZE, 1)


def glance(confidence: float, size: int = SMALL) -> OperatingPoint:
    found = Glance(image_size=size, confidence=confidence)
    return PLAIN.model_copy(update={"name": "glance", "glance": found})


def grey(*values: int) -> UInt8Array:
    return np.stack([np.full((SIZE, SIZE, 3), value, np.uint8) for value in values])


class Scripted:
    """As sure as an image is bright; remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[int]]] = []

    def __call__(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        assert all(point.glance is None for point in points)
        assert {point.image_size for point in points} == {images.shape[1]}
        bright = images[:, 0, 0, 0]
        self.calls.append((images.shape[1], bright.tolist()))
        sure = bright / 255
        return Output(
            arrays={
                "probabilities": np.stack([sure, 1 - sure], axis=1).astype(np.float32),
                "decisions": np.ones((len(images), UNITS if images.shape[1] == SIZE else 1), bool),
            },
            activation=np.ones((len(images), 1), np.float32),
            macs=np.full(len(images), float(images.shape[1])),
            durations_s={"prepare": 0.25, "network": 1.0},
            parts_s=np.array([1.0, 2.0]),
            pixels=np.full((len(images), 1, 2), images.shape[1], np.int64),
        )


# What a point may be


@pytest.mark.parametrize(
    ("size", "confidence", "says"),
    [
        (SIZE, 0.5, "must be less than its own 8"),
        (0, 0.5, "image_size"),
        (4, 1.5, "confidence"),
        (4, float("nan"), "confidence"),
    ],
)
def test_a_glance_is_at_a_smaller_copy(size: int, confidence: float, says: str) -> None:
    content = {**PLAIN.model_dump(), "glance": {"image_size": size, "confidence": confidence}}
    with pytest.raises(ValidationError, match=says):
        OperatingPoint.model_validate(content)


def test_a_glance_skips_though_no_masker_is_asked() -> None:
    assert glance(0.5).asks_no_masker
    assert not glance(0.5).skips_nothing
    assert glance(0.5).first_look == static_point("glance", SMALL, 1)
    assert glance(0.5).second_look.skips_nothing
    assert PLAIN.second_look == PLAIN


@pytest.mark.parametrize("ask", [lambda: PLAIN.first_look, lambda: PLAIN.glancing(0.5)])
def test_only_points_that_glance_have_looks(ask: object) -> None:
    with pytest.raises(InvalidInput, match="does not glance"):
        ask()  # type: ignore[operator]


def test_a_record_says_how_often_it_looks_again() -> None:
    for point, again in ((glance(0.5), None), (PLAIN, 0.25)):
        with pytest.raises(ValidationError, match="go together"):
            PointRecord(point=point, again=again, activation=(1.0,), macs=1.0, macs_ratio=1.0)


# Who is looked at again


def test_the_less_sure_are_looked_at_again() -> None:
    sure = np.array([0.2, 0.5, 0.9, 1.0])
    assert looks_again(sure, 0.5).tolist() == [True, False, False, False]
    assert not looks_again(sure, 0.0).any()
    assert looks_again(sure, 1.0).all(), "also who could not be surer"


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_confidence_sends_that_share_of_what_it_was_set_on(share: float) -> None:
    sure = np.array([0.9, 1.0, 0.2, 0.5])
    confidence = confidence_for(sure, share)
    assert looks_again(sure, confidence).mean() == share
    surer = looks_again(np.ones(3), confidence)
    assert surer.all() if share == 1.0 else not surer.any(), "all means also who is surer"


def test_a_confidence_lies_between_the_last_that_is_looked_at_again_and_the_next() -> None:
    assert confidence_for(np.array([0.9, 1.0, 0.2, 0.5]), 0.5) == pytest.approx(0.7)


def test_only_they_are_computed_at_full_size() -> None:
    infer = Scripted()
    found = run_glances(infer, grey(250, 130, 200), [glance(0.8)] * 3, UNITS)
    assert infer.calls == [(SMALL, [250, 130, 200]), (SIZE, [130, 200])]
    assert found.arrays["again"].tolist() == [False, True, True]
    assert found.macs.tolist() == [SMALL, SMALL + SIZE, SMALL + SIZE]
    assert found.activation[:, 0].tolist() == [0.0, 1.0, 1.0]
    assert found.arrays["decisions"].tolist() == [[False] * 3, [True] * 3, [True] * 3]
    assert found.pixels is not None
    assert found.pixels[:, 0, 0].tolist() == [0, SIZE, SIZE]
    assert found.durations_s["network"] == 2.0
    assert found.durations_s["prepare"] >= 0.5
    assert found.parts_s is not None
    assert found.parts_s.tolist() == [2.0, 4.0]


def test_where_everybody_is_sure_nothing_is_computed_at_full_size() -> None:
    infer = Scripted()
    found = run_glances(infer, grey(250, 251), [glance(0.5)] * 2, UNITS)
    assert [size for size, _ in infer.calls] == [SMALL]
    assert found.arrays["decisions"].shape == (2, UNITS)


def test_points_of_a_batch_may_glance_at_different_sizes_or_not_at_all() -> None:
    infer = Scripted()
    points = [glance(0.9), PLAIN, glance(0.1, 2), glance(1.0)]
    found = run_glances(infer, grey(130, 131, 132, 255), points, UNITS)
    assert infer.calls == [(2, [132]), (SMALL, [130, 255]), (SIZE, [130, 131, 255])]
    assert found.arrays["again"].tolist() == [True, True, False, True]
    assert found.macs.tolist() == [12.0, 8.0, 2.0, 12.0]


# On the native engine


@pytest.fixture(scope="module", params=["fp32", "int8"])
def native(request: pytest.FixtureRequest) -> CpuEngine:
    return CpuEngine(read_bundle("zoo:clothing"), threads=1, precision=request.param, poison=True)


@pytest.fixture(scope="module")
def photos() -> UInt8Array:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (5, 8, 8, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(12, axis=1).repeat(12, axis=2))


def test_both_looks_answer_what_the_static_network_does(
    native: CpuEngine, photos: UInt8Array
) -> None:
    maskers = len(read_bundle("zoo:clothing").manifest.architecture.maskers)
    full, small = static_point("full", 96, maskers), static_point("small", 64, maskers)
    first = native.infer(shrunk(photos, 64), [small] * 5)
    second = native.infer(photos, [full] * 5)
    sure = np.sort(first.arrays["probabilities"].max(axis=1))
    found = native.infer(
        photos,
        [full.model_copy(update={"glance": Glance(image_size=64, confidence=float(sure[2]))})] * 5,
    )
    again = found.arrays["again"]
    assert again.sum() == 2
    for name in ("probabilities", "scores"):
        either = np.where(again[:, None], second.arrays[name], first.arrays[name])
        assert np.array_equal(found.arrays[name], either)
    assert np.array_equal(found.macs, np.where(again, first.macs + second.macs, first.macs))


def test_an_answer_does_not_depend_on_its_mates(native: CpuEngine, photos: UInt8Array) -> None:
    maskers = len(read_bundle("zoo:clothing").manifest.architecture.maskers)
    point = static_point("full", 96, maskers).model_copy(
        update={"glance": Glance(image_size=64, confidence=0.4)}
    )
    together = native.infer(photos, [point] * 5).arrays["probabilities"]
    alone = [native.infer(photos[i : i + 1], [point]).arrays["probabilities"] for i in range(5)]
    assert np.array_equal(together, np.concatenate(alone))


def test_decisions_are_not_forced_upon_a_glance(native: CpuEngine, photos: UInt8Array) -> None:
    net = read_bundle("zoo:clothing").manifest.architecture
    point = static_point("full", 96, len(net.maskers)).model_copy(
        update={"glance": Glance(image_size=64, confidence=0.4)}
    )
    with pytest.raises(InvalidInput, match="cannot be forced"):
        native.infer(photos, [point] * 5, [np.ones((5, 1), bool)] * len(net.maskers))


def test_no_image_exceeds_both_looks() -> None:
    net = read_bundle("zoo:clothing").manifest.architecture
    full, small = (static_point("p", size, len(net.maskers)) for size in (96, 64))
    point = full.model_copy(update={"glance": Glance(image_size=64, confidence=0.5)})
    assert macs_bound(net, point) == macs_bound(net, full) + macs_bound(net, small)
