"""Maskers of a detector fitted to a network that does not change meanwhile.

Beside a network that learns, maskers are always a little behind it. Of a finished one each masker
is a logistic regression of wanted patches on what it looks at: convex, so that its best weights are
found outright (as the head of a classifier is in `engines.training.starts`). They are shown
pictures as they will be served: whole, unvaried, at the image sizes that are exported. Nothing else
changes, so a network that skips nothing answers as before, bit for bit.

A later block sees what earlier maskers left, so rounds are repeated: the first, of maskers that
know nothing yet, sees everything computed.

Legend: M maskers (the backbone's blocks in order, then the levels), R patches, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engines.architecture import MapSize
from engines.core import UInt8Array
from engines.detection.architecture import STRIDES
from engines.detection.letterbox import inner_size, letterbox
from engines.detection.scenes import Scene
from engines.models.detection import DenseNetwork
from engines.models.masks import Decide
from engines.training.foreground import foreground_units, patch_maskers, pooled_inputs
from engines.training.scene_batches import Target, answering_places

PATCHES, MOST_PATCHES = 192, 80_000
"""Of each masker and picture, drawn evenly: neighbours say the same again. And of all pictures
together: 1.3 GB where maskers look at 8,800 channels, however many pictures there are."""

PENALTY = 1e-3
"""Of squared weights of standardised inputs, beside the mean cross-entropy."""

_STEPS = 60


def patches_of(pictures: int) -> int:
    """How many patches of each of so many pictures are used."""
    return max(1, min(PATCHES, MOST_PATCHES // pictures))


def whole_picture(pixels: UInt8Array, scene: Scene, size: int) -> tuple[UInt8Array, Target]:
    """A picture (H, W, 3) as it is served at `size` pixels, (size, size, 3), and what is to be
    found in it. Masks of objects are left out."""
    width, height = inner_size(scene.width, scene.height, size)
    scale = np.array([width / scene.width, height / scene.height] * 2, np.float32)
    boxes = (scene.boxes * scale).astype(np.float32)
    maps = tuple(MapSize(size // stride, size // stride) for stride in STRIDES)
    places = answering_places(boxes, maps)
    nothing = np.zeros((0, 4), np.float32), np.zeros((0, 1, 1), np.bool_)
    return letterbox(pixels, size), Target(boxes, scene.labels, places, *nothing)


@torch.no_grad()
def fit_maskers(
    dense: DenseNetwork,
    bias: Tensor,
    shown: Iterable[tuple[Tensor, Target, Decide | None]],
    rng: np.random.Generator,
    *,
    patches: int = PATCHES,
) -> None:
    """Set the weights of all maskers, and their biases (M,), in place.

    shown: normalised pictures (1, 3, S, S), what is in them, and how maskers decide while they are
    looked at; None: everything is computed. patches: most of a masker and picture that are used.
    """
    maskers = patch_maskers(dense)
    inputs: list[list[Tensor]] = [[] for _ in maskers]
    wanted: list[list[Tensor]] = [[] for _ in maskers]
    for image, target, decide in shown:
        units = foreground_units(dense, [target], image.shape[2])
        pooled = pooled_inputs(dense, image, decide)
        for place, (masker, x, y) in enumerate(zip(maskers, pooled, units, strict=True)):
            count = y.shape[1]
            some = torch.from_numpy(rng.permutation(count)[:patches])
            # Half the bytes: what is standardised and clipped at +-5 has digits to spare.
            inputs[place].append(masker.standardise(x[0, some]).half())
            wanted[place].append(y[0, some])
    for place, masker in enumerate(maskers):
        weight, offset = logistic(torch.cat(inputs[place]).float(), torch.cat(wanted[place]))
        inputs[place] = []
        masker.weight.copy_(weight * math.sqrt(len(weight)))
        bias[place] = offset


def logistic(x: Tensor, wanted: Tensor, penalty: float = PENALTY) -> tuple[Tensor, float]:
    """Weights (C,) and the constant of a logistic regression of `wanted` (R,), 0 or 1, on `x`
    (R, C). The mean cross-entropy and `penalty` times the sum of squared weights are least; the
    constant goes free, within what is told from rates of 0 and 1."""
    rate = float(wanted.mean().clamp(1e-4, 1 - 1e-4))
    weight = torch.zeros(x.shape[1], requires_grad=True)
    constant = torch.full((1,), math.log(rate / (1 - rate)), requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, constant], max_iter=_STEPS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.binary_cross_entropy_with_logits(x @ weight + constant, wanted)
        loss = loss + penalty * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), float(constant.detach())
