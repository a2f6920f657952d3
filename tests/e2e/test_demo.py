"""The demo bundle on real pictures: samples, the test split, and HTTP against `laud evaluate`."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from engines.bundle import read_bundle
from engines.evaluation import LabelledImages, evaluate_points
from engines.folders import relabel, scan_folder
from engines.registry import load_engine
from service.samples import sample_names, sample_path
from tests.e2e.server import LAUD, Server

pytestmark = pytest.mark.e2e

# Twice what was measured on two cores (137 MB).
MEMORY_LIMIT_BYTES = 300e6


@pytest.mark.parametrize("name", sample_names())
def test_samples_are_classified_correctly_at_full(demo: Server, name: str) -> None:
    answer = httpx.post(
        f"{demo.url}/v1/classify",
        content=sample_path(name).read_bytes(),
        headers={"x-operating-point": "full"},
    )
    assert answer.status_code == 200
    assert answer.json()["point"] == "full"
    assert answer.json()["labels"][0]["label"] == name


def test_the_native_engine_serves_unless_told_otherwise(demo: Server) -> None:
    (model,) = httpx.get(f"{demo.url}/v1/models").json()["models"]
    assert model["engine"] == "cpu"
    answer = httpx.get(f"{demo.url}/v2/models/clothing").json()
    assert answer["platform"] == "laudserve_cpu"


def test_fifty_requests_leave_the_server_small(demo: Server) -> None:
    with httpx.Client() as client:
        for name in itertools.islice(itertools.cycle(sample_names()), 50):
            body = sample_path(name).read_bytes()
            assert client.post(f"{demo.url}/v1/classify", content=body).status_code == 200
        page = client.get(f"{demo.url}/metrics").text
    (resident,) = (
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "process_resident_memory_bytes"
    )
    assert resident < MEMORY_LIMIT_BYTES


def test_every_point_answers_and_names_itself(demo: Server) -> None:
    (model,) = httpx.get(f"{demo.url}/v1/models").json()["models"]
    for point in model["points"]:
        answer = httpx.post(
            f"{demo.url}/v1/classify",
            content=sample_path("t-shirt").read_bytes(),
            headers={"x-operating-point": point["name"]},
        ).json()
        assert answer["point"] == point["name"]
        assert answer["labels"][0]["label"] == "t-shirt"


def test_evaluate_prints_what_the_issue_promises(shared: Path) -> None:
    printed = subprocess.run(
        [LAUD, "evaluate", "zoo:clothing", shared / "data/clothing/test", "--json"],
        capture_output=True, text=True, check=True, timeout=600,
    ).stdout  # fmt: skip
    points = {point["name"]: point for point in json.loads(printed)["points"]}
    for point in points.values():
        assert point["images"] == 234
        assert point["accuracy_low"] < point["accuracy"] < point["accuracy_high"]
    assert points["full"]["accuracy"] >= 0.90
    photo = 1 / 234 + 1e-9
    shipped = {record.point.name for record in read_bundle("zoo:clothing").manifest.points}
    by_size = [p for p in points.values() if p["name"] in shipped and p["kind"] == "size"]
    dynamic = [p for p in points.values() if p["name"].startswith(("skip-", "glance-"))]
    assert any(p["macs_ratio"] <= 0.645 for p in by_size)
    assert len(by_size) >= 2
    for point in by_size:
        if point["macs_ratio"] >= 0.63:
            assert point["accuracy"] >= points["full"]["accuracy"] - 3 * photo
    assert any(
        p["macs_ratio"] <= 0.7 and p["accuracy"] >= points["full"]["accuracy"] - 8 * photo
        for p in dynamic
    )


def test_http_and_evaluate_give_identical_classes_on_the_test_split(
    demo: Server, shared: Path
) -> None:
    bundle = read_bundle("zoo:clothing")
    folder = relabel(scan_folder(shared / "data/clothing/test"), bundle.manifest.labels)
    with load_engine(bundle) as engine:
        manifest = bundle.manifest.at(engine.precision)
        dynamic = [r.point.name for r in manifest.points if not r.point.skips_nothing]
        # A mask and a glance beside what skips nothing.
        names = ("full", dynamic[0], dynamic[-1])
        results = evaluate_points(
            engine,
            [manifest.point(name).point for name in names],
            LabelledImages(folder, manifest.preprocessing.crop_ratio),
        )
    with httpx.Client() as client:
        for name, result in zip(names, results, strict=True):
            answered = [
                client.post(
                    f"{demo.url}/v1/classify?top=1",
                    content=(folder.root / file).read_bytes(),
                    headers={"x-operating-point": name},
                ).json()["labels"][0]["label"]
                for file in folder.files
            ]
            expected = np.array(manifest.labels)[result.predictions]
            assert answered == expected.tolist()
