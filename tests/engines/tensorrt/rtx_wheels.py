"""TensorRT-RTX as `make gpu-checks` installs it, beside the environment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

WHEELS = Path(__file__).parents[3] / "build" / "gpu-checks" / "tensorrt-rtx"


def require_tensorrt_rtx() -> Any:
    """The module, from the environment or from there; without it the tests are skipped."""
    if (WHEELS / ".installed").exists() and str(WHEELS) not in sys.path:
        sys.path.append(str(WHEELS))
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX: make gpu-checks installs it")
