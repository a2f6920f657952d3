"""What parts have to do adds up to what detectors are counted by."""

from __future__ import annotations

import pytest

from engines.architecture import MapSize, ResNet
from engines.bench.detectors.work import CHOICE, HEADS, MASKS, PYRAMID, Work, part_work
from engines.detection.architecture import Detector, detector_macs, macs_per_object
from tests.engines.cpu.detectors import DEEP, MASKED, PLAIN, SMALL, WIDE


@pytest.mark.parametrize(
    ("net", "detector"), [(SMALL, PLAIN), (WIDE, MASKED), (WIDE, DEEP)], ids=["small", "wide", "3"]
)
def test_operations_are_those_of_the_detector(net: ResNet, detector: Detector) -> None:
    found = part_work(net, detector, 96, objects=3)
    wanted = detector_macs(net, detector, MapSize(96, 96))
    assert list(found) == [
        *("stem", "stage_1", "stage_2", "stage_3", "stage_4"),
        *(PYRAMID, HEADS, CHOICE, MASKS),
    ]
    behind = {PYRAMID: wanted.pyramid, HEADS: wanted.heads, CHOICE: 0}
    behind[MASKS] = 3 * macs_per_object(detector)
    for name, macs in behind.items():
        assert found[name].macs == macs
    body = [each.macs for name, each in found.items() if name not in behind]
    assert sum(body) == wanted.backbone


def test_bytes_are_of_weights_and_of_maps() -> None:
    small, large = (part_work(WIDE, MASKED, size, 1) for size in (64, 128))
    width, areas = MASKED.width, sum(side * side for side in (16, 8, 4, 2))
    answers = (3 + 5) * (9 * width + areas) + 2 * width * areas
    towers = 4 * (9 * width * width + 2 * width * areas)
    per_level = 3 * 4 * 9 * width * width + 3 * (3 + 5) * 9 * width
    assert small[HEADS].num_bytes == 4 * (answers + towers + per_level)
    # Weights are read once whatever the size.
    maps = {name: large[name].num_bytes - small[name].num_bytes for name in small}
    assert maps["stage_1"] > small["stage_1"].num_bytes
    assert maps[MASKS] == 0
    assert Work(1, 2) + Work(3, 4).times(2) == Work(7, 10)
