"""The sample pictures: there, small, what the renderer draws, and usable as they are."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from engines.preprocessing import decode, read_header
from service.samples import sample_names, sample_path
from service.samples.render import GARMENTS, SIZE, render

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
