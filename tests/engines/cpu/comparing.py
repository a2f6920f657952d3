"""The native engine against the torch reference. Import after `pytest.importorskip("torch")`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from engines.architecture import only_resnet
from engines.bundle import Bundle
from engines.core import OperatingPoint, Output, UInt8Array
from engines.models.checkpoints import load_strictly
from engines.models.inputs import normalise
from engines.models.masks import Decide, decide
from engines.models.resnet import LaudResNet
from engines.reference.engine import ReferenceEngine
from tests.engines.cpu.cases import point

PROBABILITY_BOUND = 2e-5
"""How far fp32 may be from the reference (1e-4 is promised)."""

SCORE_BOUND = 1e-4
"""The same for scores, relative to the largest."""

MARGIN = 1e-3
"""How far logits stay from thresholds, so that the order of a sum decides nothing."""

NO_CAP = 2**62


@dataclass(frozen=True)
class Wish:
    """What is asked of one masker: a share of its units (None: do not ask) and a cap."""

    rate: float | None
    cap: int | None = None


@dataclass
class _Chooser:
    """Chooses thresholds and caps while the reference runs, in gaps between its logits."""

    wishes: Sequence[Wish]
    thresholds: list[float | None] = field(default_factory=list)
    caps: list[int | None] = field(default_factory=list)

    def __call__(self, masker: int, logits: Tensor) -> Tensor:
        wish = self.wishes[masker]
        falling = np.sort(logits[0].double().numpy())[::-1]
        threshold = None if wish.rate is None else _threshold(falling, wish.rate)
        cap = None if wish.cap is None else _cap(falling, wish.cap)
        self.thresholds.append(threshold)
        self.caps.append(cap)
        floor = -float("inf") if threshold is None else threshold
        return decide(logits, torch.tensor([floor]), torch.tensor([NO_CAP if cap is None else cap]))


def points_for(
    bundle: Bundle,
    images: UInt8Array,
    wishes: Sequence[Sequence[Wish]],
    network: Callable[[Tensor, Decide], object] | None = None,
) -> list[OperatingPoint]:
    """One point per image that comes as near to its wishes as gaps between logits allow.

    network: the bundle's, where it is no classifier.
    """
    model = network or network_of(bundle)
    x = normalise(images, bundle.manifest.preprocessing)
    points = []
    for i, of_image in enumerate(wishes):
        chooser = _Chooser(of_image)
        with torch.inference_mode():
            model(x[i : i + 1], chooser)
        points.append(point(chooser.thresholds, chooser.caps, size=images.shape[1]))
    return points


def network_of(bundle: Bundle) -> LaudResNet:
    """The bundle's network in torch."""
    model = LaudResNet(only_resnet(bundle.manifest.architecture, "a test")).eval()
    load_strictly(
        model, {name: np.asarray(value, np.float32) for name, value in bundle.weights.items()}
    )
    return model


def reference_answer(
    bundle: Bundle, images: UInt8Array, points: Sequence[OperatingPoint]
) -> Output:
    """What the reference engine says."""
    with ReferenceEngine.from_bundle(bundle) as engine:
        return engine.infer(images, points)


def assert_equal(found: Output, wanted: Output) -> None:
    """Probabilities and scores within their bounds, the same units active, the same work counted.

    The reference has no scores: logarithms of its probabilities are, up to a constant per image.
    """
    np.testing.assert_array_equal(found.arrays["decisions"], wanted.arrays["decisions"])
    np.testing.assert_array_equal(found.activation, wanted.activation)
    assert found.macs.tolist() == wanted.macs.tolist()
    scores = found.arrays["scores"].astype(np.float64)
    logarithms = np.log(np.maximum(wanted.arrays["probabilities"].astype(np.float64), 1e-37))
    scale = 1.0 + np.abs(scores).max(axis=1, keepdims=True)
    np.testing.assert_allclose(
        np.maximum(scores - scores.max(axis=1, keepdims=True), -80.0) / scale,
        np.maximum(logarithms - logarithms.max(axis=1, keepdims=True), -80.0) / scale,
        rtol=0,
        atol=SCORE_BOUND,
    )
    np.testing.assert_allclose(
        found.arrays["probabilities"].astype(np.float64),
        wanted.arrays["probabilities"].astype(np.float64),
        rtol=0,
        atol=PROBABILITY_BOUND,
    )


def _threshold(falling: np.ndarray[tuple[int], np.dtype[np.float64]], rate: float) -> float:
    """In the gap that lets the share nearest to `rate` through."""
    ends = [falling[0] + 2.0, *falling, falling[-1] - 2.0]
    gaps = [
        count
        for count in range(len(falling) + 1)
        if ends[count] - ends[count + 1] > 2 * MARGIN * (1 + abs(ends[count]))
    ]
    count = min(gaps, key=lambda count: abs(count - rate * len(falling)))
    return float(np.float32((ends[count] + ends[count + 1]) / 2))


def _cap(falling: np.ndarray[tuple[int], np.dtype[np.float64]], cap: int) -> int:
    """At least `cap`, and between logits that differ clearly (equal ones are another test)."""
    while 0 < cap < len(falling) and falling[cap - 1] - falling[cap] < MARGIN * (
        1 + abs(falling[cap])
    ):
        cap += 1
    return cap
