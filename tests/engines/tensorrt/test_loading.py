"""Which plan of a bundle is loaded, and what is said where none can be. The GPU is scripted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from engines.bundle import Bundle, read_bundle, write_bundle
from engines.errors import BundleError, EngineError, InvalidInput, PlanError
from engines.export.onnx.run import onnx_masks, onnx_model
from engines.registry import load_engine
from engines.tensorrt import loading
from engines.tensorrt.latency import CallLatency, PlanTable, plan_table_name, write_plan_table
from engines.tensorrt.libraries import Library, Said
from engines.tensorrt.loading import bundle_of, load_plan
from engines.tensorrt.plans import Branches, Bucket, MaskHead, Plan, read_plan, sha256, write_plan
from tests.engines.cpu import detectors
from tests.engines.int8 import bundle_of as unwritten
from tests.engines.int8 import net_of, noise, random_weights
from tests.engines.tensorrt.manifests import plan_manifest
from tests.engines.tensorrt.scripted import ScriptedGpu, ScriptedNetwork

VERSION = "10.16.1.11"
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ScriptedGpu]]:
    """Those that were opened; libraries are all there, in one version."""
    opened: list[ScriptedGpu] = []

    def gpu(device: int = 0) -> ScriptedGpu:
        opened.append(ScriptedGpu("RTX 3090", 86))
        return opened[-1]

    def network(_library: Library, program: bytes, gpu: ScriptedGpu) -> ScriptedNetwork:
        return ScriptedNetwork(gpu, program, [[(1, 32)], [(2, 32)]])

    def library(name: Any) -> Library:
        return Library(name, SimpleNamespace(__version__=VERSION), None, Said())

    monkeypatch.setattr(loading, "CudaGpu", gpu)
    monkeypatch.setattr(loading, "TensorRtNetwork", network)
    monkeypatch.setattr(loading, "library", library)
    yield opened
    for each in opened:
        assert each.closed
        assert each.holds_nothing


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[ScriptedNetwork]:
    """Programs that were loaded, in order."""
    found: list[ScriptedNetwork] = []
    real: Any = vars(loading)["TensorRtNetwork"]

    def network(*given: Any) -> ScriptedNetwork:
        found.append(real(*given))
        return found[-1]

    monkeypatch.setattr(loading, "TensorRtNetwork", network)
    return found


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    net = net_of("spatial")
    source = unwritten(net, random_weights(net), None)
    write_bundle(tmp_path / "small.laud", source.manifest, source.weights)
    return read_bundle(tmp_path / "small.laud")


@pytest.fixture
def write(bundle: Bundle) -> Write:
    """Writes a plan of the bundle beside its weights."""
    onnx = onnx_model(bundle, "fp32").SerializeToString()

    def written(name: str, **changes: Any) -> Path:
        fields = {
            "bundle": bundle.hash,
            "onnx": sha256(onnx),
            "program": sha256(onnx),
            "library_version": VERSION,
            "buckets": tuple(Bucket(image_size=32, images=i + 1, profile=i) for i in range(2)),
            **changes,
        }
        write_plan(bundle.path / name, plan_manifest(**fields), onnx, onnx)
        return bundle.path / name

    return written


def test_a_plan_is_an_engine_like_all_others(bundle: Bundle, write: Write) -> None:
    write("fp16-sm86.plan")
    with load_engine(bundle, kind="tensorrt") as engine:
        assert (engine.name, engine.precision) == ("tensorrt", "fp16")
        point = bundle.manifest.full.point
        probabilities = engine.infer(noise(2, 32), [point] * 2).arrays["probabilities"]
    assert probabilities.shape == (2, 4)
    assert bundle.manifest.at(engine.precision) == bundle.manifest


def test_what_skips_and_half_precision_come_first(bundle: Bundle, write: Write) -> None:
    write("a.plan", library="tensorrt_rtx")
    write("b.plan", precision="fp32")
    write("c.plan", dense=True)
    with load_engine(bundle, kind="tensorrt") as engine:
        assert engine.precision == "fp32"
    write("d.plan")
    with load_engine(bundle, kind="tensorrt") as engine:
        assert engine.precision == "fp16"
    with load_engine(bundle, kind="tensorrt", precision="fp32") as engine:
        assert engine.precision == "fp32"


def with_branches(folder: Path, library: str = "tensorrt") -> Plan:
    """A plan with both forms of calls of one image, in a bundle that skips layers."""
    net = net_of("layer")
    source = unwritten(net, random_weights(net), None)
    write_bundle(folder, source.manifest, source.weights)
    bundle = read_bundle(folder)
    blocks, branches = (
        onnx_model(bundle, "fp32", one_image=alone).SerializeToString() for alone in (False, True)
    )
    manifest = plan_manifest(
        bundle=bundle.hash,
        onnx=sha256(blocks),
        program=sha256(blocks),
        library=library,
        library_version=VERSION,
        device="RTX 3090",
        precision="fp32",
        buckets=tuple(Bucket(image_size=32, images=i + 1, profile=i) for i in range(2)),
        branches=Branches(
            onnx=sha256(branches),
            program=sha256(branches),
            buckets=(Bucket(image_size=32, images=1, profile=0),),
        ),
    )
    write_plan(folder / "a.plan", manifest, blocks, blocks, (branches, branches))
    return read_plan(folder / "a.plan")


def timed(plan: Plan, **seconds: float) -> None:
    """Writes what calls of one image of `full` took, by form."""
    manifest = plan.manifest
    program, branches, masks = manifest.programs
    table = PlanTable(
        bundle=manifest.bundle,
        program=program,
        branches=branches,
        masks=masks,
        name=manifest.name,
        library=manifest.library,
        library_version=manifest.library_version,
        precision=manifest.precision,
        device="RTX 3090",
        version=manifest.version,
        calls=tuple(
            CallLatency.of("full", manifest.buckets[0], [taken] * 2, [], [], 3, form)  # type: ignore[arg-type]
            for form, taken in seconds.items()
        ),
    )
    write_plan_table(plan.path / plan_table_name("RTX 3090"), table)


@pytest.mark.parametrize(
    ("library", "seconds", "form"),
    [
        ("tensorrt", {}, "blocks"),
        ("tensorrt_rtx", {}, "branches"),
        ("tensorrt", {"blocks": 2.0, "branches": 1.0}, "branches"),
        ("tensorrt_rtx", {"blocks": 1.0, "branches": 2.0}, "blocks"),
        ("tensorrt_rtx", {"blocks": 1.0}, "blocks"),
    ],
    ids=str,
)
def test_the_form_of_an_image_alone_is_what_was_timed_on_this_device(
    tmp_path: Path,
    opened: list[ScriptedNetwork],
    library: str,
    seconds: dict[str, float],
    form: str,
) -> None:
    plan = with_branches(tmp_path / "layers.laud", library)
    if seconds:
        timed(plan, **seconds)
    bundle = read_bundle(tmp_path / "layers.laud")
    with load_engine(bundle, kind="tensorrt") as engine:
        engine.infer(noise(1, 32), [bundle.manifest.full.point])
    by_form = zip(("blocks", "branches"), opened, strict=False)
    assert [each for each, network in by_form if network.seen] == [form]
    assert len(opened) == (2 if form == "branches" else 1), "they are all weights once more"


def test_branches_are_loaded_where_a_call_takes_them_or_somebody_compares(
    tmp_path: Path, opened: list[ScriptedNetwork]
) -> None:
    """They are all weights once more."""
    plan = with_branches(tmp_path / "layers.laud")
    bundle = read_bundle(tmp_path / "layers.laud")
    load_plan(bundle, plan).close()
    assert len(opened) == 1
    load_plan(bundle, plan, every_form=True).close()
    assert len(opened) == 3
    assert all(network.closed for network in opened)


def test_branches_that_do_not_load_give_everything_back(
    tmp_path: Path, opened: list[ScriptedNetwork], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = with_branches(tmp_path / "layers.laud")
    real: Any = vars(loading)["TensorRtNetwork"]

    def network(*given: Any) -> ScriptedNetwork:
        if opened:
            raise EngineError("out of memory")
        return real(*given)  # type: ignore[no-any-return]

    monkeypatch.setattr(loading, "TensorRtNetwork", network)
    with pytest.raises(EngineError, match="out of memory"):
        load_plan(read_bundle(tmp_path / "layers.laud"), plan, every_form=True)
    assert [each.closed for each in opened] == [True]


def test_a_plan_that_does_not_fit_gives_way(bundle: Bundle, write: Write) -> None:
    write("a.plan", capabilities=(89,))
    write("b.plan", precision="fp32")
    with load_engine(bundle, kind="tensorrt") as engine:
        assert engine.precision == "fp32"


def test_a_neighbour_that_cannot_be_read_hinders_no_other(
    bundle: Bundle, write: Write, gpus: list[ScriptedGpu]
) -> None:
    (write("a.plan") / "manifest.json").write_text("{")
    with pytest.raises(PlanError, match=r"a\.plan/manifest\.json' is not JSON"):
        load_engine(bundle, kind="tensorrt")
    assert not gpus
    write("b.plan", precision="fp32")
    with load_engine(bundle, kind="tensorrt") as engine:
        assert engine.precision == "fp32"


@pytest.mark.parametrize("starts", [True, False])
def test_a_detector_brings_its_mask_head_which_needs_the_librarys_own_plugins(
    tmp_path: Path,
    opened: list[ScriptedNetwork],
    monkeypatch: pytest.MonkeyPatch,
    starts: bool,
) -> None:
    source = detectors.bundle(sizes=(32,))
    write_bundle(tmp_path / "things.laud", source.manifest, source.weights)
    bundle = read_bundle(tmp_path / "things.laud")
    head = onnx_masks(bundle, "fp32")
    assert head is not None
    network = onnx_model(bundle, "fp32", select=False).SerializeToString()
    masks = head.SerializeToString()
    manifest = plan_manifest(
        bundle=bundle.hash,
        onnx=sha256(network),
        program=sha256(network),
        library_version=VERSION,
        buckets=tuple(Bucket(image_size=32, images=i + 1, profile=i) for i in range(2)),
        masks=MaskHead(onnx=sha256(masks), program=sha256(masks), objects=8),
    )
    write_plan(bundle.path / "a.plan", manifest, network, network, masks=(masks, masks))
    asked: list[tuple[Any, str]] = []

    def start(logger: Any, namespace: str) -> bool:
        assert len(opened) == 1, "the mask head is not loaded yet"
        asked.append((logger, namespace))
        return starts

    module = SimpleNamespace(__version__=VERSION, init_libnvinfer_plugins=start)
    monkeypatch.setattr(loading, "library", lambda name: Library(name, module, "logger", Said()))
    if starts:
        with load_engine(bundle, kind="tensorrt") as engine:
            found = engine.infer(noise(2, 32), [bundle.manifest.full.point] * 2)
        assert found.arrays["masks"].shape[2:] == (28, 28)
    else:
        with pytest.raises(EngineError, match="TensorRT does not start its own plugins"):
            load_engine(bundle, kind="tensorrt")
    assert asked == [("logger", "")]
    assert all(network.closed for network in opened)


@pytest.mark.parametrize("error", [BundleError("no"), OSError("gone"), KeyboardInterrupt()])
def test_any_fault_gives_the_device_back(
    bundle: Bundle, write: Write, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def failing(*_given: Any) -> ScriptedNetwork:
        raise error

    write("fp16.plan")
    monkeypatch.setattr(loading, "TensorRtNetwork", failing)
    with pytest.raises(type(error)):
        load_engine(bundle, kind="tensorrt")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"capabilities": (89,)}, "compiled for compute capability 8.9, and RTX 3090 has 8.6"),
        ({"library_version": "11.0.0.1"}, "by TensorRT 11.0.0.1, and 10.16.1.11 is installed"),
    ],
)
def test_where_none_fits_the_reason_is_said(
    bundle: Bundle, write: Write, changes: dict[str, Any], says: str
) -> None:
    path = write("fp16.plan", **changes)
    with pytest.raises(PlanError, match=f"the plan '{path}' was .*{says}"):
        load_engine(bundle, kind="tensorrt")


def test_without_a_plan_it_says_how_to_build_one(
    bundle: Bundle, write: Write, gpus: list[ScriptedGpu]
) -> None:
    with pytest.raises(
        EngineError, match=r"there is no plan of int8 in '.*small\.laud'; build one"
    ):
        load_engine(bundle, kind="tensorrt")
    write("fp32.plan", precision="fp32")
    write("other.plan", bundle="0" * 64)
    with pytest.raises(EngineError, match=r"in fp16 .*or dense: 2\); .*laud build .*small\.laud"):
        load_engine(bundle, kind="tensorrt", precision="fp16")
    assert not gpus, "no device is needed to say so"


def test_plans_of_packaged_bundles_lie_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    demo = read_bundle("zoo:clothing")
    with pytest.raises(EngineError, match="laud build zoo:clothing --device 0"):
        load_engine(demo, kind="tensorrt")
    net = net_of("static")
    other = onnx_model(unwritten(net, random_weights(net), None), "fp32").SerializeToString()
    manifest = plan_manifest(bundle=demo.hash, onnx=sha256(other), program=sha256(other))
    write_plan(Path("clothing-fp16-sm86.plan"), manifest, other, other)
    with pytest.raises(PlanError, match="the plan's inputs are image instead of"):
        load_engine(demo, kind="tensorrt")


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_precisions_that_no_plan_has(bundle: Bundle, precision: str) -> None:
    with pytest.raises(InvalidInput, match=f"fp16 or fp32, got precision '{precision}'"):
        load_engine(bundle, kind="tensorrt", precision=precision)


def test_a_gpu_takes_no_threads(bundle: Bundle) -> None:
    with pytest.raises(InvalidInput, match="it takes no threads"):
        load_engine(bundle, kind="tensorrt", threads=2)


def test_a_damaged_plan_gives_the_device_back(bundle: Bundle, write: Write) -> None:
    path = write("fp16.plan")
    (path / "network.engine").write_bytes(b"cut")
    with pytest.raises(PlanError, match=r"network\.engine' is damaged"):
        load_engine(bundle, kind="tensorrt")


def test_the_bundle_of_a_plan_is_found_around_it_in_the_zoo_or_by_name(
    bundle: Bundle, write: Write, tmp_path: Path
) -> None:
    plan = read_plan(write("fp16.plan"))
    assert bundle_of(plan).hash == bundle.hash
    moved = plan.path.rename(tmp_path / "away.plan")
    with pytest.raises(PlanError, match="name it with --bundle"):
        bundle_of(read_plan(moved))
    assert bundle_of(read_plan(moved), str(bundle.path)).hash == bundle.hash
    with pytest.raises(PlanError, match=r"is of bundle small .*, not of clothing"):
        bundle_of(read_plan(moved), "zoo:clothing")
    with pytest.raises(BundleError, match="is not a bundle directory"):
        bundle_of(read_plan(moved), "missing.laud")
    demo = read_bundle("zoo:clothing")
    onnx = read_plan(moved).onnx.read_bytes()
    manifest = plan.manifest.model_copy(update={"bundle": demo.hash, "name": "clothing"})
    write_plan(tmp_path / "demo.plan", manifest, onnx, onnx)
    assert bundle_of(read_plan(tmp_path / "demo.plan")).hash == demo.hash


def test_a_plan_of_its_own_is_loaded_by_name_and_the_device_given_back_if_not(
    bundle: Bundle, write: Write
) -> None:
    load_plan(bundle, read_plan(write("fp16.plan"))).close()
    with pytest.raises(PlanError, match=r"has 8\.6"):
        load_plan(bundle, read_plan(write("far.plan", capabilities=(120,))))
