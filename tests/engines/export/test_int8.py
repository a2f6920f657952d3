"""From floats to an int8 bundle: scales, points calibrated and measured again, refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.bundle import Bundle, Quantisation, read_bundle, write_bundle
from engines.caps import macs_bound
from engines.core import Engine
from engines.errors import BundleError, ConfigError, EngineError
from engines.evaluation import LabelledImages, evaluate_points
from engines.export import drafts
from engines.export import pictures as taking
from engines.export.int8 import quantise_bundle
from engines.export.pictures import some_pictures
from engines.export.ranges import METHODS
from engines.export.run import export
from engines.folders import scan_folder
from engines.reference.engine import ReferenceEngine
from engines.reference.integer import IntegerReference
from tests.engines.export.tiny_run import BUDGET, LABELS, below, quiet, write_pictures, write_run

pytestmark = pytest.mark.torch


@dataclasses.dataclass(frozen=True)
class Made:
    """A float bundle, its int8 form, the pictures of both, and what the making said."""

    place: Path
    pictures: Path
    floats: Bundle
    integers: Bundle
    said: list[str]

    @property
    def scales(self) -> Quantisation:
        assert self.integers.manifest.quantisation is not None
        return self.integers.manifest.quantisation


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("int8")
    pictures = write_pictures(place)
    run = write_run(place, pictures)
    floats = export(run, place / "floats.laud", all_points=True, say=quiet)
    said: list[str] = []
    integers = quantise_bundle(
        floats.path,
        place / "int8.laud",
        calibration=pictures / "validation",
        data=pictures,
        say=said.append,
    )
    yield Made(place, pictures, floats, integers, said)
    torch.set_num_threads(before)


# What is made


def test_floats_stay_as_they_are(made: Made) -> None:
    """Weights, points and provenance: all that is new are the scales."""
    without = made.integers.manifest.model_copy(update={"quantisation": None})
    assert without == made.floats.manifest
    for name, value in made.floats.weights.items():
        np.testing.assert_array_equal(made.integers.weights[name], value)


def test_points_hit_their_budget_in_int8_too(made: Made) -> None:
    for record in made.floats.manifest.points:
        found = made.integers.manifest.at("int8").point(record.point.name)
        assert found.point.image_size == record.point.image_size
        assert found.macs == pytest.approx(record.macs, rel=0.02)
    skip = made.integers.manifest.at("int8").point("skip")
    assert skip.macs_ratio == pytest.approx(BUDGET, rel=0.03)
    moved = np.subtract(
        skip.point.thresholds,  # type: ignore[arg-type]
        made.floats.manifest.point("skip").point.thresholds,  # type: ignore[arg-type]
    )
    np.testing.assert_allclose(moved, moved[0], atol=1e-5)


def test_what_it_records_is_what_the_integers_do(made: Made) -> None:
    """Measured with the exact reference, on the bundle as it was read back."""
    folder = scan_folder(made.pictures / "validation")
    pictures = LabelledImages(folder, 1.0)
    records = made.integers.manifest.at("int8").points
    with IntegerReference(read_bundle(made.integers.path)) as engine:
        integers = evaluate_points(engine, [record.point for record in records], pictures)
    with ReferenceEngine.from_bundle(made.floats) as engine:
        points = [record.point for record in made.floats.manifest.points]
        floats = evaluate_points(engine, points, pictures)
    for i, (record, result) in enumerate(zip(records, integers, strict=True)):
        assert record.accuracy is not None
        assert record.accuracy.value == result.right(folder.labels) / len(folder.files)
        assert (record.accuracy.images, record.accuracy.split) == (18, "validation")
        assert record.agreement == (result.predictions == integers[0].predictions).mean()
        assert record.macs == pytest.approx(result.macs.mean())
        same = (result.predictions == floats[i].predictions).mean()
        assert made.scales.calibration.agreement[i] == same
        assert same > 0.8
        assert (
            f"'{record.point.name}': {floats[i].right(folder.labels)} of 18 right in float, "
            f"{result.right(folder.labels)} in int8; {same:.1%} of the answers are equal"
        ) in made.said


def test_the_nearest_of_three_ways_to_clip_is_taken(made: Made) -> None:
    off = {
        line.split("'")[1]: float(line.rsplit(" ", 1)[1])
        for line in made.said
        if line.startswith("clipping by")
    }
    assert set(off) == set(METHODS)
    assert off[made.scales.calibration.method] == min(off.values())
    assert (made.scales.calibration.images, made.scales.calibration.split) == (18, "validation")


def test_a_run_and_its_bundle_get_the_same_integers(made: Made, tmp_path: Path) -> None:
    found = export(
        write_run(tmp_path, made.pictures),
        tmp_path / "new.laud",
        calibration=made.pictures / "validation",
        all_points=True,
        say=quiet,
    )
    assert found.manifest.quantisation == made.scales
    assert found.manifest.points == made.floats.manifest.points


def test_without_the_native_engine_the_answer_is_the_same(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_reference(bundle: Bundle, *, kind: str, **options: object) -> Engine:
        if kind == "cpu":
            raise EngineError("the cpu engine was not built")
        return ReferenceEngine.from_bundle(bundle)

    monkeypatch.setattr(drafts, "load_engine", only_reference)
    said: list[str] = []
    found = quantise_bundle(
        made.floats.path,
        tmp_path / "new.laud",
        calibration=made.pictures / "validation",
        say=said.append,
    )
    assert found.hash == made.integers.hash
    for form in ("the integer reference gives the same answers", "the reference engine answers"):
        assert any(line.startswith(f"the cpu engine was not built; {form}") for line in said)


def test_the_points_of_a_bundle_stay_and_that_is_said(made: Made) -> None:
    assert "the points stay those of the bundle: full, small, skip" in made.said
    assert made.integers.manifest.dial == made.floats.manifest.dial


def test_no_image_exceeds_the_bound_in_int8(made: Made) -> None:
    """The bound is that of the int8 caps, which are not those of the float form."""
    record = made.integers.manifest.at("int8").point("skip")
    assert record.point.caps != (None,) * 4
    assert record.macs_bound == macs_bound(made.integers.manifest.architecture, record.point)
    pictures = LabelledImages(scan_folder(made.pictures / "validation"), 1.0)
    with IntegerReference(made.integers) as engine:
        (result,) = evaluate_points(engine, [record.point], pictures)
    assert record.macs < result.macs.max() <= record.macs_bound


def test_other_pictures_may_give_the_scales(made: Made, tmp_path: Path) -> None:
    """At most as many as are enough; accuracy is still measured on the validation split."""
    calibration = tmp_path / "some"
    shutil.copytree(made.pictures / "validation" / "red", calibration / "anything")
    found = quantise_bundle(
        made.floats.path,
        tmp_path / "new.laud",
        calibration=calibration,
        data=made.pictures,
        say=quiet,
    ).manifest
    assert found.quantisation is not None
    note = found.quantisation.calibration
    assert (note.images, note.split) == (6, "some")
    (accuracy,) = {(r.accuracy.images, r.accuracy.split) for r in found.points if r.accuracy}
    assert accuracy == (18, "validation")


def test_many_pictures_are_thinned_out_evenly(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "MOST_PICTURES", 4)
    folder = some_pictures(made.pictures / "validation")
    assert len(folder.files) == len(folder.labels) == 4
    assert set(folder.labels) == {0, 1, 2}


# Refusals


def refused(made: Made, source: Path, out: Path, calibration: Path | None = None) -> None:
    quantise_bundle(source, out, calibration=calibration or made.pictures / "validation", say=quiet)


def test_integers_are_not_made_of_integers(made: Made, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"int8\.laud' has int8 scales already"):
        refused(made, made.integers.path, tmp_path / "new.laud")


def test_a_network_with_batch_norm_is_refused(made: Made, tmp_path: Path) -> None:
    net = made.floats.manifest.architecture
    manifest = made.floats.manifest.model_copy(
        update={"architecture": net.model_copy(update={"folded": False})}
    )
    write_bundle(tmp_path / "norm.laud", manifest, made.floats.weights)
    with pytest.raises(BundleError, match=r"norm\.laud': int8 needs a network with folded"):
        refused(made, tmp_path / "norm.laud", tmp_path / "new.laud")


def test_weights_that_are_no_numbers_are_named(made: Made, tmp_path: Path) -> None:
    broken = np.full(len(LABELS), np.nan, np.float16)
    weights = {**made.floats.weights, "fc.bias": broken}
    write_bundle(tmp_path / "broken.laud", made.floats.manifest, weights)
    with pytest.raises(
        BundleError, match=r"broken\.laud' has weights that are no numbers: fc\.bias"
    ):
        refused(made, tmp_path / "broken.laud", tmp_path / "new.laud")


def test_a_name_that_is_no_bundles_is_refused_before_the_work(made: Made, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(BundleError, match=r"ends in \.laud, got 'new\.zip'"):
        quantise_bundle(
            made.floats.path,
            tmp_path / "new.zip",
            calibration=made.pictures / "validation",
            say=said.append,
        )
    assert not said


@pytest.mark.parametrize("what", ["missing", "empty", "a class without pictures"])
def test_a_folder_without_pictures_is_refused_before_the_work(
    made: Made, tmp_path: Path, what: str
) -> None:
    folder = tmp_path / "pictures"
    if what != "missing":
        folder.mkdir()
    if what.startswith("a class"):
        (folder / LABELS[0]).mkdir()
    before = below(tmp_path)
    said: list[str] = []
    with pytest.raises(ConfigError, match=r"no such folder|found none|has no jpg"):
        quantise_bundle(
            made.floats.path,
            tmp_path / "new.laud",
            calibration=folder,
            data=made.pictures,
            say=said.append,
        )
    assert below(tmp_path) == before
    assert not said


def test_pictures_of_no_label_cannot_measure_accuracy(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.pictures / "validation" / "red", tmp_path / "some" / "yellow")
    with pytest.raises(ConfigError, match="no label is called yellow"):
        refused(made, made.floats.path, tmp_path / "new.laud", tmp_path / "some")


def test_the_manifest_is_plain_json(made: Made) -> None:
    content = json.loads((made.integers.path / "manifest.json").read_text("utf-8"))
    assert content["quantisation"]["trunk"] == list(made.scales.trunk)
    assert str(made.place) not in json.dumps(content)
