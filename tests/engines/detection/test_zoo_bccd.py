"""What ships as `zoo:bccd` tells red cells from white ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from engines.bundle import Bundle, read_bundle
from engines.core import UInt8Array
from engines.cpu.detector import CpuDetector

SIZE = 320
RED = [(60, 70), (70, 200), (200, 90), (230, 240)]
WHITE = [(150, 160)]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle("zoo:bccd")


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Iterator[CpuDetector]:
    with CpuDetector(bundle, threads=1) as found:
        yield found


def smear(red: Sequence[tuple[int, int]], white: Sequence[tuple[int, int]]) -> UInt8Array:
    """Stained cells on a pale ground: red ones paler in the middle, white ones with a nucleus."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    picture = np.full((SIZE, SIZE, 3), (215.0, 205.0, 200.0))

    def paint(y: int, x: int, radius: int, colour: npt.ArrayLike) -> None:
        nonlocal picture
        distance = np.hypot(rows - y, columns - x)
        share = 1 / (1 + np.exp((distance - radius) / 1.5))[..., None]
        picture = picture * (1 - share) + share * np.asarray(colour)

    for y, x in red:
        ring = np.clip(np.hypot(rows - y, columns - x) / 26, 0, 1)[..., None]
        paint(y, x, 26, 205.0 - ring * (0.0, 50.0, 50.0))
    for y, x in white:
        paint(y, x, 40, (190.0, 150.0, 190.0))
        paint(y, x + 6, 24, (110.0, 50.0, 140.0))
    picture += np.random.default_rng(0).normal(0.0, 3.0, picture.shape)
    shown: UInt8Array = np.clip(picture, 0, 255).astype(np.uint8)[np.newaxis]
    return shown


def found(
    bundle: Bundle, engine: CpuDetector, picture: UInt8Array
) -> list[tuple[str, float, float]]:
    """Label and middle (y, x) of what is found with a score of at least .4."""
    output = engine.infer(picture, [bundle.manifest.point("size-320").point])
    kept = output.arrays["scores"][0] >= 0.4
    boxes, labels = output.arrays["boxes"][0][kept], output.arrays["labels"][0][kept]
    return [
        (bundle.manifest.labels[label], (top + bottom) / 2, (left + right) / 2)
        for label, (left, top, right, bottom) in zip(labels.tolist(), boxes.tolist(), strict=True)
    ]


def test_cells_are_found_and_told_apart(bundle: Bundle, engine: CpuDetector) -> None:
    answers = found(bundle, engine, smear(RED, WHITE))
    assert len(answers) == len(RED) + len(WHITE)
    for wanted, cells in (("RBC", RED), ("WBC", WHITE)):
        for y, x in cells:
            near = [n for n, *at in answers if np.hypot(at[0] - y, at[1] - x) < 6]
            assert near == [wanted]


def test_nothing_is_found_on_bare_ground(bundle: Bundle, engine: CpuDetector) -> None:
    assert found(bundle, engine, smear([], [])) == []
