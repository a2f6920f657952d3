"""Objects are found, served and judged where there is no torch."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from engines.bundle import write_bundle
from engines.detection.rle import mask_of_rle
from tests.engines.cpu.detectors import MASKED, SMALL, bundle
from tests.engines.detection.tiny import write_nuclei
from tests.service.process import ROOT, environment, read_until, stop
from tests.service.scripted import PATIENCE_S

_START = """
import sys
sys.modules["torch"] = sys.modules["torchvision"] = None
from service.cli import main
main()
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("bundles") / "things.laud"
    source = bundle(SMALL, MASKED, sizes=(96, 64), bias=2.0)
    labels = {"labels": ("nucleus",)}
    write_bundle(found, source.manifest.model_copy(update=labels), source.weights)
    return found


def _laud(*arguments: str) -> list[str]:
    return [sys.executable, "-c", _START, *arguments]


@contextmanager
def _served(path: Path) -> Iterator[str]:
    process = subprocess.Popen(
        _laud("serve", str(path), "--port", "0", "--log-format", "json"),
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
    )
    try:
        yield str(read_until(process, "ready")["url"])
        assert stop(process) == 0
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def test_objects_are_served(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    with _served(path) as url:
        (model,) = httpx.get(f"{url}/v1/models").json()["models"]
        assert (model["engine"], model["precision"]) == ("cpu", "fp32")
        boxes = httpx.post(f"{url}/v1/detect?top=500", content=out.getvalue()).json()
        masks = httpx.post(f"{url}/v1/segment?top=500", content=out.getvalue()).json()
    assert boxes["engine"] == "cpu"
    assert boxes["objects"]
    assert [each["box"] for each in masks["objects"]] == [each["box"] for each in boxes["objects"]]
    for each in masks["objects"]:
        assert each["mask"]["size"] == [80, 120]
        assert mask_of_rle((80, 120), each["mask"]["counts"]).shape == (80, 120)


def test_a_detector_is_judged(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    split = write_nuclei(tmp_path / "nuclei", {"test": (3, 0)}) / "test"
    done = subprocess.run(
        _laud("evaluate", str(path), str(split), "--json"),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["engine"] == "cpu"
    assert [each["name"] for each in found["points"]] == ["full", "size-64"]
