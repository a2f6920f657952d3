"""Load is open loop: what is due is sent, answered or not, and everything sent is accounted for."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from engines.errors import InvalidInput
from service.load.arrivals import Recorded, deterministic, parse_mix
from service.load.client import Client, LoadError
from service.load.offering import Planned, offer, plan_load, plan_recorded, warm_up
from service.load.records import UNANSWERED
from service.load.target import Call
from tests.service.load.socket_server import Asked, answer, listening

pytestmark = pytest.mark.anyio

CALL = Call("a.jpg", "/", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n", b"abc")
MET = {"point": "small", "accuracy": 0.9, "objective": {"slo_ms": 500.0}, "outcome": "met"}


def at_once(number: int, slo_s: float | None = None) -> list[Planned]:
    return [Planned(0.0, slo_s, 0) for _ in range(number)]


def test_plans_are_the_seed_s() -> None:
    mix = parse_mix("50:100,50:20")
    plan = plan_load(deterministic(100), 1.0, 3, 7, mix)
    assert plan == plan_load(deterministic(100), 1.0, 3, 7, mix)
    assert [one.at_s for one in plan] == [k / 100 for k in range(100)]
    assert {one.slo_s for one in plan} == {0.1, 0.02}
    assert {one.call for one in plan} == {0, 1, 2}


def test_another_mix_leaves_times_and_pictures() -> None:
    plain, mixed = (plan_load(deterministic(9), 5.0, 3, 7, m) for m in (None, parse_mix("100:5")))
    assert [(a.at_s, a.call) for a in plain] == [(b.at_s, b.call) for b in mixed]


def test_a_run_without_requests_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"no recorded request lies in the first 0\.1 s"):
        plan_recorded([Recorded(0.5)], ["a.jpg"], 0, 0.1)


def test_recorded_pictures_are_found_by_name() -> None:
    recorded = [Recorded(0.0, 0.05, "b.jpg"), Recorded(1.0), Recorded(9.0, None, "a.jpg")]
    plan = plan_recorded(recorded, ["a.jpg", "b.jpg"], 0, 5.0)
    assert plan[0] == Planned(0.0, 0.05, 1)
    assert [one.at_s for one in plan] == [0.0, 1.0]
    with pytest.raises(InvalidInput, match=r"names the picture 'c\.jpg'"):
        plan_recorded([Recorded(0.0, None, "c.jpg")], ["a.jpg"], 0)


async def test_requests_leave_although_none_was_answered() -> None:
    number = 20
    everything = asyncio.Event()

    async def holds(asked: Asked) -> bytes:
        if len(told.asked) == number:
            everything.set()
        await everything.wait()
        return answer(MET)

    async with listening(holds) as told, Client(told.server) as client:
        records = await offer(client, [CALL], at_once(number))
    assert (records.status == 200).all()
    assert len(records.at_s) == number


async def test_an_answer_says_point_accuracy_budget_and_outcome() -> None:
    async def says(asked: Asked) -> bytes:
        return answer(MET)

    async with listening(says) as told, Client(told.server) as client:
        records = await offer(client, [CALL], at_once(1))
        own = await offer(client, [CALL], at_once(1, slo_s=0.04))
    assert (records.points, records.outcomes) == (("small",), ("met",))
    assert (records.slo_s.tolist(), records.accuracy.tolist()) == ([0.5], [0.9])
    assert own.slo_s.tolist() == [0.04]
    assert told.asked[0].headers.get("x-slo-ms") is None
    assert told.asked[1].headers["x-slo-ms"] == "40"


async def test_refusals_and_silence_are_written_down() -> None:
    async def refuses(asked: Asked) -> bytes | None:
        return answer({"error": "full"}, 429) if len(told.asked) == 1 else None

    async with listening(refuses) as told, Client(told.server, connections=1) as client:
        records = await offer(client, [CALL], at_once(2))
    assert sorted(records.status.tolist()) == [UNANSWERED, 429]
    assert np.isnan(records.done_s[records.status == UNANSWERED]).all()
    assert not records.met.any()


async def test_what_is_never_answered_ends_the_run_and_counts() -> None:
    async def never(asked: Asked) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with listening(never) as told, Client(told.server) as client:
        records = await offer(client, [CALL], at_once(3), patience_s=0.0)
    assert records.status.tolist() == [UNANSWERED] * 3


async def test_progress_knows_what_left_and_what_ended() -> None:
    async def says(asked: Asked) -> bytes:
        return answer(MET)

    seen: list[int] = []
    async with listening(says) as told, Client(told.server) as client:
        await offer(client, [CALL], at_once(3), on_sent=lambda sent, ledger: seen.append(sent))
    assert seen == [1, 2, 3]


async def test_a_request_that_the_server_does_not_take_ends_the_session_early() -> None:
    async def picky(asked: Asked) -> bytes:
        return answer({"error": "no point 'x'; there are: full"}, 400)

    async with listening(picky) as told, Client(told.server) as client:
        with pytest.raises(LoadError, match="answered 400: no point 'x'; there are: full"):
            await warm_up(client, [CALL], 10.0, 0.0, 0)
