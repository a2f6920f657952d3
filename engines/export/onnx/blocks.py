"""Bottlenecks of all paradigms, and the maskers that decide in them.

What can be skipped is made of the operators of `operators`, the rest of standard ones. In a block
whose 3x3 has groups or squeeze-and-excitation behind it, that is the last convolution only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from engines.architecture import Block, RegNet, ResNet
from engines.core import Paradigm
from engines.export.onnx.layers import Layers, Shape
from engines.export.onnx.operators import WHOLE_MAP

THRESHOLDS, CAPS = "thresholds", "caps"

# As `engines.models.maskers` has it, which loads torch.
_CLIP = 5.0


@dataclass(frozen=True)
class _List:
    """Names of what `partition` answers of a masker, and the side or width of its units."""

    index: str
    place: str
    count: str
    unit: int


@dataclass(frozen=True)
class _Active:
    """What a block computes; None: everything."""

    patches: _List | None = None
    groups: _List | None = None

    @property
    def lists(self) -> list[str]:
        """Arguments of an operator."""
        given = (each for each in (self.patches, self.groups) if each)
        return [name for each in given for name in (each.index, each.count)]

    @property
    def attributes(self) -> dict[str, int]:
        """And its attributes."""
        found = {"patch": self.patches.unit} if self.patches else {}
        return {**found, "group": self.groups.unit} if self.groups else found

    def operator(self, role: str, *, add: bool = False) -> str:
        """Its name. role: what a convolution does with groups: `to`, `within` or `from`."""
        name = "conv" if self.patches is None else "block_conv"
        if self.groups:
            name += f"_{role}_groups"
        return f"{name}_add" if add else name


class Blocks:
    """Adds blocks in order. decisions: of their maskers so far, bool (N, U) each."""

    def __init__(self, layers: Layers, net: ResNet | RegNet) -> None:
        self._layers, self._graph, self._net = layers, layers.graph, net
        self._masker = 0
        self.decisions: list[str] = []

    def add(self, x: str, block: Block) -> str:
        """From a block's input to its output."""
        shortcut = x
        if block.projection:
            shape = Shape(block.out_channels, block.in_channels)
            shortcut = self._layers.convolution(
                x, f"{block.name}.downsample.0", shape, stride=block.stride
            )
        active = self._ask(x, block)
        if self._graph.conditional and block.paradigm is Paradigm.LAYER and active.patches:
            return self._branch(x, shortcut, block, active.patches)
        return self._computed(x, shortcut, block, active)

    def _branch(self, x: str, shortcut: str, block: Block, decision: _List) -> str:
        """All of the block, or none of it, for a single image."""
        graph, name = self._graph, f"{block.name}.branch"
        nothing = graph.constant("int32[0]", [0], np.int32)
        some = graph.add("Greater", decision.count, nothing, out=f"{name}/some")
        condition = graph.add("Squeeze", some, graph.integers(0), out=f"{name}/condition")
        return graph.branch(
            condition,
            lambda: self._computed(x, shortcut, block, _Active()),
            lambda: graph.add("Relu", shortcut, out=f"{name}/skipped"),
            out=name,
        )

    def _computed(self, x: str, shortcut: str, block: Block, active: _Active) -> str:
        """What is active of it, added to the shortcut."""
        if block.conv_groups > 1 or block.squeeze_width:
            y = self._dense_middle(x, block, active)
        else:
            y = self._middle(x, block, active)
        name, shape = f"{block.name}.conv3", Shape(block.out_channels, block.width)
        if active.lists:
            return self._layers.skipping(
                active.operator("from", add=True), y, active.lists, name, shape,
                residual=shortcut, attributes=active.attributes,
            )  # fmt: skip
        branch = self._layers.convolution(y, name, shape)
        return self._layers.relu(self._graph.add("Add", branch, shortcut, out=f"{block.name}.sum"))

    def _middle(self, x: str, block: Block, active: _Active) -> str:
        """The first two convolutions, each on what the next one reads."""
        first, second = self._strides(block)
        read = replace(active, patches=self._read(x, block, active.patches))
        y = self._convolve(x, f"{block.name}.conv1", Shape(block.width, block.in_channels),
                           first, read, "to")  # fmt: skip
        return self._convolve(y, f"{block.name}.conv2", Shape(block.width, block.width, 3),
                              second, active, "within")  # fmt: skip

    def _convolve(
        self, x: str, name: str, shape: Shape, stride: int, active: _Active, role: str
    ) -> str:
        if not active.lists:
            return self._layers.relu(self._layers.convolution(x, name, shape, stride=stride))
        return self._layers.skipping(
            active.operator(role),
            x,
            active.lists,
            name,
            shape,
            stride=stride,
            attributes=active.attributes,
        )

    def _dense_middle(self, x: str, block: Block, active: _Active) -> str:
        """The same on all pixels, masked as the reference does."""
        first, second = self._strides(block)
        y = self._layers.convolution(
            x, f"{block.name}.conv1", Shape(block.width, block.in_channels), stride=first
        )
        y = self._only_groups(self._layers.relu(y), active.groups)
        y = self._layers.convolution(
            y, f"{block.name}.conv2", Shape(block.width, block.width, 3),
            stride=second, groups=block.conv_groups,
        )  # fmt: skip
        y = self._only_groups(self._layers.relu(y), active.groups)
        return self._squeeze(y, block, active.patches) if block.squeeze_width else y

    def _only_groups(self, y: str, groups: _List | None) -> str:
        if groups is None:
            return y
        (channels,) = self._graph.laud(
            "channel_mask", groups.place, groups.count, y, out=[f"{y}/channels"], group=groups.unit
        )
        nothing = self._graph.scalar(0.0, self._graph.maps)
        return self._graph.add("Where", channels, y, nothing, out=f"{y}/masked")

    def _squeeze(self, y: str, block: Block, patches: _List | None) -> str:
        """Squeeze-and-excitation in float32; its mean is over active pixels, or over the map."""
        graph, name, width = self._graph, f"{block.name}.se", block.width
        wide, axes = graph.wide(y), graph.integers(2, 3)
        if patches is None or (isinstance(self._net, RegNet) and self._net.squeeze_over == "map"):
            mean = graph.add("ReduceMean", wide, axes, out=f"{name}/mean", keepdims=0)
        else:
            (active,) = graph.laud(
                "pixel_mask", patches.place, patches.count, y, out=[f"{name}/active"],
                patch=patches.unit,
            )  # fmt: skip
            pixels = graph.cast(active, np.float32, f"{name}/pixels")
            kept = graph.add("Mul", wide, pixels, out=f"{name}/kept")
            total = graph.add("ReduceSum", kept, axes, out=f"{name}/sum", keepdims=0)
            count = graph.add("ReduceSum", pixels, axes, out=f"{name}/count", keepdims=0)
            least = graph.add("Max", count, graph.scalar(1.0, np.float32), out=f"{name}/least")
            mean = graph.add("Div", total, least, out=f"{name}/mean")
        hidden = self._layers.relu(
            self._layers.pointwise(mean, f"{name}.fc1", block.squeeze_width, width)
        )
        scale = self._layers.pointwise(hidden, f"{name}.fc2", width, block.squeeze_width)
        gate = graph.add("Sigmoid", scale, out=f"{name}/gate")
        planes = graph.add("Unsqueeze", gate, axes, out=f"{name}/planes")
        narrow = planes if wide == y else graph.cast(planes, graph.maps, f"{name}/narrow")
        return graph.add("Mul", y, narrow, out=name)

    def _ask(self, x: str, block: Block) -> _Active:
        """The lists of a block's maskers; none where it has none."""
        patches = groups = None
        if block.paradigm.masks_space:
            name = f"{block.name}.masker_spatial"
            patch = block.granularity.spatial or WHOLE_MAP
            patches = self._partition(self._spatial_logits(x, name, block), name, patch)
        if block.paradigm.masks_channels:
            name = f"{block.name}.masker_channel"
            group = block.width // block.num_groups
            groups = self._partition(self._channel_logits(x, name, block), name, group)
        return _Active(patches, groups)

    def _read(self, x: str, block: Block, patches: _List | None) -> _List | None:
        """The pixels that the 3x3 reads, as patches of one pixel; of a whole map, all of it."""
        if patches is None or patches.unit == WHOLE_MAP:
            return patches
        first, second = self._strides(block)
        name = f"{block.name}.read"
        index, count = self._graph.laud(
            "dilate", patches.place, patches.count, x, out=[name, f"{name}/count"],
            patch=patches.unit, stride=second, stride_before=first,
        )  # fmt: skip
        return _List(index, "", count, 1)

    def _partition(self, logits: str, name: str, unit: int) -> _List:
        index, place, count = self._graph.laud(
            "partition", logits, THRESHOLDS, CAPS,
            out=[f"{name}/{part}" for part in ("index", "place", "count")], masker=self._masker,
        )  # fmt: skip
        self._masker += 1
        column = self._graph.add("Unsqueeze", count, self._graph.integers(1), out=f"{name}/column")
        self.decisions.append(self._graph.add("Less", place, column, out=f"{name}/decisions"))
        return _List(index, place, count, unit)

    def _spatial_logits(self, x: str, name: str, block: Block) -> str:
        graph, patch, channels = self._graph, block.granularity.spatial, block.in_channels
        window = None if patch is None else patch * block.stride
        if window is None:
            pooled = self._mean(x, name, keepdims=1)
        elif window == 1:
            pooled = graph.wide(x)
        else:
            pooled = graph.wide(
                graph.add("AveragePool", x, out=f"{name}/pool", kernel_shape=[window] * 2,
                          strides=[window] * 2, ceil_mode=1, count_include_pad=0)
            )  # fmt: skip
        standard = self._standardised(pooled, name, (1, channels, 1, 1))
        weight = graph.constant(
            f"{name}.weight",
            self._layers.take(f"{name}.weight", channels).reshape(1, channels, 1, 1),
            np.float32,
        )
        sums = graph.add("Conv", standard, weight, out=f"{name}/sums")
        root = graph.scalar(math.sqrt(channels), np.float32)
        scores = graph.add("Div", sums, root, out=f"{name}/scores")
        return graph.add("Flatten", scores, out=f"{name}/logits", axis=1)

    def _channel_logits(self, x: str, name: str, block: Block) -> str:
        channels, hidden = block.in_channels, block.channel_masker_hidden
        pooled = self._standardised(self._mean(x, name, keepdims=0), name, (1, channels))
        inner = self._layers.linear(pooled, f"{name}.hidden", hidden, channels)
        return self._layers.linear(
            self._layers.relu(inner), f"{name}.out", block.num_groups, hidden
        )

    def _mean(self, x: str, name: str, *, keepdims: int) -> str:
        axes = self._graph.integers(2, 3)
        mean = self._graph.add("ReduceMean", x, axes, out=f"{name}/mean", keepdims=keepdims)
        return self._graph.wide(mean)

    def _standardised(self, pooled: str, name: str, shape: tuple[int, ...]) -> str:
        """As `engines.models.maskers` does, in float32."""
        graph, channels = self._graph, shape[1]
        mean, std = (
            graph.constant(
                f"{name}.{part}",
                self._layers.take(f"{name}.{part}", channels).reshape(shape),
                np.float32,
            )
            for part in ("mean", "std")
        )
        centred = graph.add("Sub", pooled, mean, out=f"{name}/centred")
        scaled = graph.add("Div", centred, std, out=f"{name}/scaled")
        low, high = graph.scalar(-_CLIP, np.float32), graph.scalar(_CLIP, np.float32)
        return graph.add("Clip", scaled, low, high, out=f"{name}/clipped")

    def _strides(self, block: Block) -> tuple[int, int]:
        """Of the first and the second convolution."""
        return (block.stride, 1) if self._net.stride_in_1x1 else (1, block.stride)
