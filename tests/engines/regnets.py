"""Small RegNets with random weights. Import after `pytest.importorskip("torch")`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engines.architecture import RegNet, RegNetStage
from engines.bundle import Bundle, PointRecord
from engines.core import Paradigm, static_point
from engines.models import fold_batchnorm
from tests.engines.bundles import manifest
from tests.engines.models.networks import random_network

SIZE = 33


def regnet(paradigm: Paradigm, **options: Any) -> RegNet:
    """Two stages whose 3x3 has groups of 2 and 3 channels."""
    grains: dict[str, Any] = {"paradigm": paradigm}
    if paradigm in (Paradigm.SPATIAL, Paradigm.SPATIAL_CHANNEL):
        grains["spatial_granularity"] = 3
    stages = []
    for width in (2, 3):
        if paradigm.masks_channels:
            grains["channel_granularity"] = width
        stages.append(RegNetStage(depth=2, width=6, group_width=width, **grains))
    fields = {"stem_width": 6, "stages": tuple(stages), "num_classes": 3, **options}
    return RegNet(**fields)


def bundle(net: RegNet) -> Bundle:
    """Random weights with batch norm folded, never on disk."""
    model = fold_batchnorm(random_network(net))
    maskers = len(net.maskers)
    full = PointRecord(
        point=static_point("full", SIZE, maskers),
        activation=(1.0,) * maskers,
        macs=1.0,
        macs_ratio=1.0,
    )
    content = manifest(architecture=model.net, labels=("a", "b", "c"), points=(full,))
    weights = {name: value.float().numpy() for name, value in model.state_dict().items()}
    return Bundle(Path("regnet.laud"), content, "0" * 64, weights)
