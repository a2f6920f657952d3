from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from pydantic import ValidationError

from engines.architecture import MapSize
from engines.bundle import Bundle, Manifest
from engines.core import static_point
from engines.detection.architecture import Detector, detector_macs
from engines.detection.letterbox import detections_of
from engines.errors import BundleError, EngineError, InvalidInput
from engines.reference.detection import ReferenceDetector
from engines.registry import load_engine
from tests.engines.detection.bundles import detector_bundle
from tests.engines.detection.manifests import detector_manifest
from tests.engines.detection.networks import DETECTOR, NET

pytestmark = pytest.mark.torch

FULL = static_point("full", 64, 0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return detector_bundle(tmp_path_factory.mktemp("bundles") / "things.laud")


def _images(count: int, size: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def test_objects_come_with_masks_and_what_they_cost(bundle: Bundle) -> None:
    with load_engine(bundle, kind="reference", threads=1) as engine:
        output = engine.infer(_images(2), (FULL, FULL))
    counts = output.arrays["counts"]
    most = int(counts.max())
    assert most > 3
    assert output.arrays["boxes"].shape == (2, most, 4)
    assert output.arrays["masks"].shape == (2, most, 28, 28)
    scores = output.arrays["scores"]
    assert (np.diff(scores[0, : counts[0]]) <= 0).all()
    assert scores[0, : counts[0]].min() >= DETECTOR.least_score
    parts = detector_macs(NET, DETECTOR, MapSize(64, 64))
    assert output.macs.tolist() == [parts.dense + parts.per_object * int(n) for n in counts]
    assert output.activation.shape == (2, 0)
    assert output.durations_s.keys() == {"prepare", "network"}


def test_an_answer_does_not_depend_on_its_batch_mates(bundle: Bundle) -> None:
    images = _images(3)
    with load_engine(bundle, kind="reference", threads=1) as engine:
        together = engine.infer(images, (FULL,) * 3)
        alone = engine.infer(images[1:2], (FULL,))
    count = int(alone.arrays["counts"][0])
    assert together.arrays["counts"][1] == count
    for name in ("boxes", "scores", "labels", "masks"):
        assert (together.arrays[name][1, :count] == alone.arrays[name][0, :count]).all()


def test_objects_are_moved_back_to_their_picture(bundle: Bundle) -> None:
    with load_engine(bundle, kind="reference", threads=1) as engine:
        output = engine.infer(_images(1), (FULL,))
    found = detections_of(output, 0, 64, width=128, height=96)
    assert 0 < len(found) <= output.arrays["counts"][0]
    assert (found.boxes <= (128, 96, 128, 96)).all()
    assert found.masks is not None
    for mask, box in zip(found.masks, found.boxes, strict=True):
        left, top, right, bottom = mask.box
        assert left <= box[0] + 1
        assert top <= box[1] + 1
        assert right >= box[2] - 1
        assert bottom >= box[3] - 1


def test_boxes_alone_have_no_masks(tmp_path: Path) -> None:
    plain = detector_bundle(tmp_path / "a.laud", Detector(width=8, head_convs=1, masks=False))
    with load_engine(plain, kind="reference", threads=1) as engine:
        output = engine.infer(_images(1), (FULL,))
    assert "masks" not in output.arrays
    assert detections_of(output, 0, 64, 64, 64).masks is None


def test_what_cannot_run_is_refused(bundle: Bundle) -> None:
    engine = ReferenceDetector.from_bundle(bundle)
    with pytest.raises(InvalidInput, match="multiples of 32"):
        engine.infer(_images(1, 40), (static_point("odd", 40, 0),))
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(_images(1), (FULL,))
    spoilt = Bundle(bundle.path, bundle.manifest, bundle.hash, {})
    with pytest.raises(BundleError, match="missing"):
        ReferenceDetector.from_bundle(spoilt)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "classification"}, "takes no detector"),
        ({"task": "detection"}, "contradicts a detector"),
        ({"detector": None}, "needs a detector"),
        ({"labels": ("a", "b")}, "2 labels for 1 classes"),
    ],
)
def test_manifests_that_contradict_themselves(changes: dict[str, Any], says: str) -> None:
    content = {**dict(detector_manifest()), **changes}
    with pytest.raises(ValidationError, match=says):
        Manifest.model_validate(content)


def test_image_sizes_are_multiples_of_the_coarsest_stride() -> None:
    with pytest.raises(ValidationError, match="multiples of 32"):
        detector_manifest(DETECTOR, 64, 40)
