"""Compressed request bodies, inflated within bounds: a small body must not become a large one."""

from __future__ import annotations

import asyncio
import zlib

from service.errors import BadRequest, BodyTooLarge, UnsupportedMedia

MAX_RATIO = 20
"""Images hardly shrink, tensors as JSON about tenfold; more is a bomb."""

# What tritonclient's algorithms produce. `zlib` means both container formats: RFC 1950 and 1952.
_WINDOW_BITS = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": 15}
# Below it, headers of the container and long runs make ratios meaningless.
_SMALL_BYTES = 64 * 1024
# Inflating that much takes a tenth of a millisecond; a thread would cost as much.
_INLINE_BYTES = 16 * 1024


def body_encoding(header: str | None) -> str | None:
    """The encoding that a `content-encoding` header names; None where the body is as it is.

    Raises UnsupportedMedia for any that is not accepted, and for several.
    """
    encoding = (header or "").strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding not in _WINDOW_BITS:
        raise UnsupportedMedia(
            f"content-encoding '{encoding:.64}' is not accepted; send gzip, deflate, or the body "
            "as it is"
        )
    return encoding


def most_inflated(num_bytes: int, limit: int) -> int:
    """How large a body of so many compressed bytes may become, of at most `limit`."""
    return min(limit, max(MAX_RATIO * num_bytes, _SMALL_BYTES))


async def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """The body behind an encoding of `body_encoding`; large ones on a thread.

    Raises BodyTooLarge beyond `most_inflated`, BadRequest for damaged or surplus data.
    """
    most = most_inflated(len(body), limit)
    if len(body) <= _INLINE_BYTES:
        return _inflate(body, encoding, most)
    return await asyncio.to_thread(_inflate, body, encoding, most)


def _inflate(body: bytes, encoding: str, most: int) -> bytes:
    stream = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        inflated = stream.decompress(body, most + 1)
    except zlib.error:
        raise BadRequest(f"the body is not valid {encoding}") from None
    if len(inflated) > most:
        raise BodyTooLarge(
            f"the body of {len(body):,} bytes inflates to more than {most:,}, which is the limit"
        )
    if not stream.eof:
        raise BadRequest(f"the body ends before its {encoding} data does")
    if stream.unused_data:
        raise BadRequest(f"{len(stream.unused_data):,} bytes follow the {encoding} data")
    return inflated
