"""The exported mask head in ONNX Runtime against the reference."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from torch import Tensor

from engines.bundle import Bundle
from engines.detection.architecture import Detector
from engines.export.onnx.graph import Precision
from engines.export.onnx.objects import mask_feeds, surest
from engines.export.onnx.run import onnx_masks
from tests.engines.cpu.cases import pictures
from tests.engines.cpu.comparing import Wish, points_for
from tests.engines.cpu.comparing_objects import model_of, reference_answer
from tests.engines.cpu.detectors import DEEP, DYNAMIC, MASKED, PLAIN, SKIPPING, WIDE, bundle
from tests.engines.export.onnx.running import BundleNetwork, Network

pytestmark = pytest.mark.torch

SIZE = 640
SIDES = (0.0, 0.3, 5.0, 111.9, 112.1, 223.9, 224.1, 447.9, 448.1, 639.0)
"""Of boxes, in pixels: nothing, less than a pixel, and on both sides of where levels change."""


def head_of(source: Bundle, precision: Precision = "fp32") -> Network:
    model = onnx_masks(source, precision)
    assert model is not None
    return Network(model)


def pyramid(width: int) -> list[Tensor]:
    """Of two images of SIZE pixels, as half precision has it."""
    torch.manual_seed(0)
    return [
        torch.randn(2, width, SIZE // stride, SIZE // stride).half().float()
        for stride in (4, 8, 16, 32)
    ]


def boxes_of_all_levels() -> tuple[Tensor, Tensor]:
    """Boxes (D, 4) of both images and whose they are; no square, and some reach outside."""
    torch.manual_seed(1)
    sides = torch.tensor(SIDES).repeat(2)
    width, height = sides * 1.25, sides / 1.25
    left, top = torch.rand(2, len(sides)) * (SIZE - sides)
    return torch.stack((left, top, left + width, top + height), 1), torch.arange(len(sides)) % 2


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("detector", [MASKED, DEEP], ids=["two layers", "one layer"])
def test_boxes_of_every_size(detector: Detector, precision: Precision) -> None:
    source, features = bundle(WIDE, detector), pyramid(detector.width)
    boxes, images = boxes_of_all_levels()
    model = model_of(source).instances
    with torch.inference_mode():
        apart = [boxes[images == i] for i in range(2)]
        logits = model.mask_logits(features, apart, SIZE, SIZE)
    wanted = logits.sigmoid().numpy()
    kind = np.float16 if precision == "fp16" else np.float32
    inputs = {f"features_{i}": each.numpy().astype(kind) for i, each in enumerate(features)}
    head = head_of(source, precision)
    found = head.run(**inputs, boxes=boxes.numpy(), images=images.numpy())["masks"]
    assert found.dtype == np.float32
    assert float(wanted.std()) > 0.05
    bound = 2e-2 if precision == "fp16" else 1e-4
    for i in range(2):
        mine = images.numpy() == i
        first = i * int((~mine).sum())
        np.testing.assert_allclose(
            found[mine], wanted[first : first + mine.sum()], rtol=0, atol=bound
        )
    none = head.run(**inputs, boxes=boxes[:0].numpy(), images=images[:0].numpy())["masks"]
    assert none.shape == (0, detector.mask_size, detector.mask_size)


def test_masks_of_what_the_network_finds() -> None:
    """Both files one behind the other are the reference engine, at a point that skips."""
    source, images = bundle(SKIPPING, DYNAMIC), pictures(2, 64)
    maskers = len(source.manifest.full.point.thresholds)
    wishes = [[Wish(0.6)] * maskers, [Wish(None)] * maskers]
    points = points_for(source, images, wishes, model_of(source).dense)
    wanted = reference_answer(source, images, points).arrays
    found = BundleNetwork(source).answer(images, points)
    objects = surest(found)
    masks = head_of(source).run(**dict(mask_feeds(found, objects)))["masks"]
    assert np.bincount(objects.images, minlength=2).tolist() == wanted["counts"].tolist()
    for i, count in enumerate(wanted["counts"]):
        assert count > 3
        mine = objects.images == i
        np.testing.assert_allclose(
            objects.scores[mine], wanted["scores"][i, :count].astype(np.float64), atol=1e-4
        )
        np.testing.assert_allclose(
            masks[mine], wanted["masks"][i, :count].astype(np.float64), atol=1e-4
        )


def test_boxes_alone_have_no_mask_head() -> None:
    assert onnx_masks(bundle(WIDE, PLAIN), "fp32") is None
