"""What each phase asks of the network: its loss, who teaches whom, and where gradients go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from torch import Tensor

from engines.architecture import MapSize
from engines.models.flops import network_macs
from engines.models.resnet import LaudResNet
from engines.training import phases
from engines.training.budgets import SampledMasks
from engines.training.config import TrainConfig
from engines.training.phases import (
    DynamicTraining,
    Phase,
    SizesTraining,
    StaticTraining,
    distillation,
    scale_images,
)
from engines.training.starts import starting_network
from engines.training.statistics import prepare_maskers

pytestmark = pytest.mark.torch

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


@pytest.fixture
def configure(content: Callable[[], dict[str, Any]]) -> Callable[..., TrainConfig]:
    """The tiny training without dropout, with values of its dynamic phase replaced."""

    def make(dropout: float = 0.0, **dynamic: Any) -> TrainConfig:
        made = content()
        made["dynamic"] = {**made["dynamic"], "size_shares": {}, **dynamic}
        return TrainConfig.model_validate({**made, "dropout": dropout})

    return make


@pytest.fixture
def config(configure: Callable[..., TrainConfig]) -> TrainConfig:
    return configure()


@pytest.fixture
def model(config: TrainConfig) -> LaudResNet:
    return starting_network(config, 3)


@pytest.fixture
def x() -> Tensor:
    images: Tensor = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return images


def dynamic(model: LaudResNet, config: TrainConfig, x: Tensor) -> DynamicTraining:
    priors = prepare_maskers(model, x, config.dynamic.prior_scale)
    return DynamicTraining(model, config, config.dynamic, priors)


def loss_of(phase: Phase, x: Tensor, done: float = 1.0, seed: int = 0) -> Tensor:
    return phase.loss(x, LABELS[: len(x)], done, np.random.default_rng(seed))[0]


def step(phase: Phase, x: Tensor, done: float = 1.0) -> None:
    optimiser = torch.optim.Adam([p for p, _, _ in phase.parameters().values()], 0.01)
    loss_of(phase, x, done).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    phase.after_step()


class Seen:
    """What a dynamic pass dealt to its images and got from the network."""

    everything: Tensor
    shifts: Tensor
    logits: Tensor
    images: Tensor
    active: Tensor


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen, ask = Seen(), phases.answer

    def sample(
        shifts: Tensor, everything: Tensor, temperature: float, noise: float
    ) -> SampledMasks:
        seen.shifts, seen.everything = shifts.detach(), everything
        return SampledMasks(shifts, everything, temperature, noise)

    def answer(model: LaudResNet, x: Tensor, masks: SampledMasks | None, dropout: float) -> Any:
        logits, found = ask(model, x, masks, dropout)
        seen.logits, seen.images = logits.detach(), x
        seen.active = torch.stack([mask.rate.detach() for mask in found], dim=1)
        return logits, found

    monkeypatch.setattr(phases, "SampledMasks", sample)
    monkeypatch.setattr(phases, "answer", answer)
    return seen


def test_static_phase_is_cross_entropy_of_the_static_network(
    model: LaudResNet, config: TrainConfig, x: Tensor
) -> None:
    expected = F.cross_entropy(model(x, None)[0], LABELS, label_smoothing=0.1)
    torch.testing.assert_close(loss_of(StaticTraining(model, config, config.static), x), expected)


def test_sizes_phase_teaches_the_small_image_by_labels_and_by_the_full_one(
    model: LaudResNet, config: TrainConfig, x: Tensor
) -> None:
    phase = SizesTraining(model, config, config.sizes.model_copy(update={"sizes": (24,)}))
    full, small = model(x, None)[0], model(scale_images(x, 24), None)[0]
    expected = (
        F.cross_entropy(full, LABELS, label_smoothing=0.1)
        + distillation(small, full)
        + 0.5 * F.cross_entropy(small, LABELS, label_smoothing=0.1)
    )
    torch.testing.assert_close(loss_of(phase, x), expected)


def test_full_size_learns_nothing_from_the_small_one(
    model: LaudResNet, config: TrainConfig, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[bool] = []

    def note(logits: Tensor, teacher: Tensor) -> Tensor:
        taught.append(teacher.requires_grad)
        return logits.sum()

    monkeypatch.setattr(phases, "distillation", note)
    loss_of(SizesTraining(model, config, config.sizes), x)
    assert taught == [False]


def test_sizes_phase_without_sizes_is_the_static_one(
    model: LaudResNet, config: TrainConfig, x: Tensor
) -> None:
    sizes = SizesTraining(model, config, config.sizes.model_copy(update={"sizes": ()}))
    static = StaticTraining(model, config, config.static)
    torch.testing.assert_close(loss_of(sizes, x), loss_of(static, x))


def test_static_phases_leave_maskers_alone(model: LaudResNet, config: TrainConfig) -> None:
    for phase in (
        StaticTraining(model, config, config.static),
        SizesTraining(model, config, config.sizes),
    ):
        assert phase.parameters()
        assert not [name for name in phase.parameters() if "masker" in name]


def test_dropout_is_active_while_training(
    model: LaudResNet, configure: Callable[..., TrainConfig], x: Tensor
) -> None:
    config = configure(dropout=0.5)
    phase = StaticTraining(model, config, config.static)
    assert loss_of(phase, x) != loss_of(phase, x)


def test_distillation_is_zero_for_equal_answers_and_scaled_by_temperature() -> None:
    teacher, student = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    assert distillation(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    p, q = (torch.softmax(z / 2, dim=1) for z in (teacher, student))
    expected = 4 * (p * (p / q).log()).sum(dim=1).mean()
    torch.testing.assert_close(distillation(student, teacher), expected)


def test_images_of_the_right_size_are_not_scaled(x: Tensor) -> None:
    assert scale_images(x, 32) is x
    small = scale_images(x, 16)
    assert small.shape == (8, 3, 16, 16)
    torch.testing.assert_close(small.mean(), x.mean(), atol=0.02, rtol=0)


def test_full_images_of_a_mixed_batch_get_the_static_answer(
    model: LaudResNet, config: TrainConfig, x: Tensor, seen: Seen
) -> None:
    phase = dynamic(model, config, x)
    phase.budgets.offset.fill_(-50.0)
    loss_of(phase, x)
    static = model(x, None)[0].detach()
    full = seen.everything
    torch.testing.assert_close(seen.logits[full], static[full])
    assert (seen.active[full] == 1).all()
    assert (seen.active[~full] == 0).all()
    assert ((seen.logits - static)[~full].abs().amax(dim=1) > 1e-4).all()


@pytest.mark.parametrize(("share", "full"), [(0.25, 2), (0.5, 4), (0.0, 1), (1.0, 7)])
def test_batch_is_dealt_to_full_and_to_the_budgets_evenly(
    model: LaudResNet,
    configure: Callable[..., TrainConfig],
    x: Tensor,
    seen: Seen,
    share: float,
    full: int,
) -> None:
    phase = dynamic(model, configure(full_share=share), x)
    phase.budgets.offset.copy_(torch.tensor([1.0, 2.0]))
    loss_of(phase, x)
    assert int(seen.everything.sum()) == full
    counts = torch.unique(seen.shifts[~seen.everything, 0], return_counts=True)[1].tolist()
    assert len(counts) == min(8 - full, 2)
    assert max(counts) - min(counts) <= 1


def test_the_step_decides_who_gets_which_budget(
    model: LaudResNet, config: TrainConfig, x: Tensor, seen: Seen
) -> None:
    phase = dynamic(model, config, x)
    dealt = []
    for seed in (0, 0, 1):
        loss_of(phase, x, seed=seed)
        dealt.append(seen.everything.tolist())
    assert dealt[0] == dealt[1] != dealt[2]


def test_budget_that_gets_no_image_is_left_where_it_is(
    model: LaudResNet, config: TrainConfig, x: Tensor
) -> None:
    phase = dynamic(model, config, x)
    loss = loss_of(phase, x[:2])
    phase.after_step()
    assert torch.isfinite(loss)
    assert (phase.budgets.offset != 0).tolist() == [True, False]


def test_image_sizes_come_in_their_shares(
    model: LaudResNet, configure: Callable[..., TrainConfig], x: Tensor, seen: Seen
) -> None:
    # Shares as people write a third: within the tolerance of the check, not of numpy's.
    shares = {32: 0.3333333, 24: 0.3333333, 16: 0.3333333}
    phase = dynamic(model, configure(size_shares=shares), x)
    sizes = []
    for seed in range(60):
        loss_of(phase, x[:2], seed=seed)
        sizes.append(seen.images.shape[2])
    assert {size: 10 < sizes.count(size) < 30 for size in set(sizes)} == dict.fromkeys(shares, True)


def test_targets_fall_from_one_to_the_budgets(
    model: LaudResNet, configure: Callable[..., TrainConfig], x: Tensor
) -> None:
    phase = dynamic(model, configure(curriculum=0.5), x)
    for done, expected in ((0.0, [1, 1]), (0.25, [0.9, 0.8]), (0.5, [0.8, 0.6]), (1, [0.8, 0.6])):
        torch.testing.assert_close(phase.targets(done), torch.tensor(expected).float())


def test_first_masks_follow_the_targets_without_the_controller(
    model: LaudResNet, config: TrainConfig, x: Tensor
) -> None:
    phase = dynamic(model, config, x)
    offsets = phase.base(torch.tensor([1.0, 0.8, 0.6]))
    assert offsets[0] > offsets[1] > offsets[2]


def test_teacher_stays_as_the_network_was(
    model: LaudResNet, config: TrainConfig, x: Tensor
) -> None:
    phase = dynamic(model, config, x)
    before = model(x, None)[0].detach()
    for _ in range(3):
        step(phase, x)
    torch.testing.assert_close(phase.teacher(x, None)[0], before, rtol=0, atol=0)
    assert not torch.equal(model(x, None)[0], before)
    assert not any(p.requires_grad for p in phase.teacher.parameters())


def test_dynamic_phase_trains_network_maskers_and_budgets(
    model: LaudResNet, config: TrainConfig, x: Tensor
) -> None:
    phase = dynamic(model, config, x)
    trained = phase.parameters()
    assert set(trained) == {*dict(model.named_parameters()), "budgets.bias"}
    assert {relative for name, (_, _, relative) in trained.items() if "masker" in name} == {False}
    step(phase, x)
    assert not [name for name, (p, _, _) in trained.items() if p.grad is None]


def test_macs_reach_the_maskers_but_not_the_trunk(
    model: LaudResNet, config: TrainConfig, x: Tensor
) -> None:
    prepare_maskers(model, x, 1.5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "masker_" in name:
                parameter.normal_()
    shifts = torch.zeros(len(x), len(model.net.maskers), requires_grad=True)
    sampled = SampledMasks(shifts, torch.zeros(len(x), dtype=torch.bool), 1.0, 0.0)
    masks = model.features(x, sampled)[1]
    network_macs(model.net, MapSize(32, 32), masks).mean().backward()  # type: ignore[no-untyped-call]
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name for name in reached if "masker_" not in name} == set()
    assert {name.split(".masker_")[1] for name in reached} == {
        "spatial.weight",
        "channel.hidden.weight",
        "channel.hidden.bias",
        "channel.out.weight",
        "channel.out.bias",
    }
    assert shifts.grad is not None
    assert (shifts.grad.abs().sum(dim=0) > 0).all()


def test_answers_reach_the_maskers_too(model: LaudResNet, config: TrainConfig, x: Tensor) -> None:
    prepare_maskers(model, x, 1.5)
    shifts = torch.zeros(len(x), len(model.net.maskers), requires_grad=True)
    sampled = SampledMasks(shifts, torch.zeros(len(x), dtype=torch.bool), 1.0, 0.0)
    F.cross_entropy(model(x, sampled)[0], LABELS).backward()  # type: ignore[no-untyped-call]
    assert shifts.grad is not None
    assert (shifts.grad.abs().sum(dim=0) > 0).all()


def test_realised_macs_are_logged_per_budget(
    model: LaudResNet, config: TrainConfig, x: Tensor
) -> None:
    _, logged = dynamic(model, config, x).loss(x, LABELS, 1.0, np.random.default_rng(0))
    assert list(logged) == ["distillation", "macs_0.8", "macs_0.6"]
    assert 0.2 < logged["macs_0.6"] < logged["macs_0.8"] < 1.1


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_share_of_the_network_that_it_began_with_is_kept(
    configure: Callable[..., TrainConfig], model: LaudResNet, x: Tensor, share: float
) -> None:
    """Of the weights; maskers, which began as nothing, stay as they were trained."""
    phase = dynamic(model, configure(start_share=share), x)
    began = {name: value.clone() for name, value in model.named_parameters()}
    step(phase, x)
    trained = {name: value.clone() for name, value in model.named_parameters()}
    phase.average()
    for name, value in model.named_parameters():
        kept = 0.0 if "masker_" in name else share
        wanted = (1 - kept) * trained[name] + kept * began[name]
        assert torch.allclose(value, wanted, atol=1e-6)
