"""OpenVINO finds what our detectors find, so that a comparison of times is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ov = pytest.importorskip("openvino")
pytest.importorskip("nncf")

from engines.bench.detectors import openvino as forms
from engines.bench.detectors.answers import FOUND, Arrays, agreement, answers
from engines.bench.detectors.graph import dense_part, part_of, static_detector
from engines.bench.detectors.plan import DetectorPlan, parts_of
from engines.bench.detectors.run import bench_detector
from engines.bench.detectors.scenes import ScenePictures
from engines.bench.detectors.work import CHOICE, HEADS, MASKS, PYRAMID
from engines.bundle import Bundle, write_bundle
from engines.detection.read import read_folder
from engines.detection.scenes import Detections
from engines.errors import BundleError, EngineError
from tests.engines.cpu.cases import bundle as classifier
from tests.engines.cpu.cases import pictures
from tests.engines.cpu.detectors import (
    DEEP,
    DYNAMIC,
    MASKED,
    PLAIN,
    SKIPPING,
    SMALL,
    WIDE,
    bundle,
    full,
    load,
    num_maskers,
)
from tests.engines.detection.tiny import write_nuclei

pytestmark = [
    pytest.mark.torch,
    # What NNCF and OpenVINO warn of among themselves is theirs to mend.
    pytest.mark.filterwarnings("ignore"),
]

SIZE = 96
IMAGES = pictures(3, SIZE)
SCORE_BOUND = MASK_BOUND = 1e-4


def asked(model: Any, images: Any) -> list[Arrays]:
    """What a model answers to every image, by name."""
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [output.any_name for output in compiled.outputs]
    return [dict(zip(names, compiled(image[None]).values(), strict=True)) for image in images]


def ours(source: Bundle, images: Any) -> list[Arrays]:
    """What our engine finds, nothing skipped."""
    maskers = num_maskers(*parts_of(source))
    size = images.shape[1]
    with load(source, poison=False) as engine:
        output = engine.infer(images, [full(size, maskers)] * len(images))
    counts = output.arrays["counts"].tolist()
    names = [name for name in FOUND if name in output.arrays]
    return [{n: output.arrays[n][i, :count] for n in names} for i, count in enumerate(counts)]


def detections(found: Arrays) -> Detections:
    return Detections(found["boxes"], found["scores"], found["labels"])


@pytest.mark.parametrize(
    ("net", "detector"),
    [(SMALL, PLAIN), (WIDE, MASKED), (WIDE, DEEP), (SKIPPING, DYNAMIC)],
    ids=["boxes", "masks of three labels", "small regions", "one that may skip"],
)
def test_graph_finds_what_our_engine_finds(net: Any, detector: Any) -> None:
    source = bundle(net, detector)
    found, wanted = asked(static_detector(source, SIZE), IMAGES), ours(source, IMAGES)
    assert sum(len(each["scores"]) for each in wanted) > 20
    assert set(found[0]) == set(wanted[0])
    assert agreement([detections(f) for f in found], [detections(w) for w in wanted]) == 1.0
    for one, other in zip(found, wanted, strict=True):
        assert one["boxes"].shape == other["boxes"].shape
        order = np.argsort(-one["scores"], kind="stable")
        np.testing.assert_allclose(one["scores"][order], other["scores"], atol=SCORE_BOUND)
        if detector.masks:
            mass = np.sort(one["masks"].sum(axis=(1, 2)))
            wanted_mass = np.sort(other["masks"].astype(np.float64).sum(axis=(1, 2)))
            np.testing.assert_allclose(mass, wanted_mass, rtol=MASK_BOUND)


def test_graph_finds_nothing_where_nothing_is() -> None:
    source = bundle(bias=-30.0)
    (found,) = asked(static_detector(source, 32), pictures(1, 32))
    assert {name: array.shape[0] for name, array in found.items()} == {
        "boxes": 0, "scores": 0, "labels": 0, "masks": 0,
    }  # fmt: skip


def test_dense_part_has_everything_up_to_the_choice() -> None:
    model = static_detector(bundle(), SIZE)
    dense = dense_part(model)
    behind = {part_of(node) for node in dense.get_ops()}
    assert {PYRAMID, HEADS, "stem", "stage_4"} <= behind
    assert not {CHOICE, MASKS} & behind
    shapes = sorted(tuple(output.shape) for output in dense.outputs)
    sides = (3, 6, 12, 24)
    assert shapes == sorted((1, c, side, side) for c in (WIDE.num_classes, 5) for side in sides)


def test_a_bundle_that_finds_no_objects_is_refused() -> None:
    with pytest.raises(BundleError, match="finds no objects: its task is classification"):
        static_detector(classifier(), 32)


@pytest.fixture
def split(tmp_path: Path) -> Path:
    return write_nuclei(tmp_path / "data", {"test": (3, 1, 4, 2)}) / "test"


def test_openvino_that_finds_something_else_is_no_rival(split: Path) -> None:
    source, found = bundle(SMALL, MASKED, bias=0.0), ScenePictures(read_folder(split))
    inputs = [image[None] for image in found.at(32)]
    others = ours(bundle(SMALL, MASKED, seed=1, bias=0.0), found.at(32))
    wanted = answers(lambda place: others[place], found.scenes, 32)
    with pytest.raises(EngineError, match="it runs another network"):
        forms.detector_at_its_best(source, found, wanted, inputs, precision="fp32", threads=1)


def test_a_detector_is_measured_from_end_to_end(split: Path, tmp_path: Path) -> None:
    net = SKIPPING.model_copy(update={"num_classes": 1})
    source = bundle(net, DYNAMIC, sizes=(32,), bias=0.0)
    maskers = num_maskers(net, DYNAMIC)
    skip = full(32, maskers, "skip").model_copy(update={"thresholds": (0.0,) * maskers})
    (first,) = source.manifest.points
    points = (first, first.model_copy(update={"point": skip, "macs": 1.0}))
    manifest = source.manifest.model_copy(update={"points": points, "labels": ("nucleus",)})
    path, said = tmp_path / "things.laud", list[str]()
    write_bundle(path, manifest, dict(source.weights))
    plan = DetectorPlan(
        str(path), images=split, repeats=4, against_size=64, cache=tmp_path / "cache"
    )
    found = bench_detector(plan, said.append)
    assert (found.point, found.size, found.against_size) == ("skip", 32, 64)
    assert (found.every.pictures, found.emptiest.pictures) == (4, 1)
    assert found.emptiest.foreground < found.every.foreground
    assert found.every.timed == 2
    tried = {(form.precision, form.preset) for form in found.baseline.forms}
    assert tried >= {("fp32", None), ("int8", "performance"), ("int8", "mixed")}
    exact = found.baseline.forms[0]
    assert (exact.precision, exact.right, exact.agreement) == ("fp32", True, 1.0)
    assert exact.ap50 == found.ap50
    assert found.baseline.same == exact
    right = [form for form in found.baseline.forms if form.right]
    assert found.baseline.dense.dense_ms == min(form.dense_ms or np.inf for form in right)
    assert found.baseline.whole.whole_ms == min(form.whole_ms or np.inf for form in right)
    told = {part.name: part.openvino_ms for part in found.parts}
    for part in ("stem", "stage_1", "stage_4", PYRAMID, HEADS, CHOICE, MASKS):
        assert told[part] > 0.0
    assert len(list((tmp_path / "cache").glob("*.xml"))) == 2
    assert said[0] == "finding objects in 4 pictures"
