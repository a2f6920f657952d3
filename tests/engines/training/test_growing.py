"""A network that grew answers as the small one did, and its new parts can learn."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from engines.architecture import EXPANSION, RegNet, RegNetStage, ResNet, Stage
from engines.core import Paradigm
from engines.errors import CheckpointError, InvalidInput
from engines.models.regnet import LaudRegNet
from engines.models.resnet import LaudResNet
from engines.training.growing import check_growable, grow, places, spread

pytestmark = pytest.mark.torch

SMALL = ((1, 3), (2, 4))
"""(depth, width) of each stage."""
GROWN = {
    "wider": ((1, 6), (2, 8)),
    "one stage wider": ((1, 3), (2, 8)),
    "first stage wider": ((1, 9), (2, 4)),
    "ratios that are not whole": ((1, 5), (2, 7)),
    "deeper": ((2, 3), (5, 4)),
    "both": ((3, 5), (4, 12)),
    "as it is": SMALL,
}
IMAGE_SIZES = (32, 45)


def described(stages: tuple[tuple[int, int], ...], **changes: Any) -> ResNet:
    """A ResNet of stages (depth, width)."""
    parts = tuple(Stage(depth=depth, width=width) for depth, width in stages)
    return ResNet.model_validate(
        {"stem_width": 4, "stages": parts, "num_classes": 3, "folded": True, **changes}
    )


def trained(net: ResNet) -> LaudResNet:
    """A network without a bias, scale or statistic that is 0 or 1, as a trained one is."""
    torch.manual_seed(7)
    model = LaudResNet(net)
    for name, value in model.state_dict().items():
        if name.endswith("running_var") or (".bn" in name and name.endswith("weight")):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("bias", "running_mean")):
            value.normal_(0, 0.2)
    return model.eval()


def grown(model: LaudResNet, large: ResNet, **options: Any) -> LaudResNet:
    bigger = LaudResNet(large)
    bigger.load_state_dict(grow(model.state_dict(), model.net, large, **options), strict=True)
    return bigger.eval()


def answer(model: LaudResNet, size: int) -> Tensor:
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(size))
    with torch.no_grad():
        logits: Tensor = model(images, None)[0]
    return logits


def check_same_answers(small: LaudResNet, large: LaudResNet) -> None:
    for size in IMAGE_SIZES:
        expected = answer(small, size)
        assert expected.std() > 1e-2
        torch.testing.assert_close(answer(large, size), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "with batch norm"])
@pytest.mark.parametrize("stages", GROWN.values(), ids=GROWN)
def test_answers_stay(stages: tuple[tuple[int, int], ...], folded: bool) -> None:
    small = trained(described(SMALL, folded=folded))
    check_same_answers(small, grown(small, described(stages, folded=folded)))


@pytest.mark.parametrize("changes", [{"stem_pool": "trailing"}, {"stride_in_1x1": True}], ids=str)
def test_answers_stay_in_every_layout(changes: dict[str, Any]) -> None:
    small = trained(described(SMALL, **changes))
    check_same_answers(small, grown(small, described(GROWN["both"], **changes)))


@pytest.mark.parametrize("stem_width", [5, 8])
def test_the_stem_may_be_wider_too(stem_width: int) -> None:
    small = trained(described(SMALL))
    check_same_answers(small, grown(small, described(GROWN["wider"], stem_width=stem_width)))


def test_a_shortcut_without_a_convolution_follows_its_stem() -> None:
    small = trained(described(((2, 2), (1, 3)), stem_width=2 * EXPANSION))
    large = described(((3, 3), (2, 3)), stem_width=3 * EXPANSION)
    assert not small.net.blocks[0].projection
    check_same_answers(small, grown(small, large))


def test_a_stage_of_one_channel_can_be_deeper() -> None:
    small = trained(described(((1, 1),)))
    check_same_answers(small, grown(small, described(((3, 1),))))


def test_what_does_not_grow_is_the_same_to_the_bit() -> None:
    small = trained(described(SMALL)).state_dict()
    for name, value in grow(small, described(SMALL), described(SMALL)).items():
        assert torch.equal(value, small[name]), name


def test_maskers_are_left_out_and_so_is_a_head_that_is_not_there() -> None:
    layered = tuple(Stage(depth=d, width=w, paradigm=Paradigm.LAYER) for d, w in SMALL)
    net = described(SMALL).model_copy(update={"stages": layered})
    state = LaudResNet(net).state_dict()
    assert any("masker_" in name for name in state)
    body = {name: value for name, value in state.items() if not name.startswith("fc.")}
    large = described(GROWN["both"])
    wanted = {name for name in LaudResNet(large).state_dict() if not name.startswith("fc.")}
    assert grow(body, net, large).keys() == wanted


# Copies


@pytest.mark.parametrize(("old", "new"), [(3, 3), (3, 5), (2, 6), (1, 4), (7, 8)])
def test_each_old_channel_has_copies_side_by_side_and_about_as_many(old: int, new: int) -> None:
    mapping = spread(old, new)
    assert torch.equal(mapping, mapping.sort().values)
    copies = torch.bincount(mapping, minlength=old)
    assert len(copies) == old
    assert copies.min() >= 1
    assert copies.max() - copies.min() <= 1


def test_shares_of_copies_differ_and_add_up_to_the_old_weight() -> None:
    small = trained(described(SMALL)).state_dict()
    large = grow(small, described(SMALL), described(GROWN["wider"]))
    name = "layer2.1.conv2.weight"
    first, second = large[name][:, 0::2], large[name][:, 1::2]
    assert ((first - second).abs() > 0).float().mean() > 0.99
    torch.testing.assert_close(first + second, small[name].repeat_interleave(2, dim=0))


def test_copies_of_a_channel_read_other_shares_and_answer_alike() -> None:
    small = trained(described(SMALL))
    large = grown(small, described(GROWN["wider"]))
    weight = large.state_dict()["layer2.1.conv1.weight"]
    assert not torch.isclose(weight[0], weight[1]).all()
    seen: list[Tensor] = []
    large.get_submodule("layer2.1.conv1").register_forward_hook(lambda _m, _i, y: seen.append(y))
    answer(large, 32)
    torch.testing.assert_close(seen[0][:, 0::2], seen[0][:, 1::2], atol=1e-5, rtol=1e-4)


def test_without_noise_shares_are_equal_and_a_seed_draws_others() -> None:
    small, net = trained(described(SMALL)).state_dict(), described(GROWN["wider"])
    name = "layer2.1.conv1.weight"
    even, first, again, other = (
        grow(small, described(SMALL), net, noise=noise, seed=seed)[name]
        for noise, seed in ((0.0, 0), (1.0, 0), (1.0, 0), (1.0, 1))
    )
    assert torch.equal(even[:, 0], even[:, 1])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # Even the largest noise turns no weight around.
    assert (first * even >= 0).all()


def test_a_step_of_training_takes_copies_apart() -> None:
    large = grown(trained(described(SMALL)), described(GROWN["wider"]))
    before = channel_pairs_apart(large)
    optimiser = torch.optim.SGD(large.parameters(), lr=0.01)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    logits = large(images, None)[0]
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    optimiser.step()
    assert before < 1e-6
    assert channel_pairs_apart(large) > 1e-5


def channel_pairs_apart(model: LaudResNet) -> float:
    """How far the two copies of each feature are from each other, at most."""
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    features = model.features(images, None)[0].detach()
    apart = (features[:, 0::2] - features[:, 1::2]).abs().max() / features.abs().max()
    return float(apart.item())


# Added blocks


def test_blocks_are_spread_over_the_stage() -> None:
    assert places(6, 23) == [0, 3, 7, 11, 15, 19]
    assert places(3, 3) == [0, 1, 2]
    assert places(1, 4) == [0]


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "with batch norm"])
def test_an_added_block_adds_nothing(folded: bool) -> None:
    small = trained(described(SMALL, folded=folded))
    large = grown(small, described(GROWN["deeper"], folded=folded))
    seen: dict[str, Tensor] = {}
    added = ("layer1.1", "layer2.1", "layer2.3", "layer2.4")
    for name in (*added, "layer2.2"):
        last = large.get_submodule(f"{name}.{'conv3' if folded else 'bn3'}")
        last.register_forward_hook(lambda _m, _i, y, name=name: seen.update({name: y}))
    answer(large, 32)
    assert seen["layer2.2"].abs().max() > 0.1
    for name in added:
        assert seen[name].abs().max() < 1e-6, name


def test_an_added_folded_block_learns_at_the_pace_of_the_others() -> None:
    # Steps are relative to the size of a weight, so it may not be 0.
    large = grown(trained(described(SMALL)), described(GROWN["deeper"]))
    blocks = large.bottlenecks()
    before, added = blocks[2], blocks[3]
    assert (before.block.name, added.block.name) == ("layer2.0", "layer2.1")
    optimiser = torch.optim.SGD(large.parameters(), lr=1e-3)
    for learning in ("conv2 conv3", "conv1 conv2 conv3"):
        optimiser.zero_grad()
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
        large(images, None)[0].square().sum().backward()
        for name in learning.split():
            weight, other = (getattr(block, name).weight for block in (added, before))
            assert weight.grad.abs().max() > 1e-3 * other.grad.abs().max(), (learning, name)
            assert weight.square().mean() > other.square().mean() / 10
        optimiser.step()


def test_an_added_block_that_skips_a_channel_group_still_adds_nothing() -> None:
    masked = Stage(depth=4, width=4, paradigm=Paradigm.CHANNEL, channel_granularity=2)
    small = trained(described(SMALL))
    large = described(SMALL).model_copy(update={"stages": (small.net.stages[0], masked)})
    model = LaudResNet(large)
    state = grow(small.state_dict(), small.net, large)
    model.load_state_dict(state, strict=False)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))

    def half_of_the_added(masker: int, logits: Tensor) -> Tensor:
        units: Tensor = torch.ones_like(logits)
        # Blocks 1 and 3 of the stage are added ones.
        units[:, 1] = float(masker in (0, 2))
        return units

    with torch.no_grad():
        logits = model.eval()(images, half_of_the_added)[0]
        torch.testing.assert_close(logits, small(images, None)[0], atol=1e-5, rtol=1e-4)


def test_added_blocks_of_a_stage_differ() -> None:
    small = trained(described(((1, 8),)))
    state = grow(small.state_dict(), small.net, described(((4, 8),)))
    second, third = (state[f"layer1.{i}.conv2.weight"] for i in (2, 3))
    assert not torch.equal(second, third)


# Refusals


@pytest.mark.parametrize(
    ("large", "fault"),
    [
        (described(((1, 2), (2, 4))), r"not shrink: stages\.0\.width from 3 to 2"),
        (described(((1, 3), (1, 9))), r"not shrink: stages\.1\.depth from 2 to 1"),
        (described(SMALL, stem_width=3), "not shrink: stem_width from 4 to 3"),
        (described(((1, 3),)), "of 2 stages does not grow into 1"),
        (described((*SMALL, (1, 4))), "of 2 stages does not grow into 3"),
        (described(SMALL, folded=False), r"not in folded \(True and False\)"),
        (described(SMALL, stem_pool="trailing"), r"not in stem_pool \(padded and trailing\)"),
        (
            described(SMALL, stem_width=3 * EXPANSION),
            r"the shortcut of layer1\.0 has a convolution in the small network alone",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_mapped_is_refused(large: ResNet, fault: str) -> None:
    small = described(SMALL)
    with pytest.raises(InvalidInput, match=fault):
        grow(LaudResNet(small).state_dict(), small, large)


def test_a_shortcut_that_would_get_a_convolution_is_refused() -> None:
    small = described(((1, 1), (1, 2)), stem_width=EXPANSION)
    with pytest.raises(InvalidInput, match="in the large network alone: choose another width"):
        check_growable(small, described(((1, 2), (1, 2)), stem_width=EXPANSION))


def test_grouped_convolutions_are_refused() -> None:
    net = RegNet(stages=(RegNetStage(depth=1, width=8, group_width=4),), num_classes=3)
    with pytest.raises(InvalidInput, match="a RegNet's 3x3 has groups"):
        grow(LaudRegNet(net).state_dict(), net, net)


@pytest.mark.parametrize("noise", [-0.1, 1.5, float("nan")])
def test_noise_that_could_turn_weights_around_is_refused(noise: float) -> None:
    small = described(SMALL)
    with pytest.raises(InvalidInput, match="noise must be 0 to 1"):
        grow(LaudResNet(small).state_dict(), small, small, noise=noise)


def test_a_tensor_that_is_missing_or_of_another_network_is_named() -> None:
    small, large = described(SMALL), described(GROWN["wider"])
    state = LaudResNet(small).state_dict()
    other = {**state, "layer2.0.conv2.weight": torch.zeros(4, 5, 3, 3)}
    with pytest.raises(CheckpointError, match=r"wrong shape: layer2\.0\.conv2\.weight \(4, 5"):
        grow(other, small, large)
    del state["layer1.0.conv3.weight"]
    with pytest.raises(CheckpointError, match=r"missing: layer1\.0\.conv3\.weight"):
        grow(state, small, large)
