"""`laud build`: a bundle's network as a plan, on the GPU that will run it, or for an RTX card that
is not here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from engines.architecture import only_resnet
from engines.bundle import ZOO_PREFIX, Bundle, classifier, read_bundle
from engines.core import MAX_IMAGE_SIZE
from engines.errors import InvalidInput
from engines.replacing import replace_file
from engines.tensorrt.dense import dense_bundle
from engines.tensorrt.gpu import CudaGpu
from engines.tensorrt.libraries import Library, library
from engines.tensorrt.network import (
    Compiled,
    Order,
    Say,
    Shapes,
    check_capabilities,
    check_registered,
    compile_network,
    known_capabilities,
)
from engines.tensorrt.plans import (
    SUFFIX,
    Bucket,
    PlanManifest,
    Precision,
    check_plan_output,
    sha256,
    write_plan,
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
    network without maskers, to compare with. one_image: that many in a call, and layers that it
    skips are branches; of plugins that leaves `partition`, and none with TensorRT-RTX."""

    precision: str = "fp16"
    sizes: tuple[int, ...] | None = None
    batches: tuple[int, ...] = BATCHES
    out: Path | None = None
    timing_cache: Path | None = None
    dense: bool = False
    one_image: bool = False


@dataclass(frozen=True)
class Built:
    """A plan that was written. layers: of the network as the parser made it."""

    path: Path
    manifest: PlanManifest
    layers: int


def build_rtx(ref: str | Path, plan: BuildPlan, capabilities: Sequence[int], say: Say) -> Built:
    """Compile with TensorRT-RTX for devices that need not be here.

    One profile spans all buckets: this library specialises kernels where they run. It has no
    plugins, so everything is computed and then masked. Raises BundleError, PlanError, InvalidInput,
    and EngineError where the library is missing or refuses the network.
    """
    precision = checked_precision(plan)
    rtx = library("tensorrt_rtx")
    if not capabilities:
        raise InvalidInput(
            "--rtx needs --sm, the compute capability of the card that will run it (86 for an RTX "
            f"3090); there are: {', '.join(map(str, known_capabilities(rtx)))}"
        )
    check_capabilities(rtx, capabilities)
    bundle = buildable(ref, plan)
    wanted = tuple(sorted(set(capabilities)))
    out = plan.out or default_output(bundle, precision, wanted, _kind(plan, "rtx-"))
    check_plan_output(out)
    buckets = buckets_of(bundle, plan, profile_each=False)
    model = _model(bundle, precision, plan, say)
    onnx = model.SerializeToString(deterministic=True)
    say(f"compiling for {', '.join(f'sm_{each}' for each in wanted)} with {rtx.title}")
    order = Order(onnx, [spanning(model, buckets)], wanted)
    compiled = compile_network(rtx, order, say)
    manifest = plan_manifest(
        bundle, precision, rtx, onnx, compiled, wanted, buckets,
        dense=plan.dense, one_image=plan.one_image,
    )  # fmt: skip
    write_plan(out, manifest, onnx, compiled.program)
    return Built(out, manifest, compiled.layers)


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
        model = _model(bundle, precision, plan, say)
        skipping = [node.op_type for node in model.graph.node if plugin_of(node)]
        operators = tuple(sorted(set(skipping)))
        if operators:
            _register_plugins(capability)
            check_registered(trt, operators)
        buckets = buckets_of(bundle, plan, profile_each=True)
        onnx = model.SerializeToString(deterministic=True)
        say(
            f"compiling for {gpu.name} (sm_{capability}) with {trt.title} {trt.version}: "
            f"{len(buckets)} buckets, {len(skipping)} plugins; this takes minutes"
        )
        order = Order(
            onnx,
            [exactly(model, bucket) for bucket in buckets],
            plugins=len(skipping),
            timing_cache=timing_cache,
        )
        compiled = compile_network(trt, order, say)
        manifest = plan_manifest(
            bundle, precision, trt, onnx, compiled, (capability,), buckets,
            device=gpu.name, plugins=operators, dense=plan.dense,
            one_image=plan.one_image,
        )  # fmt: skip
        write_plan(out, manifest, onnx, compiled.program)
        if plan.timing_cache is not None and compiled.timing_cache is not None:
            replace_file(plan.timing_cache, compiled.timing_cache)
    finally:
        gpu.close()
    return Built(out, manifest, compiled.layers)


def buildable(ref: str | Path, plan: BuildPlan) -> Bundle:
    """The bundle, where plans are made of such. Raises BundleError."""
    bundle = classifier(read_bundle(ref), "laud build")
    only_resnet(bundle.manifest.architecture, f"'{bundle.path}': laud build")
    return dense_bundle(bundle) if plan.dense else bundle


def checked_precision(plan: BuildPlan) -> Precision:
    """The precision that was asked for. InvalidInput for another, and for batches, sizes and
    kinds that cannot be."""
    if plan.one_image and plan.dense:
        raise InvalidInput("a dense plan skips nothing: it has no branches for one image")
    if plan.one_image and set(plan.batches) != {1}:
        raise InvalidInput("a plan for one image has batches of 1, not of others")
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


def sizes_of(bundle: Bundle) -> tuple[int, ...]:
    """Sizes at which its points run, glances included, ascending."""
    points = [record.point for record in bundle.manifest.points]
    glances = [point.glance.image_size for point in points if point.glance is not None]
    return tuple(sorted({*(point.image_size for point in points), *glances}))


def buckets_of(bundle: Bundle, plan: BuildPlan, *, profile_each: bool) -> tuple[Bucket, ...]:
    """Every size with every batch, ascending; each a profile of its own, or all one."""
    sizes = sorted(set(plan.sizes)) if plan.sizes else sizes_of(bundle)
    shapes = [(size, batch) for size in sizes for batch in sorted(set(plan.batches))]
    return tuple(
        Bucket(image_size=size, images=batch, profile=i if profile_each else 0)
        for i, (size, batch) in enumerate(shapes)
    )


def exactly(model: onnx.ModelProto, bucket: Bucket) -> Shapes:
    """The profile of one shape."""
    shape = (bucket.images, bucket.image_size)
    return _shapes(model, shape, shape, shape)


def spanning(model: onnx.ModelProto, buckets: Sequence[Bucket]) -> Shapes:
    """The profile of all shapes from the least to the most; the best is the largest image alone."""
    batches = [bucket.images for bucket in buckets]
    sizes = [bucket.image_size for bucket in buckets]
    return _shapes(
        model,
        (min(batches), min(sizes)),
        (min(batches), max(sizes)),
        (max(batches), max(sizes)),
    )


def plan_manifest(
    bundle: Bundle,
    precision: Precision,
    made_by: Library,
    onnx: bytes,
    compiled: Compiled,
    capabilities: tuple[int, ...],
    buckets: tuple[Bucket, ...],
    *,
    device: str | None = None,
    plugins: tuple[str, ...] = (),
    dense: bool = False,
    one_image: bool = False,
) -> PlanManifest:
    """The record of a plan that was just compiled."""
    return PlanManifest(
        name=bundle.manifest.name,
        bundle=bundle.hash,
        onnx=sha256(onnx),
        program=sha256(compiled.program),
        precision=precision,
        library=made_by.name,
        library_version=made_by.version,
        capabilities=capabilities,
        device=device,
        buckets=buckets,
        plugins=plugins,
        dense=dense,
        one_image=one_image,
        version=version("laudserve"),
    )


def _model(bundle: Bundle, precision: Precision, plan: BuildPlan, say: Say) -> onnx.ModelProto:
    from engines.export.onnx.run import onnx_model

    say(f"exporting {bundle.manifest.name} in {precision}")
    return onnx_model(bundle, precision, one_image=plan.one_image)


def plugin_of(node: onnx.NodeProto) -> bool:
    """Whether TensorRT is to take a plugin for a node."""
    return any(each.name == "plugin_namespace" for each in node.attribute)


def _kind(plan: BuildPlan, kind: str = "") -> str:
    if plan.one_image:
        return f"{kind}one-image-"
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


def _shapes(
    model: onnx.ModelProto, least: tuple[int, int], best: tuple[int, int], most: tuple[int, int]
) -> Shapes:
    """(images, size) each: shapes of the graph's inputs."""
    found: Shapes = {}
    for each in model.graph.input:
        dims = each.type.tensor_type.shape.dim
        least_shape, best_shape, most_shape = (
            tuple(_dimension(dim.dim_param, dim.dim_value, *of) for dim in dims)
            for of in (least, best, most)
        )
        found[each.name] = (least_shape, best_shape, most_shape)
    return found


def _dimension(name: str, value: int, images: int, size: int) -> int:
    return {"N": images, "H": size, "W": size}.get(name, value)
