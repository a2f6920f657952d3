"""Names of parameters in torchvision's and the official checkpoints, from our own."""

from __future__ import annotations

import re
from collections.abc import Callable

from engines.architecture import RegNet, ResNet

# Convolution and batch norm are numbered in a pair; what is missing here keeps its name.
_STEM = {"conv1": "stem.0", "bn1": "stem.1"}
_BLOCK = {
    "conv1": "f.a.0",
    "bn1": "f.a.1",
    "conv2": "f.b.0",
    "bn2": "f.b.1",
    "se": "f.se",
    "conv3": "f.c.0",
    "bn3": "f.c.1",
    "downsample": "proj",
    "masker_spatial": "f.masker_spatial",
    "masker_channel": "f.masker_channel",
}


def foreign_name(net: ResNet | RegNet) -> Callable[[str], str]:
    """From our name of a parameter to that in torchvision's and the official checkpoints."""
    return regnet_name if isinstance(net, RegNet) else str


def regnet_name(name: str) -> str:
    """`layer1.0.conv2.weight` is `trunk_output.block1.block1-0.f.b.0.weight` in a RegNet."""
    found = re.fullmatch(r"layer(\d+)\.(\d+)\.(\w+)\.(.+)", name)
    if found is None:
        part, rest = name.split(".", 1)
        return f"{_STEM.get(part, part)}.{rest}"
    stage, block, part, rest = found.groups()
    return f"trunk_output.block{stage}.block{stage}-{block}.{_BLOCK[part]}.{rest}"
