"""From the folder of a finished run to a bundle: rounding, calibration, measurement, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import safetensors.torch

from engines.bundle import read_bundle
from engines.errors import BundleError, CheckpointError, ConfigError
from engines.evaluation import LabelledImages, evaluate_points
from engines.export.run import export
from engines.folders import scan_folder
from engines.reference.engine import ReferenceEngine
from engines.runs import read_run
from tests.engines.export.tiny_run import BUDGET, below, quiet

pytestmark = pytest.mark.torch


def test_the_bundle_has_the_points_asked_for_and_hits_the_budget(run: Path, tmp_path: Path) -> None:
    bundle = export(run, tmp_path / "tiny.laud", say=quiet)
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
    bundle = read_bundle(export(run, tmp_path / "tiny.laud", say=quiet).path)
    folder = scan_folder(pictures / "validation")
    with ReferenceEngine.from_bundle(bundle) as engine:
        results = evaluate_points(
            engine,
            [record.point for record in bundle.manifest.points],
            LabelledImages(folder, 1.0),
        )
    for record, result in zip(bundle.manifest.points, results, strict=True):
        assert record.accuracy is not None
        assert record.accuracy.images == len(folder.files)
        assert record.accuracy.split == "validation"
        assert record.accuracy.value == result.right(folder.labels) / len(folder.files)
        assert record.macs == pytest.approx(result.macs.mean())
        np.testing.assert_allclose(record.activation, result.activation.mean(axis=0), atol=1e-5)


def test_an_existing_bundle_is_replaced(run: Path, tmp_path: Path) -> None:
    first = export(run, tmp_path / "tiny.laud", say=quiet)
    assert export(run, tmp_path / "tiny.laud", say=quiet).hash == first.hash


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the folder of a finished run"):
        read_run(tmp_path)


def test_a_run_that_was_killed_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "thresholds.json").unlink()
    with pytest.raises(ConfigError, match=r"thresholds\.json"):
        export(run, tmp_path / "tiny.laud", say=quiet)
    (run / "thresholds.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"trained no budget 0\.75"):
        export(run, tmp_path / "tiny.laud", say=quiet)
    (run / "model-dynamic.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot read"):
        export(run, tmp_path / "tiny.laud", say=quiet)
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
        export(run, tmp_path / "tiny.laud", say=quiet)
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
    bundle = export(run, tmp_path / "tiny.laud", say=said.append)
    (line,) = (line for line in said if "cannot reach" in line)
    ratio = bundle.manifest.point("skip").macs_ratio
    assert ratio > 0.1
    assert line == (
        f"'skip' cannot reach 0.06 of the MACs by its thresholds: kept at {ratio:.3f}, the nearest"
    )


def test_a_failure_keeps_the_bundle_that_was_there(run: Path, tmp_path: Path) -> None:
    first = export(run, tmp_path / "tiny.laud", say=quiet)
    (run / "thresholds.json").unlink()
    before = below(tmp_path)
    with pytest.raises(ConfigError):
        export(run, tmp_path / "tiny.laud", say=quiet)
    assert below(tmp_path) == before
    assert read_bundle(tmp_path / "tiny.laud").hash == first.hash


def test_pictures_of_other_classes_are_refused(run: Path, tmp_path: Path, pictures: Path) -> None:
    (pictures / "validation" / "red").rename(pictures / "validation" / "yellow")
    with pytest.raises(ConfigError, match="other classes"):
        export(run, tmp_path / "tiny.laud", say=quiet)


def test_a_configuration_that_json_cannot_hold_is_refused_before_the_work(
    run: Path, tmp_path: Path
) -> None:
    """Python writes NaN into a file that it calls JSON; in the bundle it would be null."""
    description = json.loads((run / "run.json").read_text())
    description["config"]["data"] = {"crop_ratio": float("nan")}
    (run / "run.json").write_text(json.dumps(description))
    said: list[str] = []
    with pytest.raises(ConfigError, match=r"run': .*config\.data\.crop_ratio is nan"):
        export(run, tmp_path / "tiny.laud", say=said.append)
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
        export(run, tmp_path / "tiny.laud", say=quiet)
    assert "fc.bias" in str(caught.value)
    assert "conv1.bias" in str(caught.value)
    assert below(tmp_path) == before


def test_the_largest_weight_that_16_bits_hold_is_kept(run: Path, tmp_path: Path) -> None:
    file = run / "model-dynamic.safetensors"
    state = safetensors.torch.load_file(file)
    state["fc.bias"][1] = 65519.0
    safetensors.torch.save_file(state, file)
    bundle = export(run, tmp_path / "tiny.laud", say=quiet)
    assert bundle.weights["fc.bias"][1] == 65504


def test_weights_of_another_network_are_refused(run: Path, tmp_path: Path) -> None:
    file = run / "model-dynamic.safetensors"
    state = safetensors.torch.load_file(file)
    del state["layer1.0.conv1.weight"]
    safetensors.torch.save_file(state, file)
    with pytest.raises(CheckpointError, match=r"missing: layer1\.0\.conv1\.weight"):
        export(run, tmp_path / "tiny.laud", say=quiet)
    assert not (tmp_path / "tiny.laud").exists()
