"""Pictures of a batch: which thread decodes them, from when on, and what becomes of bad ones."""

from __future__ import annotations

import pytest

from engines.errors import ImageError
from service.errors import NotReady
from service.images import Picture
from tests.service.manual import Crowd, Manual, picture, ran, slow_to_decode
from tests.service.scripted import SECONDS, pixels


@pytest.mark.parametrize("number", [1, 2, 3])
def test_decoding_begins_in_time_for_all_pictures_that_wait(manual: Manual, number: int) -> None:
    laud = manual(Crowd(), decode_threads=1)
    laud.ask()
    laud.ask(pictures=[Picture.of_pixels(pixels())] * 4)
    laud.run_engine()
    # Four run, for four times as long.
    slow_to_decode(laud, seconds=0.004)
    for _ in range(number):
        laud.ask(pictures=[picture()])
    laud.advance(4 * SECONDS["full"] - number * 0.004 - 0.002)
    assert len(laud.decodes) == 0
    laud.advance(0.003)
    assert len(laud.decodes) == number
    laud.finish()


def test_a_thread_that_hangs_does_not_keep_the_others_from_decoding(manual: Manual) -> None:
    laud = manual(Crowd(), decode_threads=2)
    slow_to_decode(laud, seconds=0.0006)
    laud.ask()
    hangs = [laud.ask(pictures=[picture()]) for _ in range(4)]
    laud.advance(SECONDS["full"])
    assert len(laud.decodes) == 2
    laud.decode()
    laud.run_engine()
    later = laud.ask(pictures=[picture()])
    laud.advance(1.0)
    assert len(laud.decodes) == 2, "that of who came later, beside the one that hangs"
    laud.finish()
    assert all(each.done() for each in (*hangs, later))


def test_who_was_chosen_hears_of_a_death_before_his_batch_was_begun(
    manual: Manual, monkeypatch: pytest.MonkeyPatch
) -> None:
    laud = manual()

    def broken(*args: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(laud.service.costs["colours"], "predict", broken)
    chosen = laud.ask()
    with pytest.raises(NotReady):
        chosen.result()
    assert laud.service.memory.used == 0


def test_who_waits_behind_batches_of_damaged_files_is_not_forgotten(manual: Manual) -> None:
    laud = manual(max_batch=1, decode_threads=1)
    laud.ask()
    damaged = [laud.ask(pictures=[picture(damaged=True)]) for _ in range(4)]
    last = laud.ask(pictures=[picture()])
    laud.finish()
    assert last.done()
    for each in damaged:
        with pytest.raises(ImageError):
            each.result()


def test_short_pictures_of_a_batch_share_a_thread(manual: Manual) -> None:
    laud = manual(Crowd(), decode_threads=2)
    laud.ask()
    both = laud.ask(pictures=[picture()]), laud.ask(pictures=[picture()])
    laud.advance(0.010)
    assert len(laud.decodes) == 1
    laud.decode()
    laud.finish()
    assert ran(laud) == [("full",), ("full", "full")]
    assert all(each.done() for each in both)


def test_a_damaged_file_does_not_harm_who_shares_its_thread(manual: Manual) -> None:
    laud = manual(Crowd())
    laud.ask()
    damaged = laud.ask(pictures=[picture(damaged=True)])
    sound = laud.ask(pictures=[picture()])
    laud.advance(0.010)
    assert len(laud.decodes) == 1
    laud.decode()
    with pytest.raises(ImageError):
        damaged.result()
    laud.finish()
    assert ran(laud) == [("full",), ("full",)]
    assert sound.done()
