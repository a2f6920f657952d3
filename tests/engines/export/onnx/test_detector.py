"""An exported detector in ONNX Runtime against the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from engines.architecture import ResNet, Stage
from engines.bundle import Bundle, Manifest
from engines.core import Paradigm, UInt8Array, static_point
from engines.detection.architecture import MOST_DETECTIONS, Detector
from engines.export.onnx import detector
from engines.models import detection
from engines.models.detection import LaudDetector
from engines.models.inputs import normalise
from engines.models.masks import Thresholds
from engines.reference.detection import ReferenceDetector
from tests.engines.cpu.cases import pictures
from tests.engines.detection.bundles import detector_bundle
from tests.engines.detection.manifests import detector_manifest
from tests.engines.detection.networks import DETECTOR, NET
from tests.engines.export.onnx.running import BundleNetwork

pytestmark = pytest.mark.torch

Arrays = dict[str, np.ndarray[Any, Any]]


def objects(found: Arrays, image: int) -> Arrays:
    """The surest of what was selected for an image, as engines answer them."""
    mine = found["selected"][found["selected"][:, 0] == image]
    scores = found["scores"][image, mine[:, 1], mine[:, 2]]
    order = np.argsort(-scores, kind="stable")[:MOST_DETECTIONS]
    places = mine[order, 2]
    return {"boxes": found["boxes"][image, places], "scores": scores[order],
            "labels": mine[order, 1]}  # fmt: skip


def labelled(bundle: Bundle, labels: int, net: ResNet = NET) -> Bundle:
    """The same kind of bundle with more labels and random weights, never on disk."""
    net = net.model_copy(update={"num_classes": labels})
    torch.manual_seed(labels)
    model = LaudDetector(net, DETECTOR)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if ".masker_" in name and name.endswith("weight"):
                value.normal_()
    torch.nn.init.constant_(model.dense.head.classification_head.cls_logits.bias, -1.0)
    state = {name: value.half().numpy() for name, value in model.state_dict().items()}
    content = {
        **dict(detector_manifest()),
        "architecture": net,
        "labels": tuple(f"label-{i}" for i in range(labels)),
        "points": tuple(
            record.model_copy(
                update={
                    "point": static_point(record.point.name, record.point.image_size,
                                          len(net.maskers)),
                    "activation": (1.0,) * len(net.maskers),
                }
            )
            for record in bundle.manifest.points
        ),
    }  # fmt: skip
    return Bundle(bundle.path, Manifest.model_validate(content), bundle.hash, state)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return detector_bundle(tmp_path_factory.mktemp("bundles") / "things.laud")


def assert_same_objects(source: Bundle, images: UInt8Array) -> int:
    points = [static_point("full", images.shape[1], 0)] * len(images)
    with ReferenceDetector.from_bundle(source) as engine:
        wanted = engine.infer(images, points).arrays
    found = BundleNetwork(source).answer(images, points)
    for i, count in enumerate(wanted["counts"]):
        mine = objects(found, i)
        assert len(mine["scores"]) == count
        np.testing.assert_array_equal(mine["labels"], wanted["labels"][i, :count])
        np.testing.assert_allclose(
            mine["scores"], wanted["scores"][i, :count].astype(np.float64), atol=1e-4
        )
        np.testing.assert_allclose(
            mine["boxes"], wanted["boxes"][i, :count].astype(np.float64), atol=1e-3
        )
    return int(wanted["counts"].sum())


@pytest.mark.parametrize("size", [64, 96])
def test_the_same_objects_are_found(bundle: Bundle, size: int) -> None:
    assert assert_same_objects(bundle, pictures(2, size)) > 6


def test_labels_do_not_suppress_each_other(bundle: Bundle) -> None:
    assert assert_same_objects(labelled(bundle, 3), pictures(2, 64)) > 20


def test_only_the_surest_of_a_level_are_candidates(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few candidates, overlapping ones take the places of others that would be left."""
    for module in (detection, detector):
        monkeypatch.setattr(module, "CANDIDATES_PER_LEVEL", 5)
    assert 0 < assert_same_objects(bundle, pictures(1, 128)) <= 20


def test_the_pyramid_comes_along_where_objects_have_masks(bundle: Bundle, tmp_path: Path) -> None:
    images = pictures(1, 64)
    points = [static_point("full", 64, 0)]
    found = BundleNetwork(bundle).answer(images, points)
    model = LaudDetector(NET, DETECTOR).eval()
    model.load_state_dict({k: torch.from_numpy(np.asarray(v, np.float32)) for k, v in
                           bundle.weights.items()})  # fmt: skip
    with torch.inference_mode():
        outputs, _ = model.dense(normalise(images, bundle.manifest.preprocessing))
    for i, wanted in enumerate(outputs.features):
        np.testing.assert_allclose(found[f"features_{i}"], wanted.numpy(), atol=1e-4)
    plain = Detector(width=8, head_convs=1, masks=False)
    boxes = detector_bundle(tmp_path / "boxes.laud", plain)
    assert BundleNetwork(boxes).outputs == ["boxes", "scores", "selected"]


def test_a_backbone_that_skips(bundle: Bundle) -> None:
    """No engine serves one yet; the network in torch is what it has to equal."""
    stages = tuple(
        Stage(depth=1, width=width, paradigm=Paradigm.SPATIAL, spatial_granularity=patch)
        for width, patch in ((2, 4), (4, 3), (4, 2), (4, 1))
    )
    source = labelled(bundle, 2, NET.model_copy(update={"stages": stages}))
    net = source.manifest.architecture
    assert isinstance(net, ResNet)
    images = pictures(1, 64)
    point = static_point("skip", 64, 4).model_copy(update={"thresholds": (0.0,) * 4})
    found = BundleNetwork(source).answer(images, [point])
    model = LaudDetector(net, DETECTOR).eval()
    model.load_state_dict({k: torch.from_numpy(np.asarray(v, np.float32)) for k, v in
                           source.weights.items()})  # fmt: skip
    x = normalise(images, source.manifest.preprocessing)
    with torch.inference_mode():
        outputs, masks = model.dense(x, Thresholds(torch.zeros(1, 4)))
    units = torch.cat([mask.units for mask in masks], dim=1).bool()
    np.testing.assert_array_equal(found["decisions"], units.numpy())
    assert 0.1 < float(units.float().mean()) < 0.9
    for i, wanted in enumerate(outputs.features):
        np.testing.assert_allclose(found[f"features_{i}"], wanted.numpy(), atol=1e-4)


def test_half_precision_finds_about_as_many(bundle: Bundle) -> None:
    images = pictures(2, 64)
    points = [static_point("full", 64, 0)] * 2
    single, half = (BundleNetwork(bundle, p).answer(images, points) for p in ("fp32", "fp16"))
    assert half["features_0"].dtype == np.float16
    np.testing.assert_allclose(half["boxes"], single["boxes"], atol=0.25)
    many = len(single["selected"])
    assert abs(len(half["selected"]) - many) <= 0.1 * many
