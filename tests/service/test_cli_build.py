"""`laud build` and `laud verify` on a machine without a GPU: every refusal is one sentence."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from engines.bundle import read_bundle, write_bundle
from engines.export.onnx.run import onnx_model
from engines.tensorrt import building
from engines.tensorrt.building import BuildPlan, Built
from engines.tensorrt.dense import dense_bundle
from engines.tensorrt.latency import CallLatency, read_plan_table, write_plan_table
from engines.tensorrt.libraries import library
from engines.tensorrt.plans import Branches, Bucket, MaskHead, sha256, write_plan
from service.errors import SettingsError
from service.executor import Executor
from service.model import load_models
from service.profile import Tables, profile_points
from service.settings import load_settings
from tests.engines.int8 import bundle_of, net_of, random_weights
from tests.engines.tensorrt.manifests import plan_manifest
from tests.service.commands import Laud, assert_one_line
from tests.service.gpus import VERSION, buckets, scripted_gpu


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the CUDA binding answers without one, whether it is installed here or not."""
    binding = SimpleNamespace(
        cudaError_t=SimpleNamespace(cudaSuccess=0),
        cudaGetDeviceCount=lambda: (35, None),
        cudaDriverGetVersion=lambda: (0, 0),
        cudaGetErrorString=lambda _status: (0, b"no driver"),
    )
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", binding)


@pytest.mark.usefixtures("no_driver")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "there is no CUDA driver with a GPU on this machine (no driver); plans run, "),
        (["--sm", "86"], "--sm is of cards that are not here: give --rtx too"),
        (["--precision", "int8"], "unknown precision 'int8' of a plan; there are: fp32, fp16"),
        (["-o", "net.engine"], "a plan's name ends in .plan, got 'net.engine'"),
        (["--rtx", "--sm", "86", "--device", "0"], "--rtx uses no device: it goes without"),
        (["--batch", "0"], "a batch is 1 to 1024 images, got 0"),
    ],
)
def test_builds_that_are_refused(laud: Laud, options: list[str], says: str) -> None:
    assert assert_one_line(laud("build", "zoo:clothing", *options)).startswith(says)


def test_without_tensorrt_rtx(laud: Laud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    library.cache_clear()
    said = assert_one_line(laud("build", "zoo:clothing", "--rtx", "--sm", "86"))
    assert said.startswith("TensorRT-RTX cannot be loaded")
    assert said.endswith("install it with: pip install -c constraints.txt '.[rtx]'")
    library.cache_clear()


@pytest.mark.usefixtures("no_driver")
def test_what_finds_objects(laud: Laud) -> None:
    said = assert_one_line(laud("build", "zoo:nuclei"))
    assert said.startswith("there is no CUDA driver with a GPU on this machine")
    said = assert_one_line(laud("build", "zoo:nuclei", "--rtx", "--sm", "86"))
    assert "finds objects with masks: TensorRT-RTX has no RoiAlign" in said
    said = assert_one_line(laud("build", "zoo:nuclei", "--size", "100"))
    assert said == "a detector's images are multiples of 32, got 100"


def test_what_was_built_is_told(laud: Laud, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = plan_manifest(
        masks=MaskHead(onnx="0" * 64, program="0" * 64, objects=8),
        branches=Branches(onnx="0" * 64, program="0" * 64, buckets=buckets(32, 1)),
    )

    def build(ref: str, plan: BuildPlan, device: int, say: Any) -> Built:
        assert (ref, plan, device) == ("a.laud", BuildPlan(batches=(1, 4), dense=True), 1)
        say("compiling")
        return Built(Path("a.laud/fp16.plan"), manifest, 12)

    monkeypatch.setattr(building, "build_on_gpu", build)
    command = ["build", "a.laud", "--device", "1", "--batch", "1", "--batch", "4", "--dense"]
    done = laud(*command)
    assert (done.status, done.err) == (0, "compiling\nwrote a.laud/fp16.plan\n")
    assert "fp16, TensorRT 10.16.1.11, for compute capability 8.6" in done.out
    assert "plugins: partition" in done.out
    assert "masks: a second program, 8 objects a call" in done.out
    assert "one image alone: in both forms" in done.out
    as_json = json.loads(laud(*command, "--json").out)
    assert as_json == manifest.model_dump(mode="json")


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """In its bundle."""
    net = net_of("spatial")
    source = bundle_of(net, random_weights(net), None)
    write_bundle(tmp_path / "small.laud", source.manifest, source.weights)
    return written(tmp_path / "small.laud" / "fp32.plan")


def written(path: Path, **changes: Any) -> Path:
    """A plan of the bundle that it lies in."""
    bundle = read_bundle(path.parent)
    of = dense_bundle(bundle) if changes.get("dense") else bundle
    content = onnx_model(of, "fp32").SerializeToString()
    fields: dict[str, Any] = {
        "bundle": bundle.hash,
        "onnx": sha256(content),
        "program": sha256(content),
        "library_version": VERSION,
        "precision": "fp32",
        "buckets": buckets(32),
        **changes,
    }
    write_plan(path, plan_manifest(**fields), content, content)
    return path


@pytest.mark.usefixtures("no_driver")
def test_verifying_without_a_gpu(laud: Laud, plan: Path) -> None:
    said = assert_one_line(laud("verify", str(plan)))
    assert said.startswith("there is no CUDA driver with a GPU on this machine (no driver)")


@pytest.mark.usefixtures("no_driver")
def test_what_cannot_be_verified(laud: Laud, plan: Path, tmp_path: Path) -> None:
    for options, says in (
        ([str(tmp_path / "missing.plan")], "is not a plan"),
        ([str(plan), "--calls", "0"], "--calls must be at least 1, got 0"),
        ([str(plan), "--bundle", "zoo:clothing"], "not of clothing"),
        ([str(plan), "--dense", str(plan)], "is no dense plan"),
    ):
        assert says in assert_one_line(laud("verify", *options))


def test_a_seed_that_is_none(laud: Laud, plan: Path) -> None:
    done = laud("verify", str(plan), "--seed", "-1")
    assert (done.status, done.out) == (2, "")
    assert "'--seed'" in done.err


@pytest.mark.usefixtures("no_driver")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bundle": "ab" * 32}, "is of another bundle, abababababab, than the plan"),
        ({"library": "tensorrt_rtx"}, "is of another library, tensorrt_rtx, than the plan"),
        ({"precision": "fp16"}, "is of another precision, fp16, than the plan, fp32"),
        ({"buckets": buckets(32, 1)}, "has no bucket for 2 images of 32 px"),
        ({"buckets": buckets(40)}, "has no bucket for 1 images of 32 px"),
    ],
)
def test_a_dense_plan_that_says_nothing_about_the_plan(
    laud: Laud, plan: Path, changes: dict[str, Any], says: str
) -> None:
    dense = written(plan.with_name("dense.plan"), dense=True, **changes)
    said = assert_one_line(laud("verify", str(plan), "--dense", str(dense)))
    assert says in said
    assert said.endswith("build it again with --dense, as the plan was built")


@pytest.mark.usefixtures("no_driver")
@pytest.mark.parametrize("paradigm", ["spatial", "static"])
def test_a_plan_at_sizes_of_no_point(laud: Laud, tmp_path: Path, paradigm: str) -> None:
    net = net_of(paradigm)
    source = bundle_of(net, random_weights(net), None)
    write_bundle(tmp_path / "other.laud", source.manifest, source.weights)
    sizes = (*buckets(40), *buckets(24, 1))
    other = written(tmp_path / "other.laud" / "other.plan", buckets=sizes)
    said = assert_one_line(laud("verify", str(other)))
    assert "takes images of 24, 40 px, at which no operating point of int8 runs whole" in said


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scripted one, with a TensorRT that runs ONNX files."""
    scripted_gpu(monkeypatch)


@pytest.mark.usefixtures("gpu")
def test_a_plan_that_agrees_gets_its_latency_table(laud: Laud, plan: Path) -> None:
    done = laud("verify", str(plan), "--calls", "2")
    assert done.status == 0, done.err
    assert "max error 0.0e+00, of boxes 0.0e+00, of all images 0.0e+00, " in done.out
    assert "candidates lost 0.00%, decisions that differ 0.00%: agrees" in done.out
    table = read_plan_table(plan / "latency-rtx-3090.json")
    assert [(call.point, call.images) for call in table.calls] == [("full", 1), ("full", 2)]
    as_json = json.loads(laud("verify", str(plan), "--calls", "1", "--json").out)
    assert as_json["verdict"]["agrees"] is True
    assert as_json["latency"]["device"] == "RTX 3090"


@pytest.mark.usefixtures("gpu")
def test_a_dense_plan_is_timed_beside_it_and_loaded_before_anything_is_compared(
    laud: Laud, plan: Path
) -> None:
    dense = written(plan.with_name("dense.plan"), dense=True, buckets=buckets(32, 3))
    command = ["verify", str(plan), "--dense", str(dense), "--calls", "1"]
    assert laud(*command).status == 0
    table = read_plan_table(plan / "latency-rtx-3090.json")
    assert all(call.dense_s is not None for call in table.calls)
    written(dense, dense=True, capabilities=(120,))
    said = assert_one_line(laud(*command))
    assert said.startswith(f"the plan '{dense}' was compiled for compute capability 12.0")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("shape", [[], ["--json"]], ids=str)
def test_what_was_measured_is_told_though_its_table_cannot_be_written(
    laud: Laud, plan: Path, tmp_path: Path, shape: list[str]
) -> None:
    (tmp_path / "file").touch()
    output = str(tmp_path / "file" / "table.json")
    done = laud("verify", str(plan), "--calls", "1", "-o", output, *shape)
    assert done.status != 0
    if shape:
        assert json.loads(done.out)["latency"]["calls"]
    else:
        assert "agrees" in done.out
        assert "median, ms" in done.out


def compiled_of(plan: Path, weights: dict[str, Any]) -> None:
    """Puts a program of other weights into a plan."""
    other = bundle_of(net_of("spatial"), weights, None)
    content = onnx_model(other, "fp32").SerializeToString()
    manifest = json.loads((plan / "manifest.json").read_text())
    (plan / "network.engine").write_bytes(content)
    (plan / "manifest.json").write_text(json.dumps({**manifest, "program": sha256(content)}))


@pytest.mark.usefixtures("gpu")
def test_a_plan_that_answers_something_else_is_not_to_be_served(laud: Laud, plan: Path) -> None:
    compiled_of(plan, random_weights(net_of("spatial"), seed=1))
    done = laud("verify", str(plan), "--calls", "1")
    assert done.status == 1
    assert done.err.endswith("the plan does not answer what its ONNX file means: do not serve it\n")
    assert not list(plan.glob("latency-*.json"))


@pytest.mark.usefixtures("gpu")
def test_what_is_no_number_is_null_in_json(laud: Laud, plan: Path) -> None:
    def refused(constant: str) -> None:
        raise AssertionError(constant)

    weights = random_weights(net_of("spatial"))
    compiled_of(plan, {**weights, "fc.weight": np.full_like(weights["fc.weight"], 3e38)})
    done = laud("verify", str(plan), "--json")
    assert done.status == 1
    told = json.loads(done.out, parse_constant=refused)
    assert told["latency"] is None
    assert (told["verdict"]["agrees"], told["verdict"]["worst_error"]) == (False, None)


@pytest.mark.usefixtures("gpu")
def test_the_service_loads_a_plan_by_the_name_of_its_engine(plan: Path) -> None:
    settings = load_settings(
        options={
            "bundles": str(plan.parent),
            "engine": "tensorrt",
            "precision": "fp32",
            "max_batch": "4",
        }
    )
    executor = Executor(settings)

    async def start() -> None:
        await executor.start()
        (model,) = executor.models.values()
        assert (model.engine.name, model.engine.precision) == ("tensorrt", "fp32")
        assert len(executor.profiles[model.name]["full"]) == 4
        await executor.stop()

    asyncio.run(start())


@pytest.mark.usefixtures("gpu")
def test_the_service_predicts_a_plan_by_its_table(laud: Laud, plan: Path) -> None:
    options = {"bundles": str(plan.parent), "engine": "tensorrt"}
    (model,) = load_models(load_settings(options=options))
    assert laud("verify", str(plan), "--calls", "1").status == 0
    path = plan / "latency-rtx-3090.json"
    buckets = [Bucket(image_size=32, images=images, profile=0) for images in (1, 2)]
    table = read_plan_table(path).model_copy(
        update={
            "calls": tuple(
                CallLatency.of("full", bucket, [s, 2 * s, 4 * s], [], [], 3)
                for bucket, s in zip(buckets, (1.0, 1.5), strict=True)
            )
        }
    )
    write_plan_table(path, table)
    profile = profile_points(model, 4, tables=Tables.of(load_settings(options=options)))
    assert profile.source == str(path)
    assert profile["full"] == (2.0, 3.0, 5.0, 6.0)
    assert (profile.ratios[0], profile.ratios[-1]) == (0.5, 2.0)
    for changed, says in (
        ({"program": "0" * 64}, "it is of another plan; measure here with: laud verify PLAN"),
        ({"device": "L4"}, "it is of another device"),
    ):
        write_plan_table(path, table.model_copy(update=changed))
        named = load_settings(options={**options, "latency_tables": str(path)})
        with pytest.raises(SettingsError, match=says):
            profile_points(model, 1, tables=Tables.of(named))
    model.engine.close()


@pytest.mark.usefixtures("no_driver")
def test_serving_a_plan_without_a_gpu(laud: Laud, plan: Path) -> None:
    done = laud("serve", str(plan.parent), "--engine", "tensorrt", "--port", "0")
    assert done.status == 2
    assert "there is no CUDA driver with a GPU on this machine" in done.err
