"""Bottlenecks of all paradigms.

What can be skipped is made of the operators of `operators`, the rest of standard ones. In a block
whose 3x3 has groups or squeeze-and-excitation behind it, that is the last convolution only. In a
graph for one image, a block that skips as a whole is a branch of standard ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engines.architecture import Block, RegNet, ResNet
from engines.core import Paradigm
from engines.export.onnx.layers import Layers, Shape
from engines.export.onnx.maskers import Listed, Maskers
from engines.export.onnx.operators import WHOLE_MAP


def may_branch(block: Block) -> bool:
    """Whether a block is a branch in a graph for one image: it is skipped as a whole or not."""
    return block.paradigm is Paradigm.LAYER


@dataclass(frozen=True)
class _Active:
    """What a block computes; None: everything."""

    patches: Listed | None = None
    groups: Listed | None = None

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
    """Adds blocks in order, and their maskers with them."""

    def __init__(self, layers: Layers, net: ResNet | RegNet, maskers: Maskers) -> None:
        self._layers, self._graph, self._net = layers, layers.graph, net
        self._maskers = maskers

    def add(self, x: str, block: Block) -> str:
        """From a block's input to its output."""
        shortcut = x
        if block.projection:
            shape = Shape(block.out_channels, block.in_channels)
            shortcut = self._layers.convolution(
                x, f"{block.name}.downsample.0", shape, stride=block.stride
            )
        active = self._ask(x, block)
        if self._graph.images == 1 and may_branch(block) and active.patches:
            return self._graph.branch(
                self._any(active.patches, block),
                lambda: self._block(x, shortcut, block, _Active()),
                lambda: self._layers.relu(shortcut),
                out=f"{block.name}.out",
            )
        return self._block(x, shortcut, block, active)

    def _any(self, patches: Listed, block: Block) -> str:
        """Whether anything is active in the one image: a bool without dimensions."""
        axes = self._graph.integers(0)
        count = self._graph.add("Squeeze", patches.count, axes, out=f"{block.name}.count")
        return self._graph.cast(count, np.bool_, f"{block.name}.any")

    def _block(self, x: str, shortcut: str, block: Block, active: _Active) -> str:
        """All that may be skipped, and the sum."""
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

    def _only_groups(self, y: str, groups: Listed | None) -> str:
        if groups is None:
            return y
        (channels,) = self._graph.laud(
            "channel_mask", groups.place, groups.count, y, out=[f"{y}/channels"], group=groups.unit
        )
        nothing = self._graph.scalar(0.0, self._graph.maps)
        return self._graph.add("Where", channels, y, nothing, out=f"{y}/masked")

    def _squeeze(self, y: str, block: Block, patches: Listed | None) -> str:
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
            patch = block.granularity.spatial
            patches = self._maskers.patches(
                self._layers, x, name, block.in_channels,
                unit=patch or WHOLE_MAP, window=patch and patch * block.stride,
            )  # fmt: skip
        if block.paradigm.masks_channels:
            name = f"{block.name}.masker_channel"
            groups = self._maskers.groups(
                self._layers, x, name, block.in_channels, unit=block.width // block.num_groups,
                hidden=block.channel_masker_hidden, count=block.num_groups,
            )  # fmt: skip
        return _Active(patches, groups)

    def _read(self, x: str, block: Block, patches: Listed | None) -> Listed | None:
        """The pixels that the 3x3 reads, as patches of one pixel; of a whole map, all of it."""
        if patches is None or patches.unit == WHOLE_MAP:
            return patches
        first, second = self._strides(block)
        name = f"{block.name}.read"
        index, count = self._graph.laud(
            "dilate", patches.place, patches.count, x, out=[name, f"{name}/count"],
            patch=patches.unit, stride=second, stride_before=first,
        )  # fmt: skip
        return Listed(index, "", count, 1)

    def _strides(self, block: Block) -> tuple[int, int]:
        """Of the first and the second convolution."""
        return (block.stride, 1) if self._net.stride_in_1x1 else (1, block.stride)
