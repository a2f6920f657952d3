"""What the maskers start from: input statistics of the static network, and what each unit is worth.

A unit's prior logit rises with its benefit per multiply-accumulate, so that the first masks already
drop what matters least. A block's benefit is the divergence of the answers when its residual branch
is removed; its channel groups share it by the energy that they send into the last convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.architecture import MapSize
from engines.macs import all_block_macs
from engines.models.maskers import ChannelMasker, SpatialMasker, pool_patches
from engines.models.resnet import Bottleneck, LaudResNet

_MIN_STD = 1e-2
_BATCH = 32
_SMALLEST_BENEFIT = 1e-6


@torch.no_grad()
def prepare_maskers(model: LaudResNet, images: Tensor, scale: float) -> list[Tensor]:
    """Set every masker's statistics, and return prior logits per masker, (units,) or (1,).

    images: normalised, (N, 3, H, W), seen in batches of 32. scale: spread of the priors, in logits.
    """
    model.eval()
    pooled, energy = _observe(model, images)
    for block in model.bottlenecks():
        for masker in _maskers(block):
            kind = "patch" if isinstance(masker, SpatialMasker) else "global"
            values = pooled[(block.index, kind)]
            masker.mean.copy_(values.mean(dim=0))
            masker.std.copy_(values.std(dim=0).clamp_min(_MIN_STD))
    benefit = _block_benefit(model, images)
    macs = all_block_macs(model.net, MapSize(images.shape[2], images.shape[3]))
    raw: list[Tensor] = []
    for spec in model.net.maskers:
        worth = benefit[spec.block] / macs[spec.block].skippable
        if spec.kind == "spatial":
            raw.append(torch.log(worth).view(1))
        else:
            share = energy[spec.block]
            raw.append(torch.log(worth * (share * share.numel()).clamp_min(1e-3)))
    values = torch.cat(raw)
    spread = values.std().clamp_min(1e-6) if values.numel() > 1 else torch.tensor(1.0)
    return [scale * (r - values.mean()) / spread for r in raw]


def _maskers(block: Bottleneck) -> Iterator[SpatialMasker | ChannelMasker]:
    for name in ("masker_spatial", "masker_channel"):
        masker = getattr(block, name, None)
        if isinstance(masker, SpatialMasker | ChannelMasker):
            yield masker


def _observe(
    model: LaudResNet, images: Tensor
) -> tuple[dict[tuple[int, str], Tensor], dict[int, Tensor]]:
    """Pooled block inputs (rows, C_in) by block and kind, and energy shares (groups,) by block."""
    pooled: dict[tuple[int, str], list[Tensor]] = {}
    energy: dict[int, Tensor] = {}

    def note_input(block: Bottleneck) -> Callable[..., None]:
        def hook(_module: object, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            for masker in _maskers(block):
                if isinstance(masker, SpatialMasker):
                    rows = pool_patches(x, masker.window).flatten(0, 1)
                    pooled.setdefault((block.index, "patch"), []).append(rows)
                else:
                    pooled.setdefault((block.index, "global"), []).append(x.mean(dim=(2, 3)))

        return hook

    def note_energy(block: Bottleneck) -> Callable[..., None]:
        def hook(_module: object, inputs: tuple[Tensor, ...]) -> None:
            sent = inputs[0].square().mean(dim=(0, 2, 3)) * block.conv3.weight.square().sum(
                dim=(0, 2, 3)
            )
            groups = sent.view(block.block.num_groups, -1).sum(dim=1)
            energy[block.index] = energy.get(block.index, torch.zeros_like(groups)) + groups

        return hook

    handles = []
    for block in model.bottlenecks():
        handles.append(block.register_forward_pre_hook(note_input(block)))
        if block.block.num_groups:
            handles.append(block.conv3.register_forward_pre_hook(note_energy(block)))
    try:
        for batch in torch.split(images, _BATCH):
            model(batch, None)
    finally:
        for handle in handles:
            handle.remove()
    joined = {key: torch.cat(rows) for key, rows in pooled.items()}
    return joined, {i: e / e.sum().clamp_min(1e-12) for i, e in energy.items()}


def _block_benefit(model: LaudResNet, images: Tensor) -> list[Tensor]:
    """Mean divergence of the answers when one block's residual branch is removed, per block."""
    dynamic = {masker.block for masker in model.net.maskers}
    with_all = [
        F.log_softmax(model(batch, None)[0], dim=1) for batch in torch.split(images, _BATCH)
    ]
    benefits: list[Tensor] = []
    for block in model.bottlenecks():
        if block.index not in dynamic:
            benefits.append(torch.tensor(1.0))
            continue
        handle = block.conv3.register_forward_hook(lambda _m, _i, out: torch.zeros_like(out))
        try:
            total = torch.zeros(())
            for batch, reference in zip(torch.split(images, _BATCH), with_all, strict=True):
                answer = F.log_softmax(model(batch, None)[0], dim=1)
                total += F.kl_div(answer, reference, log_target=True, reduction="sum")
        finally:
            handle.remove()
        benefits.append((total / len(images)).clamp_min(_SMALLEST_BENEFIT))
    return benefits
