"""LAUD-ResNet: a bottleneck ResNet whose blocks skip patches, channel groups or themselves.

This is the masked-dense form: everything is computed and then masked, exactly what an engine that
skips must reproduce. Masks multiply after the last normalisation (spatial, layer) and after ReLU
(channel), so skipping is exact; `official_layout` masks channels between convolution and batch norm
and pools patches as the official code does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.architecture import Block, MapSize, ResNet
from engines.errors import InvalidInput
from engines.models.maskers import (
    ChannelMasker,
    OfficialChannelMasker,
    OfficialSpatialMasker,
    SpatialMasker,
    official_grid,
)
from engines.models.masks import (
    Decide,
    Mask,
    decide_at_zero,
    dilate,
    expand_groups,
    expand_patches,
)


def _norm(channels: int, folded: bool) -> nn.Module:
    return nn.Identity() if folded else nn.BatchNorm2d(channels)


@dataclass(frozen=True)
class _Skip:
    """What a block computes: pixels (N, 1, H, W) and channels (N, C, 1, 1); None means all."""

    pixels: Tensor | None
    channels: Tensor | None
    masks: list[Mask]


class Bottleneck(nn.Module):
    """1x1 -> 3x3 -> 1x1 plus shortcut, with the maskers of its paradigm."""

    def __init__(self, block: Block, index: int, net: ResNet, first_masker: int) -> None:
        super().__init__()
        self.block = block
        self.index = index
        self.official = net.official_layout
        self.stride1, self.stride2 = (block.stride, 1) if net.stride_in_1x1 else (1, block.stride)
        self._indices = range(first_masker, first_masker + 2)
        width, out, bias = block.width, block.out_channels, net.folded
        self.conv1 = nn.Conv2d(block.in_channels, width, 1, self.stride1, bias=bias)
        self.bn1 = _norm(width, net.folded)
        self.conv2 = nn.Conv2d(width, width, 3, self.stride2, padding=1, bias=bias)
        self.bn2 = _norm(width, net.folded)
        self.conv3 = nn.Conv2d(width, out, 1, bias=bias)
        self.bn3 = _norm(out, net.folded)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(block.in_channels, out, 1, block.stride, bias=bias),
                _norm(out, net.folded),
            )
            if block.projection
            else None
        )
        if block.paradigm.masks_space:
            self.masker_spatial = (OfficialSpatialMasker if self.official else SpatialMasker)(block)
        if block.paradigm.masks_channels:
            self.masker_channel = (OfficialChannelMasker if self.official else ChannelMasker)(block)

    def forward(self, x: Tensor, decide: Decide | None) -> tuple[Tensor, list[Mask]]:
        """Block input to block output; `decide` None computes everything and asks no masker."""
        skip = _Skip(None, None, []) if decide is None else self._ask(x, decide)
        y = self._residual(x, skip.channels)
        if skip.pixels is not None:
            y = y * skip.pixels
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(shortcut + y), skip.masks

    def _residual(self, x: Tensor, channels: Tensor | None) -> Tensor:
        y = self._convolve(x, self.conv1, self.bn1, channels)
        y = self._convolve(y, self.conv2, self.bn2, channels)
        return cast(Tensor, self.bn3(self.conv3(y)))

    def _convolve(
        self, x: Tensor, conv: nn.Module, bn: nn.Module, channels: Tensor | None
    ) -> Tensor:
        y: Tensor = conv(x)
        if channels is None:
            return F.relu(bn(y))
        if self.official:
            return F.relu(bn(y * channels))
        return F.relu(bn(y)) * channels

    def _ask(self, x: Tensor, decide: Decide) -> _Skip:
        masks: list[Mask] = []
        pixels = channels = None
        size_in = MapSize(x.shape[2], x.shape[3])
        size = size_in.halved() if self.block.stride == 2 else size_in
        if self.block.paradigm.masks_space:
            logits = self.masker_spatial(x, size)
            units = decide(self._masker("spatial"), logits)
            pixels = self._pixels(units, size)
            reach = size if self.stride2 == 1 else size_in
            masks.append(
                self._mask("spatial", logits, units, pixels, dilate(pixels, self.stride2, reach))
            )
        if self.block.paradigm.masks_channels:
            logits = self.masker_channel(x, size)
            units = decide(self._masker("channel"), logits)
            channels = expand_groups(units, self.block.width // self.block.num_groups)
            masks.append(self._mask("channel", logits, units))
        return _Skip(pixels, channels, masks)

    def _masker(self, kind: Literal["spatial", "channel"]) -> int:
        both = self.block.paradigm.masks_space and self.block.paradigm.masks_channels
        return self._indices[1 if both and kind == "channel" else 0]

    def _mask(
        self,
        kind: Literal["spatial", "channel"],
        logits: Tensor,
        units: Tensor,
        pixels: Tensor | None = None,
        dilated: Tensor | None = None,
    ) -> Mask:
        return Mask(self._masker(kind), self.index, kind, logits, units, pixels, dilated)

    def _pixels(self, units: Tensor, size: MapSize) -> Tensor:
        patch = self.block.granularity.spatial
        if not self.official:
            return expand_patches(units, size.patches(patch), patch, size)
        grid = official_grid(size, patch)
        coarse = units.view(-1, 1, grid.height, grid.width)
        return F.interpolate(coarse, size=(size.height, size.width), mode="nearest")


class LaudResNet(nn.Module):
    """The network of an architecture. Parameter names are torchvision's, plus the maskers'."""

    def __init__(self, net: ResNet) -> None:
        super().__init__()
        if net.official_layout and net.folded:
            raise InvalidInput(
                "official_layout masks between convolution and batch norm: not folded"
            )
        self.net = net
        self.conv1 = nn.Conv2d(3, net.stem_width, 7, 2, padding=3, bias=net.folded)
        self.bn1 = _norm(net.stem_width, net.folded)
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
        x = self.stem(x)
        masks: list[Mask] = []
        for block in self.bottlenecks():
            x, asked = block(x, decide)
            masks.extend(asked)
        return x.mean(dim=(2, 3)), masks

    def stem(self, x: Tensor) -> Tensor:
        """7x7/2 convolution and max pool."""
        x = F.relu(self.bn1(self.conv1(x)))
        if self.net.stem_pool == "padded":
            return F.max_pool2d(x, 3, 2, padding=1)
        # One pixel at the right and bottom; a map of one pixel needs two. After ReLU, 0 is neutral.
        height, width = x.shape[2:]
        x = F.pad(x, (0, 2 if width == 1 else 1, 0, 2 if height == 1 else 1))
        return F.max_pool2d(x, 3, 2)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def fold_batchnorm(model: LaudResNet) -> LaudResNet:
    """The same network in eval mode with every batch norm folded into its convolution."""
    if model.net.folded:
        return model
    if model.net.official_layout:
        raise InvalidInput(
            "a network in the official layout cannot be folded: masks come before BN"
        )
    folded = LaudResNet(model.net.model_copy(update={"folded": True})).to(model.fc.weight)
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


def _conv_bn_pairs(model: LaudResNet) -> list[tuple[str, str]]:
    pairs = [("conv1", "bn1")]
    for block in model.net.blocks:
        pairs += [(f"{block.name}.conv{i}", f"{block.name}.bn{i}") for i in (1, 2, 3)]
        if block.projection:
            pairs.append((f"{block.name}.downsample.0", f"{block.name}.downsample.1"))
    return pairs
