"""That budgets are hit: the controller, masks that gradients pass, schedules and the prior."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

from engines.architecture import MapSize, ResNet, Stage
from engines.core import Paradigm
from engines.macs import all_block_macs, static_macs
from engines.training.budgets import (
    MULTIPLIER_BOUND,
    Budgets,
    PriorCurve,
    SampledMasks,
    geometric,
    ramp,
)
from engines.training.trainer import schedule

pytestmark = pytest.mark.torch

IMAGE = MapSize(32, 32)
NET = ResNet(
    stem_width=1,
    stages=(
        Stage(depth=2, width=8, paradigm=Paradigm.LAYER),
        Stage(depth=2, width=8, paradigm=Paradigm.CHANNEL, channel_granularity=2),
    ),
    num_classes=3,
    folded=True,
)


def masks(
    shift: float = 0.0, *, rows: int = 8, noise: float = 0.0, temperature: float = 1.0
) -> SampledMasks:
    return SampledMasks(
        torch.full((rows, 1), shift),
        torch.zeros(rows, dtype=torch.bool),
        temperature=temperature,
        noise=noise,
    )


def logits(rows: int = 8, units: int = 20, seed: int = 0) -> Tensor:
    values: Tensor = torch.randn(rows, units, generator=torch.Generator().manual_seed(seed))
    return values


def steer(start: float, targets: Sequence[float], pull: float = 0.0) -> Tensor:
    """Mean ratios of the last of 400 steps in which a loss of slope `pull` wants the masks on."""
    budgets = Budgets(targets, torch.tensor([start]))
    optimiser = torch.optim.Adam(budgets.parameters())
    goal, count = torch.tensor(targets), len(targets)
    budget = torch.arange(count).repeat_interleave(32)
    everything = torch.zeros(len(budget), dtype=torch.bool)
    late: list[Tensor] = []
    for step in range(400):
        sampled = SampledMasks(budgets.shifts(budget, torch.zeros(count)), everything, 1.0, 0.0)
        units = sampled(0, logits(len(budget), 40, step))
        ratios = units.view(count, -1).mean(dim=1)
        optimiser.param_groups[0]["lr"] = 0.02 * schedule(step, 400)
        optimiser.zero_grad()
        (budgets.penalty(ratios, goal, 10.0) - pull * ratios.sum()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        budgets.control(ratios, goal)
        late = [*late[-99:], ratios.detach()]
    mean: Tensor = torch.stack(late).mean(dim=0)
    return mean


@pytest.mark.parametrize("start", [6.0, -6.0], ids=["from above", "from below"])
@pytest.mark.parametrize("pull", [0.0, 3.0])
def test_ratios_reach_their_targets(start: float, pull: float) -> None:
    targets = (0.8, 0.5, 0.3)
    ratios = steer(start, targets, pull)
    torch.testing.assert_close(ratios, torch.tensor(targets), atol=0.01, rtol=0)


def test_controller_moves_against_the_error() -> None:
    budgets = Budgets((0.5, 0.5, 0.5), torch.zeros(1))
    budgets.control(torch.tensor([0.7, 0.5, 0.2]), torch.full((3,), 0.5))
    assert budgets.offset.sign().tolist() == [-1, 0, 1]
    assert budgets.multiplier.sign().tolist() == [1, 0, -1]


@pytest.mark.parametrize(("ratio", "bound"), [(1.0, MULTIPLIER_BOUND), (0.0, -MULTIPLIER_BOUND)])
def test_multiplier_is_bounded_where_a_target_cannot_be_reached(ratio: float, bound: float) -> None:
    budgets = Budgets((0.5,), torch.zeros(1))
    for _ in range(1000):
        budgets.control(torch.tensor([ratio]), torch.tensor([0.5]))
    assert budgets.multiplier.tolist() == [bound]


def test_penalty_is_zero_on_target_and_grows_with_the_error() -> None:
    budgets = Budgets((0.5, 0.7), torch.zeros(1))
    goal = torch.tensor([0.5, 0.7])
    on_target, near, far = (budgets.penalty(goal + e, goal, 10.0).item() for e in (0, 0.1, 0.2))
    assert on_target == 0
    assert 0 < near < far


def test_each_budget_has_its_own_shift() -> None:
    budgets = Budgets((0.8, 0.5), torch.tensor([1.0, 2.0, 3.0]))
    budgets.control(torch.tensor([0.8, 0.9]), torch.tensor([0.8, 0.5]))
    shifts = budgets.shifts(torch.tensor([0, 1, 0]), torch.tensor([10.0, 20.0]))
    assert shifts.shape == (3, 3)
    assert shifts[0].tolist() == shifts[2].tolist() == [11, 12, 13]
    torch.testing.assert_close(shifts[1], torch.tensor([20.8, 21.8, 22.8]))


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_decisions_are_exactly_on_or_off(noise: float) -> None:
    values = masks(noise=noise, temperature=0.7)(0, logits(units=2000))
    assert set(values.flatten().tolist()) == {0.0, 1.0}


def test_without_noise_the_shifted_logit_alone_decides() -> None:
    z = logits()
    for shift in (-0.5, 0.0, 0.5):
        torch.testing.assert_close(masks(shift)(0, z), (z + shift >= 0).float())


def test_each_masker_has_its_own_column_of_shifts() -> None:
    shifts, everything = torch.tensor([[-1.0, 1.0]]), torch.tensor([False])
    sampled = SampledMasks(shifts, everything, 1.0, 0.0)
    assert [sampled(i, torch.zeros(1, 1)).item() for i in (0, 1)] == [0, 1]


def test_noise_changes_decisions_near_the_threshold_first() -> None:
    torch.manual_seed(0)
    near, away = torch.full((8, 500), 0.1), torch.full((8, 500), 2.0)
    on_near, on_away = (masks(noise=0.5)(0, z).mean().item() for z in (near, away))
    assert 0.5 < on_near < 0.62
    assert 0.97 < on_away < 1.0


def test_everything_is_on_where_nothing_may_be_skipped() -> None:
    everything = torch.tensor([True, False, True])
    sampled = SampledMasks(torch.full((3, 1), -9.0), everything, 1.0, 0.5)
    assert sampled(0, torch.zeros(3, 5)).mean(dim=1).tolist() == [1, 0, 1]


@pytest.mark.parametrize("temperature", [2.0, 0.3])
def test_gradient_is_that_of_the_sigmoid(temperature: float) -> None:
    z = logits().requires_grad_()
    weight = logits(seed=1)
    (masks(0.4, temperature=temperature)(0, z) * weight).sum().backward()  # type: ignore[no-untyped-call]
    straight = z.grad
    z.grad = None
    (torch.sigmoid((z + 0.4) / temperature) * weight).sum().backward()
    torch.testing.assert_close(straight, z.grad)


def test_no_gradient_where_everything_is_on() -> None:
    z = logits(2).requires_grad_()
    sampled = SampledMasks(torch.zeros(2, 1), torch.tensor([True, False]), 1.0, 0.0)
    sampled(0, z).sum().backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    assert not z.grad[0].any()
    assert z.grad[1].all()


def test_ramp_is_linear_and_then_stays() -> None:
    at = [ramp(done, 0.4, 1.0, 0.5) for done in (0.0, 0.2, 0.4, 0.7, 1.0)]
    assert at == pytest.approx([1.0, 0.75, 0.5, 0.5, 0.5])


def test_ramp_over_no_time_is_at_its_end_at_once() -> None:
    assert ramp(0.0, 0.0, 1.0, 0.5) == 0.5


def test_geometric_path_has_its_ends_and_equal_ratios() -> None:
    at = [geometric(done, 2.0, 0.5) for done in (0.0, 0.5, 1.0)]
    assert at == pytest.approx([2.0, 1.0, 0.5])


def curve(spread: float = 1.0) -> PriorCurve:
    """Layer maskers have one prior, channel maskers one per group."""
    generator = torch.Generator().manual_seed(2)
    units = (1, 1, 4, 4)
    return PriorCurve(NET, IMAGE, [spread * torch.randn(n, generator=generator) for n in units])


def test_expected_ratio_rises_with_the_offset_between_its_bounds() -> None:
    ratios = [curve().ratio(float(offset)) for offset in range(-20, 21)]
    assert ratios == sorted(ratios)
    assert ratios[0] < 0.5
    # Everything on, and what the maskers themselves cost.
    asked = sum(b.spatial_masker + b.channel_masker for b in all_block_macs(NET, IMAGE))
    assert ratios[-1] == pytest.approx(1 + asked / static_macs(NET, IMAGE))


@pytest.mark.parametrize("ratio", [0.55, 0.65, 0.8, 0.95])
@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_offset_gives_the_asked_ratio(ratio: float, spread: float) -> None:
    made = curve(spread)
    assert made.ratio(made.offset(ratio)) == pytest.approx(ratio, abs=1e-4)


def test_offset_rises_with_the_ratio() -> None:
    made = curve()
    offsets = [made.offset(ratio) for ratio in (0.55, 0.6, 0.7, 0.8, 0.9, 1.0)]
    assert offsets == sorted(offsets)


def test_ratio_out_of_reach_is_met_as_far_as_possible() -> None:
    made = curve()
    assert made.ratio(made.offset(0.06)) == pytest.approx(made.ratio(-30.0), abs=1e-3)
    assert made.ratio(made.offset(1.5)) == pytest.approx(made.ratio(30.0), abs=1e-3)
