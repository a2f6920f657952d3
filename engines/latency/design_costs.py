"""What every stage of a network costs on a device, for choosing among candidates.

GPUs by the analytic model of LAUDNet, machines with our native engine by the model of that engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from engines.architecture import Block, MapSize
from engines.core import FrozenModel
from engines.latency.blocks import BlockCost, block_cost, head_cost, stem_cost
from engines.latency.candidates import (
    NUM_STAGES,
    STATIC,
    Candidate,
    SkipRates,
    network_with,
    shape_with,
    stage_indices,
)
from engines.latency.devices import Mode, corrections_of
from engines.latency.gpu import target
from engines.latency.hardware import Gpu
from engines.latency.host import Host
from engines.latency.native import predict_native
from engines.latency.shapes import BlockShape, NetworkShape, named_shape, uniform_shape_rates
from engines.macs import BlockRates, block_macs


class Setting(FrozenModel):
    """What a design is for. model: `fixed` or `paper` (GPUs), or `native` (our engine).

    clustered: whether active patches are taken to lie together, or each by itself (the worst case).
    threads: of our engine.
    """

    arch: str
    size: int
    device: str
    model: str
    precision: str
    batch: int
    threads: int | None
    clustered: bool


@dataclass(frozen=True, slots=True)
class StageCost:
    """Of one stage. seconds: for the whole batch. macs: executed per image. fused_blocks: in how
    many of its blocks masker and first convolution are one kernel; None where there is no choice.
    """

    seconds: float
    macs: float
    fused_blocks: int | None = None


@dataclass(frozen=True, slots=True)
class NetworkCost:
    """Of all stages; total_s is the whole call with what the model counts besides."""

    stages: tuple[StageCost, ...]
    total_s: float


class Costs(Protocol):
    """Costs any combination of candidates, one per stage."""

    @property
    def setting(self) -> Setting:
        """What they hold for."""

    def network(self, choice: Sequence[Candidate], rates: SkipRates) -> NetworkCost:
        """One candidate per stage, at those rates."""


class GpuCosts:
    """A GPU in FP32; stages do not depend on one another."""

    def __init__(
        self,
        arch: str,
        size: int,
        device: Gpu,
        *,
        batch: int | None = None,
        mode: Mode = "fixed",
        clustered: bool = True,
    ) -> None:
        """batch None: what the device's published latencies are for. mode paper: the model as
        published. Raises InvalidInput for an unknown network or mode, or sizes that cannot be."""
        batch = device.typical_batch if batch is None else batch
        self._target = target(device, batch, corrections_of(mode))
        self._static = named_shape(arch, image=MapSize(size, size))
        self.setting = Setting(
            arch=arch,
            size=size,
            device=device.name,
            model=mode,
            precision="fp32",
            batch=batch,
            threads=None,
            clustered=clustered,
        )
        self._known: dict[tuple[int, Candidate, float], StageCost] = {}

    def network(self, choice: Sequence[Candidate], rates: SkipRates) -> NetworkCost:
        """See `Costs`."""
        stages = tuple(self._stage(s, each, rates) for s, each in enumerate(choice))
        return NetworkCost(stages, self._ends_s + sum(stage.seconds for stage in stages))

    @cached_property
    def _ends_s(self) -> float:
        if not self._target.corrections.stem_and_head:
            return 0.0
        shape, on = self._static, self._target
        head = head_cost(on, shape.num_features, shape.blocks[-1].out_size, shape.num_classes)
        return stem_cost(on, shape.stem).cost.total_s + head.cost.total_s

    def _stage(self, stage: int, candidate: Candidate, rates: SkipRates) -> StageCost:
        key = (stage, candidate, rates.of(candidate))
        if key not in self._known:
            stages = stage_indices(self._static)
            choice = [STATIC] * NUM_STAGES
            choice[stage] = candidate
            shape = shape_with(self.setting.arch, choice, self._static.image)
            executed = rates_of(shape, choice, rates, clustered=self.setting.clustered)
            pairs = [
                pair
                for pair, of in zip(zip(shape.blocks, executed, strict=True), stages, strict=True)
                if of == stage
            ]
            costs = [block_cost(self._target, block, rate) for block, rate in pairs]
            self._known[key] = StageCost(
                seconds=sum(cost.cost.total_s for cost in costs),
                macs=sum(macs_of(block, rate) for block, rate in pairs),
                fused_blocks=_fused(costs),
            )
        return self._known[key]


class NativeCosts:
    """Our engine on a measured machine; what a stage reads may push another out of the cache."""

    def __init__(
        self,
        arch: str,
        size: int,
        host: Host,
        *,
        batch: int = 1,
        precision: str = "fp32",
        threads: int = 1,
        clustered: bool = True,
    ) -> None:
        """Raises InvalidInput for a network that our engine does not run, a precision that the
        machine was not measured in, or sizes that cannot be."""
        self._image, self._host = MapSize(size, size), host
        host.costs(precision)
        network_with(arch, [STATIC] * NUM_STAGES)
        named_shape(arch, image=self._image)
        self.setting = Setting(
            arch=arch,
            size=size,
            device=host.device.slug,
            model="native",
            precision=precision,
            batch=batch,
            threads=threads,
            clustered=clustered,
        )
        self._known: dict[tuple[tuple[Candidate, ...], SkipRates], NetworkCost] = {}

    def network(self, choice: Sequence[Candidate], rates: SkipRates) -> NetworkCost:
        """See `Costs`."""
        key = (tuple(choice), rates)
        if key not in self._known:
            self._known[key] = self._made(choice, rates)
        return self._known[key]

    def _made(self, choice: Sequence[Candidate], rates: SkipRates) -> NetworkCost:
        of, net = self.setting, network_with(self.setting.arch, choice)
        shape = shape_with(of.arch, choice, self._image)
        executed = rates_of(shape, choice, rates, clustered=of.clustered)
        found = predict_native(
            net,
            self._image,
            executed,
            batch=of.batch,
            threads=of.threads or 1,
            precision=of.precision,
            host=self._host,
        )
        seconds, macs = [0.0] * len(choice), [0.0] * len(choice)
        # The first and the last part are stem and head.
        for part, stage, block, rate in zip(
            found.parts[1:-1], stage_indices(shape), shape.blocks, executed, strict=True
        ):
            seconds[stage] += part.total_s
            macs[stage] += macs_of(block, rate)
        stages = tuple(StageCost(s, m) for s, m in zip(seconds, macs, strict=True))
        return NetworkCost(stages, found.total_s)


def rates_of(
    shape: NetworkShape, choice: Sequence[Candidate], rates: SkipRates, *, clustered: bool
) -> tuple[BlockRates, ...]:
    """What every block executes where each stage has the rate of its paradigm."""
    uniform = {
        rate: uniform_shape_rates(shape, rate, clustered=clustered)
        for rate in {rates.of(each) for each in choice}
    }
    return tuple(
        uniform[rates.of(choice[stage])][i] for i, stage in enumerate(stage_indices(shape))
    )


def macs_of(shape: BlockShape, rates: BlockRates) -> float:
    """Multiply-accumulates per image of a block, counted as `engines.macs` counts a ResNet's.

    Groups of the 3x3 divide its part; squeeze-and-excitation is computed whole.
    """
    block = Block(
        stage=0,
        index=0,
        in_channels=shape.in_channels,
        width=shape.mid_channels,
        out_channels=shape.out_channels,
        stride=shape.stride,
        paradigm=shape.paradigm,
        granularity=shape.granularity,
    )
    macs = block_macs(block, shape.in_size, shape.out_size, shape.stride_in_1x1)
    squeezed = shape.mid_channels * (shape.out_size.area + 2 * shape.se_channels)
    return float(
        macs.projection
        + macs.conv1 * rates.dilated * rates.channel
        + macs.conv2 / shape.groups * rates.spatial * rates.channel**2
        + macs.conv3 * rates.spatial * rates.channel
        + macs.spatial_masker * rates.spatial_masker
        + macs.channel_masker * rates.channel_masker
        + (squeezed if shape.se_channels else 0)
    )


def _fused(costs: Sequence[BlockCost]) -> int | None:
    decided = [cost.fusion for cost in costs if cost.fusion is not None]
    return sum(fusion.fused for fusion in decided) if decided else None
