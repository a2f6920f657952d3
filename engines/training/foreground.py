"""Maskers that learn where objects are: the labels say what has to be computed.

In classification nobody knows which patch matters, so masks are sampled and a loss on operations
moves them (`engines.training.budgets`). Here a patch matters where an object is: each masker is a
classifier of its patches, trained by cross-entropy, and a threshold on its probability is all that
sets a budget. The network is trained beside it under masks of random thresholds, so that it answers
well at any of them; no gradient passes through a decision.

Legend: N images, M maskers (the backbone's blocks in order, then the levels), U units of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from engines.architecture import MapSize
from engines.core import Float32Array
from engines.detection.architecture import LEVELS, STRIDES
from engines.errors import ConfigError
from engines.models.detection import DenseNetwork
from engines.models.maskers import PatchMasker, pool_patches
from engines.models.masks import Decide, Mask
from engines.training.scene_batches import Target

_FINEST = STRIDES[0]
_CANONICAL_LEVEL, _CANONICAL_SIDE = 2, 224.0
"""A box of that side is read from that level, one of half the side from the level before."""
_MIN_STD = 1e-2


class ForegroundMasks:
    """Decisions at probabilities: a patch is active where that of an object is not below an image's
    own. thresholds: (N,) logits; everything: (N,) True where nothing is skipped."""

    def __init__(self, bias: Tensor, thresholds: Tensor, everything: Tensor) -> None:
        """bias: (M,), what is added to each masker's logits to make probabilities of them."""
        self._bias = bias.detach()
        self._thresholds = thresholds
        self._everything = everything

    def __call__(self, masker: int, logits: Tensor) -> Tensor:
        active = logits.detach() + self._bias[masker] >= self._thresholds[:, None]
        return (active | self._everything[:, None]).float()


def masker_loss(
    dense: DenseNetwork, masks: Sequence[Mask], bias: Tensor, targets: Sequence[Target], size: int
) -> Tensor:
    """Mean over maskers of the cross-entropy of their patches, images of `size` pixels a side."""
    wanted = foreground_units(dense, targets, size)
    losses = [
        F.binary_cross_entropy_with_logits(
            mask.logits.float() + bias[mask.masker], wanted[mask.masker]
        )
        for mask in masks
    ]
    return torch.stack(losses).mean()


def foreground_units(dense: DenseNetwork, targets: Sequence[Target], size: int) -> list[Tensor]:
    """Of each masker which patches have something to compute, float (N, U).

    A patch of the backbone has where an object touches it or its neighbourhood of 4 pixels; one of
    a level where a place in it or next to it answers for an object, or where the mask of one is
    made from that level.
    """
    near = _stacked([_covered(target.boxes, _FINEST, size, margin=1) for target in targets])
    found: list[Tensor] = []
    for masker in dense.net.maskers:
        block = dense.net.blocks[masker.block]
        patch = block.granularity.spatial
        pixels = size if patch is None else patch * STRIDES[block.stage]
        found.append(_pooled(near, pixels // _FINEST))
    places = torch.from_numpy(np.stack([target.places >= 0 for target in targets])).float()
    patches = dense.detector.level_patches or ()
    first = 0
    for level, (stride, patch) in enumerate(zip(STRIDES, patches, strict=False)):
        side = MapSize(size // stride, size // stride)
        wanted = places[:, first : first + side.area].view(-1, 1, side.height, side.width)
        wanted = F.max_pool2d(wanted, 3, 1, 1)
        if dense.detector.masks:
            read = [each.boxes[mask_levels(each.boxes) == level] for each in targets]
            wanted = torch.maximum(wanted, _stacked([_covered(b, stride, size) for b in read]))
        found.append(_pooled(wanted, patch))
        first += side.area
    return found


def mask_levels(boxes: Float32Array) -> npt.NDArray[np.int64]:
    """The level that RoIAlign makes the mask of each box (N, 4) from, 0 the finest.

    Equation 1 of arXiv:1612.03144, as torchvision has it.
    """
    sides = np.sqrt(np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-6))
    levels = np.floor(_CANONICAL_LEVEL + np.log2(sides / _CANONICAL_SIDE) + 1e-6)
    found: npt.NDArray[np.int64] = np.clip(levels, 0, LEVELS - 1).astype(np.int64)
    return found


def _covered(
    boxes: Float32Array, stride: int, size: int, margin: int = 0
) -> npt.NDArray[np.float32]:
    """1 where boxes are, and so many cells around them, on a map of cells of `stride` pixels."""
    cells = size // stride
    covered = np.zeros((cells, cells), np.float32)
    low, high = np.floor(boxes[:, :2] / stride) - margin, np.ceil(boxes[:, 2:] / stride) + margin
    corners = np.clip(np.concatenate((low, high), axis=1), 0, cells).astype(int)
    for left, top, right, bottom in corners.tolist():
        covered[top:bottom, left:right] = 1.0
    return covered


def _stacked(maps: list[npt.NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.stack(maps))[:, None]


def _pooled(x: Tensor, window: int) -> Tensor:
    if window > 1:
        x = F.max_pool2d(x, window, ceil_mode=True)
    return x.flatten(1)


@torch.no_grad()
def prepare_maskers(dense: DenseNetwork, images: Tensor) -> None:
    """Set every masker's statistics to those of the static network on normalised images.

    Raises ConfigError where a masker decides on anything but patches.
    """
    maskers = patch_maskers(dense)
    seen = [pooled_inputs(dense, image, None) for image in torch.split(images, 1)]
    for masker, rows in zip(maskers, zip(*seen, strict=True), strict=True):
        values = torch.cat(rows).flatten(0, 1)
        masker.mean.copy_(values.mean(dim=0))
        masker.std.copy_(values.std(dim=0).clamp_min(_MIN_STD))


def patch_maskers(dense: DenseNetwork) -> list[PatchMasker]:
    """All maskers in order. ConfigError where one decides on anything but patches."""
    if any(block.paradigm.masks_channels for block in dense.net.blocks):
        raise ConfigError("a detector's stages skip patches or nothing: paradigm spatial")
    levels = list(dense.level_maskers) if dense.detector.num_maskers else []
    found = [getattr(block, "masker_spatial", None) for block in dense.body.bottlenecks()]
    return [masker for masker in (*found, *levels) if isinstance(masker, PatchMasker)]


@torch.no_grad()
def pooled_inputs(dense: DenseNetwork, images: Tensor, decide: Decide | None) -> list[Tensor]:
    """What each masker pools of normalised images, (N, U, C) each, under such decisions of the
    backbone's; None: everything is computed."""
    found: list[Tensor] = []

    def noting(masker: PatchMasker) -> Callable[..., None]:
        def hook(_module: object, inputs: tuple[Tensor, ...]) -> None:
            found.append(pool_patches(inputs[0], masker.window))

        return hook

    handles = [
        block.register_forward_pre_hook(noting(masker))
        for block in dense.body.bottlenecks()
        if isinstance(masker := getattr(block, "masker_spatial", None), PatchMasker)
    ]
    try:
        maps, _ = dense.body.stages(images, decide)
    finally:
        for handle in handles:
            handle.remove()
    levels = list(dense.level_maskers) if dense.detector.num_maskers else []
    for look, masker in zip(dense.detector.looks, levels, strict=False):
        found.append(pool_patches(maps[look], cast(PatchMasker, masker).window))
    return found


def random_thresholds(
    count: int, range_: tuple[float, float], full_share: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Of each image a threshold (N,), a logit of a probability drawn evenly in log space, and
    whether nothing is skipped (N,)."""
    low, high = (math.log(p) for p in range_)
    p = np.exp(rng.uniform(low, high, count))
    everything = rng.random(count) < full_share
    return torch.from_numpy(np.log(p / (1 - p))).float(), torch.from_numpy(everything)


def bias_at(probability: float, thresholds: Sequence[float]) -> Tensor:
    """The bias of maskers (M,) whose thresholds are those of that probability."""
    logit = math.log(probability / (1 - probability))
    return torch.tensor([logit - each for each in thresholds])


def thresholds_at(probability: float, bias: Tensor) -> list[float]:
    """What a masker's own logit has to reach for that probability, (M,)."""
    logit = math.log(probability / (1 - probability))
    return [logit - each for each in bias.detach().tolist()]
