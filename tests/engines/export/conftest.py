"""A run to export; its module is imported late, because it needs torch."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    from tests.engines.export.tiny_run import write_pictures

    return write_pictures(tmp_path)


@pytest.fixture
def run(tmp_path: Path, pictures: Path) -> Path:
    from tests.engines.export.tiny_run import write_run

    return write_run(tmp_path, pictures)
