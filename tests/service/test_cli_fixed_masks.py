"""`laud evaluate --fixed-masks --shuffled` of a detector. No torch."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("faster_coco_eval")

from tests.engines.detection.tiny import write_nuclei
from tests.engines.evaluation.skipping import skipping_bundle
from tests.service.commands import Laud


def test_everything_is_timed_and_printed(laud: Laud, tmp_path: Path) -> None:
    path = skipping_bundle(tmp_path / "things.laud")
    root = write_nuclei(tmp_path / "pictures", {"test": (3, 1), "validation": (2, 4)})
    done = laud(
        "evaluate", path, root / "test", "--fixed-masks", "--shuffled", "--fixed-from",
        root / "validation", "--latency-seconds", "0.01", "--threads", "1",
    )  # fmt: skip
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert not any("…" in line for line in lines)
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines]
    # Boxes, masks, by size, answers, and what it costs: each below its point.
    below = [before[0] for before, row in pairwise(rows) if row[:2] == ["fixed", "mask"]]
    assert below == ["skip"] * 5
    text = " ".join(done.out.split())
    assert "masks of other pictures" in text
    assert "skip fixed mask same MACs" in text
    # No smaller image ran, so nothing is said of any.
    assert "smaller image" not in text
    # Long paths are broken over lines.
    assert f"pointaboveiton{root}/validation,forall" in "".join(text.split())
