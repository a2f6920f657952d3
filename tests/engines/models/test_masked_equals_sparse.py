"""Masked-dense equals "compute only what is active": every paradigm, stride, size, cap, tie."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor

from engines.architecture import MapSize, ResNet, Stage
from engines.core import Paradigm
from engines.macs import static_macs
from engines.models.flops import network_macs
from engines.models.masks import Thresholds
from engines.models.resnet import LaudResNet, fold_batchnorm
from tests.engines.models.oracle import Oracle, decide

pytestmark = pytest.mark.torch

INF = float("inf")
NO_CAP = 2**40
PARADIGMS = list(Paradigm)


def tiny(paradigm: Paradigm, *, s: int = 2, g: int = 2, **options: object) -> ResNet:
    """Two stages (identity, projection and stride), four and six inner channels."""
    spatial = s if paradigm in (Paradigm.SPATIAL, Paradigm.SPATIAL_CHANNEL) else None
    channel = g if paradigm.masks_channels else None
    stages = tuple(
        Stage(
            depth=2,
            width=width,
            paradigm=paradigm,
            spatial_granularity=spatial,
            channel_granularity=channel,
        )
        for width in (4, 6)
    )
    return ResNet.model_validate(
        {"stem_width": 5, "stages": stages, "num_classes": 3, "folded": True, **options}
    )


def network(net: ResNet, seed: int = 0) -> LaudResNet:
    """Random weights of a size that keeps activations near one, maskers included."""
    torch.manual_seed(seed)
    model = LaudResNet(net).double().eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("std"):
                value.copy_(torch.rand_like(value) + 0.3)
            elif "masker" in name or name.endswith("bias"):
                value.copy_(torch.randn_like(value) * 0.5)
    return model


def oracle_of(model: LaudResNet) -> Oracle:
    return Oracle(model.net, {k: v.numpy() for k, v in model.state_dict().items()})


def compare(
    model: LaudResNet,
    x: Tensor,
    thresholds: Tensor,
    caps: Tensor | None = None,
) -> list[float]:
    """Both answers of a batch are equal, and so are rates and counts; returns all rates."""
    with torch.no_grad():
        logits, masks = model(x, Thresholds(thresholds, caps))
    counted = network_macs(model.net, MapSize(*x.shape[2:]), masks).expand(len(x))
    oracle = oracle_of(model)
    seen: list[float] = []
    for i in range(len(x)):
        limits = [None] * thresholds.shape[1] if caps is None else caps[i].tolist()
        answer = oracle.answer(x[i].numpy(), thresholds[i].tolist(), limits)
        expected = answer.logits
        rates = [len(d.active) / len(d.logits) for d in answer.decisions if d is not None]
        assert not np.isnan(expected).any(), "the oracle read something that was not computed"
        np.testing.assert_allclose(logits[i].numpy(), expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose([float(mask.rate[i]) for mask in masks], rates)
        assert float(counted[i]) == pytest.approx(answer.total_macs, rel=1e-9)
        seen += rates
    return seen


def images(count: int, height: int, width: int, seed: int = 1) -> Tensor:
    generator = torch.manual_seed(seed)
    x: Tensor = torch.randn(count, 3, height, width, dtype=torch.float64, generator=generator)
    return x


def random_thresholds(model: LaudResNet, count: int, seed: int = 2) -> Tensor:
    """One row an image, around zero, where random maskers decide both ways."""
    generator = torch.manual_seed(seed)
    shape = (count, len(model.net.maskers))
    thresholds: Tensor = 0.3 * torch.randn(shape, dtype=torch.float64, generator=generator)
    return thresholds


@pytest.mark.parametrize("stride_in_1x1", [False, True], ids=["stride-3x3", "stride-1x1"])
@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_each_image_at_its_own_thresholds(paradigm: Paradigm, stride_in_1x1: bool) -> None:
    model = network(tiny(paradigm, stride_in_1x1=stride_in_1x1))
    rates = compare(model, images(3, 37, 50), random_thresholds(model, 3))
    if paradigm is not Paradigm.STATIC:
        assert len(set(rates)) > 1, "the masks of this test decide nothing"


@pytest.mark.parametrize("pool", ["padded", "trailing"])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (4, 9), (33, 33), (24, 17)], ids=str)
def test_any_image_size(size: tuple[int, int], pool: str) -> None:
    model = network(tiny(Paradigm.SPATIAL_CHANNEL, stem_pool=pool))
    compare(model, images(2, *size), random_thresholds(model, 2))


@pytest.mark.parametrize("patch", [1, 3, 5, 100])
def test_patches_that_do_not_divide_the_map(patch: int) -> None:
    model = network(tiny(Paradigm.SPATIAL, s=patch))
    compare(model, images(2, 41, 29), random_thresholds(model, 2))


@pytest.mark.parametrize("threshold", [-INF, INF], ids=["everything", "nothing"])
@pytest.mark.parametrize("paradigm", PARADIGMS[1:])
def test_all_or_nothing(paradigm: Paradigm, threshold: float) -> None:
    model = network(tiny(paradigm))
    thresholds = torch.full((2, len(model.net.maskers)), threshold, dtype=torch.float64)
    rates = compare(model, images(2, 20, 28), thresholds)
    assert set(rates) == {1.0 if threshold < 0 else 0.0}


def test_everything_active_is_the_static_network() -> None:
    model = network(tiny(Paradigm.SPATIAL_CHANNEL))
    x = images(2, 30, 22)
    thresholds = torch.full((2, len(model.net.maskers)), -INF, dtype=torch.float64)
    with torch.no_grad():
        dynamic, masks = model(x, Thresholds(thresholds))
        static, none = model(x, None)
    assert none == []
    torch.testing.assert_close(dynamic, static, rtol=0, atol=0)
    size = MapSize(30, 22)
    unasked = torch.zeros(2, len(masks))
    macs = network_macs(model.net, size, masks, unasked)
    assert macs.tolist() == [static_macs(model.net, size)] * 2


@pytest.mark.parametrize("cap", [0, 1, 2, 5, 1000])
@pytest.mark.parametrize("paradigm", PARADIGMS[1:])
def test_caps(paradigm: Paradigm, cap: int) -> None:
    model = network(tiny(paradigm, g=1))
    maskers = len(model.net.maskers)
    thresholds = torch.full((3, maskers), -0.2, dtype=torch.float64)
    caps = torch.tensor([[cap] * maskers, [NO_CAP] * maskers, [1] * maskers])
    compare(model, images(3, 26, 35), thresholds, caps)


@pytest.mark.parametrize("cap", [0, 1, 3, 7])
def test_ties_go_to_the_lower_index_and_the_threshold_itself_is_active(cap: int) -> None:
    model = network(tiny(Paradigm.SPATIAL_CHANNEL, g=1))
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "masker_spatial.weight" in name or "masker_channel.out" in name:
                value.zero_()
    maskers = len(model.net.maskers)
    thresholds = torch.zeros(2, maskers, dtype=torch.float64)
    rates = compare(model, images(2, 24, 24), thresholds)
    assert set(rates) == {1.0}
    compare(model, images(2, 24, 24), thresholds, torch.full((2, maskers), cap))


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_channel_groups(group: int, stride_in_1x1: bool) -> None:
    model = network(tiny(Paradigm.CHANNEL, g=group, stride_in_1x1=stride_in_1x1))
    compare(model, images(2, 21, 21), random_thresholds(model, 2))


def test_a_network_with_another_paradigm_in_each_stage() -> None:
    stages = tuple(
        Stage(
            depth=1 + (i == 0),
            width=4,
            paradigm=Paradigm(paradigm),
            spatial_granularity=2 if paradigm == "spatial" else None,
            channel_granularity=2 if paradigm == "channel" else None,
        )
        for i, paradigm in enumerate(("spatial", "static", "channel", "layer"))
    )
    model = network(ResNet(stem_width=3, stages=stages, num_classes=4, folded=True))
    compare(model, images(3, 60, 47), random_thresholds(model, 3))


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_batch_norm_and_its_folded_form_agree(paradigm: Paradigm) -> None:
    net = tiny(paradigm).model_copy(update={"folded": False})
    model = network(net)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_mean"):
                value.normal_(0, 0.3)
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
    folded = fold_batchnorm(model)
    x, thresholds = images(2, 32, 27), random_thresholds(model, 2)
    with torch.no_grad():
        one, _ = model(x, Thresholds(thresholds))
        other, _ = folded.double()(x, Thresholds(thresholds))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_cost_of_the_3x3_is_the_mean_of_squares_per_image() -> None:
    model = network(tiny(Paradigm.CHANNEL))
    maskers = len(model.net.maskers)
    thresholds = torch.stack([torch.full((maskers,), t, dtype=torch.float64) for t in (-INF, INF)])
    x = images(2, 16, 16)
    with torch.no_grad():
        _, masks = model(x, Thresholds(thresholds))
    unasked = torch.zeros(2, maskers)
    both = network_macs(model.net, MapSize(16, 16), masks, unasked).double()
    static = static_macs(model.net, MapSize(16, 16))
    assert float(both[0]) == static
    skippable = static - float(both[1])
    assert float(both.mean()) == pytest.approx(static - skippable / 2)


def test_a_lower_threshold_never_costs_less() -> None:
    model = network(tiny(Paradigm.SPATIAL_CHANNEL))
    x = images(1, 32, 32)
    costs = []
    for threshold in (INF, 0.5, 0.0, -0.5, -INF):
        thresholds = torch.full((1, len(model.net.maskers)), -INF, dtype=torch.float64)
        thresholds[:, 0] = threshold
        with torch.no_grad():
            _, masks = model(x, Thresholds(thresholds))
        costs.append(float(network_macs(model.net, MapSize(32, 32), masks)[0]))
    assert all(a <= b for a, b in pairwise(costs))
    assert costs[0] < costs[-1]


def test_the_rule_itself() -> None:
    logits = np.array([0.5, 2.0, 0.5, -1.0, 2.0])
    assert decide(logits, 0.5, None) == [0, 1, 2, 4]
    assert decide(logits, 0.5, 3) == [0, 1, 4]
    assert decide(logits, 0.5, 1) == [1]
    assert decide(logits, 0.5, 0) == []
