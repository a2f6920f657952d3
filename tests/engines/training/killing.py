"""A training of a detector that is killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engines.training.detection_trainer import DetectionTrainer


class Killed(Exception):
    pass


def killed_at(monkeypatch: pytest.MonkeyPatch, steps: int) -> Callable[[], None]:
    """Ends the training after so many steps, its state just written."""
    step, count = DetectionTrainer._step, 0

    def counted(self: DetectionTrainer, phase: Any, optimiser: Any, *more: Any) -> dict[str, float]:
        nonlocal count
        if count == steps:
            self._save(optimiser)
            raise Killed
        count += 1
        return step(self, phase, optimiser, *more)

    monkeypatch.setattr(DetectionTrainer, "_step", counted)
    return lambda: monkeypatch.setattr(DetectionTrainer, "_step", step)
