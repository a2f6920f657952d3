"""Buffers that show what a kernel touches beside what it should."""

from __future__ import annotations

import torch
from torch import Tensor

_MARGIN = 4096
POISON = 77.0
"""What outputs hold before a kernel runs; no result is so large."""


class Guarded:
    """A tensor between two red zones. Those of inputs are NaN, so that reading them shows."""

    def __init__(self, value: Tensor, *, output: bool = False) -> None:
        self._size = value.numel()
        floats = value.dtype.is_floating_point
        self._zone = POISON if output else float("nan") if floats else -(2**31) + 5
        self._buffer = torch.full((self._size + 2 * _MARGIN,), self._zone, dtype=value.dtype)
        self.tensor = self._buffer[_MARGIN : _MARGIN + self._size].view(value.shape)
        self.tensor.copy_(value)
        self._before = self._buffer.clone()

    def assert_zones_intact(self) -> None:
        """Nothing was written outside."""
        for part in (slice(None, _MARGIN), slice(_MARGIN + self._size, None)):
            assert torch.equal(
                self._buffer[part].nan_to_num(-1.0), self._before[part].nan_to_num(-1.0)
            )

    def assert_unchanged(self) -> None:
        """Nothing was written at all."""
        assert torch.equal(self._buffer.nan_to_num(-1.0), self._before.nan_to_num(-1.0))


def poisoned(*shape: int, dtype: torch.dtype) -> Guarded:
    """An output that nobody has written yet."""
    return Guarded(torch.full(shape, POISON, dtype=dtype), output=True)


def pitched(x: Tensor, pitch: int, rest: float = float("nan")) -> Tensor:
    """A map (N, H, W, C) with a pitch: (N, H, W, pitch), `rest` beyond its channels."""
    wide = torch.full((*x.shape[:3], pitch), rest, dtype=x.dtype)
    wide[..., : x.shape[3]] = x
    return wide
