"""How far answers of a detector's plan are from what its files mean. The GPU is scripted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from engines.bench.pictures import MadeUpPictures
from engines.bundle import Bundle
from engines.export.onnx.run import onnx_masks, onnx_model
from engines.tensorrt.detector import Seen, TensorRtDetector
from engines.tensorrt.oracle import OnnxFile, OnnxRuntime
from engines.tensorrt.plans import Bucket, MaskHead, Precision
from engines.tensorrt.verifying import Verdict, measured, trials, verify
from engines.tensorrt.ways import ObjectsWay
from tests.engines.cpu import detectors
from tests.engines.tensorrt.manifests import plan_manifest
from tests.engines.tensorrt.scripted import ScriptedGpu, ScriptedNetwork

SIZE = 64
BUCKETS = tuple(Bucket(image_size=SIZE, images=n, profile=i) for i, n in enumerate((1, 2)))
at = cache(MadeUpPictures(0, 3).at)

Change = Callable[[Seen], Seen]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return detectors.bundle(detectors.SKIPPING, detectors.RAGGED)


@pytest.fixture(scope="module")
def way(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectsWay]:
    folder: Path = tmp_path_factory.mktemp("things")
    model, head = onnx_model(bundle, "fp32", select=False), onnx_masks(bundle, "fp32")
    detector = bundle.manifest.detector
    assert head is not None
    assert detector is not None
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    (folder / "masks.onnx").write_bytes(head.SerializeToString())
    gpu = ScriptedGpu()
    shapes = [[(each.images, SIZE)] for each in BUCKETS]
    manifest = plan_manifest(
        bundle=bundle.hash,
        buckets=BUCKETS,
        precision="fp32",
        masks=MaskHead(onnx="0" * 64, program="0" * 64, objects=16),
    )
    network, masks = (
        ScriptedNetwork(gpu, each.SerializeToString(), shapes) for each in (model, head)
    )
    net = bundle.manifest.architecture
    with TensorRtDetector(bundle, manifest, gpu, network, masks=masks) as engine:
        yield ObjectsWay(
            "blocks", engine.infer, BUCKETS, engine,
            OnnxRuntime(folder / "net.onnx", net, 1, detector=detector),
            OnnxFile(folder / "masks.onnx", 1), detector,
        )  # fmt: skip


class Wrong:
    """An engine that saw something else."""

    def __init__(self, engine: TensorRtDetector, change: Change) -> None:
        self._engine, self._change = engine, change

    def seen(self, *given: Any) -> Seen:
        return self._change(self._engine.seen(*given))


def verified(
    bundle: Bundle, way: ObjectsWay, change: Change | None = None, precision: Precision = "fp32"
) -> Verdict:
    wrong: Any = way.engine if change is None else Wrong(way.engine, change)
    changed = replace(way, engine=wrong, buckets=BUCKETS[:1])
    return verify(bundle, [changed], at, print, precision=precision)


def test_units_of_levels_are_drawn_too(bundle: Bundle) -> None:
    found = {each.name: each for each in trials(bundle, BUCKETS[:1], seed=0)}
    maskers = len(bundle.manifest.full.point.thresholds)
    assert found.keys() >= {"full", "nothing active", "all active", "random masks 1"}
    assert found["nothing active"].points[0].caps == (0,) * maskers
    assert found["all active"].points[0].caps[-4:] == (16, 4, 1, 1)


def test_a_plan_that_answers_as_its_files_agrees(bundle: Bundle, way: ObjectsWay) -> None:
    found = verify(bundle, [way], at, print, precision="fp32")
    assert found.agrees
    assert (found.max_error, found.differing) == (0.0, 0.0)
    assert len(found.agreements) == 2 * 7


def test_calls_are_timed_whole(bundle: Bundle, way: ObjectsWay) -> None:
    found = measured(bundle, [way], at, print, calls=1)
    assert [(each.point, each.images) for each in found] == [("full", 1), ("full", 2)]


def places(seen: Seen, name: str, value: Callable[[Any], Any]) -> Seen:
    return replace(seen, places={**seen.places, name: value(seen.places[name])})


def flipped(seen: Seen) -> Seen:
    """Every image has another decision."""
    other = seen.places["decisions"].copy()
    other[:, 0] ^= True
    return places(seen, "decisions", lambda _x: other)


def no_numbers(seen: Seen, name: str) -> Seen:
    return places(seen, name, lambda x: np.full_like(x, np.nan))


WRONG: dict[str, Change] = {
    "scores": lambda seen: places(seen, "scores", lambda x: np.where(x > 0.5, x - 1e-3, x)),
    "boxes": lambda seen: places(seen, "boxes", lambda x: x + 0.1),
    "masks": lambda seen: replace(seen, masks=None if seen.masks is None else seen.masks + 1e-3),
    "decisions": lambda seen: places(seen, "decisions", lambda x: ~x),
    "candidates": lambda seen: places(seen, "scores", np.zeros_like),
    "scores that are no numbers": lambda seen: no_numbers(seen, "scores"),
    "boxes that are no numbers": lambda seen: no_numbers(seen, "boxes"),
    "nothing found, and another decision": lambda seen: places(
        flipped(seen), "scores", np.zeros_like
    ),
    "boxes that are no numbers, and another decision": lambda seen: no_numbers(
        flipped(seen), "boxes"
    ),
    "masks that are no numbers, and another decision": lambda seen: replace(
        flipped(seen), masks=np.full_like(seen.masks, np.nan)
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_found(bundle: Bundle, way: ObjectsWay, what: str) -> None:
    # In half precision as many decisions may differ.
    found = verified(bundle, way, WRONG[what], "fp16" if "another decision" in what else "fp32")
    assert not found.agrees
    if "another decision" in what:
        assert found.worst_error > 0.5
        assert found.differing <= 0.02
    elif "no numbers" in what:
        assert np.isinf([found.worst_error, found.max_moved]).any()


def test_few_candidates_that_are_lost_are_many_of_the_candidates(
    bundle: Bundle, way: ObjectsWay
) -> None:
    """Limits of half precision are wide, and most places are candidates for nothing anyway."""

    def without_every_fifth(seen: Seen) -> Seen:
        scores = seen.places["scores"].copy()
        flat = scores.reshape(-1)
        flat[np.flatnonzero(flat >= way.detector.least_score)[::5]] = 0.0
        return places(seen, "scores", lambda _x: scores)

    found = verified(bundle, way, without_every_fifth, "fp16")
    assert not found.agrees
    assert found.differing == 0.0
    assert found.lost >= 0.2


def test_candidates_that_one_trial_loses_are_not_few_for_those_that_the_others_keep(
    bundle: Bundle, way: ObjectsWay
) -> None:
    trial = count()

    def once_nothing(seen: Seen) -> Seen:
        return WRONG["candidates"](seen) if next(trial) == 0 else seen

    found = verified(bundle, way, once_nothing, "fp16")
    assert [each.lost for each in found.agreements] == [1.0, *[0.0] * 6]
    assert (found.lost, found.agrees) == (1.0, False)


@pytest.mark.parametrize(("share", "agrees"), [(0.02, True), (0.1, False)])
def test_boxes_may_move_by_a_little_of_their_side(
    bundle: Bundle, way: ObjectsWay, share: float, agrees: bool
) -> None:
    """However large the image is: a tenth of a small box is little of it."""

    def moved(boxes: Any) -> Any:
        sides = (boxes[..., 2:] - boxes[..., :2]).max(axis=-1, keepdims=True)
        return boxes + share * np.maximum(sides, 8.0)

    found = verified(bundle, way, lambda seen: places(seen, "boxes", moved), "fp16")
    assert found.agrees == agrees
    assert found.max_moved == pytest.approx(share, rel=1e-3)


def test_another_decision_may_move_boxes_and_masks_anywhere(
    bundle: Bundle, way: ObjectsWay
) -> None:
    """Of an image that has one, scores and candidates are looked at, and roughly. As long as they
    are numbers. One trial keeps its decisions, or nothing would have been compared."""
    trial = count()

    def moved(seen: Seen) -> Seen:
        if next(trial) == 0:
            return seen
        return places(flipped(seen), "boxes", lambda x: x + 40.0)

    found = verified(bundle, way, moved, "fp16")
    assert [each.max_error for each in found.agreements] == [0.0, *[None] * 6]
    assert (found.worst_error, found.max_moved, found.lost) == (0.0, 0.0, 0.0)
    assert found.agrees
