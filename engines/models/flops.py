"""Multiply-accumulates of a forward pass, counted from its masks, outside the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engines.architecture import Block, MapSize, RegNet, ResNet
from engines.macs import BlockRates, executed_macs
from engines.models.masks import Mask


def block_rates(
    net: ResNet | RegNet, masks: Sequence[Mask], evaluated: Tensor | None = None
) -> list[BlockRates]:
    """Rates per block and image, with gradients.

    evaluated: (N, maskers), 1 where an image's point asks that masker; None means everywhere.
    """
    by_block: dict[int, dict[str, Mask]] = {}
    for mask in masks:
        by_block.setdefault(mask.block, {})[mask.kind] = mask
    rates: list[BlockRates] = []
    # A mean over the whole map needs the first two convolutions everywhere, or nowhere.
    whole = isinstance(net, RegNet) and net.squeeze_ratio > 0 and net.squeeze_over == "map"
    for i, block in enumerate(net.blocks):
        found = by_block.get(i, {})
        spatial, channel = found.get("spatial"), found.get("channel")
        anywhere = _anywhere(spatial.pixels) if spatial and whole else None
        dilated = _mean(spatial.dilated) if spatial else 1.0
        rates.append(
            BlockRates(
                spatial=_mean(spatial.pixels) if spatial else 1.0,
                dilated=dilated if anywhere is None else anywhere,
                channel=_exact(channel.units).mean(dim=1) if channel else 1.0,
                spatial_masker=_asked(spatial, evaluated),
                channel_masker=_asked(channel, evaluated),
                middle=anywhere,
                pairs=_pairs(block, channel.units) if channel else None,
            )
        )
    return rates


def network_macs(
    net: ResNet | RegNet, image: MapSize, masks: Sequence[Mask], evaluated: Tensor | None = None
) -> Tensor:
    """Multiply-accumulates per image, float64 without and float32 with gradients.

    (N,), or one number for all images where there is no mask.
    """
    count = executed_macs(net, image, block_rates(net, masks, evaluated))
    return count if isinstance(count, Tensor) else torch.tensor(count, dtype=torch.float64)


def _mean(pixels: Tensor | None) -> Tensor | float:
    return 1.0 if pixels is None else _exact(pixels).mean(dim=(1, 2, 3))


def _anywhere(pixels: Tensor | None) -> Tensor | None:
    """1 where an image has an active pixel, (N,)."""
    return None if pixels is None else _exact(pixels).amax(dim=(1, 2, 3))


def _pairs(block: Block, units: Tensor) -> Tensor | None:
    """Share of the 3x3's channel pairs that are active: its groups may be active in part."""
    if block.conv_groups == 1:
        return None
    channels = _exact(units).repeat_interleave(block.width // block.num_groups, dim=1)
    shares = channels.view(len(units), block.conv_groups, -1).mean(dim=2)
    return (shares * shares).mean(dim=1)


def _exact(decisions: Tensor) -> Tensor:
    """Wide enough for counts above 2^24, except where a gradient wants float32."""
    return decisions if decisions.requires_grad else decisions.double()


def _asked(mask: Mask | None, evaluated: Tensor | None) -> Tensor | float:
    if mask is None:
        return 0.0
    return 1.0 if evaluated is None else evaluated[:, mask.masker].double()
