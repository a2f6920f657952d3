"""How large activations get: histograms of every tensor that int8 rounds, and scales from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engines.architecture import ResNet
from engines.bundle import BlockScales, Preprocessing
from engines.core import OperatingPoint, UInt8Array
from engines.models.inputs import normalise
from engines.models.resnet import Bottleneck, LaudResNet
from engines.quantisation import WEIGHT_MAX
from engines.reference.deciding import point_decision

Method = Literal["max", "percentile", "mse"]
METHODS: tuple[Method, ...] = ("max", "percentile", "mse")

_BINS = 4096
_SHARE = 0.9999
_CANDIDATES = np.linspace(0.2, 1.0, 81)
_STEPS = 255
_BATCH = 16
_MOST_VIEWS = 2560


class Histogram:
    """Counts of absolute values in equal bins from 0 up, whose range grows with what comes."""

    def __init__(self) -> None:
        self.limit = 0.0
        self.largest = 0.0
        self.counts: npt.NDArray[np.float64] = np.zeros(_BINS)

    def add(self, values: Tensor) -> None:
        """Count float32 values of any shape and sign; there may be none."""
        if not values.numel():
            return
        values = values.abs()
        largest = float(values.max())
        self.largest = max(self.largest, largest)
        if self.limit == 0.0:
            self.limit = largest
        if self.limit == 0.0:
            return
        while self.limit < largest:
            self.limit *= 2
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(_BINS // 2)])
        self.counts += torch.histc(values, _BINS, 0.0, self.limit).double().numpy()

    def merged(self, other: Histogram) -> Histogram:
        """Both together, in bins of the wider one's range (each range is moved to its middle)."""
        wide, narrow = (self, other) if self.limit >= other.limit else (other, self)
        both = Histogram()
        both.limit, both.largest = wide.limit, max(wide.largest, narrow.largest)
        both.counts = wide.counts.copy()
        if narrow.limit > 0:
            places = (narrow.middles * (_BINS / wide.limit)).astype(np.int64)
            np.add.at(both.counts, np.minimum(places, _BINS - 1), narrow.counts)
        return both

    @property
    def middles(self) -> npt.NDArray[np.float64]:
        """The value that stands for each bin."""
        return (np.arange(_BINS, dtype=np.float64) + 0.5) * (self.limit / _BINS)

    def range(self, method: Method, steps: int = _STEPS) -> float:
        """Where to clip: at the largest value, at that which 99.99 % do not exceed, or where
        rounding to `steps` steps leaves the least mean squared error. 1 where all is 0."""
        if self.limit == 0.0:
            return 1.0
        if method == "max":
            return self.largest
        if method == "percentile":
            below = np.cumsum(self.counts)
            first = int(np.searchsorted(below, _SHARE * below[-1]))
            return min((first + 1) * self.limit / _BINS, self.largest)
        limits = _CANDIDATES * self.largest
        return float(limits[np.argmin([self._error(limit, steps) for limit in limits])])

    def _error(self, limit: float, steps: int) -> float:
        scale = limit / steps
        rounded = np.minimum(np.rint(self.middles / scale), steps) * scale
        return float(self.counts @ (rounded - self.middles) ** 2)


class Ranges:
    """Histograms by tensor name: `stem`, `features`, and per block `inner1`, `inner2`, `shortcut`
    and `output`."""

    def __init__(self, net: ResNet) -> None:
        self._net = net
        self._found: dict[str, Histogram] = {}

    def add(self, name: str, values: Tensor) -> None:
        self._found.setdefault(name, Histogram()).add(values)

    def scales(self, method: Method) -> dict[str, Any]:
        """The scales of a classifier's `engines.bundle.Quantisation` by field."""
        return {**self.backbone(method), "features": self.scale("features", method)}

    def backbone(self, method: Method) -> dict[str, Any]:
        """Those of stem and blocks."""
        return {
            "stem": self.scale("stem", method),
            "trunk": tuple(self._trunk(s, method) for s in range(len(self._net.stages))),
            "blocks": tuple(
                BlockScales(
                    inner1=self.scale(f"{block.name}.inner1", method),
                    inner2=self.scale(f"{block.name}.inner2", method),
                    shortcut=(
                        self.scale(f"{block.name}.shortcut", method, WEIGHT_MAX)
                        if block.projection
                        else None
                    ),
                )
                for block in self._net.blocks
            ),
        }

    def scale(self, name: str, method: Method, steps: int = _STEPS) -> float:
        """The value of one of so many steps from 0; WEIGHT_MAX where numbers have a sign."""
        return self._found.get(name, Histogram()).range(method, steps) / steps

    def _trunk(self, stage: int, method: Method) -> float:
        first, *rest = (b for b in self._net.blocks if b.stage == stage)
        both = self._found[f"{first.name}.output"]
        for block in rest:
            both = both.merged(self._found[f"{block.name}.output"])
        return both.range(method) / _STEPS


@torch.no_grad()
def observe(
    model: LaudResNet,
    points: Sequence[OperatingPoint],
    pixels: Callable[[int], UInt8Array],
    preprocessing: Preprocessing,
    say: Callable[[str], None],
) -> Ranges:
    """Activations of a folded network at every point; `pixels` gives images by their size.

    Where there are many points, each sees its own share of the images, evenly spread.
    """
    ranges = Ranges(model.net)
    model.eval()
    handles = [model.fc.register_forward_pre_hook(input_of("features", ranges))]
    with watched([*handles, *watch_backbone(model, ranges)]):
        for i, point in enumerate(points):
            say(f"observing activations at '{point.name}'")
            decide = point_decision(point)
            images = pixels(point.image_size)
            share = -(-len(images) * len(points) // _MOST_VIEWS)
            images = images[i % share :: share]
            for start in range(0, len(images), _BATCH):
                x = normalise(images[start : start + _BATCH], preprocessing)
                model(x, decide)
    return ranges


def watch_backbone(model: LaudResNet, ranges: Ranges) -> list[Any]:
    """Hooks on stem and blocks, for `watched`."""
    first = model.bottlenecks()[0]
    handles: list[Any] = [first.register_forward_pre_hook(input_of("stem", ranges))]
    for block in model.bottlenecks():
        handles += _watch_block(block, ranges)
    return handles


@contextmanager
def watched(handles: Sequence[Any]) -> Iterator[None]:
    """Removes hooks in the end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watch_block(block: Bottleneck, ranges: Ranges) -> list[Any]:
    name = block.block.name
    handles: list[Any] = [
        # What enters the next convolution: after ReLU, and 0 in channels that are skipped.
        block.conv2.register_forward_pre_hook(input_of(f"{name}.inner1", ranges)),
        block.conv3.register_forward_pre_hook(input_of(f"{name}.inner2", ranges)),
        block.register_forward_hook(
            lambda module, inputs, output: ranges.add(f"{name}.output", output[0])
        ),
    ]
    if block.downsample is not None:
        handles.append(
            block.downsample.register_forward_hook(
                lambda module, inputs, output: ranges.add(f"{name}.shortcut", output)
            )
        )
    return handles


def input_of(name: str, ranges: Ranges) -> Callable[[Any, tuple[Tensor, ...]], None]:
    """A hook that counts what a module is given."""
    return lambda module, inputs: ranges.add(name, inputs[0])
