"""Which operating point a request gets, and why."""

from __future__ import annotations

import pytest

from service.policy import Choice, choose_point

NAMES = ("full", "small", "skip")


def test_full_is_chosen_unless_a_point_is_pinned() -> None:
    assert choose_point(NAMES) == Choice("full", "full")


@pytest.mark.parametrize("name", NAMES)
def test_pinned_point_is_obeyed(name: str) -> None:
    assert choose_point(NAMES, name) == Choice(name, "pinned")


@pytest.mark.parametrize("name", ["", "FULL", "tiny", "full "])
def test_unknown_point_is_refused_and_the_known_are_listed(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}'; there are: full, small, skip"):
        choose_point(NAMES, name)
