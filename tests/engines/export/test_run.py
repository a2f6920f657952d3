"""From the folder of a finished run to a bundle: rounding, calibration, measurement, refusals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import safetensors.torch

from engines.bundle import Bundle, PointRecord, read_bundle
from engines.core import Engine, OperatingPoint
from engines.errors import BundleError, CheckpointError, ConfigError, EngineError
from engines.evaluation import LabelledImages, evaluate_points
from engines.export import dial, drafts
from engines.export import run as module
from engines.export.dial import Latencies
from engines.export.run import export
from engines.folders import scan_folder
from engines.reference.engine import ReferenceEngine
from engines.registry import load_engine
from engines.runs import read_run
from tests.engines.export.tiny_run import BUDGET, below, quiet

pytestmark = pytest.mark.torch


def test_the_bundle_has_the_points_asked_for_and_hits_the_budget(run: Path, tmp_path: Path) -> None:
    bundle = export(run, tmp_path / "tiny.laud", all_points=True, say=quiet)
    records = {record.point.name: record for record in bundle.manifest.points}
    assert list(records) == ["full", "small", "skip"]
    assert records["full"].point.skips_nothing
    assert records["full"].macs_ratio == 1.0
    assert records["skip"].macs_ratio == pytest.approx(BUDGET, rel=0.02)
    assert 0 < np.mean(records["skip"].activation) < 1
    assert bundle.manifest.provenance.notices == ("made of noise",)
    assert {value.dtype for value in bundle.weights.values()} == {np.dtype(np.float16)}
    assert str(tmp_path) not in (bundle.path / "manifest.json").read_text()


def test_what_it_records_is_what_the_shipped_weights_do(
    run: Path, pictures: Path, tmp_path: Path
) -> None:
    bundle = read_bundle(export(run, tmp_path / "tiny.laud", all_points=True, say=quiet).path)
    folder = scan_folder(pictures / "validation")
    points = [record.point for record in bundle.manifest.points]
    with load_engine(bundle, precision="fp32") as engine:
        results = evaluate_points(engine, points, LabelledImages(folder, 1.0))
    for record, result in zip(bundle.manifest.points, results, strict=True):
        assert record.accuracy is not None
        assert record.accuracy.images == len(folder.files)
        assert record.accuracy.split == "validation"
        assert record.accuracy.value == result.right(folder.labels) / len(folder.files)
        assert record.macs == pytest.approx(result.macs.mean())
        np.testing.assert_allclose(record.activation, result.activation.mean(axis=0), atol=1e-5)
        assert record.log_loss == pytest.approx(result.losses.mean())
        assert record.macs_bound is not None
        assert result.macs.max() <= record.macs_bound


def test_the_reference_agrees_with_what_it_records(
    run: Path, pictures: Path, tmp_path: Path
) -> None:
    """Measured on the native engine; the oracle differs by no more than a decision at a tie."""
    bundle = export(run, tmp_path / "tiny.laud", all_points=True, say=quiet)
    points = [record.point for record in bundle.manifest.points]
    with ReferenceEngine.from_bundle(bundle) as engine:
        results = evaluate_points(
            engine, points, LabelledImages(scan_folder(pictures / "validation"), 1.0)
        )
    for record, result in zip(bundle.manifest.points, results, strict=True):
        assert record.macs == pytest.approx(result.macs.mean(), rel=0.01)
        assert record.log_loss == pytest.approx(result.losses.mean(), abs=0.01)


def test_without_the_native_engine_it_exports_every_point(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(bundle: Bundle, *, kind: str, **options: object) -> Engine:
        if kind == "cpu":
            raise EngineError("the cpu engine was not built")
        return ReferenceEngine.from_bundle(bundle)

    monkeypatch.setattr(drafts, "load_engine", absent)
    monkeypatch.setattr(dial, "load_engine", absent)
    said: list[str] = []
    bundle = export(run, tmp_path / "tiny.laud", say=said.append)
    assert [record.point.name for record in bundle.manifest.points] == ["full", "small", "skip"]
    assert bundle.manifest.dial is None
    assert bundle.manifest.point("skip").macs_ratio == pytest.approx(BUDGET, rel=0.02)
    assert "the cpu engine was not built; the reference engine answers instead, slowly" in said
    assert (
        "latency cannot be measured, so every point is kept: the cpu engine was not built" in said
    )


def test_points_that_are_not_worth_their_latency_are_dropped(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With latencies by which masks cost more than they save, and a small image half."""

    def measured(engine: Engine, points: Sequence[OperatingPoint], *rest: object) -> Latencies:
        return Latencies((1.0, 0.5, 1.2), noise_ratio=0.0, repeats=16)

    losses = {"full": 0.5, "small": 0.6, "skip": 0.7}

    def scored(*arguments: Any) -> tuple[PointRecord, ...]:
        return tuple(
            record.model_copy(update={"log_loss": losses[record.point.name]})
            for record in drafts.measured_records(*arguments)
        )

    monkeypatch.setattr(dial, "measure", measured)
    monkeypatch.setattr(module, "measured_records", scored)
    bundle = export(run, tmp_path / "tiny.laud", say=quiet)
    assert [record.point.name for record in bundle.manifest.points] == ["full", "small"]
    assert bundle.manifest.dial is not None
    verdicts = [(c.name, c.kept, c.dominated_by) for c in bundle.manifest.dial.candidates]
    assert verdicts == [("full", True, None), ("small", True, None), ("skip", False, "full")]
    everything = export(run, tmp_path / "tiny.laud", all_points=True, say=quiet).manifest
    assert [record.point.name for record in everything.points] == ["full", "small", "skip"]
    assert everything.dial is not None
    assert everything.dial.candidates[2].dominated_by == "full"


def test_an_existing_bundle_is_replaced(run: Path, tmp_path: Path) -> None:
    first = export(run, tmp_path / "tiny.laud", all_points=True, say=quiet)
    again = export(run, tmp_path / "tiny.laud", all_points=True, say=quiet)
    # Latencies differ from one time to the next, and nothing else does.
    assert again.manifest.model_copy(update={"dial": first.manifest.dial}) == first.manifest
    assert read_bundle(tmp_path / "tiny.laud").hash == again.hash


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the folder of a finished run"):
        read_run(tmp_path)


def test_a_run_that_was_killed_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "thresholds.json").unlink()
    with pytest.raises(ConfigError, match=r"thresholds\.json"):
        export(run, tmp_path / "tiny.laud", all_points=True, say=quiet)
    (run / "thresholds.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"trained no budget 0\.75"):
        export(run, tmp_path / "tiny.laud", all_points=True, say=quiet)
    (run / "model-dynamic.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot read"):
        export(run, tmp_path / "tiny.laud", all_points=True, say=quiet)
    assert not (tmp_path / "tiny.laud").exists()


@pytest.mark.parametrize("budget", [BUDGET, None], ids=["calibrated", "only measured"])
@pytest.mark.parametrize("content", [b"", b"not a picture", None], ids=["empty", "text", "gone"])
def test_a_picture_that_cannot_be_read_is_named(
    run: Path,
    tmp_path: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
    budget: float | None,
) -> None:
    description = json.loads((run / "run.json").read_text())
    description["points"][2]["budget"] = budget
    (run / "run.json").write_text(json.dumps(description))
    picture = pictures / "validation" / "green" / "3.png"
    if content is None:
        picture.unlink()
        picture.symlink_to("nowhere")
        monkeypatch.setattr(Path, "is_file", lambda path: True)
    else:
        picture.write_bytes(content)
    before = below(tmp_path)
    with pytest.raises(ConfigError, match=r"validation/green/3\.png'"):
        export(run, tmp_path / "tiny.laud", all_points=True, say=quiet)
    assert below(tmp_path) == before


def test_a_name_that_is_no_bundles_is_refused_and_what_is_there_kept(
    run: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.laud").mkdir()
    (tmp_path / "notes.laud" / "text").write_text("mine")
    before = below(tmp_path)
    said: list[str] = []
    with pytest.raises(BundleError, match=r"ends in \.laud, got 'tiny\.zip'"):
        export(run, tmp_path / "tiny.zip", say=said.append)
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        export(run, tmp_path / "notes.laud", say=said.append)
    assert below(tmp_path) == before
    assert not said, "hours of work were done first"


def test_a_budget_that_no_threshold_reaches_is_said(run: Path, tmp_path: Path) -> None:
    description = json.loads((run / "run.json").read_text())
    description["points"][2]["budget"] = 0.06
    (run / "run.json").write_text(json.dumps(description))
    (run / "thresholds.json").write_text(json.dumps({"0.06": [0.0] * 4}))
    said: list[str] = []
    bundle = export(run, tmp_path / "tiny.laud", all_points=True, say=said.append)
    (line,) = (line for line in said if "cannot reach" in line)
    ratio = bundle.manifest.point("skip").macs_ratio
    assert ratio > 0.1
    assert line == (
        f"'skip' cannot reach 0.06 of the MACs by its thresholds: kept at {ratio:.3f}, the nearest"
    )


def test_a_failure_keeps_the_bundle_that_was_there(run: Path, tmp_path: Path) -> None:
    first = export(run, tmp_path / "tiny.laud", all_points=True, say=quiet)
    (run / "thresholds.json").unlink()
    before = below(tmp_path)
    with pytest.raises(ConfigError):
        export(run, tmp_path / "tiny.laud", all_points=True, say=quiet)
    assert below(tmp_path) == before
    assert read_bundle(tmp_path / "tiny.laud").hash == first.hash


def test_pictures_of_other_classes_are_refused(run: Path, tmp_path: Path, pictures: Path) -> None:
    (pictures / "validation" / "red").rename(pictures / "validation" / "yellow")
    with pytest.raises(ConfigError, match="other classes"):
        export(run, tmp_path / "tiny.laud", all_points=True, say=quiet)


def test_a_configuration_that_json_cannot_hold_is_refused_before_the_work(
    run: Path, tmp_path: Path
) -> None:
    """Python writes NaN into a file that it calls JSON; in the bundle it would be null."""
    description = json.loads((run / "run.json").read_text())
    description["config"]["data"] = {"crop_ratio": float("nan")}
    (run / "run.json").write_text(json.dumps(description))
    said: list[str] = []
    with pytest.raises(ConfigError, match=r"run': .*config\.data\.crop_ratio is nan"):
        export(run, tmp_path / "tiny.laud", all_points=True, say=said.append)
    assert not said


def test_weights_that_16_bits_cannot_hold_are_named(run: Path, tmp_path: Path) -> None:
    file = run / "model-dynamic.safetensors"
    state = safetensors.torch.load_file(file)
    state["fc.bias"][1] = 65520.0  # The smallest that rounds to infinity.
    state["conv1.bias"][0] = float("nan")
    safetensors.torch.save_file(state, file)
    before = below(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"do not fit 16 bits: (\w+\.bias(, )?){2}$"
    ) as caught:
        export(run, tmp_path / "tiny.laud", all_points=True, say=quiet)
    assert "fc.bias" in str(caught.value)
    assert "conv1.bias" in str(caught.value)
    assert below(tmp_path) == before


def test_the_largest_weight_that_16_bits_hold_is_kept(run: Path, tmp_path: Path) -> None:
    file = run / "model-dynamic.safetensors"
    state = safetensors.torch.load_file(file)
    state["fc.bias"][1] = 65519.0
    safetensors.torch.save_file(state, file)
    bundle = export(run, tmp_path / "tiny.laud", all_points=True, say=quiet)
    assert bundle.weights["fc.bias"][1] == 65504


def test_weights_of_another_network_are_refused(run: Path, tmp_path: Path) -> None:
    file = run / "model-dynamic.safetensors"
    state = safetensors.torch.load_file(file)
    del state["layer1.0.conv1.weight"]
    safetensors.torch.save_file(state, file)
    with pytest.raises(CheckpointError, match=r"missing: layer1\.0\.conv1\.weight"):
        export(run, tmp_path / "tiny.laud", all_points=True, say=quiet)
    assert not (tmp_path / "tiny.laud").exists()
