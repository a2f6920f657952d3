"""Every correction by itself: what it changes, with numbers by hand, and its switch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engines.architecture import MapSize
from engines.core import Granularity, Paradigm
from engines.errors import InvalidInput
from engines.latency import dynamic_operators as dynamic
from engines.latency import operators as static
from engines.latency.blocks import BlockCost, block_cost
from engines.latency.corrections import CORRECTION_NAMES, FIXED, PAPER, Corrections
from engines.latency.gpu import predict_gpu
from engines.latency.hardware import Gpu, gpu
from engines.latency.operators import Conv, Cost, Density, Target
from engines.latency.shapes import WHOLE, BlockShape, named_shape, uniform_shape_rates
from engines.macs import BlockRates
from tests.engines.latency.devices import ARITHMETIC, CACHE, MEMORY, PLAIN, on

POINT = MapSize(1, 1)
LAUNCH = PLAIN.launch_s


def only(*names: str) -> Corrections:
    return Corrections.named(names)


def block(
    paradigm: Paradigm,
    granularity: Granularity = WHOLE,
    *,
    stride: int = 1,
    out_channels: int = 8,
) -> BlockShape:
    return BlockShape(
        name="layer1.0",
        in_channels=8,
        mid_channels=4,
        out_channels=out_channels,
        height=4,
        width=4,
        stride=stride,
        projection=stride != 1 or out_channels != 8,
        paradigm=paradigm,
        granularity=granularity,
    )


CHANNEL = block(Paradigm.CHANNEL, Granularity(channel=2))
HALF_OF_CHANNELS = BlockRates(channel=0.5, channel_masker=1.0)
HALF_OF_IMAGES = BlockRates(spatial=0.5, dilated=0.5, spatial_masker=1.0)


def parts(cost: BlockCost) -> dict[str, Cost]:
    return dict(cost.operators)


# The switches


def test_the_paper_has_none_and_fixed_has_all() -> None:
    assert PAPER.names == ()
    assert FIXED.names == CORRECTION_NAMES
    assert len(CORRECTION_NAMES) == 11


@pytest.mark.parametrize("name", CORRECTION_NAMES)
def test_a_correction_can_be_switched_alone(name: str) -> None:
    assert only(name).names == (name,)
    assert replace(FIXED, **{name: False}).names == tuple(n for n in CORRECTION_NAMES if n != name)


@pytest.mark.parametrize("name", CORRECTION_NAMES)
def test_a_correction_alone_changes_a_prediction(name: str) -> None:
    """Of a network with every kind of block, in a batch, on the device with the slow L2."""
    shape = named_shape(
        "resnet50", (Paradigm.CHANNEL, Paradigm.SPATIAL, Paradigm.LAYER, Paradigm.SPATIAL)
    )
    rates = uniform_shape_rates(shape, 0.1)
    device = gpu("rtx3090", "paper")
    paper, changed = (
        predict_gpu(shape, rates, batch=8, device=device, corrections=c).total_s
        for c in (PAPER, only(name))
    )
    assert changed != paper


def test_an_unknown_correction_is_told_which_there_are() -> None:
    with pytest.raises(InvalidInput, match="unknown correction 'halos'; there are single_input"):
        only("halo", "halos")


# Arithmetic of skipped channels


def test_single_input_density() -> None:
    """Half of 4 inputs, half of one output: 4 x 1/2 x 1/2 instead of 4 x 1/2 x (1/2 x 1/2)."""
    density = Density(0.5, 0.5, group=1)
    shape = Conv(4, 1, POINT)
    counted = [
        static.conv(on(ARITHMETIC, corrections=c), shape, density).compute_s
        for c in (only("exact_expectation"), only("exact_expectation", "single_input_density"))
    ]
    assert counted == [pytest.approx(0.5), pytest.approx(1.0)]


@pytest.mark.parametrize(
    ("device", "batch", "rate", "milliseconds"),
    [
        ("v100", 128, 0.6, 1.169),
        ("v100", 128, 0.7071, 1.329),
        ("tx2", 1, 0.5, 18.6),
        ("tx2", 1, 0.7071, 24.5),
    ],
)
def test_single_input_density_of_a_whole_network(
    device: str, batch: int, rate: float, milliseconds: float
) -> None:
    """ResNet-101, G = 2: what the released simulator gives with its double count mended."""
    shape = named_shape("resnet101", Paradigm.CHANNEL, channel_granularity=2)
    total_s = predict_gpu(
        shape,
        uniform_shape_rates(shape, rate),
        batch=batch,
        device=gpu(device, "paper"),
        corrections=only("single_input_density"),
    ).total_s
    assert 1e3 * total_s / batch == pytest.approx(milliseconds, rel=0.015)


@pytest.mark.parametrize(
    ("corrections", "share"),
    [
        (only("exact_expectation"), 1.375 / 2),
        (only("exact_expectation", "group_size"), 1.5 / 2),
    ],
    ids=["single channels", "groups of two"],
)
def test_group_size(corrections: Corrections, share: float) -> None:
    """Two tiles of two channels on two processing elements: the fuller one is waited for.

    Single channels at 1/2: E[max] = 15/16 + 7/16. Pairs: 2 x (1 - 1/4).
    """
    device = replace(ARITHMETIC, num_sms=2, lanes=2)
    shape, density = Conv(6, 4, POINT), Density(outputs=0.5, group=2)
    assert static.conv_tile(on(device, corrections=corrections), shape, density).channels == 2
    cost = static.conv(on(device, corrections=corrections), shape, density)
    assert cost.compute_s == pytest.approx(6 * share)


def test_exact_expectation() -> None:
    """The same two tiles; 100 draws of a maximum with sigma < 1/2 come within 4/20 of it."""
    device = replace(ARITHMETIC, num_sms=2, lanes=2)
    shape, density = Conv(6, 4, POINT), Density(outputs=0.5, group=1)
    exact = static.conv(on(device, corrections=only("exact_expectation")), shape, density)
    drawn = static.conv(on(device, corrections=PAPER), shape, density)
    assert exact.compute_s == pytest.approx(6 * 1.375 / 2)
    assert drawn.compute_s != exact.compute_s
    assert drawn.compute_s == pytest.approx(exact.compute_s, rel=0.15)


# Weights of skipped channels


def test_weight_gather() -> None:
    """Weights 8x4, 4x4x9, 4x8: 32/2 + 144/4 + 32/2 = 68 words are read and written for an image.

    The 3x3 then reads its 36, instead of half of its rows with all columns (72).
    """
    paper, gathered = (
        parts(block_cost(on(MEMORY, corrections=c), CHANNEL, HALF_OF_CHANNELS))
        for c in (PAPER, only("weight_gather"))
    )
    assert "weight_gather" not in paper
    assert gathered["weight_gather"].memory_s == pytest.approx(2 * 68)
    assert gathered["weight_gather"].fixed_s == LAUNCH
    assert paper["conv2"].memory_s - gathered["conv2"].memory_s == pytest.approx(72 - 36)


def test_weight_gather_is_nothing_where_nothing_is_skipped() -> None:
    whole = BlockRates(channel=1.0, channel_masker=1.0)
    cost = block_cost(on(MEMORY, corrections=only("weight_gather")), CHANNEL, whole)
    assert "weight_gather" not in parts(cost)


def test_batch_compaction_of_channels() -> None:
    """Eight images with a mask each read a quarter of the 3x3's weights each, not all once."""
    shape, density = Conv(4, 4, POINT, 3), Density(0.5, 0.5, group=1)
    reads = [
        static.weight_reads(on(CACHE, 8, c), density) * shape.weights
        for c in (PAPER, only("batch_compaction"))
    ]
    assert reads == [144, 8 * 36]


def test_batch_compaction_gathers_weights_for_every_image() -> None:
    """Copies for 8 images are written; the weights (208 words) come from DRAM once."""
    corrections = only("batch_compaction", "weight_gather")
    cost = parts(block_cost(on(MEMORY, 8, corrections), CHANNEL, HALF_OF_CHANNELS))
    assert cost["weight_gather"].memory_s == pytest.approx(208 + 8 * 68)


def test_batch_compaction_is_nothing_for_one_image() -> None:
    for shape, rates in ((CHANNEL, HALF_OF_CHANNELS), (block(Paradigm.LAYER), HALF_OF_IMAGES)):
        paper, compacted = (
            block_cost(on(PLAIN, 1, c), shape, rates) for c in (PAPER, only("batch_compaction"))
        )
        assert paper == compacted


def test_batch_compaction_of_layers() -> None:
    """Two images, each runs with probability 1/2: one of them expected, some with 3/4.

    Launches: the masker's, then 3/4 of (gather, three convolutions, add) instead of 1/2 of four.
    Words: one image of 8 x 16 is copied, and weights are read 3/4 times instead of 1/2 times.
    """
    shape = block(Paradigm.LAYER)
    paper, compacted = (
        block_cost(on(MEMORY, 2, c), shape, HALF_OF_IMAGES)
        for c in (PAPER, only("batch_compaction"))
    )
    assert paper.cost.fixed_s == pytest.approx(LAUNCH * (1 + 4 / 2))
    assert compacted.cost.fixed_s == pytest.approx(LAUNCH * (1 + 5 * 3 / 4))
    gathered = parts(compacted)["image_gather"].memory_s
    assert gathered == pytest.approx(2 * 8 * 16)
    weights = 32 + 144 + 32
    rest = compacted.cost.memory_s - gathered
    assert rest - paper.cost.memory_s == pytest.approx(weights * (3 / 4 - 1 / 2))


# The device


@pytest.mark.parametrize(
    ("device", "l2_ratio"),
    [(gpu("rtx3090", "paper"), 4.0), (gpu("v100", "paper"), 4.0), (gpu("a100"), 7219.2 / 1555)],
    ids=lambda value: value.name if isinstance(value, Gpu) else "",
)
def test_separate_l2(device: Gpu, l2_ratio: float) -> None:
    """Only an L2 that is as slow as DRAM is replaced."""
    on_device = Target(device, 1, only("separate_l2"))
    assert on_device.l2 / on_device.dram == pytest.approx(l2_ratio)
    assert Target(device, 1, PAPER).l2 * 4 == device.l2_bytes_per_s


# What was left out


def test_stem_and_head() -> None:
    """32x32: 16x16 behind the convolution, 8x8 behind the pool, one pixel at the end."""
    shape = named_shape("resnet50", image=MapSize(32, 32), num_classes=10)
    rates = uniform_shape_rates(shape, 1.0)
    paper, whole = (
        predict_gpu(shape, rates, batch=2, device=MEMORY, corrections=c).parts
        for c in (PAPER, only("stem_and_head"))
    )
    assert [paper[i].name for i in (0, -1)] == ["stem", "head"]
    assert [paper[i].total_s for i in (0, -1)] == [0.0, 0.0]
    conv = 3 * 64 * 49 + 2 * (3 * 32 * 32 + 64 * 16 * 16)
    pool = 2 * 64 * (16 * 16 + 8 * 8)
    assert whole[0].memory_s == pytest.approx(conv + pool)
    head = 2 * 2048 * 2 + 2 * (2048 * 10 + 2048 + 10)
    assert whole[-1].memory_s == pytest.approx(head)
    assert [whole[i].fixed_s for i in (0, -1)] == [2 * LAUNCH, 2 * LAUNCH]
    assert whole[1:-1] == paper[1:-1]


def test_projection_at_stride_1() -> None:
    widens = block(Paradigm.STATIC, out_channels=16)
    paper, projected = (
        parts(block_cost(on(MEMORY, 1, c), widens, BlockRates()))
        for c in (PAPER, only("projection_at_stride_1"))
    )
    assert "projection" not in paper
    assert projected["projection"].memory_s == pytest.approx(8 * 16 + 8 * 16 + 16 * 16)
    strided = block(Paradigm.STATIC, stride=2)
    assert "projection" in parts(block_cost(on(MEMORY, 1, PAPER), strided, BlockRates()))


# Maskers


def test_fc_weights_once() -> None:
    paper, once = (
        static.fully_connected(on(MEMORY, 8, c), 16, 4).memory_s
        for c in (PAPER, only("fc_weights_once"))
    )
    assert paper == pytest.approx(8 * (64 + 20))
    assert once == pytest.approx(64 + 8 * 20)


def test_masker_sizes() -> None:
    """mid / G = 2 groups and 16 hidden units, instead of in / G = 4 outputs and 4 // 4 hidden."""
    paper, corrected = (
        parts(block_cost(on(MEMORY, 1, c), CHANNEL, HALF_OF_CHANNELS))["masker"].memory_s
        for c in (PAPER, only("masker_sizes"))
    )
    pool = 8 * 16 + 8
    assert paper == pytest.approx(pool + (8 * 1 + 8 + 1) + (1 * 4 + 1 + 4))
    assert corrected == pytest.approx(pool + (8 * 16 + 8 + 16) + (16 * 2 + 16 + 2))


def test_halo() -> None:
    """Before a stride of 2, a patch of 2 pixels is one of 4, and 3 of 4 are needed, not half.

    The published model takes half of the 16 patches of 2 x 2 pixels on the larger map.
    """
    shape = block(Paradigm.SPATIAL, Granularity(spatial=2), stride=2)
    rates = BlockRates(spatial=0.5, dilated=0.7, spatial_masker=1.0)
    conv1 = Conv(8, 4, MapSize(8, 8))
    separate = {}
    for name, corrections in (("paper", PAPER), ("halo", only("halo"))):
        fusion = block_cost(on(MEMORY, 1, corrections), shape, rates).fusion
        assert fusion is not None
        separate[name] = fusion.separate_s
    for name, patches in (
        ("paper", dynamic.Patches(MapSize(8, 8), 2, 0.5)),
        ("halo", dynamic.Patches(MapSize(8, 8), 4, 0.7)),
    ):
        expected = dynamic.separate_masker_conv(on(MEMORY), conv1, patches)
        assert separate[name] == pytest.approx(expected.total_s)
    written = {"paper": 8 * 4, "halo": 3 * 16}
    assert separate["halo"] - separate["paper"] == pytest.approx(
        4 * (written["halo"] - written["paper"])
    )
