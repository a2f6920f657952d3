"""The native detector against torch's. Import after `pytest.importorskip("torchvision")`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.architecture import MapSize, only_resnet
from engines.bundle import Bundle
from engines.core import OperatingPoint, Output, UInt8Array
from engines.models.detecting import dense_macs
from engines.models.detection import DenseNetwork, DenseOutputs, LaudDetector
from engines.models.inputs import normalise
from engines.models.masks import Decide
from engines.reference.detection import ReferenceDetector
from engines.reference.weights import load_bundle_weights
from tests.engines.cpu.comparing import Wish, points_for

PLACE_BOUND = 2e-5
"""How far dense answers may be apart, relative to the largest."""


def model_of(bundle: Bundle) -> LaudDetector:
    """The bundle's network in torch."""
    detector = bundle.manifest.detector
    assert detector is not None
    model = LaudDetector(only_resnet(bundle.manifest.architecture, "a test"), detector).eval()
    load_bundle_weights(model, bundle)
    return model


def reference_answer(bundle: Bundle, images: UInt8Array, points: list[OperatingPoint]) -> Output:
    """What the reference engine says."""
    with ReferenceDetector.from_bundle(bundle) as engine:
        return engine.infer(images, points)


def points_at(
    source: Bundle, images: UInt8Array, wishes: Sequence[Sequence[Wish]]
) -> list[OperatingPoint]:
    """One point per image, whose thresholds lie in gaps between the reference's logits."""
    return points_for(source, images, wishes, model_of(source).dense)


@torch.inference_mode()
def forced_answer(
    bundle: Bundle, image: UInt8Array, decisions: Sequence[npt.NDArray[np.bool_]]
) -> tuple[npt.NDArray[np.float32], float]:
    """Dense answers of one image (1, places, labels + 5) under decisions (units,) per masker, and
    what they cost without maskers."""

    def decide(masker: int, logits: Tensor) -> Tensor:
        return torch.from_numpy(decisions[masker][np.newaxis]).to(logits.dtype)

    model = model_of(bundle)
    _, asked = model.dense(normalise(image, bundle.manifest.preprocessing), decide)
    size = MapSize(*image.shape[1:3])
    macs = dense_macs(model.dense, size, asked, torch.zeros(1, len(decisions)))
    return places_of(bundle, image, decide=decide), float(macs)


@torch.inference_mode()
def places_of(
    bundle: Bundle,
    images: UInt8Array,
    *,
    active: npt.NDArray[np.bool_] | None = None,
    decide: Decide | None = None,
) -> npt.NDArray[np.float32]:
    """Dense answers (N, places, labels + 5) as the native engine tells them."""
    model = model_of(bundle)
    x = normalise(images, bundle.manifest.preprocessing)
    if active is not None:
        outputs = masked_dense(model.dense, x, active)
    else:
        outputs, asked = model.dense(x, decide)
        of_levels = [each.pixels for each in asked if each.masker >= len(model.net.maskers)]
        if of_levels:
            skipped = torch.cat([each.flatten(1) for each in of_levels if each is not None], 1) == 0
            outputs = DenseOutputs(
                outputs.features,
                outputs.logits.masked_fill(skipped[..., None], -torch.inf),
                outputs.distances,
                outputs.centres.masked_fill(skipped[..., None], 0.0),
            )
    joined = torch.cat((outputs.logits, outputs.distances, outputs.centres), dim=2)
    told: npt.NDArray[np.float32] = joined.numpy()
    return told


def masked_dense(dense: DenseNetwork, x: Tensor, active: npt.NDArray[np.bool_]) -> DenseOutputs:
    """`DenseNetwork.forward` where pyramid and heads are multiplied by active places (N, P).

    The slow reference of lists of places: everything is computed, and zeroed behind each layer.
    Inactive places have no class (-infinity) and distances and centres of 0.
    """
    maps, _ = dense.body.stages(x, None)
    areas = [each.shape[2] * each.shape[3] for each in maps]
    flags = torch.split(torch.from_numpy(active), areas, dim=1)
    masks = [
        flag.reshape(len(x), 1, *each.shape[2:]) for flag, each in zip(flags, maps, strict=True)
    ]
    above: Tensor | None = None
    features: list[Tensor] = []
    for level in reversed(range(len(maps))):
        own = dense.fpn.inner_blocks[level](maps[level])
        above = own if above is None else own + F.interpolate(above, size=own.shape[2:])
        features.insert(0, dense.fpn.layer_blocks[level](above) * masks[level])
    found = [_heads(dense, f, mask) for f, mask in zip(features, masks, strict=True)]
    logits, distances, centres = (
        torch.cat([_flat(parts[i]) for parts in found], dim=1) for i in range(3)
    )
    return DenseOutputs(tuple(features), logits, distances, centres)


def _heads(dense: DenseNetwork, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    classes, boxes = dense.head.classification_head, dense.head.regression_head
    by_class, by_box = _tower(classes.conv, features, mask), _tower(boxes.conv, features, mask)
    logits = classes.cls_logits(by_class).masked_fill(~mask, -torch.inf)
    return logits, F.relu(boxes.bbox_reg(by_box)) * mask, boxes.bbox_ctrness(by_box) * mask


def _tower(layers: nn.Sequential, x: Tensor, mask: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            x = x * mask
    return x


def _flat(x: Tensor) -> Tensor:
    """(N, C, H, W) as (N, H x W, C)."""
    return x.flatten(2).transpose(1, 2)


def assert_near(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> None:
    """Dense answers within their bound, and infinite at the same places."""
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(np.isfinite(found), finite)
    scale = 1.0 + np.abs(wanted[finite]).max(initial=0.0)
    np.testing.assert_allclose(found[finite] / scale, wanted[finite] / scale, atol=PLACE_BOUND)
