"""`laud inspect`: what it prints of a bundle, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engines.bundle import Dial, DialCandidate, read_bundle
from tests.service.commands import Laud, assert_one_line
from tests.service.process import bundle_in
from tests.service.scripted import glancing, manifest, quantised


@pytest.mark.parametrize("name", ["zoo:nothing", "nowhere.laud"])
def test_missing_bundle_is_refused(laud: Laud, name: str) -> None:
    assert name in assert_one_line(laud("inspect", name))


def test_inspect_prints_the_manifest_as_json(laud: Laud, tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path)
    done = laud("inspect", bundle, "--json")
    printed = json.loads(done.out)
    assert done.status == 0
    assert printed.pop("hash") == (found := read_bundle(bundle)).hash
    assert printed == found.manifest.model_dump(mode="json")


def test_inspect_prints_a_summary(laud: Laud, tmp_path: Path) -> None:
    done = laud("inspect", bundle_in(tmp_path))
    assert done.status == 0
    assert "colours: classification, 3 labels" in done.out
    assert "labels: red, green, blue" in done.out
    assert "1x4 spatial S=2" in done.out
    for name in ("full", "small", "skip"):
        assert name in done.out


def test_inspect_says_what_a_point_that_glances_does(laud: Laud, tmp_path: Path) -> None:
    done = laud("inspect", bundle_in(tmp_path, glancing(0.25)))
    (line,) = [line for line in done.out.splitlines() if "first" in line]
    assert line.strip() == (
        "skip: every image at 24 px first, where that is less sure than 0.8 at 32 px too: 25.0% of "
        "them"
    )


def test_inspect_prints_points_and_calibration_of_int8_too(laud: Laud, tmp_path: Path) -> None:
    done = laud("inspect", bundle_in(tmp_path, quantised()))
    floating, heading, int8 = done.out.partition("int8: calibrated on 64 images of train (mse)")
    assert heading
    for text, ratio in ((floating, "0.700"), (int8, "0.600")):
        (row,) = [line for line in text.splitlines() if "skip" in line]
        assert ratio in row


def test_inspect_prints_the_dial_with_what_it_dropped(laud: Laud, tmp_path: Path) -> None:
    def candidate(name: str, size: int, latency_ms: float, by: str | None = None) -> DialCandidate:
        return DialCandidate(
            name=name,
            image_size=size,
            budget=None,
            latency_ms=latency_ms,
            latency_ratio=latency_ms / 8.0,
            log_loss=0.345,
            accuracy=0.9,
            macs_ratio=0.5,
            kept=by is None,
            dominated_by=by,
        )

    found = manifest().model_copy(
        update={
            "dial": Dial(
                device="some-2cpu-avx2",
                precision="int8",
                threads=1,
                repeats=64,
                noise_ratio=0.015,
                tolerance_ratio=0.03,
                candidates=(
                    candidate("full", 32, 8.0),
                    candidate("small", 24, 4.0),
                    candidate("least", 16, 5.0, by="small"),
                    candidate("skip", 32, 6.0),
                ),
            )
        }
    )
    done = laud("inspect", bundle_in(tmp_path, found))
    _, heading, dial = done.out.partition("dial: int8, 1 thread, some-2cpu-avx2")
    assert heading
    rows = {line.split()[0]: line for line in dial.splitlines() if "0.345" in line}
    assert [*rows] == ["full", "small", "least", "skip"]
    assert "4.00" in rows["small"]
    assert "dropped for" in dial
    assert rows["small"].split()[-1] == "kept"
    assert rows["least"].split()[-1] == "small"
    assert " ".join(dial.split()).count("equal runs differ by 1.5%") == 1
    assert max(map(len, dial.splitlines())) <= 80
