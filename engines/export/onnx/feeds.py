"""What the inputs of an exported network take: images, and the points of each as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from engines.architecture import MapSize, RegNet, ResNet
from engines.caps import units_of
from engines.core import OperatingPoint, UInt8Array, check_batch
from engines.detection.architecture import Detector, level_units_of
from engines.errors import InvalidInput
from engines.export.onnx.backbone import IMAGE
from engines.export.onnx.maskers import CAPS, THRESHOLDS


def feeds(
    net: ResNet | RegNet,
    images: UInt8Array,
    points: Sequence[OperatingPoint],
    detector: Detector | None = None,
) -> Mapping[str, npt.NDArray[np.generic]]:
    """Inputs by name for uint8 images (N, S, S, 3) and one point each. detector: of a network that
    finds objects, whose levels may have maskers too.

    A threshold that is absent is -inf, a cap that is absent the number of units. Raises
    InvalidInput as engines do, and for a point that glances: its looks are points of their own.
    """
    of_levels: tuple[int, ...] = ()
    if isinstance(net, ResNet) and detector is not None:
        of_levels = level_units_of(net, detector, MapSize(*images.shape[1:3]))
    check_batch(images, points, len(net.maskers) + len(of_levels))
    for point in points:
        if point.glance is not None:
            raise InvalidInput(
                f"point '{point.name}' glances, which is done outside the network: run its "
                "first_look and, where that is not sure enough, its second_look"
            )
    units = [*units_of(net, images.shape[1]).tolist(), *of_levels]
    if not units:
        return {IMAGE: images}
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
