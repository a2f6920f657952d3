"""The page that Prometheus reads, made in parts so that requests do not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

_OPENMETRICS = "application/openmetrics-text"
_END = b"# EOF\n"
"""How a page of OpenMetrics ends."""


async def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The page of a registry, and its content type for that `accept` header.

    Other tasks run between any two families: in one go it would hold up every request for about as
    long as an image takes.
    """
    encode, content_type = choose_encoder(accept)
    parts: list[bytes] = []
    for family in registry.collect():
        parts.append(encode(_Only(family)).removesuffix(_END))
        await asyncio.sleep(0)
    if content_type.startswith(_OPENMETRICS):
        parts.append(_END)
    return b"".join(parts), content_type


class _Only(Collector):
    """A registry of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family
