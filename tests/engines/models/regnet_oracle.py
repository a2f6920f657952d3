"""The oracle of a RegNet: what a RegNet does otherwise than a ResNet, just as slowly."""

from __future__ import annotations

import numpy as np

from engines.architecture import RegNet
from tests.engines.models.oracle import (
    Array,
    Oracle,
    Pixel,
    Run,
    half,
    nothing,
    pixels_of,
    relu,
)


class RegNetOracle(Oracle):
    """A RegNet with the weights of a state dict, in float64."""

    @property
    def run(self) -> type[Run]:
        """What an image is taken through."""
        return _RegNetRun


class _RegNetRun(Run):
    def stride(self, stage: int, block: int) -> int:
        return 2 if block == 0 else 1

    def stem(self, image: Array) -> Array:
        weight = self.state["conv1.weight"]
        framed = np.pad(image, ((0, 0), (1, 1), (1, 1)))
        conv = nothing(weight.shape[0], half(image.shape[1]), half(image.shape[2]))
        for i, j in pixels_of(conv):
            window = framed[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            conv[:, i, j] = relu(self.norm("conv1", "bn1", np.tensordot(weight, window, 3)))
            self.macs["fixed"] += weight.size
        return conv

    def middle(self, pixels: list[Pixel], shortcut: Array) -> list[Pixel]:
        """A mean over the whole map wants all of it, as soon as anything is active."""
        assert isinstance(self.net, RegNet)
        return [*pixels_of(shortcut)] if pixels and self.net.squeeze_over == "map" else pixels

    def second(
        self,
        name: str,
        framed: Array,
        pixels: list[Pixel],
        channels: list[int],
        stride: int,
        size: tuple[int, int],
    ) -> Array:
        """Group by group: an active channel reads the active channels of its own group."""
        weight = self.state[f"{name}.conv2.weight"]
        width = weight.shape[1]
        y = nothing(framed.shape[0], *size)
        for group in sorted({channel // width for channel in channels}):
            active = [channel for channel in channels if channel // width == group]
            chosen = weight[active][:, [channel - group * width for channel in active]]
            for i, j in pixels:
                top, left = i * stride, j * stride
                window = framed[active, top : top + 3, left : left + 3]
                value = np.tensordot(chosen, window, 3)
                y[active, i, j] = relu(self.norm(f"{name}.conv2", f"{name}.bn2", value, active))
                self.macs["conv2"] += chosen.size
        return y

    def excited(
        self, name: str, y: Array, middle: list[Pixel], pixels: list[Pixel], channels: list[int]
    ) -> Array:
        if f"{name}.se.fc1.weight" not in self.state or not pixels:
            return y
        inner = self.state[f"{name}.se.fc1.weight"][:, channels, 0, 0]
        outer = self.state[f"{name}.se.fc2.weight"][channels, :, 0, 0]
        mean = sum((y[channels, i, j] for i, j in middle), np.zeros(len(channels))) / len(middle)
        hidden = relu(inner @ mean + self.state[f"{name}.se.fc1.bias"])
        raised = outer @ hidden + self.state[f"{name}.se.fc2.bias"][channels]
        scaled = nothing(*y.shape)
        for i, j in pixels:
            scaled[channels, i, j] = y[channels, i, j] / (1.0 + np.exp(-raised))
        self.macs["squeeze"] += (
            inner.size + outer.size + len(channels) * (len(middle) + len(pixels))
        )
        return scaled
