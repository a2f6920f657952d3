"""From an HTTP body to pictures: bounded reading, form fields, and what a picture is."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Self

from python_multipart.multipart import parse_options_header
from starlette.requests import Request as HttpRequest

from engines.core import UInt8Array
from engines.preprocessing import ImageHeader, fit, preprocess, read_header
from service.errors import BadRequest, BodyTooLarge, ClientGone, RequestTimeout, UnsupportedMedia
from service.incoming import incoming_of
from service.inflate import body_encoding, inflate, most_inflated
from service.memory import Memory, Reservation

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
FORM_TYPE = "multipart/form-data"
FORM_FIELD = "image"
_MAX_FORM_FIELDS = 16
_MAX_BOUNDARY = 256
_MAX_PART_HEAD = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One image as it was sent: an encoded file, or pixels (H, W, 3) that are cropped already.

    header: of a file; pixels have none.
    """

    source: bytes | UInt8Array
    max_pixels: int
    header: ImageHeader | None = None

    @classmethod
    def encoded(cls, data: bytes, *, max_pixels: int) -> Self:
        """A file whose header was looked at; raises what `read_header` raises."""
        return cls(data, max_pixels, read_header(data, max_pixels=max_pixels))

    @classmethod
    def of_pixels(cls, pixels: UInt8Array) -> Self:
        """Pixels (H, W, 3) that fill the network's input."""
        return cls(pixels, pixels.shape[0] * pixels.shape[1])

    @property
    def num_bytes(self) -> int:
        """Memory that it holds as it was sent."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.nbytes

    def ready_at(self, size: int) -> UInt8Array | None:
        """The network's input where it is that already, else None: `at` then has work to do."""
        if isinstance(self.source, bytes) or self.source.shape[:2] != (size, size):
            return None
        return self.source

    def at(self, size: int, *, crop_ratio: float) -> UInt8Array:
        """The network's input (size, size, 3). Takes milliseconds; safe in any thread.

        Raises ImageError for a file that turns out to be damaged.
        """
        if isinstance(self.source, bytes):
            return preprocess(self.source, size, crop_ratio=crop_ratio, max_pixels=self.max_pixels)
        if self.source.shape[:2] == (size, size):
            return self.source
        return fit(self.source, size, crop_ratio=1.0)


async def read_body(
    request: HttpRequest,
    limit: int,
    *,
    limit_s: float | None = None,
    memory: Memory | None = None,
) -> bytes:
    """The whole body in one piece, inflated where it came compressed.

    limit: bytes, as sent and inflated. limit_s: for all of it. memory: where it is accounted while
    it grows; what is returned is accounted no more, so admit it before waiting for anything.

    Raises BodyTooLarge once `limit` bytes are announced or passed, RequestTimeout, QueueFull when
    there is no memory, UnsupportedMedia and BadRequest for a compressed body that is not accepted,
    ClientGone when the client leaves before its end.
    """
    encoding = body_encoding(request.headers.get("content-encoding"))
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > limit):
        raise BodyTooLarge(f"the body has {announced[:18]} bytes, the limit is {limit:,}")
    with nullcontext() if memory is None else memory.reserve() as room:
        incoming = incoming_of(request.scope)
        if incoming is not None and incoming.is_whole:
            # Nothing is waited for, and a timer costs more than the rest of this.
            body = await _received(request, limit, room)
        else:
            body = await _received_within(limit_s, request, limit, room)
        if encoding is None:
            return body
        if room is not None:
            room.grow(most_inflated(len(body), limit))
        return await inflate(body, encoding, limit)


async def _received_within(
    limit_s: float | None, request: HttpRequest, limit: int, room: Reservation | None
) -> bytes:
    try:
        async with asyncio.timeout(limit_s):
            return await _received(request, limit, room)
    except TimeoutError:
        raise RequestTimeout(f"the body took more than {limit_s:g} s to arrive") from None


async def _received(request: HttpRequest, limit: int, room: Reservation | None) -> bytes:
    chunks: list[bytes] = []
    received, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client left while it was sending")
        chunk, more = message.get("body", b""), message.get("more_body", False)
        received += len(chunk)
        if received > limit:
            raise BodyTooLarge(f"the body has more than {limit:,} bytes, which is the limit")
        if room is not None:
            room.grow(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


def image_of_body(body: bytes, content_type: str | None) -> bytes:
    """The encoded image in a body: all of it, or the field `image` of a form.

    Raises UnsupportedMedia for another content type, BadRequest for an empty body or a bad form.
    """
    if not body:
        raise BadRequest("the body is empty; send the bytes of a JPEG, PNG or WebP image")
    if content_type in IMAGE_TYPES:
        return body
    kind, options = parse_options_header(content_type or IMAGE_TYPES[-1])
    name = kind.decode("latin-1")
    if name == FORM_TYPE:
        return _form_field(body, options.get(b"boundary", b""))
    if name not in IMAGE_TYPES:
        raise UnsupportedMedia(
            f"content type '{name}' is not accepted; send {', '.join(IMAGE_TYPES)} or {FORM_TYPE} "
            f"(curl: -H 'content-type: image/jpeg' or -F {FORM_FIELD}=@FILE)"
        )
    return body


def _form_field(body: bytes, boundary: bytes) -> bytes:
    """The one field `image` of a multipart form (RFC 7578).

    Split in one go rather than by a parser that walks over bytes: the event loop runs this.
    """
    if not 1 <= len(boundary) <= _MAX_BOUNDARY:
        raise BadRequest(f"{FORM_TYPE} needs a boundary of 1 to {_MAX_BOUNDARY} bytes")
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary, _MAX_FORM_FIELDS + 2)
    names: list[str] = []
    image = b""
    for part in parts:
        if part.startswith(b"--"):
            break
        name, content = _form_part(part)
        names.append(name)
        if name == FORM_FIELD:
            image = content
    else:
        raise BadRequest(
            f"the form has no closing boundary: it is cut off, or has more than {_MAX_FORM_FIELDS} "
            "fields"
        )
    if names.count(FORM_FIELD) != 1:
        found = ", ".join(f"'{name}'" for name in names) or "none"
        raise BadRequest(f"the form must have one field '{FORM_FIELD}'; its fields: {found}")
    return image


def _form_part(part: bytes) -> tuple[str, bytes]:
    """Name and content of what stands between two boundaries."""
    head, blank, content = part.partition(b"\r\n\r\n")
    if not blank or len(head) > _MAX_PART_HEAD:
        raise BadRequest("a field of the form has no readable header")
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.strip().lower() == b"content-disposition":
            _, options = parse_options_header(value.strip())
            return options.get(b"name", b"").decode("utf-8", errors="replace"), content
    raise BadRequest("a field of the form has no content-disposition")
