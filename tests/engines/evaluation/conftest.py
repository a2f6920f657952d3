"""Pictures of one colour each."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.evaluation import LabelledImages
from engines.folders import scan_folder
from tests.engines.evaluation.by_colour import write_pictures


@pytest.fixture
def pictures(tmp_path: Path) -> LabelledImages:
    """Two blue, four green and three red ones, the last of which is labelled red but blue."""
    return LabelledImages(scan_folder(write_pictures(tmp_path / "pictures")), 1.0)
