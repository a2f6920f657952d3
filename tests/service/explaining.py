"""A service of one detector with a real engine, and pictures that are not everywhere alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import numpy as np
from PIL import Image

from engines.bundle import Bundle
from engines.core import Engine, UInt8Array
from service.app import create_app
from service.model import Model
from service.objectives import SloClass
from service.service import Service
from service.settings import Settings
from tests.service.detectors import encoded
from tests.service.scripted import loader_of, profile


@asynccontextmanager
async def asking(bundle: Bundle, engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service with that engine, which it closes."""
    settings = Settings(slo_classes={"default": SloClass(slo_ms=60_000.0)})
    service = Service(settings, loader_of(Model(bundle.manifest, bundle.hash, engine)), profile)
    await service.start()
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://laud") as client:
        yield client
    await service.stop()


def picture(width: int, height: int) -> UInt8Array:
    """Noise that is brighter towards the right and, in stripes, towards the bottom."""
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    across, down = np.linspace(0, 120, width), np.arange(height) * 4 // height % 2 * 60
    return (noise + across[None, :, None] + down[:, None, None]).astype(np.uint8)


def png(pixels: UInt8Array) -> bytes:
    """Its file."""
    return encoded(Image.fromarray(pixels))
