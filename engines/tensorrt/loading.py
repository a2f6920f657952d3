"""From a bundle to the engine that runs its plan here: which plan, and whether it fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from engines.bundle import ZOO_PREFIX, Bundle, read_bundle
from engines.errors import BundleError, EngineError, InvalidInput, PlanError
from engines.tensorrt.dense import dense_bundle
from engines.tensorrt.detector import TensorRtDetector
from engines.tensorrt.engine import TensorRtEngine
from engines.tensorrt.forms import chosen_forms, timed_of
from engines.tensorrt.gpu import CudaGpu, Gpu
from engines.tensorrt.libraries import Library, library, start_own_plugins
from engines.tensorrt.loaded import Network, TensorRtNetwork
from engines.tensorrt.plans import (
    Here,
    LibraryName,
    Plan,
    PlanManifest,
    misfit,
    plans_in,
    read_plan,
    read_plan_manifest,
)
from engines.tensorrt.running import PlanEngine

# What is taken where several plans fit: what skips before what masks, half precision before single.
_LIBRARIES: tuple[LibraryName, ...] = ("tensorrt", "tensorrt_rtx")
PRECISIONS = ("fp16", "fp32")

OpenNetwork = Callable[[Library, bytes, Gpu], Network]


def load_bundle(bundle: Bundle, precision: str | None = None) -> PlanEngine:
    """The engine of the best plan of a bundle that fits this machine.

    Plans lie in the bundle's folder; those of bundles that ship in the package in the current one.
    Raises InvalidInput for a precision that no plan has, EngineError where there is no plan or no
    GPU, PlanError that says why none fits.
    """
    if precision not in (None, *PRECISIONS):
        raise InvalidInput(
            f"the tensorrt engine computes in {' or '.join(PRECISIONS)}, got precision "
            f"'{precision}'"
        )
    folders = [bundle.path]
    if bundle.ref.startswith(ZOO_PREFIX):
        folders.append(Path())
    plans = candidates(bundle, folders, precision)
    return open_first(bundle, plans, CudaGpu(), TensorRtNetwork)


def load_plan(
    bundle: Bundle, plan: Plan, device: int = 0, *, every_form: bool = False
) -> PlanEngine:
    """The engine of one plan on a GPU of this machine. every_form: with its branches, whether or
    not a call takes them by itself. Raises what `load_bundle` raises."""
    if plan.manifest.dense:
        bundle = dense_bundle(bundle)
    gpu = CudaGpu(device)
    try:
        return open_plan(bundle, plan, gpu, TensorRtNetwork, every_form=every_form)
    except BaseException:
        gpu.close()
        raise


def bundle_of(plan: Plan, ref: str | None = None) -> Bundle:
    """The bundle that a plan is of: the named one, else where the plan lies, else zoo:NAME.

    Raises PlanError where none of them is it, BundleError where the named one cannot be read.
    """
    wanted = plan.manifest.bundle
    if ref is not None:
        bundle = read_bundle(ref)
        if bundle.hash != wanted:
            raise PlanError(
                f"the plan '{plan.path}' is of bundle {plan.manifest.name} ({wanted[:12]}), not of "
                f"{bundle.manifest.name} ({bundle.hash[:12]})"
            )
        return bundle
    for place in (plan.path.absolute().parent, f"{ZOO_PREFIX}{plan.manifest.name}"):
        try:
            bundle = read_bundle(place)
        except BundleError:
            continue
        if bundle.hash == wanted:
            return bundle
    raise PlanError(
        f"the plan '{plan.path}' is of bundle {plan.manifest.name} ({wanted[:12]}), which does not "
        "lie around it: name it with --bundle"
    )


def candidates(bundle: Bundle, folders: Sequence[Path], precision: str | None) -> list[Path]:
    """The bundle's plans in those folders, the one to prefer first. Raises EngineError for none,
    PlanError for none but one that cannot be read."""
    found: list[tuple[tuple[int, int], Path]] = []
    others = 0
    unread: PlanError | None = None
    for path in plans_in(folders):
        try:
            manifest = read_plan_manifest(path)
        except PlanError as error:
            unread = unread or error
            continue
        wanted = manifest.bundle == bundle.hash and precision in (None, manifest.precision)
        if not wanted or manifest.dense:
            others += 1
            continue
        rank = _LIBRARIES.index(manifest.library), PRECISIONS.index(manifest.precision)
        found.append((rank, path))
    if not found:
        if unread is not None:
            raise unread
        what = "" if precision is None else f" in {precision}"
        where = " or ".join(f"'{folder}'" for folder in folders)
        besides = f" (plans of another bundle or precision, or dense: {others})" if others else ""
        raise EngineError(
            f"there is no plan of {bundle.manifest.name}{what} in {where}{besides}; build one on "
            f"the machine that will run it: laud build {bundle.ref} --device 0"
        )
    return [path for _, path in sorted(found)]


def open_first(
    bundle: Bundle, plans: Sequence[Path], gpu: Gpu, open_network: OpenNetwork
) -> PlanEngine:
    """The first of them that fits; else what is wrong with the first. Takes `gpu` over."""
    first: EngineError | PlanError | None = None
    try:
        for path in plans:
            try:
                return open_plan(bundle, read_plan(path), gpu, open_network)
            except (EngineError, PlanError) as error:
                first = first or error
        raise first or EngineError("there is no plan")
    except BaseException:
        gpu.close()
        raise


def open_plan(
    bundle: Bundle, plan: Plan, gpu: Gpu, open_network: OpenNetwork, *, every_form: bool = False
) -> PlanEngine:
    """Load a plan that fits, in the forms that its latency table of this device chooses, or in
    every form. Raises PlanError with the reason, EngineError without its library."""
    found, manifest = library(plan.manifest.library), plan.manifest
    check_fits(plan.path, manifest, found, gpu)
    forms = chosen_forms(manifest, bundle.manifest, timed_of(plan, gpu.name))
    with ExitStack() as opened:
        network = open_network(found, plan.program(), gpu)
        opened.callback(network.close)
        branches = None
        # They are all weights once more: where no call takes them they stay on the disk.
        if manifest.branches is not None and (every_form or forms.branch):
            branches = open_network(found, plan.branches_program(), gpu)
            opened.callback(branches.close)
        engine: PlanEngine
        if bundle.manifest.detector is None:
            engine = TensorRtEngine(bundle, manifest, gpu, network, branches, forms)
        else:
            masks = None
            if manifest.masks is not None:
                start_own_plugins(found)
                masks = open_network(found, plan.masks_program(), gpu)
                opened.callback(masks.close)
            engine = TensorRtDetector(bundle, manifest, gpu, network, branches, forms, masks)
        opened.pop_all()
    return engine


def check_fits(path: Path, manifest: PlanManifest, found: Library, gpu: Gpu) -> None:
    """Raise PlanError unless the plan can run with that library on that device."""
    why = misfit(manifest, Here(found.name, found.version, gpu.name, gpu.capability))
    if why is not None:
        raise PlanError(f"the plan '{path}' {why}")
