"""The evidence of a dial in the manifest: what has to fit, and bundles that have none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engines.bundle import Dial, DialCandidate, Manifest, read_bundle, write_bundle, zoo_names
from tests.engines.bundles import SIZE, manifest, weights


def candidate(name: str, **changes: Any) -> DialCandidate:
    content: dict[str, Any] = {
        "name": name,
        "image_size": SIZE,
        "budget": None,
        "latency_ms": 2.0,
        "latency_ratio": 1.0,
        "log_loss": 0.3,
        "accuracy": 0.9,
        "macs_ratio": 1.0,
        "kept": True,
    }
    return DialCandidate.model_validate({**content, **changes})


def dial(*candidates: DialCandidate) -> Dial:
    return Dial(
        device="some-2cpu-avx2",
        precision="int8",
        threads=1,
        repeats=64,
        noise_ratio=0.004,
        tolerance_ratio=0.02,
        candidates=candidates,
    )


FULL, SKIP = candidate("full"), candidate("skip", budget=0.65)
DROPPED = candidate("size-16", image_size=16, kept=False, dominated_by="skip")


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    wanted = manifest(dial=dial(FULL, DROPPED, SKIP))
    write_bundle(tmp_path / "small.laud", wanted, weights())
    assert read_bundle(tmp_path / "small.laud").manifest.dial == wanted.dial


@pytest.mark.parametrize(
    ("candidates", "fault"),
    [
        ([FULL], "the dial keeps full, the points are full, skip"),
        ([SKIP, FULL], "the dial keeps skip, full, the points are full, skip"),
        ([FULL, SKIP, candidate("more")], "the dial keeps full, skip, more"),
        ([FULL, SKIP, candidate("full", kept=False)], "candidates have equal names"),
        (
            [FULL, SKIP, candidate("more", kept=False, dominated_by="size-16"), DROPPED],
            "'more' is dominated by 'size-16', which the dial does not keep",
        ),
        ([FULL, SKIP, candidate("more", kept=False, dominated_by="gone")], "dominated by 'gone'"),
    ],
)
def test_a_dial_that_does_not_fit_the_points_is_refused(
    candidates: list[DialCandidate], fault: str
) -> None:
    with pytest.raises(ValidationError, match=fault):
        manifest(dial=dial(*candidates))


def test_a_manifest_from_before_there_were_dials_reads_as_ever() -> None:
    content = json.loads(manifest().model_dump_json())
    del content["dial"]
    for record in content["points"]:
        del record["log_loss"], record["macs_bound"]
    assert Manifest.model_validate(content) == manifest()


def test_bundles_of_the_package_are_read_as_they_were_written() -> None:
    """Optional fields change no hash: reading compares it."""
    assert "clothing" in zoo_names()
    for name in zoo_names():
        found = read_bundle(f"zoo:{name}")
        stored = json.loads((found.path / "manifest.json").read_text("utf-8"))
        assert found.hash == stored["hash"]
