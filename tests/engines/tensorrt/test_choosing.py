"""Objects among a plan's places: what NonMaxSuppression of the whole file selects, and no other."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from engines.detection.architecture import MOST_DETECTIONS, Detector
from engines.export.onnx.objects import surest
from engines.export.onnx.run import onnx_model
from engines.tensorrt.choosing import chosen
from tests.engines.cpu import detectors
from tests.engines.export.onnx.running import BundleNetwork
from tests.engines.int8 import noise

PLAIN = Detector(masks=False, overlap=0.5, least_score=0.25)


@pytest.mark.parametrize("labels", [1, 3])
def test_they_are_those_of_the_whole_file(labels: int) -> None:
    net = detectors.WIDE.model_copy(update={"num_classes": labels})
    bundle = detectors.bundle(net, detectors.MASKED, sizes=(96,))
    images = noise(3, 96)
    found = BundleNetwork(bundle).answer(images, [bundle.manifest.full.point] * 3)
    outputs = {each.name for each in onnx_model(bundle, "fp32", select=False).graph.output}
    assert outputs == found.keys() - {"selected"}
    wanted, objects = surest(found), chosen(found["boxes"], found["scores"], detectors.MASKED)
    assert len(wanted.images) > 20
    for name in ("images", "labels", "scores", "boxes"):
        np.testing.assert_array_equal(getattr(objects, name), getattr(wanted, name), name)
        assert getattr(objects, name).dtype == getattr(wanted, name).dtype


def test_the_surest_of_those_that_overlap_and_only_of_one_label() -> None:
    box, other = [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]
    boxes = np.array([[box, other, [20.0, 0.0, 30.0, 10.0]]], np.float32)
    scores = np.array([[[0.3, 0.9, 0.25], [0.4, 0.0, 0.2]]], np.float32)
    found = chosen(boxes, scores, PLAIN)
    assert found.labels.tolist() == [0, 1, 0]
    np.testing.assert_allclose(found.scores, [0.9, 0.4, 0.25], rtol=1e-6)
    assert found.boxes[0].tolist() == other


def test_images_without_objects_stand_between_others() -> None:
    boxes = np.tile(np.array([1, 1, 5, 5], np.float32), (3, 1, 1))
    scores = np.array([[[0.5]], [[0.1]], [[0.6]]], np.float32)
    found = chosen(boxes, scores, PLAIN)
    assert found.images.tolist() == [0, 2]
    nothing = chosen(boxes, np.zeros_like(scores), PLAIN)
    assert nothing.boxes.shape == (0, 4)
    assert nothing.images.dtype == np.int64


def test_an_image_has_so_many_and_no_more() -> None:
    count = MOST_DETECTIONS + 7
    left = np.arange(count, dtype=np.float32) * 4
    boxes = np.stack([left, 0 * left, left + 3, 0 * left + 3], axis=1)[None]
    scores = np.linspace(0.3, 0.9, count, dtype=np.float32)[None, None]
    found = chosen(boxes, scores, PLAIN)
    assert len(found.scores) == MOST_DETECTIONS
    assert found.scores.min() == np.sort(scores.ravel())[-MOST_DETECTIONS]


def test_what_is_no_number_is_no_object() -> None:
    boxes = np.tile(np.array([1, 1, 5, 5], np.float32), (1, 2, 1))
    scores = np.array([[[np.nan, 0.5]]], np.float32)
    assert chosen(boxes, scores, PLAIN).scores.tolist() == [0.5]
