"""From an HTTP body to pixels: forms taken apart, and pictures at any size."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import ImageError, ImageTooLarge, UnsupportedImage
from engines.preprocessing import preprocess
from service.errors import BadRequest, UnsupportedMedia
from service.images import Picture, image_of_body
from tests.service.scripted import jpeg, pixels

BOUNDARY = b"edge"
FORM = "multipart/form-data; boundary=edge"


def part(
    content: bytes = b"IMAGE", head: bytes = b'content-disposition: form-data; name="image"'
) -> bytes:
    return b"--edge\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--edge--\r\n"


@pytest.mark.parametrize(
    "content", [b"x", b"", b"a\r\n\r\nb", b"--edg\r\n--", b"\r\n", bytes(range(256))], ids=repr
)
def test_form_field_is_taken_byte_for_byte(content: bytes) -> None:
    assert image_of_body(form(part(content)), FORM) == content


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; name="image"; filename="a"\r\ncontent-type: image/jpeg',
        b"content-type: text/plain\r\ncontent-disposition:form-data;name=image",
        b'CONTENT-DISPOSITION: form-data; filename="name=x"; name="image"',
    ],
)
def test_heads_are_read_as_clients_write_them(head: bytes) -> None:
    assert image_of_body(form(part(head=head)), FORM) == b"IMAGE"


def test_text_before_and_after_the_form_does_not_count() -> None:
    body = b"preamble\r\n" + form(part()) + b"epilogue"
    assert image_of_body(body, 'multipart/form-data; boundary="edge"') == b"IMAGE"


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"", None, "the body is empty"),
        (b"", FORM, "the body is empty"),
        (form(part()), "multipart/form-data", "needs a boundary of 1 to 256 bytes"),
        (form(part()), "multipart/form-data; boundary=" + "x" * 257, "needs a boundary"),
        (part(), FORM, "no closing boundary"),
        (b"no form at all", FORM, "no closing boundary"),
        (form(*[part()] * 40), FORM, "more than 16 fields"),
        (form(part(), part()), FORM, "one field 'image'; its fields: 'image', 'image'"),
        (form(), FORM, "its fields: none"),
        (form(part(head=b"x: y")), FORM, "no content-disposition"),
        (form(b"--edge\r\nno head"), FORM, "no readable header"),
        (form(part(head=b"x: " + bytes(5000))), FORM, "no readable header"),
    ],
)
def test_bad_body_is_refused(body: bytes, content_type: str | None, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        image_of_body(body, content_type)


@pytest.mark.parametrize("content_type", ["text/html", "image/jpeg2", "multipart/mixed", "/", "é"])
def test_other_content_type_is_refused_with_a_way_out(content_type: str) -> None:
    with pytest.raises(UnsupportedMedia, match=r"send image/jpeg, .* -F image=@FILE"):
        image_of_body(b"x", content_type)


@given(
    body=st.binary()
    | st.lists(st.sampled_from([part(), b"--edge--", b"\r\n", b"x"])).map(b"".join),
    content_type=st.none()
    | st.text(st.characters(max_codepoint=255))
    | st.text(st.characters(max_codepoint=255)).map(FORM.__add__),
)
def test_whatever_is_sent_gives_bytes_or_an_error_of_ours(
    body: bytes, content_type: str | None
) -> None:
    with contextlib.suppress(BadRequest, UnsupportedMedia):
        assert isinstance(image_of_body(body, content_type), bytes)


@given(head=st.binary(max_size=80).map(b"content-disposition: form-data; name".__add__))
def test_whatever_a_field_is_called_gives_bytes_or_an_error_of_ours(head: bytes) -> None:
    with contextlib.suppress(BadRequest):
        image_of_body(form(part(head=head)), FORM)


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"", ImageError), (b"text", UnsupportedImage), (jpeg(size=200), ImageTooLarge)],
)
def test_headers_are_checked_before_anything_is_decoded(
    data: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        Picture.encoded(data, max_pixels=199 * 200)


def test_encoded_picture_is_preprocessed_as_everywhere_else() -> None:
    data = jpeg("green", 100)
    picture = Picture.encoded(data, max_pixels=10_000)
    assert picture.num_bytes == len(data)
    expected = preprocess(data, 24, crop_ratio=0.875)
    np.testing.assert_array_equal(picture.at(24, crop_ratio=0.875), expected)


def test_pixels_of_the_right_size_are_used_as_they_are() -> None:
    array = pixels()
    picture = Picture.of_pixels(array)
    assert picture.at(32, crop_ratio=0.5) is array
    assert picture.num_bytes == 32 * 32 * 3


def test_pixels_are_cropped_already_and_only_scaled() -> None:
    array = np.zeros((32, 32, 3), np.uint8)
    array[:2], array[-2:] = 255, 255
    small = Picture.of_pixels(array).at(16, crop_ratio=0.5)
    assert small.shape == (16, 16, 3)
    assert small[0].mean() > 200
