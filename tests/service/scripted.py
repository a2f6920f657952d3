"""A service without a network: an engine that answers by colour, its manifest, and pictures.

The engine can be told to wait or to fail, so that tests decide what happens when.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image

from engines.architecture import ResNet, Stage
from engines.bundle import (
    Accuracy,
    BlockScales,
    Calibration,
    Manifest,
    PointRecord,
    Preprocessing,
    Provenance,
    Quantisation,
    WeightsFile,
)
from engines.core import (
    Glance,
    OperatingPoint,
    Output,
    Paradigm,
    UInt8Array,
    check_batch,
    static_point,
)
from engines.errors import EngineError
from service.model import Loader, Model
from service.settings import Settings

LABELS = ("red", "green", "blue")
SIZE, SMALL = 32, 24
HASH = "0123456789abcdef" * 4
NUM_MASKERS = 2
# No wait in these tests is expected to last; this only ends a hanging one.
PATIENCE_S = 30.0
# Seconds of a call of one image at each point; two take twice as long.
SECONDS = {"full": 0.010, "skip": 0.007, "small": 0.004}


def manifest(name: str = "colours") -> Manifest:
    """Three labels and three points: full@32, small@24 and skip@32."""
    spatial = Stage(depth=1, width=4, paradigm=Paradigm.SPATIAL, spatial_granularity=2)
    skip = OperatingPoint(
        name="skip", image_size=SIZE, thresholds=(0.0, 0.5), caps=(None,) * NUM_MASKERS
    )
    measured = Accuracy(value=0.9, low=0.8, high=0.95, images=100, split="validation")
    return Manifest(
        name=name,
        labels=LABELS,
        preprocessing=Preprocessing(
            crop_ratio=1.0, channel_order="rgb", mean=(0, 0, 0), std=(1, 1, 1)
        ),
        architecture=ResNet(stem_width=4, stages=(spatial, spatial), num_classes=len(LABELS)),
        points=(
            _record(static_point("full", SIZE, NUM_MASKERS), 1.0, measured),
            _record(static_point("small", SMALL, NUM_MASKERS), 0.5, None),
            _record(skip, 0.7, None),
        ),
        weights=WeightsFile(dtype="fp32", sha256=HASH),
        provenance=Provenance(config={}),
        versions={"laudserve": "0"},
    )


def glancing(again: float = 0.25) -> Manifest:
    """The same points, of which `skip` looks at 24 pixels first."""
    of = manifest()
    full, small, skip = of.points
    point = skip.point.model_copy(update={"glance": Glance(image_size=SMALL, confidence=0.8)})
    changed = skip.model_copy(update={"point": point, "again": again})
    return of.model_copy(update={"points": (full, small, changed)})


def quantised(name: str = "colours") -> Manifest:
    """The same, calibrated in int8 too: there `skip` has lower thresholds and 0.6 of the work."""
    floating = manifest(name)
    full, small, skip = floating.points
    lower = skip.point.model_copy(update={"thresholds": (-1.0, -0.5)})
    measured = Accuracy(value=0.8, low=0.7, high=0.87, images=100, split="validation")
    net = floating.architecture
    return Manifest.model_validate(
        {
            **dict(floating),
            "architecture": net.model_copy(update={"folded": True}),
            "quantisation": Quantisation(
                stem=0.1,
                trunk=(0.1,) * len(net.stages),
                blocks=tuple(
                    BlockScales(inner1=0.1, inner2=0.1, shortcut=0.1 if block.projection else None)
                    for block in net.blocks
                ),
                features=0.1,
                points=(
                    full.model_copy(update={"accuracy": measured}),
                    small,
                    _record(lower, 0.6, measured),
                ),
                calibration=Calibration(
                    images=64, split="train", method="mse", agreement=(0.97, 0.96, 0.95)
                ),
            ),
        }
    )


def _record(point: OperatingPoint, ratio: float, accuracy: Accuracy | None) -> PointRecord:
    return PointRecord(
        point=point,
        accuracy=accuracy,
        agreement=0.9 if accuracy else None,
        activation=(1.0,) * NUM_MASKERS,
        macs=1e6 * ratio,
        macs_ratio=ratio,
    )


class ScriptedEngine:
    """Answers each image with the shares of red, green and blue in it.

    batches: the points' names of every batch after the warm-up; points: those of the last one.
    While held, `infer` waits inside, and `entered` says that it does. `fault` may raise for a
    batch. `spend` is told how long a call takes, `pace` times what `SECONDS` says. looks_again:
    whether images are, at points that glance; the first look takes as long as `small`.
    """

    name = "scripted"

    def __init__(self, precision: str = "fp32") -> None:
        self.precision = precision
        self.batches: list[tuple[str, ...]] = []
        self.points: tuple[OperatingPoint, ...] = ()
        self.entered = threading.Event()
        self.fault: Callable[[UInt8Array], None] = lambda images: None
        self.spend: Callable[[float], None] = lambda seconds: None
        self.pace = 1.0
        self.looks_again = True
        self.is_closed = False
        self._open = threading.Event()
        self._open.set()

    def hold(self) -> None:
        """Make the next batch wait for `release`."""
        self.entered.clear()
        self._open.clear()

    def release(self) -> None:
        """Let every batch pass."""
        self._open.set()

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        """See `engines.core.Engine`."""
        if self.is_closed:
            raise EngineError("the engine is closed")
        check_batch(images, points, NUM_MASKERS)
        self.points = tuple(points)
        self.batches.append(tuple(point.name for point in points))
        self.entered.set()
        if not self._open.wait(PATIENCE_S):
            raise EngineError("the test never released the engine")
        self.spend(self.pace * sum(map(self._seconds, points)))
        self.fault(images)
        shares = images.mean(axis=(1, 2)) + 1.0
        rates = [1.0 if point.skips_nothing else 0.5 for point in points]
        arrays = {"probabilities": (shares / shares.sum(axis=1, keepdims=True)).astype("f4")}
        if any(point.glance for point in points):
            arrays["again"] = np.array([self.looks_again or not point.glance for point in points])
        return Output(
            arrays=arrays,
            activation=np.repeat(np.array(rates, np.float32)[:, None], NUM_MASKERS, axis=1),
            macs=np.array(rates) * 1e6,
            durations_s={"prepare": 0.001, "network": 0.002},
        )

    def _seconds(self, point: OperatingPoint) -> float:
        own_s = SECONDS.get(point.name, 0.0)
        if point.glance is None:
            return own_s
        return SECONDS["small"] + own_s * self.looks_again

    def close(self) -> None:
        """See `engines.core.Engine`."""
        self.is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def loader_of(*models: Model) -> Loader:
    """A loader of exactly these models."""

    def load(settings: Settings) -> Iterator[Model]:
        yield from models

    return load


def model(name: str = "colours", engine: ScriptedEngine | None = None) -> Model:
    """A model on a scripted engine."""
    return Model(manifest(name), HASH, engine or ScriptedEngine())


def profile(
    served: Model, max_batch: int, tables: object = None
) -> Mapping[str, tuple[float, ...]]:
    """What the calls of a scripted model take, without measuring."""
    return {
        point: tuple(SECONDS[point] * n for n in range(1, max_batch + 1))
        for point in served.point_names
    }


def pixels(colour: str = "red", size: int = SIZE) -> UInt8Array:
    """A picture (size, size, 3) that is mostly of that label's colour, or grey."""
    picture = np.full((size, size, 3), 20, np.uint8)
    if colour != "grey":
        picture[..., LABELS.index(colour)] = 200
    return picture


def jpeg(colour: str = "red", size: int = 64) -> bytes:
    """A JPEG that is mostly of that label's colour."""
    return bytes(simplejpeg.encode_jpeg(pixels(colour, size), colorsubsampling="444"))


def encoded(file_format: str, colour: str = "red") -> bytes:
    """The same as PNG or WEBP."""
    file = io.BytesIO()
    Image.fromarray(pixels(colour)).save(file, file_format)
    return file.getvalue()
