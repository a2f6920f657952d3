"""Computes only what is active, slowly and obviously: the specification that engines are held to.

One image in numpy, pixel by pixel, written apart from the code under test. What was not computed is
NaN, so that reading it shows in the answer, and every multiplication is counted where it happens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engines.architecture import RegNet, ResNet, Stage

Array = npt.NDArray[np.float64]
Pixel = tuple[int, int]

EVERYTHING = -np.inf


def decide(logits: Array, threshold: float | None, cap: int | None) -> list[int]:
    """Active units: logit >= threshold; under a cap the higher logits, ties to the lower index."""
    floor = EVERYTHING if threshold is None else threshold
    active = [unit for unit, logit in enumerate(logits) if logit >= floor]
    if cap is not None:
        active = sorted(active, key=lambda unit: (-logits[unit], unit))[:cap]
    return sorted(active)


@dataclass
class Decision:
    """What one masker that was asked said; `active` lists units (patches row by row, or groups)."""

    logits: Array
    active: list[int]


@dataclass
class Answer:
    """What one image came to. decisions: by masker, None where its point asks nothing of it."""

    logits: Array
    decisions: list[Decision | None]
    macs: Counter[str]

    @property
    def total_macs(self) -> int:
        """Of the whole network."""
        return sum(self.macs.values())


@dataclass
class Oracle:
    """A network of `net` with the weights of a state dict, in float64."""

    net: ResNet | RegNet
    state: Mapping[str, Array]

    @property
    def run(self) -> type[Run]:
        """What an image is taken through."""
        return Run

    def answer(
        self,
        image: Array,
        thresholds: Sequence[float | None],
        caps: Sequence[int | None] | None = None,
    ) -> Answer:
        """Run one image (3, H, W), normalised, at one point."""
        wishes = list(zip(thresholds, caps or [None] * len(thresholds), strict=True))
        run = self.run(self.net, self.state, wishes)
        logits = run.network(image)
        assert not run.wishes, "a masker was never reached"
        return Answer(logits, run.decisions, run.macs)


@dataclass
class Run:
    """One image on its way, with what is still wished of maskers and what has been counted."""

    net: ResNet | RegNet
    state: Mapping[str, Array]
    wishes: list[tuple[float | None, int | None]]
    decisions: list[Decision | None] = field(default_factory=list)
    macs: Counter[str] = field(default_factory=Counter)

    def network(self, image: Array) -> Array:
        """Class logits."""
        x = self.stem(image)
        for s, stage in enumerate(self.net.stages):
            for b in range(stage.depth):
                x = self._block(f"layer{s + 1}.{b}", stage, self.stride(s, b), x)
        features = x.mean(axis=(1, 2))
        logits: Array = self.state["fc.weight"] @ features + self.state["fc.bias"]
        self.macs["fixed"] += x.size + self.state["fc.weight"].size
        return logits

    def stride(self, stage: int, block: int) -> int:
        """Of a block; the stem's pool has halved the map that the first stage sees."""
        return 2 if stage > 0 and block == 0 else 1

    def stem(self, image: Array) -> Array:
        """A picture to the first block's input."""
        assert isinstance(self.net, ResNet)
        weight = self.state["conv1.weight"]
        framed = np.pad(image, ((0, 0), (3, 3), (3, 3)))
        conv = nothing(weight.shape[0], half(image.shape[1]), half(image.shape[2]))
        for i, j in pixels_of(conv):
            window = framed[:, 2 * i : 2 * i + 7, 2 * j : 2 * j + 7]
            conv[:, i, j] = relu(self.norm("conv1", "bn1", np.tensordot(weight, window, 3)))
            self.macs["fixed"] += weight.size
        if self.net.stem_pool == "padded":
            before, pooled = 1, nothing(weight.shape[0], half(conv.shape[1]), half(conv.shape[2]))
        else:
            # One pixel is added at the right and bottom, and none at the left and top.
            before = 0
            pooled = nothing(
                weight.shape[0], max(conv.shape[1] // 2, 1), max(conv.shape[2] // 2, 1)
            )
        for i, j in pixels_of(pooled):
            top, left = max(2 * i - before, 0), max(2 * j - before, 0)
            window = conv[:, top : 2 * i - before + 3, left : 2 * j - before + 3]
            pooled[:, i, j] = window.max(axis=(1, 2))
            self.macs["fixed"] += 9 * weight.shape[0]
        return pooled

    def _block(self, name: str, stage: Stage, stride: int, x: Array) -> Array:
        stride1, stride2 = (stride, 1) if self.net.stride_in_1x1 else (1, stride)
        height, width = (half(x.shape[1]), half(x.shape[2])) if stride == 2 else x.shape[1:]
        shortcut = self._shortcut(name, stride, x, height, width)
        pixels = [*pixels_of(shortcut)]
        channels = [*range(stage.width)]
        if stage.paradigm.masks_space:
            patch = stage.spatial_granularity or max(height, width)
            columns = -(-width // patch)
            patches = self._decide(lambda: self._spatial_logits(name, patch * stride, x))
            if patches is not None:
                pixels = [p for p in pixels if p[0] // patch * columns + p[1] // patch in patches]
        if stage.channel_granularity is not None:
            groups = self._decide(lambda: self._channel_logits(name, x))
            if groups is not None:
                channels = [k for k in channels if k // stage.channel_granularity in groups]
        inner = (height, width) if stride2 == 1 else x.shape[1:]
        middle = self.middle(pixels, shortcut)
        y = self._first(name, x, receptive_field(middle, stride2, inner), channels, stride1, inner)
        y = self.second(name, y, middle, channels, stride2, (height, width))
        y = self.excited(name, y, middle, pixels, channels)
        out = shortcut
        for i, j in pixels:
            out[:, i, j] += self._third(name, y[channels, i, j], channels)
        return relu(out)

    def _shortcut(self, name: str, stride: int, x: Array, height: int, width: int) -> Array:
        """Computed everywhere, whatever is skipped."""
        weight = self.state.get(f"{name}.downsample.0.weight")
        if weight is None:
            return x.copy()
        out = nothing(weight.shape[0], height, width)
        for i, j in pixels_of(out):
            value = weight[:, :, 0, 0] @ x[:, i * stride, j * stride]
            out[:, i, j] = self.norm(f"{name}.downsample.0", f"{name}.downsample.1", value)
            self.macs["projection"] += weight.size
        return out

    def _first(
        self,
        name: str,
        x: Array,
        pixels: set[Pixel],
        channels: list[int],
        stride: int,
        size: tuple[int, ...],
    ) -> Array:
        """The 1x1 where it is needed, in a frame of zeros as the 3x3 wants it."""
        weight = self.state[f"{name}.conv1.weight"][channels, :, 0, 0]
        y = np.zeros((self.state[f"{name}.conv1.weight"].shape[0], size[0] + 2, size[1] + 2))
        y[:, 1:-1, 1:-1] = np.nan
        for i, j in pixels:
            value = weight @ x[:, i * stride, j * stride]
            value = relu(self.norm(f"{name}.conv1", f"{name}.bn1", value, channels))
            y[channels, i + 1, j + 1] = value
            self.macs["conv1"] += weight.size
        return y

    def middle(self, pixels: list[Pixel], shortcut: Array) -> list[Pixel]:
        """Where the 3x3 is computed, if only `pixels` are active."""
        return pixels

    def excited(
        self, name: str, y: Array, middle: list[Pixel], pixels: list[Pixel], channels: list[int]
    ) -> Array:
        """What stands between the 3x3 and the last 1x1: nothing in a ResNet."""
        return y

    def second(
        self,
        name: str,
        framed: Array,
        pixels: list[Pixel],
        channels: list[int],
        stride: int,
        size: tuple[int, int],
    ) -> Array:
        """The 3x3 at active pixels, from active channels to active channels."""
        weight = self.state[f"{name}.conv2.weight"][channels][:, channels]
        y = nothing(framed.shape[0], *size)
        for i, j in pixels:
            top, left = i * stride, j * stride
            window = framed[channels, top : top + 3, left : left + 3]
            value = np.tensordot(weight, window, 3)
            y[channels, i, j] = relu(self.norm(f"{name}.conv2", f"{name}.bn2", value, channels))
            self.macs["conv2"] += weight.size
        return y

    def _third(self, name: str, inner: Array, channels: list[int]) -> Array:
        """The last 1x1 at one active pixel, from active channels to all."""
        weight = self.state[f"{name}.conv3.weight"][:, channels, 0, 0]
        self.macs["conv3"] += weight.size
        return self.norm(f"{name}.conv3", f"{name}.bn3", weight @ inner)

    def _decide(self, logits: Callable[[], Array]) -> list[int] | None:
        """Asks the next masker, unless its point has neither a threshold nor a cap for it."""
        threshold, cap = self.wishes.pop(0)
        if threshold is None and cap is None:
            self.decisions.append(None)
            return None
        values = logits()
        decision = Decision(values, decide(values, threshold, cap))
        self.decisions.append(decision)
        return decision.active

    def _spatial_logits(self, name: str, window: int, x: Array) -> Array:
        """One per window of the input: its mean, standardised, times a weight per channel."""
        rows, columns = -(-x.shape[1] // window), -(-x.shape[2] // window)
        weight = self.state[f"{name}.masker_spatial.weight"]
        logits: list[float] = []
        for row, column in np.ndindex(rows, columns):
            seen = [p for p in pixels_of(x) if (p[0] // window, p[1] // window) == (row, column)]
            mean = sum((x[:, i, j] for i, j in seen), np.zeros(len(x))) / len(seen)
            logits.append(float(weight @ self._standard(f"{name}.masker_spatial", mean)))
            self.macs["spatial_masker"] += 2 * len(x)
        scaled: Array = np.array(logits) / np.sqrt(len(x))
        return scaled

    def _channel_logits(self, name: str, x: Array) -> Array:
        """One per group: the mean of the whole input, standardised, through two layers."""
        masker = f"{name}.masker_channel"
        inner, outer = self.state[f"{masker}.hidden.weight"], self.state[f"{masker}.out.weight"]
        mean = self._standard(masker, x.mean(axis=(1, 2)))
        hidden = relu(inner @ mean + self.state[f"{masker}.hidden.bias"])
        self.macs["channel_masker"] += x.size + inner.size + outer.size
        logits: Array = outer @ hidden + self.state[f"{masker}.out.bias"]
        return logits

    def _standard(self, masker: str, pooled: Array) -> Array:
        """(value - mean) / std, within five."""
        value = (pooled - self.state[f"{masker}.mean"]) / self.state[f"{masker}.std"]
        return np.clip(value, -5.0, 5.0)

    def norm(
        self, conv: str, bn: str, value: Array, channels: list[int] | slice = slice(None)
    ) -> Array:
        """What follows a convolution: its bias, or batch norm in eval mode."""
        if self.net.folded:
            return value + self.state[f"{conv}.bias"][channels]
        gamma, beta, mean, variance = (
            self.state[f"{bn}.{part}"][channels]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        normed: Array = (value - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        return normed


def half(length: int) -> int:
    """A length after a stride of 2: rounded up."""
    return (length + 1) // 2


def relu(x: Array) -> Array:
    """max(x, 0); NaN stays NaN."""
    return np.maximum(x, 0.0)


def pixels_of(x: Array) -> Iterator[Pixel]:
    """Row and column of every pixel of a map (C, H, W)."""
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            yield i, j


def receptive_field(pixels: Sequence[Pixel], stride: int, size: tuple[int, ...]) -> set[Pixel]:
    """Which pixels of a map of that size the 3x3 reads to make its output pixels."""
    return {
        (row, column)
        for i, j in pixels
        for row in range(i * stride - 1, i * stride + 2)
        for column in range(j * stride - 1, j * stride + 2)
        if 0 <= row < size[0] and 0 <= column < size[1]
    }


def nothing(*shape: int) -> Array:
    """A map of which nothing has been computed."""
    return np.full(shape, np.nan)
