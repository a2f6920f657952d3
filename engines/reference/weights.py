"""Loading a bundle's weights into a network of torch."""

from __future__ import annotations

import numpy as np
from torch import nn

from engines.bundle import Bundle
from engines.errors import BundleError, CheckpointError
from engines.models.checkpoints import load_strictly


def load_bundle_weights(model: nn.Module, bundle: Bundle) -> None:
    """Those of the bundle, 16-bit ones widened. BundleError when names or shapes do not fit."""
    weights = {name: np.asarray(value, np.float32) for name, value in bundle.weights.items()}
    try:
        load_strictly(model, weights)
    except CheckpointError as error:
        raise BundleError(f"'{bundle.path}': {error}") from None
