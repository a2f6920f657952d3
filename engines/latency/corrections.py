"""What the published model of GPUs leaves out or gets wrong, each correction a switch of its own.

PAPER reproduces the released simulator of LAUDNet (arXiv:2308.15949); FIXED corrects all of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from engines.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Corrections:
    """Which deviations from the published model are on; all of them are off by default.

    single_input_density: channel skipping saves a convolution's inputs once. The published model
        counts them in the arithmetic and again in the imbalance among tiles, so that a 3x3 at half
        its channels costs 0.16 of the whole instead of at least 0.25.
    group_size: channels are skipped in groups of G, which balance worse among tiles than single
        channels. The published model takes G = 1 for every convolution.
    weight_gather: before a channel-skipping block runs, a kernel copies the active weights.
    separate_l2: an L2 cache that is as slow as DRAM (the published RTX 3090) gets four times
        DRAM's bandwidth, the ratio that the published constants give every other device.
    batch_compaction: images of a batch have different masks. Under channel skipping each has its
        own weights, to be gathered and read; under layer skipping the images that run the block
        are first copied together, and weights and launches are paid once any of them does.
    exact_expectation: the imbalance among tiles is the exact expectation of their maximum, not
        the mean of 100 random draws.
    stem_and_head: the layers before the first block and behind the last one cost time.
    fc_weights_once: a fully connected layer reads its weights once per batch, not per image.
    masker_sizes: channel maskers have the network's sizes: mid / G outputs, at least 16 hidden
        units. The published model takes the block's input channels, and 16 times fewer hidden
        units than outputs.
    halo: where masker and first 1x1 are not fused, the 1x1 runs on all pixels that the 3x3 reads
        (BlockRates.dilated), in patches of S x stride pixels. The published model takes the share
        of active patches, and S pixels also on the larger map before a stride.
    projection_at_stride_1: the projection of a block that widens without a stride costs time (the
        first block of a ResNet).
    """

    single_input_density: bool = False
    group_size: bool = False
    weight_gather: bool = False
    separate_l2: bool = False
    batch_compaction: bool = False
    exact_expectation: bool = False
    stem_and_head: bool = False
    fc_weights_once: bool = False
    masker_sizes: bool = False
    halo: bool = False
    projection_at_stride_1: bool = False

    @classmethod
    def named(cls, names: Iterable[str]) -> Corrections:
        """These and no others. Raises InvalidInput for a name that is none, listing all."""
        chosen = set(names)
        unknown = sorted(chosen - set(CORRECTION_NAMES))
        if unknown:
            raise InvalidInput(
                f"unknown correction '{unknown[0]}'; there are {', '.join(CORRECTION_NAMES)}"
            )
        return cls(**dict.fromkeys(chosen, True))

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are on."""
        return tuple(name for name in CORRECTION_NAMES if getattr(self, name))


CORRECTION_NAMES = tuple(field.name for field in fields(Corrections))
PAPER = Corrections()
FIXED = Corrections.named(CORRECTION_NAMES)
