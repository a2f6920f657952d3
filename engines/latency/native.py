"""What a network costs on our native engine before it is built: a model of its pass, part by part.

Per layer: multiply-accumulates at the speed that the kernel reaches in that shape, what weights add
that come from memory, and the least time in which they can. Besides: maskers, lists, barriers and
maps too large for a cache. What each step costs comes from a measured `Host`; nothing is fitted to
whole networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engines.architecture import MapSize, ResNet
from engines.errors import InvalidInput
from engines.latency.core import HEAD, STEM, PartCost, Prediction, check_rates
from engines.latency.host import Host, PrecisionCosts
from engines.latency.native_work import BlockWork, Layer, block_work
from engines.macs import BlockRates

# As in forward.cpp: into how many chunks per thread a layer is cut, by rows and by panels.
_CUTS_BY_ROW, _CUTS_BY_PANEL = 4, 2
_STEM_TAPS = 49


def predict_native(
    net: ResNet,
    image: MapSize,
    rates: Sequence[BlockRates],
    *,
    batch: int,
    threads: int,
    precision: str,
    host: Host,
) -> Prediction:
    """Expected seconds of a call with `batch` images of that size.

    rates: per block, means over images; under layer skipping `spatial` is how probable it is that
    an image runs the block. Raises InvalidInput for rates that do not fit, a batch or an image of
    nothing, more threads than the host has CPUs, and a precision that it cannot run.
    """
    if batch < 1:
        raise InvalidInput(f"a batch has at least one image, got {batch}")
    if image.height < 1 or image.width < 1:
        raise InvalidInput(f"an image has pixels, got {image.height}x{image.width}")
    if not 1 <= threads <= host.device.cpus:
        raise InvalidInput(
            f"threads must be 1 to {host.device.cpus}, the CPUs of '{host.device.cpu}', "
            f"got {threads}"
        )
    check_rates(net, rates)
    costs = host.costs(precision)
    works = [
        block_work(net, i, sizes, rates[i], batch, costs.units)
        for i, sizes in enumerate(net.block_sizes(image))
    ]
    touched = sum(work.weight_bytes for work in works) + max(work.trunk_bytes for work in works)
    machine = _Machine(host, costs, threads, host.thread_speed(precision, threads), touched)
    blocks = [
        _block(work, machine, _kept_means(net, i, rates) if i else 0.0)
        for i, work in enumerate(works)
    ]
    prepare_s = batch * image.area * costs.prepare_pixel_s / machine.workers
    # The threads are set off and meet again.
    return Prediction(
        (_stem(net, image, batch, machine), *blocks, _head(net, image, batch, machine)),
        overhead_s=costs.call_s + prepare_s + 2 * machine.barrier_s,
    )


@dataclass(frozen=True, slots=True)
class _Cost:
    """Seconds of a step, all threads together."""

    total: float = 0.0
    compute: float = 0.0
    memory: float = 0.0
    fixed: float = 0.0

    def __add__(self, other: _Cost) -> _Cost:
        return _Cost(
            self.total + other.total,
            self.compute + other.compute,
            self.memory + other.memory,
            self.fixed + other.fixed,
        )

    def named(self, name: str) -> PartCost:
        return PartCost(name, self.total, self.compute, self.memory, self.fixed)


def _computed(seconds: float) -> _Cost:
    return _Cost(total=seconds, compute=seconds)


def _moved(seconds: float) -> _Cost:
    return _Cost(total=seconds, memory=seconds)


def _fixed(seconds: float) -> _Cost:
    return _Cost(total=seconds, fixed=seconds)


@dataclass(frozen=True, slots=True)
class _Machine:
    """What a pass runs on. speed: of each thread, over one alone. touched_bytes: by the whole pass,
    which decides where the next one finds its weights."""

    host: Host
    costs: PrecisionCosts
    threads: int
    speed: float
    touched_bytes: float

    @property
    def workers(self) -> float:
        """How many times faster all threads together are than one alone."""
        return self.threads * self.speed

    @property
    def barrier_s(self) -> float:
        """One meeting of the threads."""
        return self.host.barrier_s(self.threads)

    def maps_s(self, moved_bytes: float, held_bytes: float) -> float:
        """What it adds that activations are moved which no cache holds: `moved_bytes` of maps of
        `held_bytes`."""
        speed = self.host.read_bytes_per_s(math.inf, self.threads)
        return moved_bytes * self.host.distance(held_bytes) / speed

    def weights_s(self, layer: Layer) -> tuple[float, float]:
        """What a layer's weights add to the time of computing with them, and the least that reading
        them takes."""
        costs, host = self.costs, self.host
        far_bytes = layer.weight_bytes * host.distance(self.touched_bytes)
        late = costs.scattered_byte_s if layer.scattered else costs.late_byte_s
        # Each thread waits for its own share, and all together have no more than the memory gives.
        speed = min(
            costs.stream_bytes_per_s * self.threads, host.read_bytes_per_s(math.inf, self.threads)
        )
        return far_bytes * late / self.threads, far_bytes / speed


def _block(work: BlockWork, machine: _Machine, kept: float) -> PartCost:
    """kept: the share of windows whose means are those of the block before."""
    cost = _maskers(work, machine, kept)
    cost += _fixed(work.listed * machine.host.list_pixel_s + work.chunks * machine.barrier_s)
    first = [work.conv1, *([work.projection] if work.projection else [])]
    cost += _run(first, work.chunks, machine)
    cost += _run([work.conv2], work.running_chunks, machine)
    cost += _run([work.conv3], work.running_chunks, machine)
    cost += _moved(machine.maps_s(work.moved_bytes, work.trunk_bytes))
    return cost.named(work.block.name)


def _run(layers: Iterable[Layer], times: float, machine: _Machine) -> _Cost:
    """Layers that the threads share out together, so many times in a call."""
    cuts = compute = late = least = 0.0
    for layer in layers:
        if layer.rows <= 0 or layer.outputs <= 0:
            continue
        cut, by_panel = _cuts(layer, machine)
        rows = layer.rows if by_panel else layer.rows / cut
        outputs = layer.outputs / cut if by_panel else layer.outputs
        compute += layer.jobs * cut * _gemm_s(layer, rows, outputs, machine.costs)
        cuts += layer.jobs * cut
        added, read = machine.weights_s(layer)
        late, least = late + added, least + read
    if cuts and machine.threads > 1:
        # With three pieces for two threads, one of them does two.
        each = cuts / times
        # Rounded: a whole number of turns must not become one more by the last bit of a float.
        turns = math.ceil(round(each / machine.threads, 9))
        compute *= turns * machine.threads / each
    compute /= machine.workers
    fixed = times * machine.barrier_s
    return _Cost(max(compute + late, least) + fixed, compute, max(late, least), fixed)


def _cuts(layer: Layer, machine: _Machine) -> tuple[int, bool]:
    """Into how many chunks a job is cut, and whether by panels; as in forward.cpp."""
    threads, units = machine.threads, machine.costs.units
    if threads == 1:
        return 1, False
    panels = math.ceil(layer.outputs / units.panel)
    weights = layer.taps * layer.inputs * layer.outputs
    if panels >= threads and weights > 2 * layer.rows * (layer.inputs + layer.outputs):
        return min(panels, _CUTS_BY_PANEL * threads), True
    return min(int(layer.rows) // (2 * units.tile_rows) + 1, _CUTS_BY_ROW * threads), False


def _gemm_s(layer: Layer, rows: float, outputs: float, costs: PrecisionCosts) -> float:
    """One thread, one job or a piece of it."""
    table = costs.pointwise if layer.taps == 1 else costs.spatial
    tiles = math.ceil(rows / costs.units.tile_rows) * math.ceil(outputs / costs.units.panel)
    further = tiles * layer.taps * (layer.runs - 1.0)
    return table.seconds(rows, layer.inputs, outputs) + further * costs.segment_s


def _maskers(work: BlockWork, machine: _Machine, kept: float) -> _Cost:
    """Pooling and logits of all images, and the meeting behind them."""
    block, rates, costs = work.block, work.rates, machine.costs
    channels = block.in_channels
    numbers_s = work.size_in.area * channels * costs.pool_number_s
    spatial = channel = 0.0
    if block.paradigm.masks_space:
        windows = work.size.patches(block.granularity.spatial).area * channels
        pool = (1.0 - kept) * (numbers_s + windows * costs.pool_channel_s)
        spatial = pool + windows * costs.score_channel_s
    if block.paradigm.masks_channels:
        # Of the hidden layer and the last one, whose products cost about what a logit's do.
        hidden = block.channel_masker_hidden
        products = channels + hidden * (channels + block.num_groups)
        channel = numbers_s + channels * costs.pool_channel_s + products * costs.score_channel_s
    # Patches are shared out one by one, a channel mask is one thread's.
    seconds = work.batch * spatial * rates.spatial_masker / machine.workers
    seconds += work.batch * channel * rates.channel_masker / _image_workers(work.batch, machine)
    asked = max(rates.spatial_masker, rates.channel_masker)
    return _computed(seconds) + _fixed(asked * machine.barrier_s)


def _image_workers(batch: int, machine: _Machine) -> float:
    """How many times faster than one thread all are on what cannot be cut within an image."""
    return batch / math.ceil(batch / machine.threads) * machine.speed


def _kept_means(net: ResNet, index: int, rates: Sequence[BlockRates]) -> float:
    """Share of a spatial masker's windows that the block before left alone, so that their means are
    still known; as network.cpp plans it."""
    before, block = net.blocks[index - 1], net.blocks[index]
    if not (before.paradigm.masks_space and block.paradigm.masks_space):
        return 0.0
    same = before.granularity.spatial == block.granularity.spatial
    if before.projection or block.stride != 1 or not same:
        return 0.0
    return float((1.0 - rates[index - 1].spatial) * rates[index - 1].spatial_masker)


def _stem(net: ResNet, image: MapSize, batch: int, machine: _Machine) -> PartCost:
    conv, _ = net.stem_sizes(image)
    macs = batch * 3 * _STEM_TAPS * net.stem_width * conv.area
    seconds = macs / machine.costs.stem_macs_per_s / machine.workers
    return (_computed(seconds) + _fixed(machine.barrier_s)).named(STEM)


def _head(net: ResNet, image: MapSize, batch: int, machine: _Machine) -> PartCost:
    """Average pool, linear layer, and softmax on one thread."""
    costs, features, classes = machine.costs, net.num_features, net.num_classes
    numbers = net.block_sizes(image)[-1][1].area * features
    pool = numbers * costs.pool_number_s + features * costs.pool_channel_s
    linear = Layer(
        taps=1,
        jobs=1,
        rows=batch,
        inputs=features,
        outputs=classes,
        weight_bytes=features * classes * costs.units.element_bytes,
    )
    cost = _computed(batch * pool / _image_workers(batch, machine)) + _fixed(machine.barrier_s)
    cost += _run([linear], 1.0, machine) + _fixed(batch * classes * costs.class_s)
    return cost.named(HEAD)
