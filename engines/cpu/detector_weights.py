"""A detector's tensors as the native engine takes them. Needs no torch.

In a bundle they have the names of `engines.models.detection`, and a transposed convolution; native
code has convolutions only.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from engines.architecture import ResNet
from engines.bundle import Bundle
from engines.cpu.weights import (
    PATCH_MASKER,
    Floats,
    Shapes,
    backbone_shapes,
    checked_weights,
    convolution,
    layer_tensors,
    without_scales,
)
from engines.detection.architecture import LEVELS, Detector, stage_channels
from engines.detection.quantisation import quantise_detector

_BODY = "dense.body."
_CLASSES = "dense.head.classification_head"
_BOXES = "dense.head.regression_head"
_LEVEL = "dense.level_maskers"
_UP = "instances.mask_predictor.conv5_mask"
_LAYERS_OF_A_CONV = 3
"""In a tower of torchvision's: convolution, norm (here none) and ReLU."""


def detector_shapes(net: ResNet, detector: Detector) -> Shapes:
    """Names and shapes of a bundle's tensors."""
    shapes = {f"{_BODY}{name}": shape for name, shape in backbone_shapes(net).items()}
    for given, _, outputs, inputs, kernel in _convolutions(net, detector):
        shapes.update(convolution(given, outputs, inputs, kernel))
    shapes.update(convolution(f"{_BOXES}.bbox_reg", 4, detector.width, 3))
    shapes.update(convolution(f"{_BOXES}.bbox_ctrness", 1, detector.width, 3))
    if detector.level_patches is not None:
        channels = stage_channels(net)
        for level, look in enumerate(detector.looks):
            for part in PATCH_MASKER:
                shapes[f"{_LEVEL}.{level}.{part}"] = (channels[look],)
    if detector.masks:
        half = detector.width // 2
        shapes[f"{_UP}.weight"] = (detector.width, half, 2, 2)
        shapes[f"{_UP}.bias"] = (half,)
    return shapes


def detector_tensors(bundle: Bundle, net: ResNet, detector: Detector) -> Floats:
    """Tensors by the names that native code asks for. BundleError as `checked_weights`."""
    given = checked_weights(bundle, detector_shapes(net, detector))
    tensors = {
        name.removeprefix(_BODY): value for name, value in given.items() if name.startswith(_BODY)
    }
    for source, target, *_ in _convolutions(net, detector):
        for part in ("weight", "bias"):
            tensors[f"{target}.{part}"] = given[f"{source}.{part}"]
    for level in range(LEVELS if detector.level_patches is not None else 0):
        for part in PATCH_MASKER:
            tensors[f"pyramid.masker.{level}.{part}"] = given[f"{_LEVEL}.{level}.{part}"]
    for part in ("weight", "bias"):
        # Four sides and the centre are one layer: both read the same tower.
        tensors[f"head.boxes.out.{part}"] = np.concatenate(
            [given[f"{_BOXES}.bbox_reg.{part}"], given[f"{_BOXES}.bbox_ctrness.{part}"]]
        )
    if detector.masks:
        weight = given[f"{_UP}.weight"].transpose(1, 0, 2, 3)
        for i in range(4):
            # Pixel (y, x) becomes (2y + i // 2, 2x + i % 2).
            tensors[f"mask.up.{i}.weight"] = np.ascontiguousarray(
                weight[:, :, i // 2, i % 2, None, None]
            )
            tensors[f"mask.up.{i}.bias"] = given[f"{_UP}.bias"]
    return tensors


def native_detector_tensors(
    bundle: Bundle, net: ResNet, detector: Detector, precision: str
) -> dict[str, npt.NDArray[np.generic]]:
    """Tensors by the names that native code asks for; int8 as in `native_tensors`, which says what
    is raised."""
    floats = detector_tensors(bundle, net, detector)
    if precision != "int8":
        return dict(floats)
    scales = bundle.manifest.quantisation
    if scales is None:
        raise without_scales(bundle)
    layers = quantise_detector(net, detector, floats, scales, bundle.manifest.preprocessing)
    maskers = {name: value for name, value in floats.items() if ".masker" in name}
    return {**maskers, **layer_tensors(layers)}


def _convolutions(net: ResNet, detector: Detector) -> Iterator[tuple[str, str, int, int, int]]:
    """Name in the bundle, native name, outputs, inputs and kernel of what is taken as it is."""
    width = detector.width
    for level, channels in enumerate(stage_channels(net)):
        yield f"dense.fpn.inner_blocks.{level}.0", f"pyramid.inner.{level}", width, channels, 1
        yield f"dense.fpn.layer_blocks.{level}.0", f"pyramid.outer.{level}", width, width, 3
    for i in range(detector.head_convs):
        place = i * _LAYERS_OF_A_CONV
        yield f"{_CLASSES}.conv.{place}", f"head.classes.{i}", width, width, 3
        yield f"{_BOXES}.conv.{place}", f"head.boxes.{i}", width, width, 3
    yield f"{_CLASSES}.cls_logits", "head.classes.out", net.num_classes, width, 3
    if detector.masks:
        for i in range(detector.mask_convs):
            yield f"instances.mask_head.{i}.0", f"mask.{i}", width, width, 3
        yield "instances.mask_predictor.mask_fcn_logits", "mask.out", 1, width // 2, 1
