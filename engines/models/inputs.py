"""From uint8 images to network input: the normalisation that engines and training share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engines.bundle import Preprocessing
from engines.core import UInt8Array


def normalise(images: UInt8Array, preprocessing: Preprocessing) -> Tensor:
    """uint8 NHWC RGB to float32 (N, 3, H, W) in channels-last memory: (value - mean) / std."""
    # torch warns of arrays that may not be written, which decoders and buffers hand out.
    writeable = np.require(images, requirements=["C", "W"])
    x = torch.from_numpy(writeable).permute(0, 3, 1, 2).float()
    if preprocessing.channel_order == "bgr":
        x = x.flip(1)
    mean = torch.tensor(preprocessing.mean).view(3, 1, 1)
    std = torch.tensor(preprocessing.std).view(3, 1, 1)
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last)
