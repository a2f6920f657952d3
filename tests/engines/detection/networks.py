"""A detector small enough for a test: a backbone of four stages, eight channels of pyramid."""

from __future__ import annotations

from engines.architecture import ResNet, Stage
from engines.detection.architecture import Detector

NET = ResNet(
    stem_width=4,
    stages=tuple(Stage(depth=1, width=width) for width in (2, 4, 4, 4)),
    num_classes=1,
    stem_pool="trailing",
    stride_in_1x1=True,
    folded=True,
)
DETECTOR = Detector(width=8, head_convs=1, mask_convs=1)
