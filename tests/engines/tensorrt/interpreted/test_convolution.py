"""The convolution that skips against torch: values, and that nothing else is touched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engines.architecture import MapSize
from engines.tensorrt.kernels import reference
from engines.tensorrt.spec import WHOLE_MAP, ConvSpec, Dtype
from tests.engines.tensorrt.interpreted.launching import CC, launch
from tests.engines.tensorrt.interpreted.memory import POISON, pitched, poisoned

BOUNDS: dict[Dtype, float] = {"fp32": 1e-5, "fp16": 3e-3}
TYPES = {"fp32": torch.float32, "fp16": torch.float16}
DTYPES: tuple[Dtype, ...] = ("fp32", "fp16")
INFINITY = float("inf")
MOST = 2**31 - 1

PATCHES = ConvSpec("fp32", 24, 20, patch=4)
GROUPS = ConvSpec("fp32", 24, 48, group=8, written=True)
BOTH = ConvSpec("fp32", 24, 24, kernel=3, patch=2, group=4, read=True, written=True)


@dataclass
class Case:
    """Random tensors for a specification, on a batch of maps of one size."""

    spec: ConvSpec
    size: MapSize
    images: int = 4

    def __post_init__(self) -> None:
        spec, kind = self.spec, TYPES[self.spec.dtype]
        torch.manual_seed(spec.inputs + spec.outputs + self.size.area)
        depth = spec.inputs * spec.kernel**2
        self.x = torch.randn(self.images, self.size.height, self.size.width, spec.inputs).to(kind)
        shape = (spec.kernel, spec.kernel, spec.inputs, spec.outputs)
        # Results stay near 1, where half precision is finer than its bound.
        self.weight = (0.6 * torch.randn(shape) / depth**0.5).to(kind)
        self.bias = (0.3 * torch.randn(spec.outputs)).to(kind)
        self.out = MapSize(-(-self.size.height // spec.stride), -(-self.size.width // spec.stride))
        out_shape = (self.images, self.out.height, self.out.width, spec.outputs)
        self.residual = (0.5 * torch.randn(out_shape)).to(kind) if spec.add else None
        # Every image of a batch differs: some, none, all, few.
        thresholds = torch.tensor([0.0, INFINITY, -INFINITY, 0.9])[: self.images]
        most = torch.full((self.images,), MOST)
        units = self.out.patches(self.patch).area
        self.patches = reference.partition(torch.randn(self.images, units), thresholds, most)
        listed = spec.inputs if spec.read else spec.outputs
        groups = listed // (spec.group or listed)
        turned = thresholds.roll(1)
        self.groups = reference.partition(torch.randn(self.images, groups), turned, most)

    @property
    def patch(self) -> int | None:
        """None for the whole map."""
        return None if self.spec.patch == WHOLE_MAP else self.spec.patch

    def run(self) -> Tensor:
        """The kernel's output, (N, H, W, pitch)."""
        spec = self.spec
        pitch = spec.pitch(spec.outputs)
        inputs: dict[str, Tensor] = {"x": pitched(self.x, spec.pitch(spec.inputs))}
        if spec.patch is not None:
            inputs |= {"index": self.patches.index, "count": self.patches.count}
        if spec.group is not None:
            inputs |= {"groups": self.groups.index, "num_groups": self.groups.count}
        inputs |= {"weight": self.weight, "bias": self.bias}
        if self.residual is not None:
            inputs["residual"] = pitched(self.residual, pitch)
        y = poisoned(self.images, self.out.height, self.out.width, pitch, dtype=self.x.dtype)
        grid = spec.grid(self.images, self.size, CC)
        launch(spec, grid, inputs, spec.numbers(self.size), {"y": y})
        return y.tensor

    def pixels(self, patches: Tensor) -> Tensor:
        """Of the output, (N, H, W, outputs): those of patches (N, U) that are 1."""
        found = reference.sparse_conv(
            self.x, self.weight, self.bias,
            stride=self.spec.stride, patches=patches, patch=self.patch,
        )  # fmt: skip
        return found.written

    def wanted(self) -> reference.Computed:
        spec = self.spec
        patches = None if spec.patch is None else self.patches.units
        groups = None if spec.group is None else self.groups.units
        return reference.sparse_conv(
            self.x,
            self.weight,
            self.bias,
            stride=spec.stride,
            patches=patches,
            patch=self.patch,
            read=groups if spec.read else None,
            wanted=groups if spec.written else None,
            residual=self.residual,
            relu=spec.relu,
        )

    def check(self) -> None:
        """Values within the bound; what is not active has not changed in a bit.

        With a residual what is not active is ReLU(residual), or the residual where the kernel has
        no ReLU, in every patch that the list names.
        """
        spec, wanted = self.spec, self.wanted()
        y = self.run()
        values, beyond = y[..., : spec.outputs], y[..., spec.outputs :]
        written = wanted.written
        if self.residual is not None and spec.patch is not None:
            everything = torch.full_like(self.patches.count, MOST)
            written = self.pixels(replace(self.patches, count=everything).units)
            if spec.patch == WHOLE_MAP:
                written = torch.ones_like(written)
            idle = written & ~self.pixels(self.patches.units)
            kept = self.residual.relu() if spec.relu else self.residual
            assert torch.equal(values[idle], kept[idle])
        torch.testing.assert_close(
            values[written].double(), wanted.values[written], rtol=0, atol=BOUNDS[spec.dtype]
        )
        assert (values[~written] == POISON).all()
        if not spec.written:
            rows = written[..., :1].expand_as(beyond)
            assert (beyond[rows] == 0).all()
            assert (beyond[~rows] == POISON).all()


def garbled(listed: reference.Listed, count: int) -> reference.Listed:
    """With that count in the first image, and most entries out of range."""
    garbage = torch.tensor([MOST, -3, 2**30, -1, 123456789, -MOST], dtype=torch.int32)
    index = listed.index.clone()
    places = torch.arange(index.numel()).view(index.shape)
    spoilt = places % 3 != 1
    index[spoilt] = garbage[places % len(garbage)][spoilt]
    counts = listed.count.clone()
    counts[0] = count
    return reference.Listed(index, listed.place, counts)


def of(spec: ConvSpec, **changes: Any) -> ConvSpec:
    return replace(spec, **changes)


SPECS = {
    "1x1": PATCHES,
    "1x1 stride 2": of(PATCHES, stride=2),
    "3x3": of(PATCHES, kernel=3),
    "3x3 stride 2": of(PATCHES, kernel=3, stride=2, patch=3),
    "pixels": of(PATCHES, patch=1),
    "large patches": of(PATCHES, kernel=3, patch=16),
    "layer": of(PATCHES, patch=WHOLE_MAP),
    "layer 3x3 stride 2": of(PATCHES, kernel=3, stride=2, patch=WHOLE_MAP),
    "1x1 and residual": of(PATCHES, add=True),
    "3x3 and residual": of(PATCHES, kernel=3, patch=7, add=True),
    "layer and residual": of(PATCHES, patch=WHOLE_MAP, add=True),
    "3x3 and residual, no ReLU": of(PATCHES, kernel=3, add=True, relu=False),
    "one output and residual, no ReLU": of(PATCHES, kernel=3, outputs=1, patch=2, add=True,
                                           relu=False),
    "no ReLU": of(PATCHES, kernel=3, relu=False),
    "to groups": GROUPS,
    "to groups of 1, stride 2": of(GROUPS, outputs=7, group=1, stride=2),
    "to groups wider than a tile": of(GROUPS, outputs=192, group=96),
    "within groups": of(GROUPS, inputs=48, kernel=3, read=True),
    "within groups of 3, stride 2": ConvSpec("fp32", 12, 12, 3, 2, None, 3, True, True),
    "from groups and residual": ConvSpec("fp32", 48, 20, group=8, read=True, add=True),
    "patches to groups": of(GROUPS, patch=3),
    "patches within groups": BOTH,
    "patches from groups and residual": ConvSpec("fp32", 24, 40, patch=4, group=4, read=True,
                                                 add=True),
    "layer within groups": of(BOTH, patch=WHOLE_MAP),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECS)
def test_values_and_what_is_left_alone(name: str, dtype: Dtype) -> None:
    """On maps that no patch divides; images of the batch have some, none, all and few units."""
    Case(of(SPECS[name], dtype=dtype), MapSize(9, 11)).check()


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("size", [MapSize(1, 1), MapSize(4, 8), MapSize(13, 5)], ids=str)
def test_other_batches_and_sizes(images: int, size: MapSize) -> None:
    for spec in (of(PATCHES, kernel=3, add=True), BOTH):
        Case(spec, size, images).check()


def test_more_channels_than_a_tile_has() -> None:
    Case(ConvSpec("fp16", 72, 136, patch=2, add=True), MapSize(5, 6), 2).check()


@pytest.mark.parametrize("count", [MOST, -MOST, -1, 10**6])
@pytest.mark.parametrize("name", ["3x3", "1x1 and residual", "within groups", "layer", "to groups",
                                  "patches from groups and residual"])  # fmt: skip
def test_garbage_is_left_out(name: str, count: int) -> None:
    """Counts and entries out of range are as if they were not there; red zones are whole."""
    case = Case(SPECS[name], MapSize(9, 11), 2)
    if case.spec.patch != WHOLE_MAP:
        case.patches = garbled(case.patches, count)
    else:
        # Its one unit is the map, whatever the list says.
        case.patches.count[0] = count
    case.groups = garbled(case.groups, count)
    case.check()
