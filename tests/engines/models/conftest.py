"""One thread for tiny networks, and the way to the optional shared data."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slower on two threads."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of optional data; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("LAUD_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data: neither LAUD_SHARED nor {folder.name} beside the checkout")
    return folder


@pytest.fixture
def unfilled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks whose weights are about to be replaced need no random ones, which take seconds."""
    import torch

    for name in ("kaiming_normal_", "kaiming_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_args, **_kwargs: tensor)
