"""Draws the sample pictures: garments as shaded shapes on a plain wall. `python -m` rewrites them.

The demo has to work without anybody's photographs, so these are made from polygons alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

SIZE = 256
_OVERSAMPLING = 4

Point = tuple[float, float]


@dataclass(frozen=True)
class Garment:
    """Outlines in units of the picture, with y down, each drawn in its own colour over the last."""

    shapes: tuple[tuple[tuple[Point, ...], tuple[int, int, int]], ...]
    seams: tuple[tuple[Point, ...], ...] = ()


def _mirrored(half: tuple[Point, ...]) -> tuple[Point, ...]:
    """A closed outline from its right half, top to bottom, mirrored about x = 0.5."""
    return half + tuple((1 - x, y) for x, y in reversed(half))


GARMENTS = {
    "t-shirt": Garment(
        shapes=(
            (
                _mirrored(
                    (
                        (0.59, 0.17),
                        (0.68, 0.19),
                        (0.92, 0.33),
                        (0.84, 0.48),
                        (0.71, 0.41),
                        (0.71, 0.88),
                    )
                ),
                (40, 88, 150),
            ),
            (_mirrored(((0.59, 0.17), (0.555, 0.215), (0.52, 0.235))), (24, 56, 100)),
        ),
        seams=(((0.71, 0.41), (0.695, 0.26)), ((0.29, 0.41), (0.305, 0.26))),
    ),
    "pants": Garment(
        shapes=(
            (
                _mirrored(
                    (
                        (0.63, 0.06),
                        (0.645, 0.16),
                        (0.675, 0.40),
                        (0.665, 0.95),
                        (0.545, 0.95),
                        (0.505, 0.36),
                    )
                ),
                (46, 58, 92),
            ),
            (_mirrored(((0.63, 0.06), (0.635, 0.095))), (34, 42, 70)),
        ),
        seams=(((0.5, 0.10), (0.5, 0.36)), ((0.615, 0.11), (0.645, 0.19))),
    ),
    "shorts": Garment(
        shapes=(
            (
                _mirrored(((0.67, 0.22), (0.70, 0.32), (0.79, 0.76), (0.555, 0.79), (0.505, 0.52))),
                (150, 132, 96),
            ),
            (_mirrored(((0.67, 0.22), (0.68, 0.275))), (128, 110, 78)),
        ),
        seams=(((0.5, 0.28), (0.5, 0.52)), ((0.64, 0.28), (0.70, 0.42))),
    ),
    "dress": Garment(
        shapes=(
            (
                _mirrored(
                    (
                        (0.57, 0.06),
                        (0.605, 0.07),
                        (0.625, 0.21),
                        (0.60, 0.36),
                        (0.66, 0.60),
                        (0.74, 0.92),
                        (0.62, 0.945),
                    )
                ),
                (176, 36, 60),
            ),
            (_mirrored(((0.57, 0.06), (0.55, 0.13), (0.52, 0.155))), (212, 208, 204)),
        ),
        seams=(((0.40, 0.36), (0.60, 0.36)),),
    ),
    "skirt": Garment(
        shapes=(
            (_mirrored(((0.63, 0.2), (0.64, 0.27), (0.80, 0.82), (0.65, 0.85))), (34, 34, 40)),
            (_mirrored(((0.63, 0.2), (0.635, 0.25))), (58, 58, 66)),
        ),
        seams=(((0.56, 0.27), (0.62, 0.84)), ((0.44, 0.27), (0.38, 0.84))),
    ),
    "hat": Garment(
        shapes=(
            (
                tuple(
                    (0.5 + 0.44 * float(np.cos(a)), 0.64 + 0.115 * float(np.sin(a)))
                    for a in np.linspace(0, 2 * np.pi, 64, endpoint=False)
                ),
                (168, 134, 84),
            ),
            (
                (
                    (0.26, 0.63),
                    (0.29, 0.40),
                    (0.36, 0.30),
                    (0.46, 0.31),
                    (0.5, 0.33),
                    (0.54, 0.31),
                    (0.64, 0.30),
                    (0.71, 0.40),
                    (0.74, 0.63),
                    (0.5, 0.68),
                ),
                (186, 150, 98),
            ),
            (
                (
                    (0.262, 0.63),
                    (0.272, 0.55),
                    (0.5, 0.60),
                    (0.728, 0.55),
                    (0.738, 0.63),
                    (0.5, 0.68),
                ),
                (60, 40, 30),
            ),
        ),
    ),
    "longsleeve": Garment(
        shapes=(
            (
                _mirrored(
                    (
                        (0.58, 0.13),
                        (0.66, 0.155),
                        (0.76, 0.25),
                        (0.90, 0.80),
                        (0.80, 0.83),
                        (0.70, 0.46),
                        (0.70, 0.88),
                    )
                ),
                (120, 124, 130),
            ),
            (_mirrored(((0.58, 0.13), (0.55, 0.17), (0.52, 0.185))), (82, 86, 92)),
        ),
        seams=(((0.70, 0.46), (0.69, 0.24)), ((0.30, 0.46), (0.31, 0.24))),
    ),
}


def render(label: str, *, seed: int = 0) -> Image.Image:
    """The sample of that label: RGB, SIZE x SIZE."""
    garment = GARMENTS[label]
    side = SIZE * _OVERSAMPLING
    rng = np.random.default_rng(seed)
    shape = Image.new("L", (side, side), 0)
    colour = Image.new("RGB", (side, side))
    for outline, fill in garment.shapes:
        points = [(x * side, y * side) for x, y in outline]
        ImageDraw.Draw(shape).polygon(points, fill=255)
        ImageDraw.Draw(colour).polygon(points, fill=fill)
    for seam in garment.seams:
        dark = [(x * side, y * side) for x, y in seam]
        ImageDraw.Draw(colour).line(dark, fill=(20, 22, 28), width=_OVERSAMPLING)
    small = (SIZE, SIZE)
    cloth = np.asarray(colour.resize(small, Image.Resampling.BOX), np.float64)
    cloth = cloth * _folds(rng)[..., None] + rng.normal(0, 4, (SIZE, SIZE, 1))
    alpha = np.asarray(shape.resize(small, Image.Resampling.BOX), np.float32) / 255
    shadow = np.asarray(
        shape.resize(small)
        .filter(ImageFilter.GaussianBlur(6))
        .transform(small, Image.Transform.AFFINE, (1, 0, -4, 0, 1, -5)),
        np.float32,
    )
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    wall = 216 - 26 * y - 10 * np.abs(x - 0.4) - 0.22 * shadow + rng.normal(0, 2, (SIZE, SIZE))
    tinted = wall[..., None] + np.array([2.0, 0.0, -4.0])
    mixed = alpha[..., None] * cloth + (1 - alpha[..., None]) * tinted
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))


def _folds(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Soft light and dark bands, as cloth has them: factors about 1, (SIZE, SIZE)."""
    noise = rng.normal(0, 1, (SIZE // 8, SIZE // 16)).astype(np.float32)
    bands = np.asarray(Image.fromarray(noise).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return (1.0 + 0.10 * bands / max(float(np.abs(bands).max()), 1e-6) * 2).astype(np.float64)


def main() -> None:
    """Write every sample beside this file."""
    for label in GARMENTS:
        render(label).save(Path(__file__).parent / f"{label}.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main()
