"""From an HTTP body to the engine's pixels: bounded reading, form fields, the decode pool."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from engines.core import UInt8Array
from engines.preprocessing import fit, preprocess, read_header
from service.errors import BadRequest, BodyTooLarge, ClientGone, UnsupportedMedia

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
FORM_TYPE = "multipart/form-data"
FORM_FIELD = "image"
POINT_HEADER = "x-operating-point"
_MAX_FORM_FIELDS = 16
_MAX_BOUNDARY = 256
_MAX_PART_HEAD = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One image as it was sent: an encoded file, or pixels (H, W, 3) that are cropped already."""

    source: bytes | UInt8Array
    max_pixels: int

    @classmethod
    def encoded(cls, data: bytes, *, max_pixels: int) -> Picture:
        """A file whose header was looked at; raises what `read_header` raises."""
        read_header(data, max_pixels=max_pixels)
        return cls(data, max_pixels)

    @classmethod
    def of_pixels(cls, pixels: UInt8Array) -> Picture:
        """Pixels (H, W, 3) that fill the network's input."""
        return cls(pixels, pixels.shape[0] * pixels.shape[1])

    @property
    def num_bytes(self) -> int:
        """Memory that it holds as it was sent."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.nbytes

    def at(self, size: int, *, crop_ratio: float) -> UInt8Array:
        """The network's input (size, size, 3). Takes milliseconds; safe in any thread.

        Raises ImageError for a file that turns out to be damaged.
        """
        if isinstance(self.source, bytes):
            return preprocess(self.source, size, crop_ratio=crop_ratio, max_pixels=self.max_pixels)
        if self.source.shape[:2] == (size, size):
            return self.source
        return fit(self.source, size, crop_ratio=1.0)


class Decoder:
    """A pool of threads that turns pictures into pixels, so that the event loop never does."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="laud-decode")

    async def decode(self, picture: Picture, size: int, *, crop_ratio: float) -> UInt8Array:
        """`picture.at(size)` on one of the threads; cancelling drops it while it waits for one."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._pool, lambda: picture.at(size, crop_ratio=crop_ratio)
        )

    def close(self) -> None:
        """Start nothing more; what runs finishes."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def read_body(request: HttpRequest, limit: int) -> bytes:
    """The whole body, in one piece.

    Raises BodyTooLarge once `limit` bytes are announced or passed, UnsupportedMedia for a
    compressed body, ClientGone when the client leaves before its end.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMedia(f"content-encoding '{encoding}' is not accepted; send it as it is")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > limit):
        raise BodyTooLarge(f"the body has {announced[:18]} bytes, the limit is {limit:,}")
    chunks: list[bytes] = []
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                raise BodyTooLarge(f"the body has more than {limit:,} bytes, which is the limit")
            chunks.append(chunk)
    except ClientDisconnect:
        raise ClientGone("the client left while it was sending") from None
    return b"".join(chunks)


def image_of_body(body: bytes, content_type: str | None) -> bytes:
    """The encoded image in a body: all of it, or the field `image` of a form.

    Raises UnsupportedMedia for another content type, BadRequest for an empty body or a bad form.
    """
    if not body:
        raise BadRequest("the body is empty; send the bytes of a JPEG, PNG or WebP image")
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
