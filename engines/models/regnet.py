"""LAUD-RegNetY: grouped bottlenecks with squeeze-and-excitation that skip as a ResNet's do.

Squeeze-and-excitation stands behind the 3x3 and its channel mask, so skipped channels enter its
mean as zeros and leave as zeros. Under spatial skipping its mean is over active pixels only, unless
the architecture says otherwise (`squeeze_over`).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from engines.architecture import RegNet, ResNet
from engines.models.network import LaudNetwork
from engines.models.resnet import LaudResNet


class LaudRegNet(LaudNetwork):
    """The network of a RegNet. Parameter names are those of `LaudResNet`, with `se.fc1`, `se.fc2`;
    `engines.models.names` translates torchvision's and the official ones."""

    net: RegNet

    def __init__(self, net: RegNet) -> None:
        super().__init__(net)

    def stem(self, x: Tensor) -> Tensor:
        """3x3/2 convolution; nothing is pooled."""
        return F.relu(self.bn1(self.conv1(x)))


def network_of(net: ResNet | RegNet) -> LaudNetwork:
    """A fresh network of that architecture, whichever family it is of."""
    return LaudRegNet(net) if isinstance(net, RegNet) else LaudResNet(net)
