"""The tiny training as fixtures, and one thread for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engines.detection.tiny import write_nuclei
from tests.engines.training.tiny import tiny_training, write_pictures


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


@pytest.fixture(scope="module")
def full_precision() -> Iterator[None]:
    """The same arithmetic on every machine, for what a module's other fixtures train too."""
    from engines.training import detection_trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection_trainer, "cpu_has_bf16", lambda: False)
        yield


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder with the splits train and validation: noisy pictures of three colours."""
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def nuclei(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotated pictures with the splits train, one of them without an object, and validation."""
    place = tmp_path_factory.mktemp("nuclei")
    return write_nuclei(place, {"train": (4, 3, 0, 5), "validation": (3,)})


@pytest.fixture(scope="module")
def dynamic_detector(nuclei: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny detector whose maskers learned beside the network."""
    from engines.training.run import train
    from tests.engines.training.tiny_detection import write_dynamic

    place = tmp_path_factory.mktemp("dynamic")
    path = write_dynamic(place / "tiny.yaml", nuclei)
    return train(path, place / "run", {}, lambda line: None)


@pytest.fixture(scope="session")
def content(pictures: Path) -> Callable[[], dict[str, Any]]:
    """What the YAML file of the tiny training holds, made anew by every call."""
    return lambda: tiny_training(pictures)


@pytest.fixture
def write_config(tmp_path: Path, content: Callable[[], dict[str, Any]]) -> Callable[..., Path]:
    """Writes the tiny training's file with sections replaced: `write_config(seed=3)`."""

    def write(**sections: Any) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({**content(), **sections}), encoding="utf-8")
        return path

    return write
