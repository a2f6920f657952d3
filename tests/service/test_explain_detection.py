"""What `?explain=1` tells of a detector: the work by part, padding, and what was skipped."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from engines.architecture import MapSize, ResNet, Stage
from engines.bundle import Manifest, PointRecord
from engines.core import OperatingPoint, Paradigm, static_point
from engines.detection.architecture import (
    LEVELS,
    Detector,
    detector_macs,
    pyramid_sizes,
    stage_channels,
)
from engines.errors import EngineError
from service.explain_detection import explain_objects
from service.model import Model
from service.request import Prediction, Reply
from service.results import Objects
from service.schemas.detection import ObjectsExplanation
from tests.service.detectors import BrightEngine, detector
from tests.service.scripted import HASH, ScriptedEngine

SIZE = 64
IMAGE = MapSize(SIZE, SIZE)
DETECTOR = Detector(width=8, head_convs=1, mask_convs=1)
NOW = Prediction(0.0, 0.0, 0.0, 0.0)
Units = npt.NDArray[np.bool_]


def network(*paradigms: Paradigm) -> ResNet:
    """One block a stage, with maps of 16, 8, 4 and 2 pixels; patches of 4 pixels where masked."""
    stages = tuple(
        Stage(
            depth=1,
            width=4,
            paradigm=paradigm,
            spatial_granularity=4 if paradigm is Paradigm.SPATIAL else None,
        )
        for paradigm in paradigms
    )
    return ResNet(stem_width=4, stages=stages, num_classes=1, folded=True)


STATIC = network(*[Paradigm.STATIC] * 4)
# Grids of 4x4 and 2x2 patches, and one decision for a whole block.
SKIPS = network(Paradigm.SPATIAL, Paradigm.SPATIAL, Paradigm.LAYER, Paradigm.STATIC)
# Maps of 16, 8, 4 and 2 pixels; patches of 5 are partial at the border of the first.
WHOLE, PARTIAL = (4, 4, 2, 1), (5, 4, 2, 1)
LEVEL_SKIP = OperatingPoint(
    name="skip", image_size=SIZE, thresholds=(0.0,) * LEVELS, caps=(None,) * LEVELS
)
SKIP = OperatingPoint(name="skip", image_size=SIZE, thresholds=(0.0,) * 3, caps=(None,) * 3)


def explained(
    net: ResNet,
    point: OperatingPoint,
    decided: Sequence[Units] | None,
    *,
    objects: int = 0,
    width: int = SIZE,
    height: int = SIZE,
    masks: bool = True,
    patches: tuple[int, int, int, int] | None = None,
    levels: Sequence[float] = (),
    macs: float | None = None,
) -> ObjectsExplanation:
    """Of a picture in which so many objects were found. decided: one array per masker; None: the
    engine does not tell. patches: of the pyramid's levels, levels: what is active of them where
    their decisions are not told."""
    found = Objects(
        np.zeros((objects, 4), np.float32), np.ones(objects, np.float32),
        np.zeros(objects, np.int64), None,
    )  # fmt: skip
    rates = [0.5] * len(net.maskers) if decided is None else [each.mean() for each in decided]
    rates += list(levels)
    reply = Reply(
        probabilities=np.zeros(0, np.float32),
        activation=np.array(rates, np.float32),
        point=point,
        reason="best",
        accuracy=None,
        batch_size=1,
        service_s=0.0,
        predicted=NOW,
        phases_s={},
        decisions=None if decided is None else np.concatenate([np.zeros(0, bool), *decided]),
        objects=found,
        macs=macs,
    )
    shape = DETECTOR.model_copy(update={"masks": masks, "level_patches": patches})
    maskers = len(net.maskers) + shape.num_maskers
    full = static_point("full", SIZE, maskers)
    record = PointRecord(point=full, activation=(1.0,) * maskers, macs=1.0, macs_ratio=1.0)
    changes = {
        "task": "segmentation" if masks else "detection",
        "architecture": net,
        "detector": shape,
        "points": (record,),
    }
    manifest = Manifest.model_validate({**dict(detector(BrightEngine()).manifest), **changes})
    return explain_objects(Model(manifest, HASH, ScriptedEngine()), reply, width, height)


def test_of_a_static_detector_nothing_is_skipped() -> None:
    found = explained(STATIC, static_point("full", SIZE, 0), None, objects=3)
    assert found.skips_nothing
    assert found.summary == (
        "'full' at 64x64 pixels skips nothing: every image is computed in full; 0.0% of the square "
        "is padding"
    )
    parts = detector_macs(STATIC, DETECTOR, IMAGE)
    assert found.macs.model_dump() == {
        "backbone": parts.backbone,
        "pyramid": parts.pyramid,
        "heads": parts.heads,
        "masks": 3 * parts.per_object,
        "total": parts.dense + 3 * parts.per_object,
    }
    assert (found.objects, found.macs_ratio, found.map) == (3, 1.0, None)
    assert [(block.name, block.macs_ratio, block.maskers) for block in found.blocks] == [
        (f"layer{stage}.0", 1.0, []) for stage in (1, 2, 3, 4)
    ]


def test_levels_are_the_places_where_objects_are_looked_for() -> None:
    found = explained(STATIC, static_point("full", SIZE, 0), None)
    levels = [(level.stride, level.rows, level.columns) for level in found.levels]
    assert levels == [(4, 16, 16), (8, 8, 8), (16, 4, 4), (32, 2, 2)]


def test_padding_is_the_share_of_the_square_beside_the_picture() -> None:
    found = explained(STATIC, static_point("full", SIZE, 0), None, width=640, height=480)
    assert found.picture == (64, 48)
    assert found.padding_ratio == 0.25
    assert found.summary.endswith("; 25.0% of the square is padding")


def test_boxes_alone_have_no_mask_head() -> None:
    found = explained(STATIC, static_point("full", SIZE, 0), None, objects=3, masks=False)
    assert found.macs.masks == 0


def test_everything_active_costs_the_maskers_more() -> None:
    units = [np.ones(16, bool), np.ones(4, bool), np.ones(1, bool)]
    found = explained(SKIPS, SKIP, units)
    assert found.macs_ratio is not None
    assert found.macs.backbone is not None
    more = found.macs.backbone - detector_macs(SKIPS, DETECTOR, IMAGE).backbone
    # Pooled input and a weight per channel, for every unit.
    assert more == 2 * (16 * 4 + 4 * 16 + 1 * 16)
    assert found.macs_ratio == pytest.approx(1.0, abs=0.02)


def test_what_is_skipped_is_told_by_block_and_on_a_map() -> None:
    corner = np.zeros(16, bool)
    corner[:2] = True
    found = explained(SKIPS, SKIP, [corner, np.array([1, 0, 0, 0], bool), np.zeros(1, bool)])
    assert not found.skips_nothing
    assert found.map is not None
    assert found.map.maskers == 3
    assert found.map.counts == [[2, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    first, second, third, last = found.blocks
    assert first.maskers[0].rows == ["1100", "0000", "0000", "0000"]
    assert second.maskers[0].rows == ["10", "00"]
    ratios = [block.macs_ratio for block in (first, second, third, last)]
    assert ratios[3] == 1.0
    assert all(ratio is not None and ratio < 1.0 for ratio in ratios[:3])
    parts = detector_macs(SKIPS, DETECTOR, IMAGE)
    assert found.macs.backbone is not None
    assert found.macs.backbone < parts.backbone
    dense = found.macs.backbone + parts.pyramid + parts.heads
    assert found.macs_ratio == round(dense / parts.dense, 4)
    assert f"took {found.macs_ratio:.1%}" in found.summary


def test_an_engine_that_tells_no_decisions() -> None:
    found = explained(SKIPS, SKIP, None, objects=2)
    assert "the engine does not tell where" in found.summary
    assert (found.macs.backbone, found.macs.total, found.macs_ratio) == (None, None, None)
    assert found.macs.masks == 2 * detector_macs(SKIPS, DETECTOR, IMAGE).per_object
    assert [block.maskers[0].activation for block in found.blocks[:3]] == [0.5] * 3


def test_a_total_is_told_where_the_engine_tells_nothing_else() -> None:
    parts = detector_macs(SKIPS, DETECTOR, IMAGE)
    executed = 0.8 * parts.dense + 2 * parts.per_object
    found = explained(SKIPS, SKIP, None, objects=2, macs=executed)
    assert found.macs.total == round(executed)
    assert found.macs.backbone == round(0.8 * parts.dense) - parts.pyramid - parts.heads
    assert found.macs_ratio == 0.8


def executed_by(active: Sequence[float], patches: Sequence[int]) -> float:
    """What a static backbone takes with those shares of the pixels of each level, asked for."""
    parts = detector_macs(STATIC, DETECTOR, IMAGE)
    areas = [each.area for each in pyramid_sizes(STATIC, IMAGE)]
    # A pixel's 3x3 of the pyramid and its dense heads are what is skipped.
    each = 9 * DETECTOR.width**2 + parts.heads / sum(areas)
    skipped = sum((1 - share) * area * each for share, area in zip(active, areas, strict=True))
    # Pooled input and a weight per channel, for every patch.
    maskers = [
        2 * channels * math.ceil(math.sqrt(area) / patch) ** 2
        for channels, area, patch in zip(stage_channels(STATIC), areas, patches, strict=True)
    ]
    return parts.dense - skipped + sum(maskers)


def test_levels_that_skip_are_counted() -> None:
    active = (0.25, 0.5, 1.0, 0.0)
    found = explained(STATIC, LEVEL_SKIP, None, patches=WHOLE, levels=active, objects=3)
    executed = executed_by(active, WHOLE)
    parts = detector_macs(STATIC, DETECTOR, IMAGE)
    assert not found.skips_nothing
    assert found.macs_ratio == round(executed / parts.dense, 4)
    assert found.macs_ratio < 0.9
    assert found.macs.total == executed + 3 * parts.per_object
    assert found.macs.backbone == parts.backbone
    assert found.macs.heads is not None
    assert found.macs.heads < parts.heads / 2
    assert [level.activation for level in found.levels] == list(active)


def test_partial_patches_are_counted_where_decisions_are_told() -> None:
    """A patch of the last row and column has one pixel of 25."""
    units = [np.zeros(16, bool), np.zeros(4, bool), np.zeros(4, bool), np.zeros(4, bool)]
    units[0][-1] = True
    found = explained(STATIC, LEVEL_SKIP, units, patches=PARTIAL)
    assert found.macs.total == executed_by((1 / 256, 0.0, 0.0, 0.0), PARTIAL)
    assert found.levels[0].activation == 1 / 16


def test_levels_tell_what_their_maskers_kept() -> None:
    """The map counts maskers of backbone and levels, here one and four."""
    net = network(Paradigm.SPATIAL, *[Paradigm.STATIC] * 3)
    left = np.array([1, 1, 0, 0] * 4, bool)
    # Pixels 10 to 14 of 16, where the middles of the backbone's last two patches lie.
    middle = np.zeros(16, bool)
    middle[10] = True
    none, every = np.zeros(4, bool), np.ones(4, bool)
    point = LEVEL_SKIP.model_copy(
        update={"thresholds": (0.0, 0.0, 0.0, None, 0.0), "caps": (None,) * (1 + LEVELS)}
    )
    found = explained(net, point, [left, middle, none, every, none], patches=PARTIAL)
    assert found.map is not None
    assert found.map.maskers == 5
    assert found.map.counts == [[2, 2, 1, 1]] * 2 + [[2, 2, 2, 2]] * 2
    maskers = [level.masker for level in found.levels]
    assert [None if each is None else each.rows for each in maskers] == [
        ["0000", "0000", "0010", "0000"], ["00", "00"], ["11", "11"], ["00", "00"],
    ]  # fmt: skip
    assert maskers[0] is not None
    assert (maskers[0].active, maskers[0].total, maskers[0].granularity) == (1, 16, 5)
    assert [each is not None and each.evaluated for each in maskers] == [True, True, False, True]
    unmasked = explained(STATIC, static_point("full", SIZE, 0), None)
    assert [level.masker for level in unmasked.levels] == [None] * LEVELS


def test_of_partial_patches_only_the_total_is_known_where_they_are_not() -> None:
    active = (0.5, 1.0, 1.0, 1.0)
    found = explained(STATIC, LEVEL_SKIP, None, patches=PARTIAL, levels=active)
    assert (found.macs.pyramid, found.macs.heads, found.macs.total) == (None, None, None)
    assert found.macs_ratio is None
    assert "the engine does not tell where" in found.summary
    executed = executed_by(active, PARTIAL)
    told = explained(STATIC, LEVEL_SKIP, None, patches=PARTIAL, levels=active, macs=executed)
    assert (told.macs.pyramid, told.macs.heads) == (None, None)
    assert told.macs.total == round(executed)
    whole = explained(STATIC, LEVEL_SKIP, None, patches=PARTIAL, levels=(0.0, 1.0, 1.0, 1.0))
    assert whole.macs.total is not None


def test_too_few_decisions_are_the_engines_fault() -> None:
    with pytest.raises(EngineError, match="too few"):
        explained(STATIC, LEVEL_SKIP, [np.zeros(1, bool)], patches=WHOLE, levels=(0.0,) * 3)
