"""Small pictures for the README, tests and warm-up, drawn by `render` and `cells` beside it."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def sample_names() -> tuple[str, ...]:
    """Labels that have a sample."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.jpg")))


def sample_path(name: str) -> Path:
    """The JPEG of the garment called `name`; ValueError lists what there is."""
    path = _FOLDER / f"{name}.jpg"
    if name not in sample_names():
        raise ValueError(f"no sample '{name}'; there are: {', '.join(sample_names())}")
    return path
