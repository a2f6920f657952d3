"""These tests need TensorRT's Python module, which the stand-in library makes importable.

`tests/engines/tensorrt/plugins/test_bindings.py` runs them in a process of their own, where the
environment variable LAUD_ANSWERS names the file that they write.
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if "LAUD_ANSWERS" in os.environ else ["test_*.py"]
