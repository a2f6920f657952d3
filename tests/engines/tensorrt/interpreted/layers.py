"""Layers with random tensors: what their kernel has to answer, and what it must leave alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engines.architecture import MapSize
from engines.tensorrt.kernels import reference
from engines.tensorrt.spec import WHOLE_MAP, ConvSpec, Dtype
from tests.engines.tensorrt.interpreted.launching import CC, launch
from tests.engines.tensorrt.interpreted.memory import POISON, Guarded, pitched, poisoned

BOUNDS: dict[Dtype, float] = {"fp32": 1e-5, "fp16": 3e-3}
TYPES = {"fp32": torch.float32, "fp16": torch.float16}
INFINITY = float("inf")
MOST = 2**31 - 1


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
        self.launch(inputs, y)
        return y.tensor

    def launch(self, inputs: dict[str, Tensor], y: Guarded) -> None:
        """Run the kernel as the specification says."""
        spec = self.spec
        grid = spec.grid(self.images, self.size, CC)
        launch(spec, grid, inputs, spec.numbers(self.size), {"y": y})

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
