"""Intervals of shares and of paired differences, and correlations. Arithmetic only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.errors import InvalidInput
from engines.manifest import Accuracy

RESAMPLES = 4000

_Z_95 = 1.959963984540054
# Bounds the memory of a bootstrap: so many indices are drawn at a time.
_MOST_INDICES = 1 << 22

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def below_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.high < 0.0

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.low > 0.0


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share `right / total` (Wilson 1927)."""
    if total < 1 or not 0 <= right <= total:
        raise InvalidInput(f"{right} of {total} is not a share")
    share, z2 = right / total, _Z_95**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z_95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    # At 0 and 1 rounding may put a bound on the wrong side of the share itself.
    return max(min(middle - half, share), 0.0), min(max(middle + half, share), 1.0)


def accuracy_of(right: int, total: int, split: str) -> Accuracy:
    """The share with its interval, as manifests keep it."""
    low, high = wilson(right, total)
    return Accuracy(value=right / total, low=low, high=high, images=total, split=split)


def paired_difference(
    values: Float64Array, others: Float64Array, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Mean of `values - others`, image by image, with its percentile bootstrap interval (Efron
    1979).

    values, others: (N,), the same images in the same order. The same seed draws the same images
    whatever is compared. Raises InvalidInput for other shapes or for no image.
    """
    if values.ndim != 1 or values.shape != others.shape or not len(values):
        raise InvalidInput(f"{values.shape} and {others.shape} are not values of the same images")
    differences = values - others
    mean = float(differences.mean())
    if not differences.any():
        return Interval(mean, mean, mean)
    count, rng = len(differences), np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(_MOST_INDICES // count, 1)
    for start in range(0, resamples, step):
        drawn = rng.integers(count, size=(min(step, resamples - start), count))
        means[start : start + step] = differences[drawn].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean, float(low), float(high))


def pearson(a: Float64Array, b: Float64Array) -> float | None:
    """Linear correlation of two vectors; None where one of them does not vary."""
    # Sums of equal floats may differ in the last digit: only what varies at all is centred.
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    x, y = a - a.mean(), b - b.mean()
    found = float(x @ y / math.sqrt(float(x @ x) * float(y @ y)))
    return min(max(found, -1.0), 1.0)


def spearman(a: Float64Array, b: Float64Array) -> float | None:
    """Correlation of ranks (Spearman 1904), ties by their mean rank; None as for `pearson`."""
    return pearson(_ranks(a), _ranks(b))


def _ranks(values: Float64Array) -> Float64Array:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: Float64Array = last - (counts - 1) / 2
    return means[places]
