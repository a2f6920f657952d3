"""Draws the sample of `zoo:nuclei`: bright nuclei on a dark ground, most of which is empty.

`python -m service.samples.cells` rewrites it. Made from ellipses alone, as the set's own pictures
are somebody's photographs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

WIDTH, HEIGHT = 480, 360
NUMBER = 34
_COLONIES = ((130.0, 120.0, 55.0), (330.0, 235.0, 45.0), (90.0, 300.0, 25.0))
"""Middle and spread of each, in pixels."""
_APART = 0.95
"""Of the sum of two radii: neighbours may just touch."""

Floats = npt.NDArray[np.float64]


def render(*, seed: int = 4) -> Image.Image:
    """The sample: grey, WIDTH x HEIGHT."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    light = 8.0 + 5.0 * np.exp(-((columns - 200) ** 2 + (rows - 160) ** 2) / 200.0**2)
    for x, y, radius in _places(rng):
        light = np.maximum(light, _nucleus(rng, columns - x, rows - y, radius))
    noise = rng.normal(0.0, 1.0, light.shape) * np.sqrt(0.5 + light / 60.0)
    return Image.fromarray(np.clip(light + noise, 0, 255).astype(np.uint8))


def _places(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Middles and radii of nuclei that hide no other one."""
    found: list[tuple[float, float, float]] = []
    while len(found) < NUMBER:
        x0, y0, spread = _COLONIES[rng.choice(len(_COLONIES), p=(0.55, 0.35, 0.1))]
        x, y = rng.normal((x0, y0), spread)
        radius = float(rng.uniform(8.0, 12.5))
        inside = radius < x < WIDTH - radius and radius < y < HEIGHT - radius
        apart = all(np.hypot(x - u, y - v) > _APART * (radius + r) for u, v, r in found)
        if inside and apart:
            found.append((float(x), float(y), radius))
    return found


def _nucleus(rng: np.random.Generator, dx: Floats, dy: Floats, radius: float) -> Floats:
    """Its light on the whole picture: an ellipse with a soft edge, blotched inside."""
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.25)
    along = np.cos(angle) * dx + np.sin(angle) * dy
    across = np.cos(angle) * dy - np.sin(angle) * dx
    distance = np.hypot(along / stretch, across * stretch)
    phases = rng.uniform(0, 2 * np.pi, 2)
    blotches = 0.12 * np.sin(dx / 2.7 + phases[0]) * np.sin(dy / 3.1 + phases[1])
    edge = 1.0 / (1.0 + np.exp((distance - radius) / 1.1))
    light: Floats = rng.uniform(70, 150) * edge * (1.0 + blotches - 0.15 * distance / radius)
    return light


def main() -> None:
    """Write it beside this file."""
    render().save(Path(__file__).parent / "cells.png", optimize=True)


if __name__ == "__main__":
    main()
