"""A dense detector in two modules, cut where the cost begins to depend on what is found.

`DenseNetwork`: image -> backbone -> pyramid -> class, box and centre at every place. Plain
convolutions and ReLU; nothing that would have to be folded. `InstanceHeads`: of all places the
surest -> boxes -> a mask for each. Heads, anchors, NMS and RoIAlign are torchvision's.

Where the detector has patches, a masker a level says which of them the pyramid's last convolution
and the dense heads compute. Everything else is computed here and then masked, as in the backbone.

Legend: N images, P places (pixels of all levels, the finest level first), C labels, D detections, M
samples on a side of a mask.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import (
    FCOSClassificationHead,
    FCOSHead,
    FCOSRegressionHead,
)
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, batched_nms
from torchvision.ops.boxes import clip_boxes_to_image

from engines.architecture import MapSize, ResNet
from engines.detection.architecture import (
    CANDIDATES_PER_LEVEL,
    LEVEL_UNITS,
    LEVELS,
    MOST_DETECTIONS,
    Detector,
    stage_channels,
)
from engines.errors import InvalidInput
from engines.models.maskers import PatchMasker
from engines.models.masks import Decide, Mask, expand_patches
from engines.models.resnet import LaudResNet

_FIRST_DISTANCE = 4.0
_SAMPLES = 2
_NEVER = -30.0
"""Logit of a place that is not computed."""


@dataclass(frozen=True)
class DenseOutputs:
    """What is known of an image before anything is chosen.

    features: the pyramid, (N, width, h, w) each, the finest first. logits: (N, P, C). distances:
    to the left, top, right and bottom side in the level's units, at least 0, (N, P, 4). centres:
    logits of how central the place is in its object, (N, P, 1).
    """

    features: tuple[Tensor, ...]
    logits: Tensor
    distances: Tensor
    centres: Tensor

    def float(self) -> DenseOutputs:
        """In float32, as losses and choices want them; the pyramid stays as it is."""
        return DenseOutputs(
            self.features, self.logits.float(), self.distances.float(), self.centres.float()
        )


@dataclass(frozen=True)
class Found:
    """Detections of one image, surest first: boxes (D, 4) in pixels, scores (D,), labels (D,)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class DenseNetwork(nn.Module):
    """Backbone, pyramid and dense heads. `net.num_classes` is the number of labels."""

    def __init__(self, net: ResNet, detector: Detector) -> None:
        """Raises InvalidInput for a backbone that has not four stages or is not folded."""
        super().__init__()
        if len(net.stages) != LEVELS or not net.folded:
            raise InvalidInput(f"a detector needs a folded backbone of {LEVELS} stages")
        self.net, self.detector = net, detector
        self.body = LaudResNet(net)
        del self.body.fc
        self.fpn = FeaturePyramidNetwork(list(stage_channels(net)), detector.width)
        self.head = _plain_head(detector.width, net.num_classes, detector.head_convs)
        if detector.level_patches is not None:
            channels = stage_channels(net)
            self.level_maskers = nn.ModuleList(
                PatchMasker(channels[look], window)
                for look, window in zip(detector.looks, detector.windows, strict=True)
            )

    @property
    def num_maskers(self) -> int:
        """The backbone's in their order, then the levels'."""
        return len(self.net.maskers) + self.detector.num_maskers

    def forward(self, x: Tensor, decide: Decide | None = None) -> tuple[DenseOutputs, list[Mask]]:
        """Normalised images (N, 3, H, W), sides multiples of 32, to answers and masks in order.

        A level's mask names a block behind the backbone's last one. `decide` None computes
        everything and asks no masker.
        """
        maps, masks = self.body.stages(x, decide)
        named = OrderedDict((str(level), each) for level, each in enumerate(maps))
        features = tuple(self.fpn(named).values())
        if decide is None or self.detector.level_patches is None:
            answers = self.head(list(features))
            outputs = DenseOutputs(
                features, answers["cls_logits"], answers["bbox_regression"], answers["bbox_ctrness"]
            )
            return outputs, masks
        asked = [self._ask(level, maps, decide) for level in range(len(maps))]
        return self._masked_head(features, asked), [*masks, *asked]

    def _ask(self, level: int, maps: Sequence[Tensor], decide: Decide) -> Mask:
        place = len(self.net.maskers) + level
        masker = cast(PatchMasker, self.level_maskers[level])
        patch = cast(tuple[int, ...], self.detector.level_patches)[level]
        size = MapSize(maps[level].shape[2], maps[level].shape[3])
        logits = masker.ask(maps[self.detector.looks[level]])
        units = decide(place, logits)
        pixels = expand_patches(units, size.patches(patch), patch, size)
        return Mask(place, len(self.net.blocks) + level, "spatial", logits, units, pixels)

    def _masked_head(self, features: Sequence[Tensor], asked: Sequence[Mask]) -> DenseOutputs:
        """The same heads where every map exists on active pixels only, and is zero elsewhere."""
        of_class, of_box = self.head.classification_head, self.head.regression_head
        kept, logits, distances, centres = [], [], [], []
        for feature, mask in zip(features, asked, strict=True):
            active = cast(Tensor, mask.pixels).to(feature.dtype)
            x = feature * active
            y = _masked_tower(of_class.conv, x, active)
            z = _masked_tower(of_box.conv, x, active)
            kept.append(x)
            logits.append(_rows(torch.where(active > 0, of_class.cls_logits(y), _NEVER)))
            distances.append(_rows(F.relu(of_box.bbox_reg(z)) * active))
            centres.append(_rows(torch.where(active > 0, of_box.bbox_ctrness(z), _NEVER)))
        return DenseOutputs(
            tuple(kept), torch.cat(logits, 1), torch.cat(distances, 1), torch.cat(centres, 1)
        )


class InstanceHeads(nn.Module):
    """From dense answers to objects. The mask head has parameters, the rest has none."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.anchors = AnchorGenerator(tuple((unit,) for unit in LEVEL_UNITS), ((1.0,),) * LEVELS)
        levels = [str(level) for level in range(LEVELS)]
        self.pool = MultiScaleRoIAlign(levels, detector.roi_size, _SAMPLES)
        if detector.masks:
            width = detector.width
            self.mask_head = MaskRCNNHeads(width, (width,) * detector.mask_convs, 1)
            # One mask an object, whatever its label: shapes of the few labels are alike.
            self.mask_predictor = MaskRCNNPredictor(width, width // 2, 1)

    def places(self, outputs: DenseOutputs, height: int, width: int) -> Tensor:
        """Squares (P, 4) around every place, one unit wide."""
        image = ImageList(outputs.logits.new_empty((1, 3, height, width)), [(height, width)])
        squares: Tensor = self.anchors(image, [f[:1].float() for f in outputs.features])[0]
        return squares

    def choose(self, outputs: DenseOutputs, height: int, width: int) -> list[Found]:
        """The surest places of each image of that size, overlapping ones merged."""
        places = self.places(outputs, height, width)
        areas = [feature.shape[2] * feature.shape[3] for feature in outputs.features]
        scores = (outputs.logits.sigmoid() * outputs.centres.sigmoid()).sqrt()
        return [
            self._choose(each, distances, places, areas, height, width)
            for each, distances in zip(scores, outputs.distances, strict=True)
        ]

    def _choose(
        self,
        scores: Tensor,
        distances: Tensor,
        places: Tensor,
        areas: Sequence[int],
        height: int,
        width: int,
    ) -> Found:
        num_labels = scores.shape[1]
        chosen: list[Tensor] = []
        first = 0
        for area in areas:
            level = scores[first : first + area].flatten()
            likely = (level >= self.detector.least_score).nonzero()[:, 0]
            best = level[likely].topk(min(len(likely), CANDIDATES_PER_LEVEL)).indices
            chosen.append(likely[best] + first * num_labels)
            first += area
        flat = torch.cat(chosen)
        where, labels = flat // num_labels, flat % num_labels
        boxes = boxes_of(distances[where], places[where])
        boxes = clip_boxes_to_image(boxes, (height, width))
        values = scores.flatten()[flat]
        kept = batched_nms(boxes, values, labels, self.detector.overlap)[:MOST_DETECTIONS]
        return Found(boxes[kept], values[kept], labels[kept])

    def mask_logits(
        self, features: Sequence[Tensor], boxes: Sequence[Tensor], height: int, width: int
    ) -> Tensor:
        """Logits (D of all images, M, M) over boxes (D, 4) of each image of that size."""
        named = {str(level): each for level, each in enumerate(features)}
        regions = self.pool(named, list(boxes), [(height, width)] * len(boxes))
        logits: Tensor = self.mask_predictor(self.mask_head(regions))
        return logits[:, 0]


class LaudDetector(nn.Module):
    """Both halves; parameters are `dense.*` and `instances.*`."""

    def __init__(self, net: ResNet, detector: Detector) -> None:
        super().__init__()
        self.net, self.detector = net, detector
        self.dense = DenseNetwork(net, detector)
        self.instances = InstanceHeads(detector)

    def detect(
        self, x: Tensor, decide: Decide | None = None
    ) -> tuple[list[tuple[Found, Tensor | None]], list[Mask]]:
        """Objects of each normalised image (N, 3, H, W), and their masks' probabilities
        (D, M, M), None where the detector has boxes only; and what its maskers decided."""
        height, width = x.shape[2:]
        raw, asked = self.dense(x, decide)
        outputs = raw.float()
        found = self.instances.choose(outputs, height, width)
        if not self.detector.masks:
            return [(each, None) for each in found], asked
        boxes = [each.boxes for each in found]
        logits = self.instances.mask_logits(outputs.features, boxes, height, width)
        masks = torch.split(logits.float().sigmoid(), [len(each) for each in boxes])
        return list(zip(found, masks, strict=True)), asked


def boxes_of(distances: Tensor, places: Tensor) -> Tensor:
    """Boxes (D, 4) from distances in units and the places that they are measured from."""
    centres = (places[:, :2] + places[:, 2:]) / 2
    pixels = distances * (places[:, 2:] - places[:, :2]).repeat(1, 2)
    return torch.cat((centres - pixels[:, :2], centres + pixels[:, 2:]), dim=1)


def _masked_tower(layers: nn.Module, x: Tensor, active: Tensor) -> Tensor:
    for layer in cast(nn.Sequential, layers):
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            x = x * active
    return x


def _rows(x: Tensor) -> Tensor:
    """A map (N, K, H, W) to places (N, H * W, K)."""
    return x.flatten(2).transpose(1, 2)


def _plain_head(width: int, num_labels: int, convs: int) -> FCOSHead:
    """torchvision's head without its group norms: they could not be folded, nor skipped around."""
    # Both its towers are replaced; 32 is what group norms insist on.
    head = FCOSHead(32, 1, num_labels, 1)
    head.classification_head = FCOSClassificationHead(
        width, 1, num_labels, convs, norm_layer=nn.Identity
    )
    head.regression_head = FCOSRegressionHead(width, 1, convs, norm_layer=nn.Identity)
    for tower in (head.classification_head.conv, head.regression_head.conv):
        for layer in tower:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    # Distances pass a ReLU: one that begins at 0 might never learn.
    nn.init.constant_(head.regression_head.bbox_reg.bias, _FIRST_DISTANCE)
    return head
