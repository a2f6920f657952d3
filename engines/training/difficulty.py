"""Cost that follows difficulty: how much each image should take, and masks that can only say so."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from engines.models.maskers import ChannelMasker
from engines.models.network import LaudNetwork


def difficulty_ranks(teacher: Tensor) -> Tensor:
    """Ranks (N,) from 0, the image that the teacher's logits (N, classes) are surest of, to 1."""
    confidence = F.softmax(teacher, dim=1).amax(dim=1)
    places = confidence.argsort(descending=True).argsort()
    return places / max(len(places) - 1, 1)


def spread_targets(targets: Tensor, ranks: Tensor, spread: float, fixed: float = 0.0) -> Tensor:
    """MACs ratio that each image should take, so that images of all ranks take `targets` (N,).

    It grows with the square of the rank (N,), from `spread` below the target to twice that above:
    few images are hard. The spread shrinks near 1, since nothing takes more than everything, and
    near `fixed`, the share that no mask can skip.
    """
    above, below = (1.0 - targets) / 2.0, targets - fixed
    reach = above.minimum(below).clamp(0.0, spread)
    return targets - reach + 3.0 * reach * ranks.square()


def nest_channel_masks(model: LaudNetwork) -> None:
    """From now on the last layers of channel maskers learn one row for all groups of a block.

    They start at zero, so that equal gradients keep the rows equal; biases rank the groups.
    """

    def alike(gradient: Tensor) -> Tensor:
        return gradient.mean(dim=0, keepdim=True).expand_as(gradient)

    for module in model.modules():
        if isinstance(module, ChannelMasker):
            module.out.weight.register_hook(alike)  # type: ignore[no-untyped-call]
