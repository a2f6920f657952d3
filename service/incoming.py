"""What our protocol knows of a request and ASGI does not say, or only to who waits for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_KEY = "laud.incoming"


class Incoming:
    """Of one request. is_whole: all of its body is here, so that receiving it waits for nobody.

    has_left: its client is gone, and nothing more can be answered. For the event loop only.
    """

    __slots__ = ("_leaving", "has_left", "is_whole")

    def __init__(self) -> None:
        self.is_whole = False
        self.has_left = False
        self._leaving: Callable[[], None] | None = None

    def on_leaving(self, tell: Callable[[], None] | None) -> None:
        """Have `tell` called once the client leaves, instead of what was told before; None:
        nothing. It has to be set before: who has left is not told of again."""
        self._leaving = tell

    def leave(self) -> None:
        """The client is gone."""
        self.has_left = True
        if self._leaving is not None:
            tell, self._leaving = self._leaving, None
            tell()


def note_incoming(scope: dict[str, Any]) -> None:
    """Give the scope of a request its Incoming."""
    scope[_KEY] = Incoming()


def incoming_of(scope: Mapping[str, Any]) -> Incoming | None:
    """That of a request; None behind another server's protocol."""
    found: Incoming | None = scope.get(_KEY)
    return found
