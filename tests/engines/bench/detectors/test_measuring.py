"""Spans, ratios and parts of a measurement whose rivals a test holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from engines.architecture import MapSize
from engines.bench.detectors.measuring import (
    BEST,
    OURS,
    OWN_DENSE,
    REST,
    SAME,
    Contenders,
    Measured,
    measure,
    parts,
)
from engines.bench.detectors.plan import Subjects
from engines.core import UInt8Array
from engines.detection.architecture import detector_macs
from engines.detection.read import read_folder
from engines.detection.scenes import Scene
from tests.engines.cpu.detectors import DYNAMIC, SKIPPING, bundle, full, load, num_maskers
from tests.engines.detection.tiny import write_nuclei

POINT_SIZE, SIZE = 64, 96
MASKERS = num_maskers(SKIPPING, DYNAMIC)
POINT = full(POINT_SIZE, MASKERS).model_copy(
    update={"name": "skip", "thresholds": (0.0,) * MASKERS}
)


class Static:
    """Stands for OpenVINO; takes no time, and tells which sizes it was given."""

    def __init__(self) -> None:
        self.shapes: set[tuple[int, ...]] = set()
        self.calls = 0

    def over(self, inputs: Sequence[UInt8Array]) -> Static:
        self.shapes |= {each.shape for each in inputs}
        return self

    def load(self, draw: int) -> None:
        pass

    def run(self) -> None:
        pass

    def profile(self, draw: int) -> dict[str, float]:
        self.calls += 1
        slow = 0.1 * (self.calls % 2)
        return {"stem": 0.001, "masks": 0.002 + 0.001 * draw + slow, "": 0.003, "other": 0.004}


@pytest.fixture
def scenes(tmp_path: Path) -> Sequence[Scene]:
    return read_folder(write_nuclei(tmp_path, {"test": (1, 4, 2)}) / "test").scenes


@pytest.fixture
def contenders() -> Iterator[Any]:
    """With the pair of the same precision that is given; the best one is always there."""
    source, best = bundle(SKIPPING, DYNAMIC), pair()
    of = Subjects(source, POINT, source, SIZE)
    with load(source, poison=False) as engine:

        def made(same: Any = None) -> Contenders:
            rival = SimpleNamespace(same=same, best=best, profiled=best.whole)
            whole = full(SIZE, MASKERS)
            return Contenders(of, whole, engine, engine, cast(Any, rival))

        yield made


def pair() -> Any:
    return SimpleNamespace(dense=Static(), whole=Static())


def measured(of: Contenders, scenes: Sequence[Scene]) -> Measured:
    return measure(of, scenes, 6, chosen="all", pictures=9)


def test_our_dense_part_ends_before_the_choice_and_starts_with_the_pixels(
    contenders: Any, scenes: Sequence[Scene]
) -> None:
    found = measured(contenders(), scenes)
    for name, wall in ((OURS, "ours_ms"), (OWN_DENSE, "own_dense_ms")):
        outputs = found.outputs[name]
        assert len(outputs) == 6
        taken = [
            each.durations_s["prepare"] + each.parts_s[:-2].sum()
            for each in outputs
            if each.parts_s is not None
        ]
        assert getattr(found.group.dense, wall) == pytest.approx(np.median(taken) * 1e3)
        assert getattr(found.group.everything, wall) > getattr(found.group.dense, wall)


def test_all_see_the_same_pictures_at_their_own_size(
    contenders: Any, scenes: Sequence[Scene]
) -> None:
    of = contenders()
    found = measured(of, scenes)
    assert {each.activation.shape for each in found.outputs[OURS]} == {(1, MASKERS)}
    assert of.openvino.best.dense.shapes == {(1, SIZE, SIZE, 3)}
    group = found.group
    assert (group.chosen, group.pictures, group.timed) == ("all", 9, 3)
    assert 0.0 < group.foreground < 1.0
    assert 0.0 < group.activation < 1.0
    image = MapSize(SIZE, SIZE)
    assert group.dense_macs == detector_macs(SKIPPING, DYNAMIC, image).dense
    assert group.ideal_ratio == group.dense_macs / group.macs > (SIZE / POINT_SIZE) ** 2


def test_a_rival_is_timed_its_fastest_way_and_with_our_own_end(
    contenders: Any, scenes: Sequence[Scene]
) -> None:
    found = measured(contenders(), scenes)
    span = found.group.everything
    with_ours = [name for name in span.runs if name not in (OURS, OWN_DENSE, BEST)]
    assert with_ours == ["openvino_best to dense answers, our choice and masks"]
    # The stand-in is faster alone than our choice and masks behind its dense answers.
    assert span.best == BEST
    outputs = found.outputs[OWN_DENSE]
    behind = [each.parts_s[-2:].sum() for each in outputs if each.parts_s is not None]
    assert span.runs[with_ours[0]].median_ms >= min(behind) * 1e3
    assert SAME not in span.ratios
    assert span.ratios.keys() == {OWN_DENSE, BEST}
    for name, ms in ((OWN_DENSE, span.own_dense_ms), (BEST, span.openvino_best_ms)):
        assert span.ratios[name].of_medians == pytest.approx(ms / span.ours_ms)
        assert span.ratios[name].lower_quartile <= span.ratios[name].upper_quartile


@pytest.mark.parametrize("alone", [False, True])
def test_the_same_precision_is_timed_on_its_own_unless_it_is_the_best(
    contenders: Any, scenes: Sequence[Scene], alone: bool
) -> None:
    of = contenders()
    other = pair() if alone else of.openvino.best
    found = measured(contenders(other), scenes).group
    assert found.everything.ratios.keys() == {OWN_DENSE, SAME, BEST}
    same, best = (found.dense.runs[name] for name in (SAME, BEST))
    assert (same == best) is not alone


def test_parts_are_typical_of_what_both_engines_tell(
    contenders: Any, scenes: Sequence[Scene]
) -> None:
    of = contenders()
    found = measured(of, scenes)
    told = {each.name: each for each in parts(of, found)}
    assert list(told) == [
        *("stem", "stage_1", "stage_2", "stage_3", "stage_4"),
        *("pyramid", "heads", "choice", "masks", REST),
    ]
    assert told["stem"].openvino_ms == pytest.approx(1.0)
    assert told["masks"].openvino_ms == pytest.approx(3.0)
    assert told["pyramid"].openvino_ms == 0.0
    assert told[REST].openvino_ms == pytest.approx(7.0)
    # Behind the stem and four blocks; of two turns on a picture the faster one.
    stages = [each.parts_s[5:7].sum() for each in found.outputs[OURS] if each.parts_s is not None]
    faster = np.minimum(stages[::2], stages[1::2])
    assert told["stage_3"].point_ms == pytest.approx(np.median(faster) * 1e3)
    whole = sum(each.macs for each in told.values()) - told["masks"].macs
    assert whole == detector_macs(SKIPPING, DYNAMIC, MapSize(SIZE, SIZE)).dense
