"""Whether the published model is reproduced: its latencies as data, against what is predicted.

`paper_vectors.json` has what LAUDNet's released simulator (arXiv:2308.15949) gives for operators,
blocks and networks, and what the paper's figure of main results shows for static networks. They
are printed with three to six digits, so that rounding alone explains up to 0.35 % of some.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Literal

from pydantic import TypeAdapter

from engines.architecture import MapSize
from engines.core import FrozenModel, Granularity, Paradigm
from engines.latency import dynamic_operators as dynamic
from engines.latency import operators as static
from engines.latency.blocks import block_cost
from engines.latency.corrections import PAPER
from engines.latency.gpu import predict_gpu, target
from engines.latency.hardware import gpu
from engines.latency.operators import Conv, Target
from engines.latency.shapes import BlockShape, named_shape, uniform_shape_rates
from engines.macs import BlockRates

TOLERANCE = 0.005
MONTE_CARLO_TOLERANCE = 0.015
"""Those that the simulator draws random numbers for, without a seed, differ from run to run."""


class PaperVector(FrozenModel):
    """One published latency. `operator` names one of OPERATORS, `arguments` are its keywords.

    per: whether expected_s is for a call with `batch` images, or divided by them. tile, tiles: the
    tile that a convolution's search chose (channels, height, width), and how many there were.
    """

    name: str
    operator: str
    arguments: dict[str, Any]
    device: str
    batch: int
    expected_s: float
    per: Literal["call", "image"]
    monte_carlo: bool
    tile: tuple[int, int, int] | None = None
    tiles: int | None = None

    @property
    def tolerance(self) -> float:
        """The largest relative error that counts as reproduced."""
        return MONTE_CARLO_TOLERANCE if self.monte_carlo else TOLERANCE


class PaperMiss(FrozenModel):
    """A published latency that is not reproduced."""

    name: str
    expected_s: float
    predicted_s: float
    rel_error: float
    tolerance: float


class PaperCheck(FrozenModel):
    """How many latencies were compared and how far off they are at most, relative.

    max_rel_error is over those without, max_rel_error_monte_carlo over those with random draws.
    """

    vectors: int
    max_rel_error: float
    max_rel_error_monte_carlo: float
    misses: tuple[PaperMiss, ...]


def paper_vectors() -> tuple[PaperVector, ...]:
    """All published latencies of convolutional networks, from the package's data."""
    text = files("engines.latency").joinpath("paper_vectors.json").read_bytes()
    return TypeAdapter(tuple[PaperVector, ...]).validate_json(text)


def predicted_s(vector: PaperVector) -> float:
    """What the published model gives here for a vector, per call or image as it asks."""
    on = target(gpu(vector.device, "paper"), vector.batch, PAPER)
    seconds = OPERATORS[vector.operator](on, **vector.arguments)
    return seconds / vector.batch if vector.per == "image" else seconds


def check_paper() -> PaperCheck:
    """Compare every published latency with its prediction. The same at every call."""
    worst = {False: 0.0, True: 0.0}
    misses: list[PaperMiss] = []
    vectors = paper_vectors()
    for vector in vectors:
        predicted = predicted_s(vector)
        error = abs(predicted / vector.expected_s - 1.0)
        worst[vector.monte_carlo] = max(worst[vector.monte_carlo], error)
        if error > vector.tolerance:
            misses.append(
                PaperMiss(
                    name=vector.name,
                    expected_s=vector.expected_s,
                    predicted_s=predicted,
                    rel_error=error,
                    tolerance=vector.tolerance,
                )
            )
    return PaperCheck(
        vectors=len(vectors),
        max_rel_error=worst[False],
        max_rel_error_monte_carlo=worst[True],
        misses=tuple(misses),
    )


def _square(size: int) -> MapSize:
    return MapSize(size, size)


def _conv_shape(
    in_channels: int,
    out_channels: int,
    size: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
) -> Conv:
    return Conv(in_channels, out_channels, _square(size), kernel, stride, groups)


def _patches(size: int, patch: int, rate: float) -> dynamic.Patches:
    return dynamic.Patches(_square(size), patch, rate)


def _network_s(
    on: Target,
    name: str,
    paradigm: Paradigm = Paradigm.STATIC,
    rate: float = 1.0,
    spatial_granularity: Sequence[int] = (4, 4, 2, 1),
    channel_granularity: int = 2,
) -> float:
    shape = named_shape(
        name,
        Paradigm(paradigm),
        spatial_granularity=spatial_granularity,
        channel_granularity=channel_granularity,
    )
    rates = uniform_shape_rates(shape, rate)
    batch = int(on.batch)
    return predict_gpu(shape, rates, batch=batch, device=on.gpu, corrections=on.corrections).total_s


def _block_s(
    on: Target,
    in_channels: int,
    mid_channels: int,
    size: int,
    paradigm: Paradigm = Paradigm.STATIC,
    rate: float = 1.0,
    spatial_granularity: int | None = None,
    channel_granularity: int | None = None,
) -> float:
    block = BlockShape(
        name="block",
        in_channels=in_channels,
        mid_channels=mid_channels,
        out_channels=in_channels,
        height=size,
        width=size,
        paradigm=Paradigm(paradigm),
        granularity=Granularity(spatial_granularity, channel_granularity),
    )
    space, channels = block.paradigm.masks_space, block.paradigm.masks_channels
    rates = BlockRates(
        spatial=rate if space else 1.0,
        dilated=rate if space else 1.0,
        channel=rate if channels else 1.0,
        spatial_masker=float(space),
        channel_masker=float(channels),
    )
    return block_cost(on, block, rates).cost.total_s


OPERATORS: Mapping[str, Callable[..., float]] = {
    "network": _network_s,
    "block": _block_s,
    "conv": lambda on, **shape: static.conv(on, _conv_shape(**shape)).total_s,
    "add": lambda on, channels, size: static.add(on, channels, _square(size)).total_s,
    "fully_connected": lambda on, inputs, outputs: (
        static.fully_connected(on, inputs, outputs).total_s
    ),
    "average_pool": lambda on, channels, size: (
        static.average_pool(on, channels, _square(size), _square(1)).total_s
    ),
    "squeeze_excite": lambda on, channels, hidden, size: (
        static.squeeze_excite(on, channels, hidden, _square(size)).total_s
    ),
    "fused_masker_conv": lambda on, **shape: (
        dynamic.fused_masker_conv(on, _conv_shape(**shape)).total_s
    ),
    "separate_masker_conv": lambda on, size, patch, rate, **shape: (
        dynamic.separate_masker_conv(
            on, _conv_shape(size=size, **shape), _patches(size, patch, rate)
        ).total_s
    ),
    "gather_conv": lambda on, size, patch, rate, **shape: (
        dynamic.patch_conv(
            on, _conv_shape(size=size, **shape), _patches(size, patch, rate), dense_input=True
        ).total_s
    ),
    "packed_conv": lambda on, size, patch, rate, **shape: (
        dynamic.patch_conv(
            on, _conv_shape(size=size, **shape), _patches(size, patch, rate), dense_input=False
        ).total_s
    ),
    "scatter_add": lambda on, channels, size, patch, rate: (
        dynamic.scatter_add(on, channels, _patches(size, patch, rate)).total_s
    ),
    "idle_masker_conv": lambda on, **shape: (
        dynamic.idle_masker_conv(on, _conv_shape(**shape)).total_s
    ),
    "channel_masker": lambda on, channels, size, granularity: (
        dynamic.channel_masker(on, channels, _square(size), channels // granularity).total_s
    ),
}
