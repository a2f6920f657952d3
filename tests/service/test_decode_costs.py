"""What decoding will cost: from the header and the number of bytes, corrected as files come."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.preprocessing import ImageHeader
from service.decode_costs import DecodeCosts, measure_decoding

SMALL = ImageHeader("JPEG", 500, 375)
LARGE = ImageHeader("JPEG", 4000, 3000)
FORMATS = ("JPEG", "PNG", "WEBP")

headers = st.builds(
    ImageHeader, st.sampled_from(FORMATS), st.integers(1, 8000), st.integers(1, 5000)
)


def test_more_pixels_more_bytes_and_a_larger_result_cost_more() -> None:
    costs = DecodeCosts()
    assert costs.predict(LARGE, 224) > costs.predict(SMALL, 224)
    assert costs.predict(SMALL, 224) > costs.predict(SMALL, 64)
    usual = costs.predict(SMALL, 224, num_bytes=50_000)
    assert costs.predict(SMALL, 224, num_bytes=150_000) > usual


def test_a_jpeg_that_may_come_smaller_costs_less() -> None:
    """Decoders halve the sides of a JPEG for free, not those of a PNG."""
    costs = DecodeCosts()
    in_full = costs.predict(LARGE, 3000, num_bytes=1) - costs.predict(LARGE, 375, num_bytes=1)
    png = ImageHeader("PNG", 4000, 3000)
    only_larger = costs.predict(png, 3000, num_bytes=1) - costs.predict(png, 375, num_bytes=1)
    assert in_full > only_larger
    assert costs.predict(LARGE, 375) < costs.predict(LARGE, 376)
    # What is cropped away has to be decoded.
    assert costs.predict(LARGE, 375, crop_ratio=0.875) > costs.predict(LARGE, 375)


def test_a_format_is_corrected_by_what_its_files_took() -> None:
    costs = DecodeCosts()
    jpeg_s, png_s = (costs.predict(ImageHeader(f, 640, 480), 128) for f in ("JPEG", "PNG"))
    for _ in range(64):
        costs.observe(ImageHeader("JPEG", 640, 480), 128, 3.0 * jpeg_s)
    assert costs.predict(ImageHeader("JPEG", 640, 480), 128) == pytest.approx(3.0 * jpeg_s)
    assert costs.predict(ImageHeader("PNG", 640, 480), 128) == png_s


def test_plans_cover_nine_of_ten_and_ignore_the_odd_straggler() -> None:
    costs = DecodeCosts()
    usual_s = costs.predict(SMALL, 128)
    for turn in range(200):
        costs.observe(SMALL, 128, usual_s * (1000.0 if turn % 20 == 0 else 1.0))
    assert costs.predict(SMALL, 128) == pytest.approx(usual_s)
    for turn in range(200):
        costs.observe(SMALL, 128, usual_s * (2.0 if turn % 5 == 0 else 1.0))
    assert costs.predict(SMALL, 128) == pytest.approx(2.0 * usual_s)


@given(headers, st.integers(1, 4096), st.lists(st.floats(), max_size=80))
def test_whatever_is_observed_predictions_are_above_0_and_finite(
    header: ImageHeader, size: int, taken: list[float]
) -> None:
    costs = DecodeCosts()
    for seconds in taken:
        costs.observe(header, size, seconds)
    assert 0.0 < costs.predict(header, size) < math.inf


def test_the_start_sets_the_scale_by_a_packaged_picture() -> None:
    """A machine whose clock says that decoding takes 5 ms each time."""
    ticks = iter(range(100))
    slow = measure_decoding(clock=lambda: next(ticks) * 0.005)
    ticks = iter(range(100))
    slower = measure_decoding(clock=lambda: next(ticks) * 0.010)
    for name in FORMATS:
        header = ImageHeader(name, 640, 480)
        assert slower.predict(header, 64) == pytest.approx(2.0 * slow.predict(header, 64))
