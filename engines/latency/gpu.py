"""What a network costs on a GPU, before it is built and without the GPU: the analytic predictor.

LAUDNet's predictor (arXiv:2308.15949) as published (`PAPER`) or corrected (`FIXED`), in FP32.
"""

from __future__ import annotations

from collections.abc import Sequence

from engines.errors import InvalidInput
from engines.latency.blocks import BlockCost, block_cost, head_cost, stem_cost
from engines.latency.core import HEAD, STEM, PartCost, Prediction
from engines.latency.corrections import FIXED, Corrections
from engines.latency.hardware import Gpu
from engines.latency.operators import Target
from engines.latency.shapes import NetworkShape
from engines.macs import BlockRates

MAX_BATCH = 65536


def predict_gpu(
    shape: NetworkShape,
    rates: Sequence[BlockRates],
    *,
    batch: int,
    device: Gpu,
    corrections: Corrections = FIXED,
) -> Prediction:
    """Seconds of one call with `batch` images, from one `BlockRates` per block (numbers).

    Without `corrections.stem_and_head` those two parts take no time. Raises InvalidInput for a
    wrong number of rates, and for what `block_cost` refuses.
    """
    on = target(device, batch, corrections)
    parts = [_part(block) for block in network_costs(shape, rates, on)]
    return Prediction(tuple(parts))


def network_costs(
    shape: NetworkShape, rates: Sequence[BlockRates], on: Target
) -> tuple[BlockCost, ...]:
    """The same as `predict_gpu` in detail: stem, blocks and head with operators and fusion."""
    if len(rates) != len(shape.blocks):
        raise InvalidInput(
            f"{shape.name}: {len(shape.blocks)} blocks need as many rates, got {len(rates)}"
        )
    blocks = tuple(
        block_cost(on, block, rate) for block, rate in zip(shape.blocks, rates, strict=True)
    )
    if not on.corrections.stem_and_head:
        return BlockCost(STEM, ()), *blocks, BlockCost(HEAD, ())
    head = head_cost(on, shape.num_features, shape.blocks[-1].out_size, shape.num_classes)
    return stem_cost(on, shape.stem), *blocks, head


def target(device: Gpu, batch: int, corrections: Corrections = FIXED) -> Target:
    """A call of `batch` images on a device. Raises InvalidInput for a batch that cannot be."""
    if not 1 <= batch <= MAX_BATCH:
        raise InvalidInput(f"a batch must have 1 to {MAX_BATCH} images, got {batch}")
    return Target(device, batch, corrections)


def _part(block: BlockCost) -> PartCost:
    cost = block.cost
    return PartCost(block.name, cost.total_s, cost.compute_s, cost.memory_s, cost.fixed_s)
