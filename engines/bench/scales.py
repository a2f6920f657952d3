"""int8 scales for a network that nobody exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from engines.architecture import only_resnet
from engines.bench.pictures import Pictures
from engines.bundle import Bundle, Calibration, Quantisation
from engines.export.ranges import Method, observe
from engines.models.checkpoints import load_strictly
from engines.models.resnet import LaudResNet

_MOST_PICTURES = 32
_METHOD: Method = "percentile"


def with_scales(bundle: Bundle, pictures: Pictures, say: Callable[[str], None]) -> Bundle:
    """The same bundle in memory with scales from activations of its static network.

    Enough for timing: thresholds are not calibrated again, as `laud export --int8` does it.
    """
    manifest = bundle.manifest
    model = LaudResNet(only_resnet(manifest.architecture, "the benchmark"))
    load_strictly(
        model, {name: np.asarray(value, np.float32) for name, value in bundle.weights.items()}
    )
    full = manifest.full.point
    images = pictures.at(full.image_size)[:_MOST_PICTURES]
    ranges = observe(model, [full], lambda size: images, manifest.preprocessing, say)
    scales = Quantisation(
        **ranges.scales(_METHOD),
        points=manifest.points,
        calibration=Calibration(
            images=len(images),
            split=pictures.source,
            method=_METHOD,
            agreement=(1.0,) * len(manifest.points),
        ),
    )
    return replace(bundle, manifest=manifest.model_copy(update={"quantisation": scales}))
