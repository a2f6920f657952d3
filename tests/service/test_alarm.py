"""An alarm rings once, at its moment, and not after it was cleared or brought forward."""

from __future__ import annotations

import math

import pytest

from service.alarm import Alarm
from tests.service.manual import ManualTime


class Bell:
    """When an alarm rang."""

    def __init__(self) -> None:
        self.time = ManualTime()
        self.rung: list[float] = []
        self.alarm = Alarm(self.time, self._ring, self.time.call_later)

    def _ring(self) -> None:
        self.rung.append(self.time() - 1000.0)


def test_it_rings_once_at_its_moment() -> None:
    bell = Bell()
    bell.alarm.set(1001.0)
    bell.time.advance(0.9)
    assert bell.rung == []
    bell.time.advance(5.0)
    assert bell.rung == pytest.approx([1.0])
    assert bell.alarm.at_s == math.inf


def test_what_is_past_rings_at_once_but_not_from_within() -> None:
    bell = Bell()
    bell.alarm.set(1.0)
    assert bell.rung == []
    bell.time.advance(0.0)
    assert bell.rung == [0.0]


def test_it_is_moved_and_brought_forward_and_cleared() -> None:
    bell = Bell()
    bell.alarm.set(1003.0)
    bell.alarm.at_latest(1004.0)
    assert bell.alarm.at_s == 1003.0
    bell.alarm.at_latest(1002.0)
    bell.time.advance(2.5)
    assert bell.rung == pytest.approx([2.0])
    bell.alarm.set(1003.0)
    bell.alarm.set(math.inf)
    bell.time.advance(5.0)
    assert bell.rung == pytest.approx([2.0])
    assert bell.time.next_s is None
