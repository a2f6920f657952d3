"""What plugins are asked: layers, and the sizes that their launches are worked out for. No torch.

Sizes that a plan may leave open are names here: N images, H x W pixels of the input map, P x Q of
the output map, U patches (of partition: units).
"""

from __future__ import annotations

from dataclasses import dataclass

from engines.architecture import MapSize
from engines.tensorrt.plugins.operators import OPERATORS
from engines.tensorrt.spec import (
    WHOLE_MAP,
    ConvSpec,
    DilateSpec,
    Dtype,
    KernelSpec,
    PartitionSpec,
)

SM = 86
MASKERS = 3

SIZES = ((4, MapSize(9, 11)), (1, MapSize(13, 5)), (2, MapSize(16, 8)), (3, MapSize(1, 1)))
"""Images and pixels of a block's input map; nothing divides the first two."""


@dataclass(frozen=True)
class Question:
    """A node `operator`, and the kernel that it should get. stride_before: of dilate."""

    operator: str
    spec: KernelSpec
    stride_before: int = 1

    @property
    def dtype(self) -> Dtype:
        """Of maps and weights."""
        spec = self.spec
        return spec.dtype if isinstance(spec, ConvSpec | DilateSpec) else "fp32"

    @property
    def attributes(self) -> dict[str, int]:
        """Of the node."""
        given = {**vars(self.spec), "stride_before": self.stride_before}
        return {name: given[name] for name in OPERATORS[self.operator].attributes}

    def input_shapes(self) -> dict[str, list[int | str]]:
        """By name, in order."""
        if isinstance(self.spec, PartitionSpec):
            return {"logits": ["N", "U"], "thresholds": ["N", MASKERS], "caps": ["N", MASKERS]}
        if isinstance(self.spec, DilateSpec):
            return {"place": ["N", "U"], "count": ["N"], "x": ["N", 20, "H", "W"]}
        assert isinstance(self.spec, ConvSpec)
        spec, found = self.spec, dict[str, list[int | str]]()
        found["x"] = ["N", spec.inputs, "H", "W"]
        if spec.patch is not None:
            found |= {"index": ["N", "U"], "count": ["N"]}
        if spec.group is not None:
            listed = spec.inputs if spec.read else spec.outputs
            found |= {"groups": ["N", listed // spec.group], "num_groups": ["N"]}
        found["weight"] = [spec.kernel, spec.kernel, spec.inputs, spec.outputs]
        found["bias"] = [spec.outputs]
        if spec.add:
            found["residual"] = ["N", spec.outputs, "P", "Q"]
        return found

    def output_shapes(self, images: int, size: MapSize) -> list[list[int]]:
        """As they should be for that many images and that size of the input map."""
        if isinstance(self.spec, PartitionSpec):
            return [[images, size.area], [images, size.area], [images]]
        if isinstance(self.spec, DilateSpec):
            return [[images, self.read(size).area], [images]]
        assert isinstance(self.spec, ConvSpec)
        out = self.out(size)
        return [[images, self.spec.outputs, out.height, out.width]]

    def sizes(self, images: int, size: MapSize) -> dict[str, int]:
        """What the names of sizes stand for then."""
        out = self.out(size)
        return {"N": images, "H": size.height, "W": size.width, "P": out.height, "Q": out.width,
                "U": self.units(size)}  # fmt: skip

    def units(self, size: MapSize) -> int:
        """Of the list of patches; partition takes one of pixels."""
        patch = getattr(self.spec, "patch", None)
        if isinstance(self.spec, PartitionSpec):
            return size.area
        return self.out(size).patches(None if patch == WHOLE_MAP else patch).area

    def read(self, size: MapSize) -> MapSize:
        """The map that the 3x3 reads behind dilate."""
        return _strided(size, self.stride_before)

    def out(self, size: MapSize) -> MapSize:
        """The output map."""
        return _strided(self.read(size), getattr(self.spec, "stride", 1))


QUESTIONS = {
    "partition": Question("partition", PartitionSpec(masker=1)),
    "dilate": Question("dilate", DilateSpec("fp16", patch=4, stride=1)),
    "dilate, stride 2": Question("dilate", DilateSpec("fp32", patch=3, stride=2)),
    "dilate behind a stride": Question("dilate", DilateSpec("fp16", patch=2, stride=1), 2),
    "1x1 of pixels": Question("block_conv", ConvSpec("fp16", 20, 24, patch=1)),
    "3x3 of patches, stride 2": Question(
        "block_conv", ConvSpec("fp16", 24, 20, kernel=3, stride=2, patch=3)
    ),
    "3x3 of layers": Question("block_conv", ConvSpec("fp16", 16, 72, kernel=3, patch=WHOLE_MAP)),
    "3x3 of patches, fp32": Question("block_conv", ConvSpec("fp32", 10, 12, kernel=3, patch=4)),
    "1x1 of patches and residual": Question(
        "block_conv_add", ConvSpec("fp16", 24, 76, patch=4, add=True)
    ),
    "3x3 of patches and residual, no ReLU": Question(
        "block_conv_linear_add",
        ConvSpec("fp16", 24, 20, kernel=3, patch=3, add=True, relu=False),
    ),
    "3x3 of pixels to one channel and residual, no ReLU": Question(
        "block_conv_linear_add",
        ConvSpec("fp16", 24, 1, kernel=3, patch=1, add=True, relu=False),
    ),
    "1x1 of layers and residual, fp32": Question(
        "block_conv_add", ConvSpec("fp32", 12, 20, patch=WHOLE_MAP, add=True)
    ),
    "1x1 to groups, stride 2": Question(
        "conv_to_groups", ConvSpec("fp16", 20, 48, stride=2, group=8, written=True)
    ),
    "3x3 within groups": Question(
        "conv_within_groups", ConvSpec("fp16", 48, 48, kernel=3, group=8, read=True, written=True)
    ),
    "1x1 from groups and residual": Question(
        "conv_from_groups_add", ConvSpec("fp16", 48, 20, group=8, read=True, add=True)
    ),
    "1x1 of pixels to groups": Question(
        "block_conv_to_groups", ConvSpec("fp16", 20, 24, patch=1, group=4, written=True)
    ),
    "3x3 of patches within groups": Question(
        "block_conv_within_groups",
        ConvSpec("fp16", 24, 24, kernel=3, patch=4, group=4, read=True, written=True),
    ),
    "1x1 of patches from groups and residual": Question(
        "block_conv_from_groups_add",
        ConvSpec("fp16", 24, 40, patch=4, group=4, read=True, add=True),
    ),
}


def _strided(size: MapSize, stride: int) -> MapSize:
    return MapSize(-(-size.height // stride), -(-size.width // stride))
