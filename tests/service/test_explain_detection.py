"""What `?explain=1` tells of a detector: the work by part, padding, and what was skipped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from engines.architecture import MapSize, ResNet, Stage
from engines.bundle import Manifest, PointRecord
from engines.core import OperatingPoint, Paradigm, static_point
from engines.detection.architecture import Detector, detector_macs
from service.executor import Model
from service.explain_detection import explain_objects
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
) -> ObjectsExplanation:
    """Of a picture in which so many objects were found. decided: one array per masker; None: the
    engine does not tell."""
    found = Objects(
        np.zeros((objects, 4), np.float32), np.ones(objects, np.float32),
        np.zeros(objects, np.int64), None,
    )  # fmt: skip
    rates = [0.5] * len(net.maskers) if decided is None else [each.mean() for each in decided]
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
    )
    full = static_point("full", SIZE, len(net.maskers))
    record = PointRecord(point=full, activation=(1.0,) * len(net.maskers), macs=1.0, macs_ratio=1.0)
    changes = {
        "task": "segmentation" if masks else "detection",
        "architecture": net,
        "detector": DETECTOR.model_copy(update={"masks": masks}),
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
