"""What `?explain=1` tells: grids of patches, shares of the work, and one map of all of them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.architecture import MapSize, RegNet, RegNetStage, ResNet, Stage
from engines.core import Glance, OperatingPoint, Output, Paradigm, static_point
from engines.errors import EngineError
from engines.macs import all_block_macs, static_macs
from service.explain import explain
from service.model import Model
from service.request import Prediction, Reply
from service.schemas.v1 import Explanation
from tests.engines.cpu import cases
from tests.service.scripted import HASH, ScriptedEngine, manifest

NOW = Prediction(0.0, 0.0, 0.0, 0.0)
SIZE = 64
# Maps of 16, 8, 4 and 4 pixels; grids of 6x6 (the last patch is partial), 2x2 and one patch.
NET = ResNet(
    stem_width=4,
    stages=(
        Stage(depth=1, width=4, paradigm=Paradigm.SPATIAL, spatial_granularity=3),
        Stage(
            depth=1,
            width=4,
            paradigm=Paradigm.SPATIAL_CHANNEL,
            spatial_granularity=4,
            channel_granularity=2,
        ),
        Stage(depth=1, width=4, paradigm=Paradigm.LAYER),
        Stage(depth=1, width=4),
    ),
    num_classes=3,
    folded=True,
)
SKIP = OperatingPoint(
    name="skip", image_size=SIZE, thresholds=(0.0, 0.0, None, None), caps=(None, None, None, 1)
)
FINE, COARSE, GROUPS, LAYER = 36, 4, 2, 1


def reply_of(output: Output, i: int, point: OperatingPoint) -> Reply:
    """What the executor makes of one image of an engine's output."""
    return Reply(
        probabilities=np.asarray(output.arrays["probabilities"][i], np.float32),
        activation=output.activation[i],
        point=point,
        reason="best",
        accuracy=None,
        batch_size=1,
        service_s=0.0,
        predicted=NOW,
        phases_s={},
        decisions=np.asarray(output.arrays["decisions"][i], np.bool_),
    )


def explained(
    net: ResNet | RegNet,
    point: OperatingPoint,
    *decided: npt.NDArray[np.bool_] | None,
    looked_again: bool | None = None,
) -> Explanation:
    """Of an image with these decisions, one array per masker; None: the engine does not tell."""
    told = [each for each in decided if each is not None]
    rates = [each.mean() for each in told] or [0.5] * len(net.maskers)
    served = manifest().model_copy(update={"architecture": net})
    reply = Reply(
        probabilities=np.ones(3, np.float32),
        activation=np.array(rates, np.float32),
        point=point,
        reason="best",
        accuracy=None,
        batch_size=1,
        service_s=0.0,
        predicted=NOW,
        phases_s={},
        decisions=np.concatenate([np.empty(0, bool), *told]) if told else None,
        looked_again=looked_again,
    )
    return explain(Model(served, HASH, ScriptedEngine()), reply)


def some(count: int, *active: int) -> npt.NDArray[np.bool_]:
    """`count` units of which these are active."""
    units = np.zeros(count, bool)
    units[list(active)] = True
    return units


def everything() -> list[npt.NDArray[np.bool_]]:
    return [np.ones(count, bool) for count in (FINE, COARSE, GROUPS, LAYER)]


def test_every_block_is_told_with_its_paradigm_and_maskers() -> None:
    found = explained(NET, SKIP, some(FINE, 0), some(COARSE, 3), some(GROUPS, 0), some(LAYER, 0))
    assert [(block.name, block.paradigm) for block in found.blocks] == [
        ("layer1.0", "spatial"),
        ("layer2.0", "spatial+channel"),
        ("layer3.0", "layer"),
        ("layer4.0", "static"),
    ]
    assert [[masker.kind for masker in block.maskers] for block in found.blocks] == [
        ["spatial"],
        ["spatial", "channel"],
        ["spatial"],
        [],
    ]
    assert (found.image_size, found.crop_ratio, found.skips_nothing) == (SIZE, 1.0, False)


GLANCE = SKIP.model_copy(
    update={"name": "glance", "glance": Glance(image_size=32, confidence=0.75)}
)
FIRST = static_macs(NET, MapSize(32, 32)) / static_macs(NET, MapSize(SIZE, SIZE))


def nothing() -> list[npt.NDArray[np.bool_]]:
    """As engines report images that they did not compute at their point's size."""
    return [np.zeros(count, bool) for count in (FINE, COARSE, GROUPS, LAYER)]


def test_an_image_that_was_answered_at_first_sight_is_the_whole_small_copy() -> None:
    found = explained(NET, GLANCE, *nothing(), looked_again=False)
    assert found.looked_again is False
    assert found.image_size == 32
    assert found.macs_ratio == pytest.approx(FIRST, abs=1e-4)
    assert "at 32x32 pixels was sure enough, at least 0.75, without 64x64" in found.summary
    assert f"{found.macs_ratio:.1%} of the multiply-accumulates" in found.summary
    maskers = [masker for block in found.blocks for masker in block.maskers]
    assert all(masker.activation == 1.0 and not masker.evaluated for masker in maskers)
    assert maskers[0].rows == ["111"] * 3, "a map of 8 pixels in patches of 3"
    assert found.map is not None
    assert np.all(np.array(found.map.counts) == found.map.maskers)
    for i, block in enumerate(found.blocks):
        small, whole = (all_block_macs(NET, MapSize(s, s))[i].static for s in (32, SIZE))
        assert block.macs_ratio == pytest.approx(small / whole, abs=1e-4)


def test_one_that_was_looked_at_again_took_both_looks() -> None:
    again = explained(NET, GLANCE, *everything(), looked_again=True)
    alone = explained(NET, SKIP, *everything())
    assert (again.looked_again, again.image_size) == (True, SIZE)
    assert again.macs_ratio == pytest.approx(FIRST + (alone.macs_ratio or 0.0), abs=2e-4)
    assert "at 32x32 pixels was less sure than 0.75, then 64x64: it took" in again.summary
    assert [block.maskers for block in again.blocks] == [block.maskers for block in alone.blocks]


def test_where_the_engine_tells_nothing_the_first_sight_is_known_all_the_same() -> None:
    found = explained(NET, GLANCE, looked_again=False)
    assert found.macs_ratio == pytest.approx(FIRST, abs=1e-4)
    assert "does not tell what that took" in explained(NET, GLANCE, looked_again=True).summary


def test_a_spatial_masker_shows_its_grid_row_by_row() -> None:
    found = explained(
        NET, SKIP, some(FINE, 0, 5, 6, 35), some(COARSE, 1), some(GROUPS, 1), some(LAYER)
    )
    fine, coarse = found.blocks[0].maskers[0], found.blocks[1].maskers[0]
    assert fine.rows == ["100001", "100000", "000000", "000000", "000000", "000001"]
    assert (fine.active, fine.total, fine.granularity) == (4, 36, 3)
    assert fine.activation == pytest.approx(4 / 36)
    assert coarse.rows == ["01", "00"]


def test_a_skipped_layer_is_a_grid_of_one_patch() -> None:
    found = explained(NET, SKIP, *everything()[:3], some(LAYER))
    (layer,) = found.blocks[2].maskers
    assert (layer.rows, layer.granularity, layer.activation) == (["0"], None, 0.0)


def test_a_channel_masker_has_counts_and_no_grid() -> None:
    found = explained(NET, SKIP, some(FINE, 0), some(COARSE, 0), some(GROUPS, 1), some(LAYER, 0))
    channel = found.blocks[1].maskers[1]
    assert (channel.active, channel.total, channel.granularity) == (1, 2, 2)
    assert channel.rows is None


def test_maskers_that_the_point_does_not_ask_say_so() -> None:
    found = explained(NET, SKIP, *everything())
    asked = [masker.evaluated for block in found.blocks for masker in block.maskers]
    assert asked == [True, True, False, True], "thresholds, none, and a cap"


def test_the_map_counts_the_spatial_maskers_that_had_each_patch_computed() -> None:
    right_top = some(COARSE, 1)
    found = explained(NET, SKIP, some(FINE, 0), right_top, some(GROUPS), some(LAYER, 0)).map
    assert found is not None
    assert found.maskers == 3
    # One everywhere is the layer's. The middle of the map lies between the third and the fourth.
    assert found.counts == [
        [2, 1, 1, 2, 2, 2],
        [1, 1, 1, 2, 2, 2],
        [1, 1, 1, 2, 2, 2],
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
    ]


def test_where_everything_is_computed_the_map_is_even() -> None:
    found = explained(NET, SKIP, *everything()).map
    assert found is not None
    assert found.counts == [[3] * 6] * 6


def test_a_point_that_skips_nothing_says_so() -> None:
    full = static_point("full", SIZE, len(NET.maskers))
    found = explained(NET, full, *everything())
    assert found.skips_nothing
    assert found.summary == "'full' at 64x64 pixels skips nothing: every image is computed in full"
    assert found.macs_ratio == 1.0
    assert [block.macs_ratio for block in found.blocks] == [1.0] * 4


def test_shares_of_the_work_are_told_per_block_and_of_the_whole() -> None:
    nothing = [np.zeros(count, bool) for count in (FINE, COARSE, GROUPS, LAYER)]
    found = explained(NET, SKIP, *nothing)
    macs = all_block_macs(NET, MapSize(SIZE, SIZE))
    # What is left of a block is its projection, and the maskers that the point asks.
    asked = [macs[0].spatial_masker, macs[1].spatial_masker, macs[2].spatial_masker, 0]
    for block, one, masker in zip(found.blocks[:3], macs, asked, strict=False):
        left = (one.projection + masker) / one.static
        assert block.macs_ratio == pytest.approx(left, abs=1e-4)
    assert found.blocks[3].macs_ratio == 1.0
    saved = sum(one.skippable for one in macs[:3]) - sum(asked)
    whole = static_macs(NET, MapSize(SIZE, SIZE))
    assert found.macs_ratio == pytest.approx(1 - saved / whole, abs=1e-4)
    assert f"took {found.macs_ratio:.1%} of" in found.summary


def test_an_engine_that_tells_no_decisions_leaves_rates_and_no_grids() -> None:
    found = explained(NET, SKIP, None)
    assert (found.map, found.macs_ratio) == (None, None)
    assert "does not tell" in found.summary
    for block in found.blocks:
        assert block.macs_ratio is None
        for masker in block.maskers:
            assert masker.activation == 0.5
            assert (masker.active, masker.total, masker.rows) == (None, None, None)


def test_a_network_without_maskers_has_neither_map_nor_skips() -> None:
    net = ResNet(stem_width=4, stages=(Stage(depth=2, width=4),), num_classes=3)
    found = explained(net, static_point("full", SIZE, 0), None)
    assert (found.map, found.macs_ratio, found.skips_nothing) == (None, 1.0, True)


def test_the_official_layout_whose_grids_are_others_has_rates_only() -> None:
    official = NET.model_copy(update={"official_layout": True, "folded": False})
    found = explained(official, SKIP, some(FINE), some(7), some(GROUPS), some(LAYER))
    assert (found.map, found.macs_ratio) == (None, None)


def test_decisions_that_do_not_fit_the_network_are_a_fault_of_the_engine() -> None:
    with pytest.raises(EngineError, match="told 42 decisions, expected 43"):
        explained(NET, SKIP, some(42))


@settings(deadline=None, max_examples=30)
@given(net=cases.networks(), size=st.sampled_from([17, 32, 45]), seed=st.integers(0, 99))
def test_shares_are_those_that_the_engine_counts(net: ResNet, size: int, seed: int) -> None:
    bundle = cases.bundle(net, seed)
    points = cases.varied_points(len(net.maskers), size)
    with cases.load(bundle) as engine:
        output = engine.infer(cases.pictures(len(points), size, seed), points)
    static = static_macs(net, MapSize(size, size))
    for i, point in enumerate(points):
        found = explain(Model(bundle.manifest, HASH, ScriptedEngine()), reply_of(output, i, point))
        assert found.macs_ratio == pytest.approx(output.macs[i] / static, abs=1e-4)
        maskers = [masker for block in found.blocks for masker in block.maskers]
        assert [masker.activation for masker in maskers] == pytest.approx(
            output.activation[i].tolist(), abs=1e-6
        )
        for masker in maskers:
            assert masker.active is not None
            assert masker.total
            assert masker.activation == pytest.approx(masker.active / masker.total, abs=1e-6)
            if masker.rows is not None:
                assert "".join(masker.rows).count("1") == masker.active
        grids = [masker.rows for masker in maskers if masker.rows is not None]
        if grids:
            assert found.map is not None
            sizes = {(len(rows), len(rows[0])) for rows in grids}
            assert (len(found.map.counts), len(found.map.counts[0])) == max(
                sizes, key=lambda grid: grid[0] * grid[1]
            )
            assert max(map(max, found.map.counts)) <= found.map.maskers == len(grids)


@pytest.mark.torch
@pytest.mark.parametrize("over", ["active", "map"])
def test_grouped_convolutions_and_squeezing_are_counted_too(over: Literal["active", "map"]) -> None:
    torch = pytest.importorskip("torch")
    from engines.models.flops import network_macs
    from engines.models.masks import decide_at_zero
    from tests.engines.models.networks import random_network

    first = RegNetStage(
        depth=2,
        width=8,
        group_width=2,
        paradigm=Paradigm.SPATIAL_CHANNEL,
        spatial_granularity=3,
        channel_granularity=2,
    )
    net = RegNet(
        stem_width=8,
        stages=(first, RegNetStage(depth=1, width=12, group_width=4, paradigm=Paradigm.LAYER)),
        num_classes=5,
        squeeze_over=over,
    )
    zeros = (0.0,) * len(net.maskers)
    point = OperatingPoint(name="half", image_size=37, thresholds=zeros, caps=(None,) * len(zeros))
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(1, 3, 37, 37, generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        _, masks = random_network(net, seed=5)(image, decide_at_zero)
        macs = float(network_macs(net, MapSize(37, 37), masks))
    decided = [mask.units[0].bool().numpy() for mask in masks]
    assert 0 < np.concatenate(decided).mean() < 1, "nothing is tried where all are alike"
    found = explained(net, point, *decided)
    assert found.macs_ratio == pytest.approx(macs / static_macs(net, MapSize(37, 37)), abs=1e-4)
