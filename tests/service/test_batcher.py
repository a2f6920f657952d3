"""When the next batch is decided, what becomes of who leaves, and what a failure leaves behind."""

from __future__ import annotations

import pytest

from engines.errors import ImageError
from service.errors import Expired, NotReady
from service.request import Exchange
from tests.service.manual import (
    Crowd,
    Manual,
    ManualService,
    picture,
    ran,
    reply,
    slow_to_decode,
    small_pixels,
)
from tests.service.scripted import SECONDS


def depth(service: ManualService) -> int:
    return service.service.batcher.depth("colours")


def test_an_idle_engine_gets_an_image_at_once_at_the_best_point(manual: Manual) -> None:
    laud = manual()
    answer = laud.ask()
    assert len(laud.engines) == 1
    laud.run_engine()
    assert (reply(answer).point.name, reply(answer).reason) == ("full", "best")
    assert reply(answer).service_s == pytest.approx(SECONDS["full"])
    assert reply(answer).phases_s["queue"] == 0.0


def test_the_next_batch_is_decided_when_the_engine_is_about_to_be_free(manual: Manual) -> None:
    laud = manual()
    laud.ask()
    second = laud.ask()
    laud.advance(0.008)
    assert (depth(laud), len(laud.engines)) == (1, 1)
    laud.advance(0.002)
    assert (depth(laud), len(laud.engines)) == (0, 2)
    laud.finish()
    assert reply(second).phases_s["queue"] == pytest.approx(0.010 + SECONDS["full"])


def test_points_are_bound_one_batch_ahead_at_most_however_short_the_calls(manual: Manual) -> None:
    laud = manual()
    laud.engine.pace = 0.01
    for _ in range(200):
        laud.ask()
        laud.run_engine()
    for _ in range(5):
        laud.ask()
    assert (len(laud.engines), depth(laud)) == (2, 3)
    laud.finish()


def test_who_comes_before_the_decision_with_an_earlier_deadline_runs_first(manual: Manual) -> None:
    laud = manual()
    laud.ask()
    patient = laud.ask(0.500)
    laud.advance(0.005)
    hurried = laud.ask(0.050)
    laud.advance(0.005)
    laud.run_engine()
    laud.run_engine()
    assert hurried.done()
    assert not patient.done()
    laud.finish()


def test_a_batch_that_was_decided_stays_so(manual: Manual) -> None:
    laud = manual()
    laud.ask()
    decided = laud.ask(0.500)
    laud.advance(0.010)
    hurried = laud.ask(0.050)
    laud.run_engine()
    laud.run_engine()
    assert decided.done()
    assert not hurried.done()
    laud.finish()


def test_decoding_overlaps_with_the_batch_before_and_begins_no_earlier_than_needed(
    manual: Manual,
) -> None:
    laud = manual()
    laud.ask()
    second = laud.ask(pictures=[picture()])
    prepare_s = next(iter(laud.service.batcher._queue)).prepare_s
    assert 0.0 < prepare_s < 0.005
    laud.advance(SECONDS["full"] - prepare_s - 0.002)
    assert len(laud.decodes) == 0
    laud.advance(0.002)
    assert (len(laud.decodes), len(laud.engines)) == (1, 1)
    laud.decode()
    assert len(laud.engines) == 2
    laud.finish()
    assert reply(second).point.name == "full"


def test_pixels_of_the_right_size_are_not_decoded_and_others_are(manual: Manual) -> None:
    laud = manual()
    laud.ask()
    laud.ask(pinned="full")
    other = laud.ask(pinned="full", pictures=[small_pixels()])
    laud.advance(0.010)
    assert len(laud.decodes) == 0
    laud.run_engine()
    laud.advance(0.010)
    assert len(laud.decodes) == 1
    laud.finish()
    assert reply(other).point.name == "full"


def test_an_idle_engine_decodes_a_small_picture_itself(manual: Manual) -> None:
    laud = manual()
    only = laud.ask(pictures=[picture("blue")])
    assert (len(laud.decodes), len(laud.engines)) == (0, 1)
    laud.finish()
    assert reply(only).probabilities.argmax() == 2
    bad = laud.ask(pictures=[picture(damaged=True)])
    laud.finish()
    with pytest.raises(ImageError):
        bad.result()


def test_a_picture_that_takes_long_is_decoded_elsewhere_and_does_not_hold_up_the_engine(
    manual: Manual,
) -> None:
    laud = manual()
    slow_to_decode(laud)
    slow = laud.ask(pictures=[picture()])
    quick = laud.ask()
    assert (len(laud.decodes), len(laud.engines)) == (1, 1)
    laud.run_engine()
    assert quick.done()
    assert not slow.done()
    laud.finish()


def test_a_decode_that_takes_longer_than_predicted_does_not_hold_up_the_engine_for_ever(
    manual: Manual,
) -> None:
    laud = manual()
    laud.ask()
    stuck = laud.ask(pictures=[picture()])
    laud.advance(0.010)
    laud.run_engine()
    quick = laud.ask()
    assert (len(laud.decodes), len(laud.engines)) == (1, 0)
    laud.advance(3 * SECONDS["full"])
    laud.run_engine()
    assert quick.done()
    assert not stuck.done()
    laud.finish()
    assert stuck.done()


def test_both_decode_threads_are_used_when_decoding_takes_longer_than_running(
    manual: Manual,
) -> None:
    laud = manual(decode_threads=2)
    slow_to_decode(laud)
    laud.ask(pictures=[picture()])
    laud.ask(pictures=[picture()])
    laud.ask(pictures=[picture()])
    laud.advance(0.05)
    assert (len(laud.decodes), depth(laud)) == (2, 1)
    laud.finish()


def test_an_idle_service_runs_images_of_one_request_together_where_the_policy_says_so(
    manual: Manual,
) -> None:
    laud = manual(Crowd(), max_batch=2)
    three = laud.ask(pictures=[picture(colour) for colour in ("red", "green", "blue")])
    laud.finish()
    assert ran(laud) == [("full", "full"), ("full",)]
    assert [reply.probabilities.argmax() for reply in three.result()] == [0, 1, 2]
    assert [reply.batch_size for reply in three.result()] == [2, 2, 1]


def test_a_damaged_file_fails_alone(manual: Manual) -> None:
    laud = manual(Crowd())
    laud.ask()
    bad = laud.ask(pictures=[picture(damaged=True)])
    good = laud.ask(pictures=[picture("blue")])
    laud.finish()
    with pytest.raises(ImageError):
        bad.result()
    assert reply(good).probabilities.argmax() == 2
    assert ran(laud) == [("full",), ("full",)]


def test_a_batch_of_damaged_files_does_not_hold_up_the_next(manual: Manual) -> None:
    laud = manual(decode_threads=1)
    slow_to_decode(laud)
    laud.ask(pictures=[picture(damaged=True)])
    good = laud.ask(pictures=[picture()])
    laud.decode()
    assert len(laud.decodes) == 1
    laud.finish()
    assert good.done()


def test_one_damaged_file_ends_its_whole_request(manual: Manual) -> None:
    laud = manual()
    both = laud.ask(pictures=[picture(damaged=True), picture()])
    laud.finish()
    with pytest.raises(ImageError):
        both.result()
    assert laud.service.batcher.is_idle


def test_who_leaves_while_waiting_is_gone_at_once(manual: Manual) -> None:
    laud = manual()
    laud.ask()
    leaves, stays = laud.ask(), laud.ask()
    leaves.cancel()
    laud.settle()
    assert depth(laud) == 1
    laud.finish()
    assert len(ran(laud)) == 2
    assert stays.done()


def test_who_leaves_while_being_decoded_does_not_run(manual: Manual) -> None:
    laud = manual()
    slow_to_decode(laud)
    leaves = laud.ask(pictures=[picture()])
    assert len(laud.decodes) == 1
    leaves.cancel()
    laud.settle()
    assert len(laud.decodes) == 0
    assert laud.service.batcher.is_idle
    assert laud.service.memory.used == 0
    assert ran(laud) == []


def test_who_leaves_once_decoded_does_not_hold_up_its_mates(manual: Manual) -> None:
    laud = manual(Crowd())
    slow_to_decode(laud)
    laud.ask()
    leaves, stays = laud.ask(pictures=[picture()]), laud.ask(pictures=[picture()])
    laud.advance(0.010)
    laud.decode()
    leaves.cancel()
    laud.settle()
    laud.decode()
    laud.finish()
    assert ran(laud) == [("full",), ("full",)]
    assert stays.done()


def test_who_leaves_once_it_was_handed_over_does_not_run_alone(manual: Manual) -> None:
    laud = manual()
    leaves = laud.ask()
    assert len(laud.engines) == 1
    leaves.cancel()
    laud.finish()
    assert ran(laud) == []
    assert laud.service.batcher.is_idle


def test_a_mate_of_who_left_runs(manual: Manual) -> None:
    laud = manual(Crowd())
    laud.ask()
    leaves, stays = laud.ask(), laud.ask()
    laud.advance(0.010)
    leaves.cancel()
    laud.finish()
    assert ran(laud) == [("full",), ("full", "full")]
    assert stays.done()


@pytest.mark.parametrize("fault", [RuntimeError("a bug"), KeyboardInterrupt()])
def test_its_death_fails_all_at_once_and_ends_readiness(
    manual: Manual, fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    laud = manual()
    running, waiting = laud.ask(), laud.ask()
    decoding = laud.ask(pictures=[picture()])
    laud.advance(0.010)

    def broken(*args: object) -> None:
        raise fault

    monkeypatch.setattr(laud.service.batcher._queue, "sweep", broken)
    laud.run_engine()
    laud.advance(0.010)
    for task in (waiting, decoding):
        with pytest.raises(NotReady):
            task.result()
    assert running.done()
    assert not laud.service.is_ready
    with pytest.raises(NotReady):
        laud.ask().result()
    assert laud.service.memory.used == 0


def test_stopping_answers_those_who_wait(manual: Manual) -> None:
    laud = manual()
    tasks = [laud.ask(), laud.ask(), laud.ask(pictures=[picture()])]
    laud.service.batcher.stop()
    laud.settle()
    for task in tasks:
        with pytest.raises(NotReady, match="the service stopped"):
            task.result()


def test_who_wants_no_late_answer_costs_no_engine_time_once_decoding_overtook_him(
    manual: Manual,
) -> None:
    laud = manual()
    slow_to_decode(laud)
    refused = laud.ask(0.200, on_infeasible="reject", pictures=[picture()])
    agreed = laud.ask(0.200, pictures=[picture()])
    assert len(laud.decodes) == 2
    laud.advance(0.300)
    laud.finish()
    with pytest.raises(Expired, match="before it could run"):
        refused.result()
    assert reply(agreed).point.name
    assert sum(map(len, laud.engine.batches)) == 1


def test_an_unusual_answer_shortens_nobodys_deadline(manual: Manual) -> None:
    laud = manual()
    exchange = Exchange(
        "unusual", laud.time(), model="colours", status=200, unusual=True, engine_end_s=1.0
    )
    costs = laud.service.answer_costs["colours"]
    before = costs.predict()
    for _ in range(200):
        laud.service.observe_inference(exchange, 5.0)
    assert costs.predict() == before
