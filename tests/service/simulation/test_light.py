"""What can be simulated anywhere needs neither the server nor torch."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import service.simulation.files, service.simulation.grid, service.simulation.whatif
import service.simulation.picture
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_simulation_loads_neither_server_nor_torch_nor_matplotlib() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, check=True
    )
    loaded = set(finished.stdout.split())
    assert "numpy" in loaded
    assert loaded & {"fastapi", "uvicorn", "torch", "matplotlib", "structlog"} == set()
