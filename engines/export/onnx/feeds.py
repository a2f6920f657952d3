"""What the inputs of an exported network take: images, and the points of each as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from engines.architecture import RegNet, ResNet
from engines.caps import units_of
from engines.core import OperatingPoint, UInt8Array, check_batch
from engines.errors import InvalidInput
from engines.export.onnx.backbone import IMAGE
from engines.export.onnx.blocks import CAPS, THRESHOLDS


def feeds(
    net: ResNet | RegNet, images: UInt8Array, points: Sequence[OperatingPoint]
) -> Mapping[str, npt.NDArray[np.generic]]:
    """Inputs by name for uint8 images (N, S, S, 3) and one point each.

    A threshold that is absent is -inf, a cap that is absent the number of units. Raises
    InvalidInput as engines do, and for a point that glances: its looks are points of their own.
    """
    check_batch(images, points, len(net.maskers))
    for point in points:
        if point.glance is not None:
            raise InvalidInput(
                f"point '{point.name}' glances, which is done outside the network: run its "
                "first_look and, where that is not sure enough, its second_look"
            )
    if not net.maskers:
        return {IMAGE: images}
    units = units_of(net, images.shape[1])
    thresholds = [[-np.inf if t is None else t for t in point.thresholds] for point in points]
    caps = [
        [count if cap is None else cap for cap, count in zip(point.caps, units, strict=True)]
        for point in points
    ]
    return {
        IMAGE: images,
        THRESHOLDS: np.array(thresholds, np.float32),
        CAPS: np.array(caps, np.int32),
    }
