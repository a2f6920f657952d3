"""From a picture's bytes to probabilities, activation and MACs: the engine against the oracle."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from engines.architecture import MapSize, ResNet, Stage
from engines.bundle import Preprocessing
from engines.core import OperatingPoint, Paradigm, UInt8Array, static_point
from engines.macs import all_block_macs, fixed_macs
from engines.models.resnet import LaudResNet, fold_batchnorm
from engines.reference.engine import ReferenceEngine
from tests.engines.models.networks import oracle_of, random_network

pytestmark = pytest.mark.torch

SIZE = 33
NET = ResNet(
    stem_width=8,
    stages=(
        Stage(depth=1, width=4, paradigm=Paradigm.SPATIAL, spatial_granularity=2),
        Stage(depth=1, width=4, paradigm=Paradigm.CHANNEL, channel_granularity=1),
        Stage(
            depth=2,
            width=4,
            paradigm=Paradigm.SPATIAL_CHANNEL,
            spatial_granularity=1,
            channel_granularity=2,
        ),
        Stage(depth=1, width=4, paradigm=Paradigm.LAYER),
    ),
    num_classes=5,
)
MASKERS = len(NET.maskers)
PREPROCESSING = Preprocessing(
    crop_ratio=0.9, channel_order="bgr", mean=(120.0, 110.0, 100.0), std=(58.0, 57.0, 56.0)
)


def point(name: str, threshold: float | None, cap: int | None = None) -> OperatingPoint:
    """The same wish for every masker."""
    return OperatingPoint(
        name=name, image_size=SIZE, thresholds=(threshold,) * MASKERS, caps=(cap,) * MASKERS
    )


POINTS = (
    static_point("full", SIZE, MASKERS),
    point("some", 0.0),
    point("capped", -0.2, 2),
    point("all", -1e9),
    point("none", 1e9),
    OperatingPoint(
        name="partly",
        image_size=SIZE,
        thresholds=(None, 0.1, *(None,) * (MASKERS - 2)),
        caps=(None, None, 1, *(None,) * (MASKERS - 3)),
    ),
)
FULL, SOME, CAPPED, ALL, NONE, PARTLY = range(len(POINTS))


@pytest.fixture(scope="module")
def model() -> LaudResNet:
    """Random in all its parts, so that maskers decide both ways."""
    return fold_batchnorm(random_network(NET, seed=3)).float()


@pytest.fixture(scope="module")
def images() -> UInt8Array:
    return np.random.default_rng(4).integers(0, 256, (6, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def engine(model: LaudResNet) -> Iterator[ReferenceEngine]:
    with ReferenceEngine(model, PREPROCESSING) as engine:
        yield engine


@pytest.mark.parametrize("chosen", POINTS, ids=lambda chosen: chosen.name)
def test_it_answers_as_if_only_what_is_active_was_computed(
    engine: ReferenceEngine, model: LaudResNet, images: UInt8Array, chosen: OperatingPoint
) -> None:
    output = engine.infer(images[:1], [chosen])
    mean, std = np.array(PREPROCESSING.mean), np.array(PREPROCESSING.std)
    bgr = (images[0, :, :, ::-1] - mean) / std
    answer = oracle_of(model).answer(bgr.transpose(2, 0, 1), chosen.thresholds, chosen.caps)
    powers = np.exp(answer.logits - answer.logits.max())
    np.testing.assert_allclose(
        output.arrays["probabilities"][0].astype(np.float64), powers / powers.sum(), atol=1e-5
    )
    rates = [1.0 if d is None else len(d.active) / len(d.logits) for d in answer.decisions]
    np.testing.assert_allclose(output.activation[0], rates, rtol=1e-6)
    assert output.macs[0] == answer.total_macs


def test_these_points_differ_in_what_they_compute(
    engine: ReferenceEngine, images: UInt8Array
) -> None:
    """Otherwise this file would show nothing. `full` and `all` differ by asking maskers."""
    output = engine.infer(images[[0] * len(POINTS)], POINTS)
    assert len({tuple(row) for row in output.activation.tolist()}) == len(POINTS) - 1
    assert len(set(output.macs.tolist())) == len(POINTS)
    full, everything = output.arrays["probabilities"][[FULL, ALL]].astype(np.float64)
    np.testing.assert_allclose(everything, full, atol=1e-6)
    blocks = all_block_macs(NET, MapSize(SIZE, SIZE))
    maskers = sum(block.spatial_masker + block.channel_masker for block in blocks)
    assert output.macs[ALL] - output.macs[FULL] == maskers
    projections = sum(block.projection for block in blocks)
    assert output.macs[NONE] == fixed_macs(NET, MapSize(SIZE, SIZE)) + projections + maskers


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    batch=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, len(POINTS) - 1)), min_size=1, max_size=5
    )
)
def test_no_batch_and_no_place_changes_a_bit(
    engine: ReferenceEngine, images: UInt8Array, batch: list[tuple[int, int]]
) -> None:
    together = engine.infer(images[[i for i, _ in batch]], [POINTS[p] for _, p in batch])
    for place, (i, p) in enumerate(batch):
        alone = engine.infer(images[i : i + 1], [POINTS[p]])
        for one, other in (
            (together.arrays["probabilities"], alone.arrays["probabilities"]),
            (together.activation, alone.activation),
            (together.macs, alone.macs),
        ):
            assert one[place].tobytes() == other[0].tobytes()
