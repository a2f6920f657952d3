"""Objects of a batch as exported networks and plans have them: side by side, image by image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Objects:
    """Of all images of a batch, image by image and the surest first.

    images, labels: int64 (D,). boxes: float32 (D, 4): left, top, right, bottom in pixels. scores:
    float32 (D,).
    """

    images: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
