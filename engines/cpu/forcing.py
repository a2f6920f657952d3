"""Decisions in place of the maskers', as native code takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engines.errors import InvalidInput


def side_by_side(
    decisions: Sequence[npt.NDArray[np.bool_]], n: int, units: Sequence[int]
) -> npt.NDArray[np.uint8]:
    """Decisions of all maskers, (N, all units), from one array (N, units) per masker.

    units: of each masker. Raises InvalidInput for decisions that do not fit them.
    """
    if len(decisions) != len(units):
        raise InvalidInput(
            f"decisions must have one array per masker: {len(units)}, got {len(decisions)}"
        )
    flat = [np.asarray(array, np.bool_) for array in decisions]
    for masker, (array, count) in enumerate(zip(flat, units, strict=True)):
        if array.shape != (n, count):
            raise InvalidInput(
                f"decisions of masker {masker} must have shape ({n}, {count}), got {array.shape}"
            )
    joined = np.concatenate(flat, axis=1) if flat else np.empty((n, 0), np.bool_)
    return np.ascontiguousarray(joined).view(np.uint8)
