"""Public clients, unmodified, against the demo: `tritonclient[http]`, and perf_analyzer itself.

perf_analyzer (on PyPI, 2.60 or later) needs glibc 2.38. Where it cannot be had its requests are
replayed in tests/service/test_oip_clients.py all the same.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from tritonclient import http as triton

from service.samples import sample_names, sample_path
from tests.e2e.server import Server

pytestmark = pytest.mark.e2e


@pytest.fixture
def client(demo: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(urlsplit(demo.url).netloc) as found:
        yield found


@pytest.fixture
def perf_analyzer() -> str:
    """The program: the one on the path, or what LAUD_PERF_ANALYZER names."""
    found = os.environ.get("LAUD_PERF_ANALYZER") or shutil.which("perf_analyzer")
    if found is None:
        pytest.skip("no perf_analyzer: neither on the path nor named by LAUD_PERF_ANALYZER")
    # It has no option that only shows whether it runs; without any it prints its usage.
    shown = subprocess.run([found], capture_output=True, text=True, check=False, timeout=60)
    if "Usage" not in shown.stdout + shown.stderr:
        pytest.skip(f"{found} does not run here: {(shown.stderr or shown.stdout)[-200:]}")
    return found


def test_samples_as_files(client: triton.InferenceServerClient) -> None:
    names = sample_names()
    files = triton.InferInput("image_bytes", [len(names)], "BYTES")
    photos = [sample_path(name).read_bytes() for name in names]
    files.set_data_from_numpy(np.array(photos, object))
    result = client.infer("clothing", [files], parameters={"operating_point": "full"})
    assert [text.decode() for text in result.as_numpy("label")] == list(names)
    assert result.get_response()["parameters"]["reason"] == ",".join(["pinned"] * len(names))


def test_pixels_of_the_shape_that_the_metadata_names(client: triton.InferenceServerClient) -> None:
    (tensor,) = client.get_model_metadata("clothing")["inputs"]
    shape = [2, *tensor["shape"][1:]]
    pixels = triton.InferInput(tensor["name"], shape, tensor["datatype"])
    pixels.set_data_from_numpy(np.zeros(shape, np.uint8))
    result = client.infer("clothing", [pixels], parameters={"operating_point": "full"})
    first, second = result.as_numpy("probabilities")
    assert first.sum() == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_array_equal(first, second)


def test_both_route_families_answer_the_same(
    demo: Server, client: triton.InferenceServerClient
) -> None:
    photo = sample_path(sample_names()[0]).read_bytes()
    ours = httpx.post(
        f"{demo.url}/v1/classify?top=1", content=photo, headers={"x-operating-point": "full"}
    ).json()
    files = triton.InferInput("image_bytes", [1], "BYTES")
    files.set_data_from_numpy(np.array([photo], object))
    result = client.infer("clothing", [files], headers={"x-operating-point": "full"})
    assert result.as_numpy("label")[0].decode() == ours["labels"][0]["label"]
    best = float(result.as_numpy("probabilities").max())
    assert best == pytest.approx(ours["labels"][0]["probability"], abs=1e-6)
    told = result.get_response()["parameters"]
    assert (told["bundle"], told["precision"]) == (ours["bundle"], ours["precision"])


def test_perf_analyzer(
    demo: Server, client: triton.InferenceServerClient, perf_analyzer: str, tmp_path: Path
) -> None:
    report = tmp_path / "report.csv"
    before = images(client)
    ran = subprocess.run(
        [perf_analyzer, "-m", "clothing", "-u", urlsplit(demo.url).netloc, "-i", "http",
         "--service-kind", "triton", "-b", "2", "--request-count", "20", "-H", "x-slo-ms: 1000",
         "-f", str(report), "--verbose-csv"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (row,) = csv.DictReader(report.read_text(encoding="utf-8").splitlines())
    assert float(row["Inferences/Second"]) > 0
    assert float(row["Server Compute Infer"]) > 0
    assert images(client) - before >= 40


def images(client: triton.InferenceServerClient) -> int:
    """So many were answered since the start."""
    (found,) = client.get_inference_statistics("clothing")["model_stats"]
    return int(found["inference_count"])
