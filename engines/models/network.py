"""What the networks of all families share: blocks in a row, a classifier, folding of batch norm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from engines.architecture import RegNet, ResNet
from engines.models.bottleneck import Bottleneck, norm
from engines.models.masks import Decide, Mask, decide_at_zero


class LaudNetwork(nn.Module, ABC):
    """Stem, bottlenecks and classifier of an architecture.

    Parameter names are those of torchvision's ResNet, plus `se` and the maskers'.
    """

    net: ResNet | RegNet

    def __init__(self, net: ResNet | RegNet) -> None:
        super().__init__()
        self.net = net
        kernel = net.stem_kernel
        self.conv1 = nn.Conv2d(3, net.stem_width, kernel, 2, padding=kernel // 2, bias=net.folded)
        self.bn1 = norm(net.stem_width, net.folded)
        masker = 0
        for s in range(len(net.stages)):
            self.add_module(f"layer{s + 1}", nn.ModuleList())
        for i, block in enumerate(net.blocks):
            layer = cast(nn.ModuleList, getattr(self, f"layer{block.stage + 1}"))
            layer.append(Bottleneck(block, i, net, masker))
            masker += block.paradigm.masks_space + block.paradigm.masks_channels
        self.fc = nn.Linear(net.num_features, net.num_classes)
        for name, module in self.named_modules():
            if "masker_" not in name:
                _initialise(module)

    def bottlenecks(self) -> list[Bottleneck]:
        """All blocks in execution order."""
        layers = (getattr(self, f"layer{s + 1}") for s in range(len(self.net.stages)))
        return [cast(Bottleneck, block) for layer in layers for block in layer]

    def forward(
        self, x: Tensor, decide: Decide | None = decide_at_zero
    ) -> tuple[Tensor, list[Mask]]:
        """Normalised images (N, 3, H, W) to class logits (N, classes) and the masks in order.

        `decide` turns masker logits into decisions; None runs the static network, without masks.
        """
        features, masks = self.features(x, decide)
        return cast(Tensor, self.fc(features)), masks

    def features(self, x: Tensor, decide: Decide | None) -> tuple[Tensor, list[Mask]]:
        """Pooled features (N, C) that enter the classifier, and the masks."""
        maps, masks = self.stages(x, decide)
        return maps[-1].mean(dim=(2, 3)), masks

    def stages(self, x: Tensor, decide: Decide | None) -> tuple[list[Tensor], list[Mask]]:
        """The output map (N, C, H, W) of every stage in order, and the masks."""
        x = self.stem(x)
        maps: list[Tensor] = []
        masks: list[Mask] = []
        for block in self.bottlenecks():
            x, asked = block(x, decide)
            masks.extend(asked)
            if block.block.stage == len(maps):
                maps.append(x)
            else:
                maps[-1] = x
        return maps, masks

    @abstractmethod
    def stem(self, x: Tensor) -> Tensor:
        """Normalised images to the first block's input."""

    def check_foldable(self) -> None:
        """Raises InvalidInput where masks come before batch norm."""


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


NetworkT = TypeVar("NetworkT", bound=LaudNetwork)


def fold_batchnorm(model: NetworkT) -> NetworkT:
    """The same network in eval mode with every batch norm folded into its convolution."""
    if model.net.folded:
        return model
    model.check_foldable()
    folded = type(model)(model.net.model_copy(update={"folded": True})).to(model.fc.weight)
    state = dict(model.state_dict())
    for conv_name, bn_name in _conv_bn_pairs(model):
        conv = cast(nn.Conv2d, model.get_submodule(conv_name))
        bn = cast(nn.BatchNorm2d, model.get_submodule(bn_name))
        scale = bn.weight / torch.sqrt(cast(Tensor, bn.running_var) + bn.eps)
        state[f"{conv_name}.weight"] = conv.weight * scale[:, None, None, None]
        state[f"{conv_name}.bias"] = bn.bias - cast(Tensor, bn.running_mean) * scale
    wanted = folded.state_dict()
    folded.load_state_dict({name: state[name].detach() for name in wanted}, strict=True)
    return folded.train(model.training)


def _conv_bn_pairs(model: LaudNetwork) -> list[tuple[str, str]]:
    pairs = [("conv1", "bn1")]
    for block in model.net.blocks:
        pairs += [(f"{block.name}.conv{i}", f"{block.name}.bn{i}") for i in (1, 2, 3)]
        if block.projection:
            pairs.append((f"{block.name}.downsample.0", f"{block.name}.downsample.1"))
    return pairs
