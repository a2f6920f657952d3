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

from engines.core import OperatingPoint, Output, UInt8Array
from engines.shrinking import shrunk

BoolArray = npt.NDArray[np.bool_]
Infer = Callable[[UInt8Array, Sequence[OperatingPoint]], Output]
"""What an engine does with points that do not glance."""

Shrink = Callable[[UInt8Array, int], UInt8Array]
"""Square images (N, S, S, 3) as (N, size, size, 3)."""


def looks_again(sure: npt.NDArray[Any], confidence: npt.NDArray[Any] | float) -> BoolArray:
    """Which images (N,) are looked at again: less `sure` than `confidence`, or any at 1."""
    wanted = np.asarray(confidence)
    return np.asarray((sure < wanted) | (wanted >= 1.0), np.bool_)


def confidence_for(sure: npt.NDArray[Any], share: float) -> float:
    """The confidence at which that share of them is looked at again: between the last that is and
    the first that is not."""
    ranked = np.sort(sure)
    again = round(share * len(ranked))
    if again == 0:
        return 0.0
    return 1.0 if again == len(ranked) else float(ranked[again - 1 : again + 1].mean())


def run_glances(
    infer: Infer,
    images: UInt8Array,
    points: Sequence[OperatingPoint],
    units: int,
    shrink: Shrink = shrunk,
) -> Output:
    """A batch in which points glance: small copies size by size, then all that is left at once.

    units: of all maskers at the images' size. shrink: the engine's own way to make copies, to the
    bit that of `engines.shrinking`. Raises what `infer` raises.
    """
    again = np.ones(len(points), np.bool_)
    small = [0 if point.glance is None else point.glance.image_size for point in points]
    looks: list[_Look] = []
    shrink_s = 0.0
    for size in sorted({*small} - {0}):
        places = [i for i, each in enumerate(small) if each == size]
        begin_s = time.perf_counter()
        copies = shrink(_some(images, places), size)
        shrink_s += time.perf_counter() - begin_s
        found = infer(copies, [points[i].first_look for i in places])
        looks.append(_Look(places, found))
        sure = found.arrays["probabilities"].max(axis=1)
        wanted = np.array([g.confidence for i in places if (g := points[i].glance)])
        again[places] = looks_again(sure, wanted)
    last = None
    left = np.flatnonzero(again).tolist()
    if left:
        found = infer(_some(images, left), [points[i].second_look for i in left])
        last = _Look(left, found)
    if len(looks) == 1 and len(looks[0].places) == len(points) and len(left) in (0, len(points)):
        return _alike(looks[0].output, None if last is None else last.output, units, shrink_s)
    return _merged(looks, last, again, units, shrink_s)


def _some(images: UInt8Array, places: Sequence[int]) -> UInt8Array:
    return images if len(places) == len(images) else images[places]


@dataclass(frozen=True)
class _Look:
    """What some images of a batch, named by their places, got from one call."""

    places: Sequence[int]
    output: Output


def _alike(look: Output, last: Output | None, units: int, shrink_s: float) -> Output:
    """One output where all images were looked at equally often, as one alone always is."""
    own = last or look
    count, maskers = own.activation.shape
    arrays = {**own.arrays, "again": np.full(count, last is not None)}
    activation, pixels, durations_s = own.activation, own.pixels, dict(look.durations_s)
    if last is None:
        activation = np.zeros((count, maskers), np.float32)
        pixels = None if pixels is None else np.zeros_like(pixels)
        if "decisions" in arrays:
            arrays["decisions"] = np.zeros((count, units), np.bool_)
    else:
        for stage, seconds in last.durations_s.items():
            durations_s[stage] = durations_s.get(stage, 0.0) + seconds
    durations_s["prepare"] = durations_s.get("prepare", 0.0) + shrink_s
    parts_s = look.parts_s
    if last is not None and last.parts_s is not None:
        parts_s = last.parts_s if parts_s is None else parts_s + last.parts_s
    return Output(
        arrays=arrays,
        activation=activation,
        macs=look.macs if last is None else look.macs + last.macs,
        durations_s=durations_s,
        parts_s=parts_s,
        pixels=pixels,
    )


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
