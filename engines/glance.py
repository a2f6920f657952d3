"""Points that glance: a small copy of every image first, the image itself where that is not enough.

The network is the same both times. Whether to look again is one decision for the whole image, like
the masker of a layer for a block; an image's own first answer makes it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from engines.core import OperatingPoint, Output, UInt8Array

BoolArray = npt.NDArray[np.bool_]
Infer = Callable[[UInt8Array, Sequence[OperatingPoint]], Output]
"""What an engine does with points that do not glance."""


def looks_again(sure: npt.NDArray[Any], confidence: npt.NDArray[Any] | float) -> BoolArray:
    """Which images (N,) are looked at again: less `sure` than `confidence`, or any at 1."""
    wanted = np.asarray(confidence)
    return np.asarray((sure < wanted) | (wanted >= 1.0), np.bool_)


def shrunk(images: UInt8Array, size: int) -> UInt8Array:
    """Square images (N, S, S, 3) as (N, size, size, 3): means of squares of pixels where `size`
    divides S, which takes a quarter of the time, else bilinear and antialiased as preprocessing."""
    factor, rest = divmod(images.shape[1], size)
    out = np.empty((len(images), size, size, 3), np.uint8)
    for place, image in zip(out, images, strict=True):
        picture = Image.fromarray(image)
        if rest:
            place[:] = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
        else:
            place[:] = np.asarray(picture.reduce(factor))
    return out


def run_glances(
    infer: Infer, images: UInt8Array, points: Sequence[OperatingPoint], units: int
) -> Output:
    """A batch in which points glance: small copies size by size, then all that is left at once.

    units: of all maskers at the images' size. Raises what `infer` raises.
    """
    again = np.ones(len(points), np.bool_)
    small = np.array([0 if point.glance is None else point.glance.image_size for point in points])
    looks: list[_Look] = []
    shrink_s = 0.0
    for size in sorted({*small.tolist()} - {0}):
        places = np.flatnonzero(small == size)
        begin_s = time.perf_counter()
        copies = shrunk(images[places], size)
        shrink_s += time.perf_counter() - begin_s
        found = infer(copies, [points[i].first_look for i in places.tolist()])
        looks.append(_Look(places, found))
        sure = found.arrays["probabilities"].max(axis=1)
        wanted = np.array([g.confidence for i in places.tolist() if (g := points[i].glance)])
        again[places] = looks_again(sure, wanted)
    last = None
    if again.any():
        places = np.flatnonzero(again)
        last = _Look(
            places, infer(images[places], [points[i].second_look for i in places.tolist()])
        )
    return _merged(looks, last, again, units, shrink_s)


@dataclass(frozen=True)
class _Look:
    """What some images of a batch, named by their places, got from one call."""

    places: npt.NDArray[np.int64]
    output: Output


def _merged(
    looks: Sequence[_Look], last: _Look | None, again: BoolArray, units: int, shrink_s: float
) -> Output:
    """One output of several: the last look's answers hold where it came, costs add up."""
    every = [*looks, *([last] if last else [])]
    like, count = every[0].output, len(again)
    arrays: dict[str, npt.NDArray[Any]] = {
        name: np.zeros((count, units if name == "decisions" else found.shape[1]), found.dtype)
        for name, found in like.arrays.items()
    }
    macs = np.zeros(count, np.float64)
    durations_s: Counter[str] = Counter({"prepare": shrink_s})
    for look in every:
        macs[look.places] += look.output.macs
        durations_s.update(look.output.durations_s)
        for name in arrays.keys() - {"decisions"}:
            arrays[name][look.places] = look.output.arrays[name]
    activation = np.zeros((count, like.activation.shape[1]), np.float32)
    pixels = None if like.pixels is None else np.zeros((count, *like.pixels.shape[1:]), np.int64)
    if last is not None:
        activation[last.places] = last.output.activation
        if "decisions" in arrays:
            arrays["decisions"][last.places] = last.output.arrays["decisions"]
        if pixels is not None:
            pixels[last.places] = last.output.pixels
    parts = [look.output.parts_s for look in every if look.output.parts_s is not None]
    return Output(
        arrays={**arrays, "again": again},
        activation=activation,
        macs=macs,
        durations_s=dict(durations_s),
        parts_s=np.sum(parts, axis=0) if parts else None,
        pixels=pixels,
    )
