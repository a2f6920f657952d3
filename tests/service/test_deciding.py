"""What a policy is shown, and what holds when it fails."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

from service.errors import SettingsError
from service.policy.core import Choice, Decision, View
from service.service import Service
from service.settings import Settings
from tests.service.manual import MARGIN, Crowd, Manual, reply
from tests.service.scripted import SECONDS, loader_of, model, profile


@pytest.mark.anyio
async def test_a_policy_that_cannot_serve_a_model_is_told_at_the_start() -> None:
    with pytest.raises(SettingsError, match="no policy 'mine'; there are: foresight"):
        Service(Settings(policy="mine"))
    service = Service(Settings(policy="fixed:x"), loader_of(model()), profile)
    with pytest.raises(SettingsError, match="'fixed:x' cannot serve model 'colours': no operating"):
        await service.start()
    await service.stop()


class Broken:
    """A policy that does as it is told, once it was tried out."""

    name = "broken"

    def __init__(self, decision: Callable[[View], Decision]) -> None:
        self.decision = decision
        self.tried = False

    def start(self) -> int:
        return 0

    def decide(self, view: View, memory: int) -> tuple[Decision, int]:
        if not self.tried:
            self.tried = True
            return Decision((Choice(0, view.waiting[0].allowed[0], "best"),)), memory
        return self.decision(view), memory + 1


def fail(view: View) -> Decision:
    raise RuntimeError("no idea")


@pytest.mark.parametrize(
    "decision",
    [
        fail,
        lambda view: Decision(()),
        lambda view: Decision((Choice(1, 0, "best"),)),
        lambda view: Decision((Choice(0, 7, "best"),)),
        lambda view: Decision((Choice(0, 0, "best"), Choice(0, 0, "best"))),
        lambda view: Decision((Choice(0, 0, "best"), Choice(1, 2, "best"))),
        lambda view: Decision(tuple(Choice(k, 0, "best") for k in range(3))),
        lambda view: None,
    ],
    ids=["raises", "nobody", "absent", "not allowed", "twice", "two sizes", "too many", "None"],
)
def test_the_service_survives_its_policy(
    manual: Manual,
    decision: Callable[[View], Decision],
    logged: list[MutableMapping[str, Any]],
) -> None:
    laud = manual(Broken(decision))
    answers = [laud.ask() for _ in range(3)]
    laud.finish()
    metric = laud.service.metrics.registry.get_sample_value
    assert reply(answers[0]).point.name == "small"
    assert metric("laud_scheduler_failures_total") >= 1  # type: ignore[operator]
    assert laud.service.is_ready
    assert len([line for line in logged if line["event"] == "the policy failed"]) == 1


def test_what_calls_take_corrects_what_is_planned(manual: Manual) -> None:
    laud = manual()
    laud.engine.pace = 3.0
    for _ in range(200):
        laud.ask()
        laud.finish()
        laud.advance(0.001)
    assert laud.service.costs["colours"].drift == pytest.approx(3.0, rel=0.05)
    answer = laud.ask(0.032)
    laud.finish()
    assert reply(answer).point.name == "skip"


def test_a_policy_sees_the_rate_of_arrivals_and_the_running_batch(manual: Manual) -> None:
    crowd = Crowd()
    laud = manual(crowd)
    for _ in range(50):
        laud.ask()
        laud.finish()
        laud.advance(0.1 - SECONDS["full"])
    assert crowd.views[-1].rate_hz == pytest.approx(10.0, rel=0.1)
    assert crowd.views[-1].free_s == crowd.views[-1].now_s
    laud.ask()
    laud.ask()
    begin_s = laud.time()
    laud.advance(0.010)
    planned_s = crowd.views[-1].free_s - begin_s
    assert planned_s == pytest.approx(SECONDS["full"] * MARGIN, rel=0.3)
    laud.finish()
