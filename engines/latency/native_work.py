"""What one block of a call computes and reads on our native engine, expected over masks.

No seconds here; `engines.latency.native` gives them.
The structure is the engine's own, see engines/cpu/csrc/network.cpp and blocks.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from engines.architecture import Block, MapSize, ResNet
from engines.latency.host import KernelUnits
from engines.macs import BlockRates

# As in network.cpp: a batch goes through a block in chunks of images whose inner maps take no more
# than this, or than the block's weights.
_CHUNK_BYTES = 384 * 1024
# As weights.cpp packs panels: every output has the weights of 4 bytes of inputs side by side, so
# that 16 of them share a cache line where a panel has as many.
_LINE_OUTPUTS = 16


@dataclass(frozen=True, slots=True)
class Layer:
    """GEMMs of one layer, all of one shape.

    taps: 1 or 9. jobs: how many there are in a call; rows: pixels of each. inputs, outputs:
    channels that are computed. runs: in how many pieces the inputs lie. weight_bytes: read by all
    jobs together; scattered: here and there instead of from end to end.
    """

    taps: int
    jobs: float
    rows: float
    inputs: float
    outputs: float
    weight_bytes: float
    runs: float = 1.0
    scattered: bool = False


@dataclass(frozen=True, slots=True)
class BlockWork:
    """One block of a call.

    chunks: into which the batch is cut; running_chunks: of them, those in which any image runs the
    block. listed: pixels that the lists name, of the first and of the other convolutions.
    projection: None without one. trunk_bytes: the maps it reads and writes; moved_bytes: what of
    them it does read and write.
    """

    block: Block
    size_in: MapSize
    size: MapSize
    rates: BlockRates
    batch: int
    chunks: int
    running_chunks: float
    listed: float
    conv1: Layer
    conv2: Layer
    conv3: Layer
    projection: Layer | None
    trunk_bytes: float
    moved_bytes: float

    @property
    def weight_bytes(self) -> float:
        """Read from the weights of all layers."""
        layers = (self.conv1, self.conv2, self.conv3, self.projection)
        return sum(layer.weight_bytes for layer in layers if layer)


@dataclass(frozen=True, slots=True)
class _Channels:
    """Shares of the inner channels under a channel mask. read: as inputs. computed: as outputs.
    lines: of cache lines of weights that hold computed outputs. runs: pieces of the inputs."""

    read: float
    computed: float
    lines: float
    runs: float


def block_work(
    net: ResNet,
    index: int,
    sizes: tuple[MapSize, MapSize],
    rates: BlockRates,
    batch: int,
    units: KernelUnits,
) -> BlockWork:
    """What block `index` computes on `batch` images; sizes: of its input and output."""
    block, (size_in, size) = net.blocks[index], sizes
    mid = size if net.stride_in_1x1 else size_in
    number = units.element_bytes
    images = min(_images_per_chunk(block, mid, units), batch)
    chunks = -(-batch // images)
    # Under layer skipping there is one patch, so an image may well have none that is active.
    patches = size.patches(block.granularity.spatial).area if block.paradigm.masks_space else 1
    runs = min(1.0, rates.spatial * patches)
    running_chunks = chunks * (1.0 - (1.0 - runs) ** images)
    masked = rates.channel < 1.0 and bool(block.granularity.channel)
    share = _channels(block, rates.channel, units) if masked else _Channels(1.0, 1.0, 1.0, 1.0)
    # Images without a channel mask are one job of their chunk; with one, each is a job of its own.
    jobs = batch * runs if masked else running_chunks
    needed = 1.0 - (1.0 - runs) ** batch

    def layer(taps: int, pixels: float, inputs: int, outputs: int, ends: str) -> Layer:
        read = share.read if "in" in ends else 1.0
        lines = share.lines if "out" in ends else 1.0
        size = taps * inputs * outputs * number * needed
        return Layer(
            taps=taps,
            jobs=jobs,
            rows=batch * pixels / jobs if jobs else 0.0,
            inputs=inputs * read,
            outputs=outputs * (share.computed if "out" in ends else 1.0),
            weight_bytes=size * (_any(read, jobs) * _any(lines, jobs) if masked else 1.0),
            runs=share.runs if "in" in ends else 1.0,
            scattered=masked,
        )

    active, dilated = rates.spatial * size.area, rates.dilated * mid.area
    read_bytes = size_in.area * block.in_channels * number * batch
    written_bytes = size.area * block.out_channels * number * batch
    return BlockWork(
        block=block,
        size_in=size_in,
        size=size,
        rates=rates,
        batch=batch,
        chunks=chunks,
        running_chunks=running_chunks,
        listed=batch * (active + dilated),
        conv1=layer(1, dilated, block.in_channels, block.width, "out"),
        conv2=layer(9, active, block.width, block.width, "in out"),
        conv3=layer(1, active, block.width, block.out_channels, "in"),
        projection=_projection(block, size, images, chunks, number),
        # Without a projection a block works in place.
        trunk_bytes=read_bytes + written_bytes if block.projection else written_bytes,
        moved_bytes=(
            max(rates.dilated, float(block.projection)) * read_bytes
            + max(rates.spatial, float(block.projection)) * written_bytes
        ),
    )


def _projection(block: Block, size: MapSize, images: int, chunks: int, number: int) -> Layer | None:
    """The 1x1 of the shortcut, which no mask skips."""
    if not block.projection:
        return None
    return Layer(
        taps=1,
        jobs=chunks,
        rows=size.area * images,
        inputs=block.in_channels,
        outputs=block.out_channels,
        weight_bytes=block.in_channels * block.out_channels * number,
    )


def _images_per_chunk(block: Block, mid: MapSize, units: KernelUnits) -> int:
    weights = block.width * (block.in_channels + 9 * block.width + block.out_channels)
    pixels = (mid.height + 2) * (mid.width + 2)
    image = pixels * _round_up(block.width, units.channel_unit) * units.element_bytes
    return max(1, max(_CHUNK_BYTES, weights * units.element_bytes) // image)


def _channels(block: Block, rate: float, units: KernelUnits) -> _Channels:
    """Where any of its groups is active, the engine computes a unit whole."""
    group = block.granularity.channel or 1
    channels = _round_up(block.width, units.channel_unit)
    unit = units.input_unit if channels % units.input_unit == 0 else channels

    def share(size: int) -> float:
        return _any(rate, max(size / group, 1.0))

    computed, read = max(unit, units.vector), share(unit)
    pieces = channels / max(unit, group)
    return _Channels(
        read=read,
        computed=share(computed),
        lines=share(max(computed, min(_LINE_OUTPUTS, units.panel))),
        # A piece begins where an active unit follows an inactive one, or the first is active.
        runs=max(1.0, read * (1.0 + (pieces - 1.0) * (1.0 - read))),
    )


def _any(share: float, times: float) -> float:
    """How probable it is that something happens at least once."""
    return 1.0 - float((1.0 - share) ** times)


def _round_up(count: int, unit: int) -> int:
    return -(-count // unit) * unit
