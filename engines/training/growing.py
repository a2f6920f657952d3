"""A wider or deeper ResNet that answers as a small one does, to go on training from there.

Wider as in Net2WiderNet (Chen, Goodfellow, Shlens, "Net2Net", arXiv:1511.05641, section 2.2): every
new channel is a copy of an old one, and whoever reads it gets a share of the old weight. Shares add
up to 1 but are not equal, so that copies learn different things. All blocks of a stage write to one
sum and therefore share the mapping of its channels, which readers in the next stage follow.

Deeper as in Net2DeeperNet (section 2.3), for residual blocks: an added block adds nothing at first,
and the ReLU behind its sum leaves what a ReLU has been over before as it is. With batch norm the
last scale is 0. Without (folded), channels of the 3x3 come in pairs that are alike and are read
with opposite signs: weights of 0 would not learn where steps are relative to a tensor's size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from engines.architecture import EXPANSION, Block, RegNet, ResNet
from engines.errors import CheckpointError, InvalidInput

NOISE = 1.0
"""How far a copy's share of a weight is from the mean share, at most, as a part of that. Net2Net
adds little; trainings here are short, and what copies learn differs no more than their shares."""

_BN = ("weight", "bias", "running_mean", "running_var")
_COUNT = "num_batches_tracked"
_ALIKE = ("stem_pool", "stride_in_1x1", "folded", "official_layout")


def grow(
    state: Mapping[str, Tensor],
    small: ResNet | RegNet,
    large: ResNet | RegNet,
    *,
    noise: float = NOISE,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Weights of `large` with which its static network answers as `small` does with `state`.

    state: of `small`, under the names of `LaudResNet`; what maskers it holds is left out, and the
    head's rows stay as they are (a state without `fc` gives one without). noise: 0 to 1, see
    `NOISE`. Returns a state dict of fp32, without maskers.

    Raises InvalidInput where `large` is smaller somewhere or cannot be mapped to, CheckpointError
    where `state` lacks a tensor.
    """
    small, large = check_growable(small, large)
    if not 0.0 <= noise <= 1.0:
        raise InvalidInput(f"noise must be 0 to 1, got {noise}")
    growth = _Growth(state, noise, torch.Generator().manual_seed(seed))
    image = torch.arange(3)
    stream = spread(small.stem_width, large.stem_width)
    grown = growth.layer("conv1", "bn1", stream, image)
    for s, (old_stage, new_stage) in enumerate(zip(small.stages, large.stages, strict=True)):
        old_blocks, new_blocks = (
            [block for block in net.blocks if block.stage == s] for net in (small, large)
        )
        inner = spread(old_stage.width, new_stage.width)
        outer = spread(old_stage.width * EXPANSION, new_stage.width * EXPANSION)
        kept = places(old_stage.depth, new_stage.depth)
        before: dict[str, Tensor] = {}
        for block in new_blocks:
            if block.index in kept:
                old = old_blocks[kept.index(block.index)]
                before = growth.block(old, stream, inner, outer)
                layers = before
            else:
                layers = growth.added(block, before)
            grown |= {f"{block.name}.{name}": value for name, value in layers.items()}
            stream = outer
    if "fc.weight" in state:
        grown |= growth.layer("fc", None, torch.arange(state["fc.weight"].shape[0]), stream)
    return grown


def spread(old: int, new: int) -> Tensor:
    """Which of `old` channels each of `new` is a copy of, (new,): copies stand side by side, so
    that a channel group holds all copies of what it holds wherever the ratio allows it."""
    return torch.arange(new) * old // new


def places(old: int, new: int) -> list[int]:
    """Where `old` blocks go among `new` ones: evenly, the first stays first."""
    return [index * new // old for index in range(old)]


def check_growable(small: ResNet | RegNet, large: ResNet | RegNet) -> tuple[ResNet, ResNet]:
    """Both networks. Raises InvalidInput that says why `small` cannot grow into `large`."""
    if not isinstance(small, ResNet) or not isinstance(large, ResNet):
        raise InvalidInput("only a ResNet can grow: a RegNet's 3x3 has groups, which do not map")
    theirs, ours = ({key: getattr(net, key) for key in _ALIKE} for net in (small, large))
    if differ := [
        f"{key} ({theirs[key]} and {ours[key]})" for key in ours if theirs[key] != ours[key]
    ]:
        raise InvalidInput(f"a network grows in width and depth alone, not in {', '.join(differ)}")
    if len(small.stages) != len(large.stages):
        raise InvalidInput(
            f"a network of {len(small.stages)} stages does not grow into {len(large.stages)}"
        )
    sizes = [("stem_width", small.stem_width, large.stem_width)]
    for s, (old, new) in enumerate(zip(small.stages, large.stages, strict=True)):
        sizes += [(f"stages.{s}.depth", old.depth, new.depth)]
        sizes += [(f"stages.{s}.width", old.width, new.width)]
    if shrinks := [f"{what} from {old} to {new}" for what, old, new in sizes if new < old]:
        raise InvalidInput(f"a network can only grow, not shrink: {', '.join(shrinks)}")
    firsts = ([b for b in net.blocks if b.index == 0] for net in (small, large))
    for old_block, new_block in zip(*firsts, strict=True):
        if old_block.projection != new_block.projection:
            which = "the small" if old_block.projection else "the large"
            raise InvalidInput(
                f"the shortcut of {old_block.name} has a convolution in {which} network alone: "
                "choose another width of that stage"
            )
    return small, large


class _Growth:
    """Layers of the large network from those of the small one."""

    def __init__(self, state: Mapping[str, Tensor], noise: float, generator: torch.Generator):
        self._state, self._noise, self._generator = state, noise, generator

    def layer(self, conv: str, bn: str | None, rows: Tensor, columns: Tensor) -> dict[str, Tensor]:
        """A convolution (or the head) and its batch norm, if it has one, under their old names.

        rows, columns: per new output and input channel, the old one.
        """
        weight = self._get(f"{conv}.weight")
        shape = (int(rows.max()) + 1, int(columns.max()) + 1)
        if weight.shape[:2] != shape:
            raise CheckpointError(
                f"the weights do not fit the network: wrong shape: {conv}.weight "
                f"{tuple(weight.shape)} instead of {shape} channels"
            )
        layer = {f"{conv}.weight": self._split(weight[rows], columns)}
        if f"{conv}.bias" in self._state:
            layer[f"{conv}.bias"] = self._get(f"{conv}.bias")[rows]
        if bn is not None and f"{bn}.weight" in self._state:
            layer |= {f"{bn}.{part}": self._get(f"{bn}.{part}")[rows] for part in _BN}
            layer[f"{bn}.{_COUNT}"] = self._state.get(f"{bn}.{_COUNT}", torch.tensor(0)).clone()
        return layer

    def block(self, old: Block, stream: Tensor, inner: Tensor, outer: Tensor) -> dict[str, Tensor]:
        """A block that the small network has; names inside the block."""
        layers: dict[str, Tensor] = {}
        maps = {"1": (inner, stream), "2": (inner, inner), "3": (outer, inner)}
        for number, (rows, columns) in maps.items():
            conv, bn = (f"{old.name}.{part}{number}" for part in ("conv", "bn"))
            layers |= self.layer(conv, bn, rows, columns)
        if old.projection:
            conv, bn = (f"{old.name}.downsample.{part}" for part in "01")
            layers |= self.layer(conv, bn, outer, stream)
        return {name.removeprefix(f"{old.name}."): value for name, value in layers.items()}

    def added(self, new: Block, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A block that adds nothing, made of the (large) one `before` it; names inside the block.

        Its first convolution is random (He) where that one reads another number of channels.
        """
        layers = {k: v.clone() for k, v in before.items() if not k.startswith("downsample")}
        shape = (new.width, new.in_channels, 1, 1)
        if layers["conv1.weight"].shape != shape:
            layers["conv1.weight"] = self._normal(shape)
            if "conv1.bias" in layers:
                layers["conv1.bias"].zero_()
            if "bn1.weight" in layers:
                for part, value in zip(_BN, (1.0, 0.0, 0.0, 1.0), strict=True):
                    layers[f"bn1.{part}"].fill_(value)
        if "bn3.weight" in layers:
            layers["bn3.weight"].zero_()
            layers["bn3.bias"].zero_()
            return layers
        self._pair(layers)
        return layers

    def _pair(self, layers: dict[str, Tensor]) -> None:
        """Make channels 2k and 2k + 1 of the 3x3 alike, and their readers opposite.

        Which channels are taken is drawn for each block: equal blocks in a row would learn alike.
        The last of an odd number is not read.
        """
        width = len(layers["conv2.weight"])
        drawn = torch.randperm(width, generator=self._generator)[: width // 2].sort().values
        twice = drawn.repeat_interleave(2)
        paired = slice(len(twice))
        for name in ("conv2.weight", "conv2.bias"):
            layers[name][paired] = layers[name][twice].clone()
        read = layers["conv3.weight"][:, drawn]
        layers["conv3.weight"] = torch.zeros_like(layers["conv3.weight"])
        layers["conv3.weight"][:, paired] = torch.stack([read, -read], dim=2).flatten(1, 2)
        layers["conv3.bias"].zero_()

    def _split(self, weight: Tensor, columns: Tensor) -> Tensor:
        """Weights (O, C_old, ...) as (O, C_new, ...): each split among the copies of its input."""
        copies = torch.bincount(columns)
        drawn = torch.rand(len(weight), len(columns), generator=self._generator).double() * 2 - 1
        total = torch.zeros(len(weight), weight.shape[1]).double().index_add_(1, columns, drawn)
        # Around their mean the shares of a channel's copies add up to 1; n numbers of -1 to 1 are
        # as far as 2 - 2/n from their mean, and a single one is not.
        most = (2 - 2 / copies).clamp_min(1)
        uneven = drawn - (total / copies)[:, columns]
        share = (1 + self._noise * uneven / most[columns]) / copies[columns]
        share = share.view(*share.shape, *(1,) * (weight.ndim - 2))
        split: Tensor = (weight[:, columns].double() * share).float()
        return split

    def _normal(self, shape: tuple[int, int, int, int]) -> Tensor:
        """Weights of a 1x1 convolution before a ReLU (He et al., arXiv:1502.01852), by fan-out."""
        std = math.sqrt(2.0 / shape[0])
        return torch.randn(shape, generator=self._generator) * std

    def _get(self, name: str) -> Tensor:
        if name not in self._state:
            raise CheckpointError(f"the weights do not fit the network: missing: {name}")
        return self._state[name].detach().float()
