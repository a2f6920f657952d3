"""`laud build`: a bundle's network as a plan, on the GPU that will run it, or for an RTX card that
is not here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from engines.bundle import ZOO_PREFIX, Bundle, read_bundle
from engines.core import MAX_IMAGE_SIZE
from engines.detection.architecture import check_image_size
from engines.errors import BundleError, EngineError, InvalidInput
from engines.replacing import replace_file
from engines.tensorrt.dense import dense_bundle
from engines.tensorrt.gpu import CudaGpu
from engines.tensorrt.libraries import Library, library, start_own_plugins
from engines.tensorrt.network import (
    Compiled,
    Order,
    Say,
    check_capabilities,
    check_registered,
    compile_network,
    known_capabilities,
)
from engines.tensorrt.plans import (
    SUFFIX,
    Branches,
    Bucket,
    MaskHead,
    PlanManifest,
    Precision,
    check_plan_output,
    sha256,
    write_plan,
)
from engines.tensorrt.shapes import (
    OBJECTS,
    buckets_alone,
    buckets_of,
    exactly,
    sizes_of,
    spanning,
)

if TYPE_CHECKING:
    import onnx

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
BATCHES = (1, 2, 4, 8)

_MOST_IMAGES = 1024


@dataclass(frozen=True)
class BuildPlan:
    """What to build. sizes: pixels on a side; None: those of the bundle's points. batches: images
    of a bucket. out: None for `default_output`. timing_cache: a file, read and written. dense: the
    network without maskers, to compare with."""

    precision: str = "fp16"
    sizes: tuple[int, ...] | None = None
    batches: tuple[int, ...] = BATCHES
    out: Path | None = None
    timing_cache: Path | None = None
    dense: bool = False


@dataclass(frozen=True)
class Part:
    """A program of a plan: the ONNX file, what was compiled of it, operators that are plugins."""

    onnx: bytes
    compiled: Compiled
    plugins: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[bytes, bytes]:
        """ONNX and program."""
        return self.onnx, self.compiled.program


@dataclass(frozen=True)
class Built:
    """A plan that was written. layers: of the network as the parser made it."""

    path: Path
    manifest: PlanManifest
    layers: int


def build_rtx(ref: str | Path, plan: BuildPlan, capabilities: Sequence[int], say: Say) -> Built:
    """Compile with TensorRT-RTX for devices that need not be here.

    One profile spans all buckets: this library specialises kernels where they run. It has no
    plugins, so everything is computed and then masked, but for layers that are branches. Raises
    BundleError, PlanError, InvalidInput, and EngineError where the library is missing or refuses
    the network.
    """
    precision = checked_precision(plan)
    bundle = buildable(ref, plan)
    detector = bundle.manifest.detector
    if detector is not None and detector.masks:
        raise BundleError(
            f"'{bundle.path.name}' finds objects with masks: TensorRT-RTX has no RoiAlign; build "
            "it on a GPU, without --rtx"
        )
    rtx = library("tensorrt_rtx")
    if not capabilities:
        raise InvalidInput(
            "--rtx needs --sm, the compute capability of the card that will run it (86 for an RTX "
            f"3090); there are: {', '.join(map(str, known_capabilities(rtx)))}"
        )
    check_capabilities(rtx, capabilities)
    wanted = tuple(sorted(set(capabilities)))
    out = plan.out or default_output(bundle, precision, wanted, _kind(plan, "rtx-"))
    check_plan_output(out)
    buckets = buckets_of(plan.sizes or sizes_of(bundle), plan.batches, profile_each=False)
    model = _model(bundle, precision, say)
    say(f"compiling for {', '.join(f'sm_{each}' for each in wanted)} with {rtx.title}")

    def made(model: onnx.ModelProto, buckets: Sequence[Bucket]) -> Part:
        content = model.SerializeToString(deterministic=True)
        order = Order(content, [spanning(model, buckets)], wanted)
        return Part(content, compile_network(rtx, order, say))

    main = made(model, buckets)
    branches = _branches(bundle, precision, buckets_alone(buckets, profile_each=False), made, say)
    manifest = plan_manifest(
        bundle, precision, rtx, main, wanted, buckets, dense=plan.dense, branches=branches
    )
    write_plan(out, manifest, *main.files, branches and branches[1].files)
    return Built(out, manifest, main.compiled.layers)


def build_on_gpu(ref: str | Path, plan: BuildPlan, device: int, say: Say) -> Built:
    """Compile with TensorRT on a GPU of this machine, for GPUs like it; what skips are plugins.

    Every bucket is a profile of its own, because TensorRT chooses kernels per profile. Raises
    BundleError, PlanError, InvalidInput, and EngineError where there is no GPU, no TensorRT, no
    plugin of an operator, or the network is refused.
    """
    precision = checked_precision(plan)
    bundle = buildable(ref, plan)
    if plan.out is not None:
        check_plan_output(plan.out)
    timing_cache = _read_cache(plan.timing_cache)
    gpu = CudaGpu(device)
    try:
        trt = library("tensorrt")
        capability = gpu.capability
        out = plan.out or default_output(bundle, precision, (capability,), _kind(plan))
        check_plan_output(out)
        model = _model(bundle, precision, say)
        buckets = buckets_of(plan.sizes or sizes_of(bundle), plan.batches, profile_each=True)
        say(
            f"compiling for {gpu.name} (sm_{capability}) with {trt.title} {trt.version}: "
            f"{len(buckets)} buckets, {len(plugins_of(model))} plugins; this takes minutes"
        )

        def made(model: onnx.ModelProto, buckets: Sequence[Bucket]) -> Part:
            nonlocal timing_cache
            plugins = plugins_of(model)
            if plugins:
                _register_plugins(capability)
                check_registered(trt, set(plugins))
            order = Order(
                model.SerializeToString(deterministic=True),
                [exactly(model, bucket) for bucket in buckets],
                plugins=len(plugins),
                timing_cache=timing_cache,
            )
            compiled = compile_network(trt, order, say)
            timing_cache = compiled.timing_cache
            return Part(order.onnx, compiled, tuple(sorted(set(plugins))))

        # The smallest first: where it is refused, that is known before minutes have gone by.
        masks: tuple[MaskHead, Part] | None = None
        head = _mask_head(bundle, precision)
        if head is not None:
            start_own_plugins(trt)
            masks = _mask_part(made(head, buckets))
        main = made(model, buckets)
        alone = buckets_alone(buckets, profile_each=True)
        branches = _branches(bundle, precision, alone, made, say)
        manifest = plan_manifest(
            bundle, precision, trt, main, (capability,), buckets,
            device=gpu.name, dense=plan.dense, branches=branches, masks=masks,
        )  # fmt: skip
        write_plan(
            out, manifest, *main.files,
            branches and branches[1].files, masks and masks[1].files,
        )  # fmt: skip
        if plan.timing_cache is not None and timing_cache is not None:
            replace_file(plan.timing_cache, timing_cache)
    finally:
        gpu.close()
    return Built(out, manifest, main.compiled.layers)


def buildable(ref: str | Path, plan: BuildPlan) -> Bundle:
    """The bundle, where plans are made of such. Raises BundleError; InvalidInput for sizes that a
    detector does not take."""
    bundle = read_bundle(ref)
    if bundle.manifest.detector is not None:
        for size in plan.sizes or ():
            check_image_size(size)
    return dense_bundle(bundle) if plan.dense else bundle


def checked_precision(plan: BuildPlan) -> Precision:
    """The precision that was asked for. InvalidInput for another, and for batches and sizes
    that cannot be."""
    for each in plan.batches:
        if not 1 <= each <= _MOST_IMAGES:
            raise InvalidInput(f"a batch is 1 to {_MOST_IMAGES} images, got {each}")
    for each in plan.sizes or ():
        if not 1 <= each <= MAX_IMAGE_SIZE:
            raise InvalidInput(f"a size is 1 to {MAX_IMAGE_SIZE} pixels, got {each}")
    for known in PRECISIONS:
        if plan.precision == known:
            return known
    raise InvalidInput(
        f"unknown precision '{plan.precision}' of a plan; there are: {', '.join(PRECISIONS)}"
    )


def default_output(
    bundle: Bundle, precision: Precision, capabilities: Sequence[int], kind: str = ""
) -> Path:
    """Beside a bundle's weights; of a bundle that ships in the package, in this folder."""
    devices = "-".join(f"sm{each}" for each in capabilities)
    name = f"{kind}{precision}-{devices}{SUFFIX}"
    if bundle.ref.startswith(ZOO_PREFIX):
        return Path(f"{bundle.manifest.name}-{name}")
    return bundle.path / name


def plan_manifest(
    bundle: Bundle,
    precision: Precision,
    made_by: Library,
    main: Part,
    capabilities: tuple[int, ...],
    buckets: tuple[Bucket, ...],
    *,
    device: str | None = None,
    dense: bool = False,
    branches: tuple[Branches, Part] | None = None,
    masks: tuple[MaskHead, Part] | None = None,
) -> PlanManifest:
    """The record of a plan that was just compiled."""
    return PlanManifest(
        name=bundle.manifest.name,
        bundle=bundle.hash,
        onnx=sha256(main.onnx),
        program=sha256(main.compiled.program),
        precision=precision,
        library=made_by.name,
        library_version=made_by.version,
        capabilities=capabilities,
        device=device,
        buckets=buckets,
        plugins=main.plugins,
        dense=dense,
        branches=branches and branches[0],
        masks=masks and masks[0],
        version=version("laudserve"),
    )


def plugins_of(model: onnx.ModelProto) -> list[str]:
    """The operator of every node that TensorRT is to take a plugin for."""
    return [
        node.op_type
        for node in model.graph.node
        if any(each.name == "plugin_namespace" for each in node.attribute)
    ]


def _model(
    bundle: Bundle, precision: Precision, say: Say, *, one_image: bool = False
) -> onnx.ModelProto:
    from engines.export.onnx.run import onnx_model

    form = " once more, with branches" if one_image else ""
    say(f"exporting {bundle.manifest.name} in {precision}{form}")
    # What a detector selects has no fixed size: the engine does that.
    return onnx_model(bundle, precision, one_image=one_image, select=False)


def _mask_head(bundle: Bundle, precision: Precision) -> onnx.ModelProto | None:
    from engines.export.onnx.run import onnx_masks

    return onnx_masks(bundle, precision)


def _mask_part(part: Part) -> tuple[MaskHead, Part]:
    """The record of a mask head that was compiled."""
    found = MaskHead(onnx=sha256(part.onnx), program=sha256(part.compiled.program), objects=OBJECTS)
    return found, part


def _branches(
    bundle: Bundle,
    precision: Precision,
    buckets: tuple[Bucket, ...],
    made: Callable[[onnx.ModelProto, Sequence[Bucket]], Part],
    say: Say,
) -> tuple[Branches, Part] | None:
    """The other form of calls of one image, where a layer is skipped as a whole.

    A plan is right without it: where the library refuses it, that is said and no more.
    """
    from engines.export.onnx.blocks import may_branch

    if not buckets or not any(map(may_branch, bundle.manifest.architecture.blocks)):
        return None
    try:
        part = made(_model(bundle, precision, say, one_image=True), buckets)
    except EngineError as error:
        say(f"the plan gets no branches: {error}")
        return None
    found = Branches(
        onnx=sha256(part.onnx),
        program=sha256(part.compiled.program),
        buckets=buckets,
        plugins=part.plugins,
    )
    return found, part


def _kind(plan: BuildPlan, kind: str = "") -> str:
    return f"{kind}dense-" if plan.dense else kind


def _register_plugins(capability: int) -> None:
    from engines.tensorrt.plugins import register

    register(capability)


def _read_cache(path: Path | None) -> bytes | None:
    """Of an earlier build; empty before the first, None where none is wanted. Raises InvalidInput
    where none can be kept."""
    if path is None:
        return None
    if not path.parent.is_dir():
        raise InvalidInput(
            f"a timing cache '{path}' cannot be kept: there is no folder '{path.parent}'"
        )
    return path.read_bytes() if path.exists() else b""
