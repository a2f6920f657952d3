"""Plans of more than one program through the commands: two forms of calls, and masks of objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("onnx")

from engines.bench.pictures import MadeUpPictures
from engines.bundle import read_bundle, write_bundle
from engines.export.onnx.run import onnx_masks, onnx_model
from engines.tensorrt.latency import CallLatency, read_plan_table, write_plan_table
from engines.tensorrt.plans import Branches, MaskHead, sha256, write_plan
from engines.tensorrt.running import PlanEngine
from service.errors import SettingsError
from service.model import load_models
from service.profile import Tables, profile_points
from service.settings import load_settings
from tests.engines.cpu import detectors
from tests.engines.int8 import bundle_of, net_of, random_weights
from tests.engines.tensorrt.manifests import plan_manifest
from tests.service.commands import Laud, assert_one_line
from tests.service.gpus import VERSION, buckets, scripted_gpu


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scripted one, with a TensorRT that runs ONNX files."""
    scripted_gpu(monkeypatch)


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    """A plan with both forms of calls of one image, in its bundle."""
    net = net_of("layer")
    source = bundle_of(net, random_weights(net), None)
    folder = tmp_path / "layers.laud"
    write_bundle(folder, source.manifest, source.weights)
    content, alone = (
        onnx_model(read_bundle(folder), "fp32", one_image=branches).SerializeToString()
        for branches in (False, True)
    )
    manifest = plan_manifest(
        bundle=read_bundle(folder).hash,
        onnx=sha256(content),
        program=sha256(content),
        library_version=VERSION,
        precision="fp32",
        buckets=buckets(32),
        branches=Branches(onnx=sha256(alone), program=sha256(alone), buckets=buckets(32, 1)),
    )
    write_plan(folder / "fp32.plan", manifest, content, content, (alone, alone))
    return folder / "fp32.plan"


def test_both_forms_are_verified_and_timed_and_the_faster_one_predicted_and_served(
    laud: Laud, layers: Path
) -> None:
    done = laud("verify", str(layers), "--calls", "1")
    assert done.status == 0, done.err
    assert "branches" in done.out
    path = layers / "latency-rtx-3090.json"
    table = read_plan_table(path)
    assert [(call.images, call.form) for call in table.calls] == [
        *((1, "blocks"), (1, "branches"), (2, "blocks"))
    ]
    for faster in ("blocks", "branches"):
        calls = tuple(
            CallLatency.of(
                "full", buckets(32)[call.images - 1],
                [0.25 if call.form == faster else 0.5] * 2, [], [], 3, call.form,
            )
            for call in table.calls
        )  # fmt: skip
        write_plan_table(path, table.model_copy(update={"calls": calls}))
        settings = load_settings(options={"bundles": str(layers.parent), "engine": "tensorrt"})
        (model,) = load_models(settings)
        with model.engine as engine:
            assert isinstance(engine, PlanEngine)
            assert engine.forms("full") == faster
            profile = profile_points(model, 1, tables=Tables.of(settings))
            assert (profile.source, profile["full"]) == (str(path), (0.25,))


@pytest.mark.parametrize("what", ["branches", "masks"])
def test_a_table_without_all_of_the_plans_programs_is_of_another_plan(
    laud: Laud, layers: Path, what: str
) -> None:
    assert laud("verify", str(layers), "--calls", "1").status == 0
    path = layers / "latency-rtx-3090.json"
    write_plan_table(path, read_plan_table(path).model_copy(update={what: "0" * 64}))
    options = {"bundles": str(layers.parent), "engine": "tensorrt", "latency_tables": str(path)}
    (model,) = load_models(load_settings(options=options))
    with model.engine, pytest.raises(SettingsError, match="it is of another plan"):
        profile_points(model, 1, tables=Tables.of(load_settings(options=options)))


@pytest.fixture
def things(tmp_path: Path) -> Path:
    """A detector's plan with a mask head, in its bundle."""
    folder = tmp_path / "things.laud"
    source = detectors.bundle(detectors.SKIPPING, detectors.RAGGED, sizes=(32,))
    write_bundle(folder, source.manifest, source.weights)
    bundle = read_bundle(folder)
    content = onnx_model(bundle, "fp32", select=False).SerializeToString()
    head = onnx_masks(bundle, "fp32")
    assert head is not None
    masks = head.SerializeToString()
    manifest = plan_manifest(
        bundle=bundle.hash,
        onnx=sha256(content),
        program=sha256(content),
        library_version=VERSION,
        precision="fp32",
        buckets=buckets(32),
        masks=MaskHead(onnx=sha256(masks), program=sha256(masks), objects=8),
    )
    write_plan(folder / "fp32.plan", manifest, content, content, masks=(masks, masks))
    return folder / "fp32.plan"


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    """A folder of two."""
    for i, array in enumerate(MadeUpPictures(0, 2).at(32)):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / "pictures" / f"{i}.png")
    return str(tmp_path / "pictures")


def test_a_detectors_plan_is_verified_timed_and_served(
    laud: Laud, things: Path, pictures: str
) -> None:
    done = laud("verify", str(things), "--calls", "1", "--images", pictures)
    assert done.status == 0, done.err
    assert "decisions that differ 0.00%: agrees" in done.out
    table = read_plan_table(things / "latency-rtx-3090.json")
    assert [(call.point, call.images) for call in table.calls] == [("full", 1), ("full", 2)]
    settings = load_settings(options={"bundles": str(things.parent), "engine": "tensorrt"})
    (model,) = load_models(settings)
    with model.engine:
        profile = profile_points(model, 2, tables=Tables.of(settings))
    assert profile.source.endswith("latency-rtx-3090.json")


def test_made_up_pictures_say_nothing_about_a_detector(laud: Laud, things: Path) -> None:
    """How many objects there are is what its calls take."""
    said = assert_one_line(laud("verify", str(things), "--calls", "1"))
    assert "finds objects: what calls take follows from the pictures" in said
    assert said.endswith("with --images")


def test_masks_that_are_wrong_are_found(laud: Laud, things: Path, pictures: str) -> None:
    other = detectors.bundle(detectors.SKIPPING, detectors.RAGGED, sizes=(32,), seed=1)
    head = onnx_masks(other, "fp32")
    assert head is not None
    content = head.SerializeToString()
    manifest = json.loads((things / "manifest.json").read_text())
    manifest["masks"]["program"] = sha256(content)
    (things / "masks.engine").write_bytes(content)
    (things / "manifest.json").write_text(json.dumps(manifest))
    assert laud("verify", str(things), "--calls", "1", "--images", pictures).status == 1


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt_rtx"])
def test_branches_that_answer_something_else_are_found(
    laud: Laud, layers: Path, library: str
) -> None:
    """And taken no more, where nothing but branches would have been taken before too."""
    net = net_of("layer")
    other = bundle_of(net, random_weights(net, seed=1), None)
    content = onnx_model(other, "fp32", one_image=True).SerializeToString()
    manifest = json.loads((layers / "manifest.json").read_text())
    manifest["branches"]["program"] = sha256(content)
    manifest["library"] = library
    (layers / "branches.engine").write_bytes(content)
    (layers / "manifest.json").write_text(json.dumps(manifest))
    done = laud("verify", str(layers), "--calls", "1")
    assert done.status == 1
    assert "branches do not answer what their ONNX file means" in done.err
    table = read_plan_table(layers / "latency-rtx-3090.json")
    assert {call.form for call in table.calls} == {"blocks"}
    settings = load_settings(options={"bundles": str(layers.parent), "engine": "tensorrt"})
    (model,) = load_models(settings)
    with model.engine as engine:
        assert isinstance(engine, PlanEngine)
        assert engine.forms("full") == "blocks"
        assert not engine.forms.branch
