"""What decoding a picture will cost, told from its header and its number of bytes.

Seconds are a sum over what decoders do: per file, per byte (entropy coding), per pixel of the
picture, per pixel that is decoded (a JPEG comes at 1/2, 1/4 or 1/8 of its size), per pixel of the
result. Weights per format come from decoding with the packaged libraries; a factor on each format
follows this machine and its load. Called from the event loop only.
"""

from __future__ import annotations

import math
import time
from bisect import insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from engines.preprocessing import ImageHeader, preprocess, read_header
from service.samples import sample_path

PLANNED = 0.9
"""The quantile that is predicted: planning with the median would be late every other time."""


@dataclass(frozen=True, slots=True)
class _Weights:
    """Seconds per unit; of the machine where they were fitted, which factors then correct.

    usual_ratio: bytes per pixel where their number is not known.
    """

    file: float
    per_byte: float
    per_pixel: float
    per_decoded: float
    per_output: float
    usual_ratio: float


_FORMATS = {
    "JPEG": _Weights(2.0e-4, 1.1e-8, 4.0e-10, 1.2e-9, 6.0e-9, 0.25),
    "PNG": _Weights(2.5e-4, 1.0e-9, 3.6e-8, 0.0, 6.0e-9, 1.5),
    "WEBP": _Weights(2.5e-4, 1.0e-8, 2.6e-8, 0.0, 6.0e-9, 0.15),
}
_FACTORS_KEPT = 64
_PRIOR = 8
# Beyond these a duration says something about the clock, not about decoding.
_LEAST, _MOST = 1e-3, 1e3
_SAMPLE, _SAMPLE_SIZE, _SAMPLE_RUNS = "t-shirt", 128, 5


class DecodeCosts:
    """Predicts seconds of `engines.preprocessing.preprocess`; learns from what it then took."""

    def __init__(self, ratio: float = 1.0) -> None:
        """ratio: seconds here per second that the weights say, see `measure_decoding`."""
        self._formats = {name: _Factor(ratio) for name in _FORMATS}

    def predict(
        self,
        header: ImageHeader,
        size: int,
        *,
        num_bytes: int | None = None,
        crop_ratio: float = 1.0,
    ) -> float:
        """Seconds, above 0, until the input (size, size, 3) is there, once a thread is free.

        The 90 % quantile. num_bytes: of the file, where known; else what is usual.
        """
        weighed_s = _weighed_s(header, size, num_bytes, crop_ratio)
        return weighed_s * self._formats[header.format].planned

    def observe(
        self,
        header: ImageHeader,
        size: int,
        seconds: float,
        *,
        num_bytes: int | None = None,
        crop_ratio: float = 1.0,
    ) -> None:
        """It took `seconds`. What is no duration counts as the nearest that is plausible."""
        if not math.isnan(seconds):
            ratio = seconds / _weighed_s(header, size, num_bytes, crop_ratio)
            self._formats[header.format].observe(ratio)


def measure_decoding(clock: Callable[[], float] = time.perf_counter) -> DecodeCosts:
    """Costs as they are here: decodes a packaged picture a few times, about 10 ms in all."""
    jpeg = sample_path(_SAMPLE).read_bytes()
    header = read_header(jpeg)
    taken: list[float] = []
    for _ in range(_SAMPLE_RUNS):
        begin_s = clock()
        preprocess(jpeg, _SAMPLE_SIZE, crop_ratio=1.0)
        taken.append(clock() - begin_s)
    median_s = sorted(taken)[len(taken) // 2]
    return DecodeCosts(median_s / _weighed_s(header, _SAMPLE_SIZE, len(jpeg), 1.0))


class _Factor:
    """The latest seconds over weighed seconds of one format."""

    def __init__(self, ratio: float) -> None:
        plausible = _plausible(ratio)
        self._latest = deque([plausible] * _PRIOR, _FACTORS_KEPT)
        self._ordered = sorted(self._latest)
        self.planned = plausible

    def observe(self, ratio: float) -> None:
        if len(self._latest) == _FACTORS_KEPT:
            self._ordered.remove(self._latest[0])
        self._latest.append(_plausible(ratio))
        insort(self._ordered, self._latest[-1])
        self.planned = self._ordered[int(PLANNED * (len(self._ordered) - 1) + 0.5)]


def _plausible(ratio: float) -> float:
    return min(max(ratio, _LEAST), _MOST)


def _weighed_s(header: ImageHeader, size: int, num_bytes: int | None, crop_ratio: float) -> float:
    weights = _FORMATS[header.format]
    pixels = header.width * header.height
    known = weights.usual_ratio * pixels if num_bytes is None else num_bytes
    decoded = pixels / _scale(header, size, crop_ratio) ** 2
    return (
        weights.file
        + weights.per_byte * known
        + weights.per_pixel * pixels
        + weights.per_decoded * decoded
        + weights.per_output * size * size
    )


def _scale(header: ImageHeader, size: int, crop_ratio: float) -> int:
    """The divisor of a JPEG's sides, as `engines.preprocessing.decode` chooses it."""
    if header.format != "JPEG":
        return 1
    short, least = min(header.width, header.height), math.ceil(size / crop_ratio)
    return next(k for k in (8, 4, 2, 1) if k == 1 or -(-short // k) >= least)
