"""LAUD-ResNet: a bottleneck ResNet whose blocks skip patches, channel groups or themselves."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from engines.architecture import ResNet
from engines.errors import InvalidInput
from engines.models.bottleneck import Bottleneck
from engines.models.network import LaudNetwork, fold_batchnorm

__all__ = ["Bottleneck", "LaudResNet", "fold_batchnorm"]


class LaudResNet(LaudNetwork):
    """The network of a ResNet. Parameter names are torchvision's, plus the maskers'."""

    net: ResNet

    def __init__(self, net: ResNet) -> None:
        if net.official_layout and net.folded:
            raise InvalidInput(
                "official_layout masks between convolution and batch norm: not folded"
            )
        super().__init__(net)

    def stem(self, x: Tensor) -> Tensor:
        """7x7/2 convolution and max pool."""
        x = F.relu(self.bn1(self.conv1(x)))
        if self.net.stem_pool == "padded":
            return F.max_pool2d(x, 3, 2, padding=1)
        # One pixel at the right and bottom; a map of one pixel needs two. After ReLU, 0 is neutral.
        height, width = x.shape[2:]
        x = F.pad(x, (0, 2 if width == 1 else 1, 0, 2 if height == 1 else 1))
        return F.max_pool2d(x, 3, 2)

    def check_foldable(self) -> None:
        """Raises InvalidInput in the official layout."""
        if self.net.official_layout:
            raise InvalidInput(
                "a network in the official layout cannot be folded: masks come before BN"
            )
