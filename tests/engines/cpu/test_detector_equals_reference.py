"""The native detector equals torch's: dense answers, objects and masks, whatever is active."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from torchvision.ops import MultiScaleRoIAlign, batched_nms, roi_align

from engines.architecture import MapSize, ResNet
from engines.core import Paradigm
from engines.cpu import _native
from engines.detection.architecture import Detector, pyramid_sizes
from engines.reference.deciding import point_decision
from tests.engines.cpu.cases import BF16_ISAS, FP32_ISAS, pictures, point, stage
from tests.engines.cpu.comparing_objects import (
    assert_near,
    places_of,
    reference_answer,
)
from tests.engines.cpu.detectors import (
    DEEP,
    MASKED,
    PLAIN,
    SMALL,
    WIDE,
    bundle,
    full,
    load,
)
from tests.engines.cpu.same_objects import assert_same_objects

pytestmark = pytest.mark.torch

DETECTORS = pytest.mark.parametrize(
    ("net", "detector"),
    [(SMALL, PLAIN), (SMALL, Detector(width=8, head_convs=1, mask_convs=1)), (WIDE, MASKED),
     (WIDE, DEEP)],
    ids=["plain", "small", "wide", "deep"],
)  # fmt: skip


@DETECTORS
@pytest.mark.parametrize("size", [32, 64, 96, 160, 256])
def test_the_same_objects_at_every_size(net: ResNet, detector: Detector, size: int) -> None:
    source, images = bundle(net, detector), pictures(1, size)
    with load(source) as engine:
        found = engine.infer(images, [full(size)], tell_places=True)
    assert_near(found.arrays["places"].astype(np.float32), places_of(source, images))
    with load(source) as engine:
        found = engine.infer(images, [full(size)])
    wanted = reference_answer(source, images, [full(size)])
    assert_same_objects(found, wanted)
    assert found.macs.tolist() == wanted.macs.tolist() or (
        found.arrays["counts"].tolist() != wanted.arrays["counts"].tolist()
    )
    assert found.activation.shape == wanted.activation.shape


@pytest.mark.parametrize("isa", FP32_ISAS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_on_every_instruction_set(isa: str, threads: int, batch: int) -> None:
    source, images = bundle(), pictures(batch, 96, seed=batch)
    points = [full(96)] * batch
    with load(source, isa=isa, threads=threads) as engine:
        found = engine.infer(images, points)
    assert found.arrays["counts"].min() > 3
    assert_same_objects(found, reference_answer(source, images, points))


@pytest.mark.parametrize(
    ("bias", "least", "most"), [(-30.0, 0, 0), (6.0, 300, 500)], ids=["none", "hundreds"]
)
def test_images_without_objects_and_full_of_them(bias: float, least: int, most: int) -> None:
    """A threshold that nothing reaches; places that are all sure, of small boxes."""
    detector = Detector(width=16, head_convs=1, mask_convs=1)
    source, images = bundle(SMALL, detector, bias=bias), pictures(2, 256)
    points = [full(256)] * 2
    with load(source, threads=2) as engine:
        found = engine.infer(images, points)
    assert least <= found.arrays["counts"].min() <= found.arrays["counts"].max() <= most
    assert_same_objects(found, reference_answer(source, images, points))


def test_some_images_of_a_batch_have_nothing() -> None:
    """What is behind an image's own objects is zero."""
    source, images = bundle(), pictures(3, 64)
    images[1] = 0
    with load(source) as engine:
        found = engine.infer(images, [full(64)] * 3)
    wanted = reference_answer(source, images, [full(64)] * 3)
    assert_same_objects(found, wanted)
    counts = found.arrays["counts"].tolist()
    assert len(set(counts)) > 1
    for name in ("boxes", "scores", "labels", "masks"):
        array = found.arrays[name]
        assert array.dtype == wanted.arrays[name].dtype
        assert array.shape[1] == max(counts)
        for i, count in enumerate(counts):
            assert not array[i, count:].any()


@pytest.mark.parametrize("isa", BF16_ISAS)
def test_bf16_is_close(isa: str) -> None:
    """Numbers have 8 bits there: dense answers are near, objects need not be the same."""
    source, images = bundle(), pictures(1, 160)
    with load(source, isa=isa, precision="bf16") as engine:
        found = engine.infer(images, [full(160)], tell_places=True)
    wanted = places_of(source, images)
    error = np.linalg.norm(found.arrays["places"].astype(np.float64) - wanted)
    assert error < 0.03 * np.linalg.norm(wanted)
    assert found.arrays["counts"][0] > 3


# What is not active


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("isa", FP32_ISAS)
@DETECTORS
def test_places_that_are_not_active_are_zero_everywhere(
    net: ResNet, detector: Detector, isa: str, rate: float
) -> None:
    """In the pyramid and behind every layer of the towers; memory that was not written is NaN."""
    size, batch = 96, 2
    source, images = bundle(net, detector), pictures(batch, size)
    levels = [each.area for each in pyramid_sizes(net, MapSize(size, size))]
    active = np.random.default_rng(int(10 * rate)).random((batch, sum(levels))) < rate
    # A level without any, and one that is whole.
    active[0, : levels[0]] = False
    active[1, sum(levels[:2]) : sum(levels[:3])] = rate > 0
    with load(source, isa=isa, threads=2) as engine:
        found = engine.infer(images, [full(size)] * batch, active=active, tell_places=True)
    wanted = places_of(source, images, active=active)
    assert_near(found.arrays["places"].astype(np.float32), wanted)
    if rate == 0:
        assert not found.arrays["counts"].any()


def test_masks_read_zeros_where_nothing_is_active() -> None:
    """Regions of objects reach over places that were skipped."""
    source, images = bundle(), pictures(1, 96)
    places = sum(each.area for each in pyramid_sizes(WIDE, MapSize(96, 96)))
    active = np.random.default_rng(0).random((1, places)) < 0.3
    with load(source) as engine:
        found = engine.infer(images, [full(96)], active=active)
    assert found.arrays["counts"][0] > 3
    assert np.isfinite(found.arrays["masks"].astype(np.float32)).all()


# A backbone that skips


def test_a_backbone_may_skip() -> None:
    stages = (
        stage(Paradigm.SPATIAL, 8, depth=2, patch=4),
        stage(Paradigm.SPATIAL_CHANNEL, 12, patch=2, group=3),
        stage(Paradigm.CHANNEL, 16, group=4),
        stage(Paradigm.LAYER, 20, depth=2),
    )
    net = WIDE.model_copy(update={"stages": stages})
    source, images = bundle(net), pictures(1, 96)
    maskers = len(net.maskers)
    skipping = point([0.0] * maskers, size=96)
    with load(source) as engine:
        found = engine.infer(images, [skipping], tell_places=True)
        static = engine.infer(images, [full(96, maskers)])
    assert 0 < found.activation.mean() < 1
    assert (static.activation == 1).all()
    wanted = places_of(source, images, decide=point_decision(skipping))
    assert_near(found.arrays["places"].astype(np.float32), wanted)
    per_object = (found.macs - static.macs)[0]
    counts = int(found.arrays["counts"][0]), int(static.arrays["counts"][0])
    assert per_object < 0 or counts[0] > counts[1]


# Behind the dense answers


@pytest.mark.parametrize("labels", [1, 4])
@pytest.mark.parametrize("count", [0, 1, 300, 3000])
@pytest.mark.parametrize("overlap", [0.3, 0.5, 0.7])
def test_suppression_is_that_of_torchvision(labels: int, count: int, overlap: float) -> None:
    rng = np.random.default_rng(count)
    corners = rng.uniform(0, 400, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 90, (count, 2))], 1)
    boxes = boxes.astype(np.float32)
    owners = rng.integers(0, labels, count)
    scores = torch.linspace(1, 0, count)
    wanted = batched_nms(torch.from_numpy(boxes), scores, torch.from_numpy(owners), overlap)
    kept = np.empty(count + 1, np.int64)
    found = _native.suppress(boxes, owners, overlap, kept)
    assert kept[:found].tolist() == wanted.tolist()
    few = np.empty(5, np.int64)
    assert _native.suppress(boxes, owners, overlap, few) == min(5, found)
    assert few[: min(5, found)].tolist() == wanted[:5].tolist()


@pytest.mark.parametrize("size", [1, 7, 14, 32])
@pytest.mark.parametrize("channels", [6, 64, 88])
def test_regions_are_those_of_torchvision(size: int, channels: int) -> None:
    """Boxes of every size, also beyond the map and of no area."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20, 30, channels)).astype(np.float32)
    corners = rng.uniform(-20, 120, (60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 90, (60, 2)) ** 2 / 60], 1)
    boxes = boxes.astype(np.float32)
    boxes[:3] = [[0, 0, 120, 80], [5, 5, 5, 5], [119, 79, 120, 80]]
    as_torch = torch.from_numpy(features).permute(2, 0, 1)[None]
    wanted = roi_align(as_torch, [torch.from_numpy(boxes)], size, 0.25, 2).permute(0, 2, 3, 1)
    for box, one in zip(boxes, wanted.numpy(), strict=True):
        region = np.full((size, size, channels), np.nan, np.float32)
        _native.pool_region(features, box, 0.25, region)
        np.testing.assert_allclose(region, one, atol=1e-5)


def test_levels_of_objects_are_those_of_torchvision() -> None:
    """Each level is one number: a mask tells which it came from."""
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], 1, 2)
    maps = {str(level): torch.full((1, 1, 160 >> level, 160 >> level), level) for level in range(4)}
    for low, high in pairwise([1, 55, 56, 57, 111, 112, 113, 223, 224, 225, 447, 448, 449, 640]):
        side = (low + high) / 2
        box = torch.tensor([[0.0, 0.0, side, side]])
        wanted = pool({k: v.float() for k, v in maps.items()}, [box], [(640, 640)])
        assert _native.level_of(box[0].numpy(), 2, 4) == int(wanted.flatten()[0])
