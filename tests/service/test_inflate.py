"""Compressed bodies: what is accepted, and how large one may become."""

from __future__ import annotations

import contextlib
import gzip
import random
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadRequest, BodyTooLarge, UnsupportedMedia
from service.inflate import MAX_RATIO, body_encoding, inflate, most_inflated

LIMIT = 10 * 2**20
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
}

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("header", "encoding"),
    [(None, None), ("", None), ("identity", None), (" GZIP ", "gzip"), ("deflate", "deflate"),
     ("x-gzip", "x-gzip")],
)  # fmt: skip
def test_encodings_that_are_known(header: str | None, encoding: str | None) -> None:
    assert body_encoding(header) == encoding


@pytest.mark.parametrize("header", ["br", "zstd", "gzip, gzip", "identity, gzip", "é", "x" * 999])
def test_other_encodings_are_refused_with_a_way_out(header: str) -> None:
    with pytest.raises(UnsupportedMedia, match="is not accepted; send gzip, deflate, or the body"):
        body_encoding(header)


@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize("size", [0, 1, 1000, 200_000], ids=str)
async def test_what_was_compressed_comes_back(encoding: str, size: int) -> None:
    body = random.Random(size).randbytes(size)
    assert await inflate(COMPRESS[encoding](body), encoding, LIMIT) == body


def test_how_large_a_body_may_become() -> None:
    assert most_inflated(10**5, LIMIT) == MAX_RATIO * 10**5
    assert most_inflated(10**6, LIMIT) == LIMIT
    # Short text in long runs is no bomb.
    assert most_inflated(100, LIMIT) == 64 * 1024
    assert most_inflated(100, 5000) == 5000


@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize("size", [10**6, 10**8], ids=str)
async def test_a_bomb_is_refused(encoding: str, size: int) -> None:
    bomb = COMPRESS[encoding](bytes(size))
    with pytest.raises(BodyTooLarge, match="inflates to more than"):
        await inflate(bomb, encoding, LIMIT)


async def test_the_limit_holds_to_the_byte() -> None:
    body = random.Random(1).randbytes(100_000)
    assert len(await inflate(gzip.compress(body), "gzip", 100_000)) == 100_000
    with pytest.raises(BodyTooLarge, match="more than 99,999"):
        await inflate(gzip.compress(body), "gzip", 99_999)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "ends before its gzip data does"),
        (b"text", "is not valid gzip"),
        (zlib.compress(b"x"), "is not valid gzip"),
        (gzip.compress(b"x" * 100)[:-5], "ends before its gzip data does"),
        (gzip.compress(b"x") + b"more", "4 bytes follow the gzip data"),
        (gzip.compress(b"x" * 100)[:-8] + bytes(8), "is not valid gzip"),
    ],
    ids=["empty", "text", "zlib", "cut", "more", "checksum"],
)
async def test_damaged_data_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        await inflate(body, "gzip", LIMIT)


@given(body=st.binary(), encoding=st.sampled_from(sorted(COMPRESS)), cut=st.integers(0, 30))
async def test_whatever_is_sent_gives_bytes_or_an_error_of_ours(
    body: bytes, encoding: str, cut: int
) -> None:
    for sent in (body, COMPRESS[encoding](body)[cut:], COMPRESS[encoding](body)[: cut + 1]):
        with contextlib.suppress(BadRequest, BodyTooLarge):
            assert len(await inflate(sent, encoding, 1000)) <= 1000
