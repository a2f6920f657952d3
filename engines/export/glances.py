"""Candidates that glance: every pair of trained image sizes, and how often to look again.

A pair's answers at any share of second looks follow from two runs, so that all are tried at once on
the validation pictures; those are kept that save work and lose nothing to another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.core import Engine, Glance, OperatingPoint, UInt8Array
from engines.evaluation import PointResult
from engines.evaluation.points import Float64Array, Int64Array
from engines.export.pictures import PixelCache, Say
from engines.glance import confidence_for, looks_again
from engines.shrinking import shrunk

SHARES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
"""Of the images that are looked at again."""

MOST = 16
"""Candidates: each is measured, and each that ships is one more for a policy to weigh."""

_SAVES = 0.8
"""At most so much of its own size's work: a first look takes more time than its work says."""

_APART = 1.04
"""Of two whose work differs by less, the better is enough."""

_BATCH = 32


def glancing_points(
    engine: Engine,
    sizes: Sequence[PointResult],
    pixels: PixelCache,
    labels: Int64Array,
    say: Say,
    most: int = MOST,
) -> list[OperatingPoint]:
    """The points worth measuring, dearest first, at most so many.

    sizes: points that skip nothing, as answered on the pictures of `pixels`, whose classes are
    `labels`. The candidates are named `glance-80-160-25`: first 80 px, then 160 px for 25 % of the
    images.
    """
    say(f"trying first looks at {len(sizes)} image sizes")
    found: list[_Tried] = []
    for large in sizes:
        for small in (one for one in sizes if one.point.image_size < large.point.image_size):
            point = _named(large.point, small.point.image_size)
            first = _First.of(engine, point, pixels.at(large.point.image_size), labels)
            most_macs = _SAVES * float(large.macs.mean())
            tried = [_tried(point, first, large, share) for share in SHARES]
            found += [one for one in tried if one.macs <= most_macs]
    rivals = [(float(one.macs.mean()), float(one.losses.mean())) for one in sizes]
    return [one.point for one in worth_measuring(found, rivals, most)]


def settled_glance(
    engine: Engine, point: OperatingPoint, share: float, images: UInt8Array
) -> OperatingPoint:
    """The point with the confidence that sends that share of `images` to a second look.

    images: uint8 (N, S, S, 3) at the point's size.
    """
    first = _First.of(engine, point, images, np.zeros(len(images), np.int64))
    return point.glancing(confidence_for(first.sure, share))


@dataclass(frozen=True)
class _First:
    """Answers at first sight: how sure each is, and its loss; macs: of one image."""

    sure: Float64Array
    losses: Float64Array
    macs: float

    @classmethod
    def of(
        cls, engine: Engine, point: OperatingPoint, images: UInt8Array, labels: Int64Array
    ) -> _First:
        look = point.first_look
        outputs = [
            engine.infer(shrunk(batch, look.image_size), [look] * len(batch))
            for batch in (images[i : i + _BATCH] for i in range(0, len(images), _BATCH))
        ]
        rows = np.concatenate([output.arrays["probabilities"] for output in outputs])
        of_label = np.asarray(rows, np.float64)[np.arange(len(rows)), labels]
        return cls(
            sure=np.asarray(rows.max(axis=1), np.float64),
            losses=-np.log(np.maximum(of_label, 1e-12)),
            macs=float(np.concatenate([output.macs for output in outputs]).mean()),
        )


@dataclass(frozen=True)
class _Tried:
    """A point and what it would take and lose."""

    point: OperatingPoint
    macs: float
    loss: float


def _named(large: OperatingPoint, small: int) -> OperatingPoint:
    name = f"glance-{small}-{large.image_size}"
    glance = Glance(image_size=small, confidence=0.0)
    return large.model_copy(update={"name": name, "glance": glance})


def _tried(point: OperatingPoint, first: _First, large: PointResult, share: float) -> _Tried:
    confidence = confidence_for(first.sure, share)
    again = looks_again(first.sure, confidence)
    named = point.glancing(confidence).model_copy(
        update={"name": f"{point.name}-{100 * share:.0f}"}
    )
    losses = np.where(again, large.losses, first.losses)
    macs = first.macs + float(again.mean()) * float(large.macs.mean())
    return _Tried(named, macs, float(losses.mean()))


def worth_measuring(
    tried: Sequence[_Tried], rivals: Sequence[tuple[float, float]], most: int = MOST
) -> list[_Tried]:
    """Those that no rival (work, loss) and no other one beats in both, the best of near ones, at
    most so many; dearest first."""
    kept: list[_Tried] = []
    for one in sorted(tried, key=lambda each: (each.loss, each.macs)):
        beaten = any(macs <= one.macs and loss <= one.loss for macs, loss in rivals)
        # Those kept are better: cheaper or about as dear, they make it pointless.
        if not beaten and all(one.macs * _APART < other.macs for other in kept):
            kept.append(one)
    if len(kept) > most:
        places = np.unique(np.linspace(0, len(kept) - 1, most).round().astype(int))
        kept = [kept[place] for place in places]
    return kept
