"""The sample pictures: there, small, what the renderer draws, and usable as they are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.bundle import read_bundle
from engines.cpu.detector import CpuDetector
from engines.detection.letterbox import decode_whole
from engines.preprocessing import decode, read_header
from service.samples import cells, sample_names, sample_path
from service.samples.render import GARMENTS, SIZE, render

CELLS = Path(cells.__file__).with_name("cells.png")

each_sample = pytest.mark.parametrize("name", sorted(GARMENTS))


def test_every_garment_has_a_sample() -> None:
    assert sample_names() == tuple(sorted(GARMENTS))


@each_sample
def test_samples_are_small_jpegs(name: str) -> None:
    data = sample_path(name).read_bytes()
    header = read_header(data)
    assert (header.format, header.width, header.height) == ("JPEG", SIZE, SIZE)
    assert len(data) < 40_000
    assert decode(data).shape == (SIZE, SIZE, 3)


@each_sample
def test_samples_are_what_the_renderer_draws(name: str) -> None:
    drawn = np.asarray(render(name), np.int16)
    shipped = decode(sample_path(name).read_bytes()).astype(np.int16)
    assert np.abs(drawn - shipped).mean() < 4.0


def test_rendering_is_reproducible_and_seeds_differ() -> None:
    def png(seed: int) -> bytes:
        file = io.BytesIO()
        render("hat", seed=seed).save(file, "PNG")
        return file.getvalue()

    assert png(0) == png(0)
    assert png(0) != png(1)


def test_pictures_differ() -> None:
    pixels = {render(name).resize((16, 16), Image.Resampling.BOX).tobytes() for name in GARMENTS}
    assert len(pixels) == len(GARMENTS)


@pytest.mark.parametrize("name", ["gloves", "../render", "hat.jpg", ""])
def test_unknown_sample_is_refused_and_the_known_are_listed(name: str) -> None:
    with pytest.raises(ValueError, match=r"there are: dress, hat, longsleeve"):
        sample_path(name)


def test_the_sample_of_cells_is_small_and_what_is_drawn() -> None:
    data = CELLS.read_bytes()
    header = read_header(data)
    assert (header.format, header.width, header.height) == ("PNG", cells.WIDTH, cells.HEIGHT)
    assert len(data) < 80_000
    drawn = np.asarray(cells.render().convert("RGB"), np.int16)
    assert np.abs(drawn - decode(data)).max() <= 1


@pytest.mark.parametrize("point", ["full", "skip-512-50"])
def test_every_cell_of_it_is_found(point: str) -> None:
    bundle = read_bundle("zoo:nuclei")
    chosen = bundle.manifest.point(point).point
    square = decode_whole(CELLS.read_bytes(), chosen.image_size)[np.newaxis]
    with CpuDetector(bundle, threads=1) as engine:
        output = engine.infer(square, [chosen])
    assert (output.arrays["scores"][0] >= 0.5).sum() == cells.NUMBER
