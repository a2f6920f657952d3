"""`laud bench plan`: a design for this machine and its best alternatives, built and measured."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from engines.architecture import MapSize
from engines.bench.masks import MaskKind
from engines.bench.networks import synthetic_bundle
from engines.bench.own_engine import OwnEngine, batches
from engines.bench.pictures import FEWEST_PICTURES, FolderPictures, MadeUpPictures, Pictures
from engines.bench.plan_masks import design_masks
from engines.bench.plan_report import Measured, PlanReport, Role, judge
from engines.bench.report import Machine
from engines.bench.timing import FEWEST_REPEATS, interleave, noise, spread
from engines.bundle import Bundle, Quantisation
from engines.core import MAX_IMAGE_SIZE, UInt8Array
from engines.cpu.engine import CpuEngine
from engines.errors import InvalidInput, LatencyError
from engines.latency.candidates import (
    GROUPS,
    NUM_STAGES,
    PATCHES,
    STATIC,
    Candidate,
    SkipRates,
    network_with,
)
from engines.latency.design import Design, NetworkDesign, design
from engines.latency.design_costs import NativeCosts
from engines.latency.devices import THIS, check_runs, device_named
from engines.latency.host import Host
from engines.latency.identity import this_device
from engines.macs import static_macs
from engines.manifest import PRECISIONS

NUM_DRAWS = 8
"""Over how many masks and batches a measurement goes round."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class PlanQuestion:
    """What to design and to measure; see `laud bench plan --help`."""

    arch: str
    device: str = THIS
    rates: SkipRates = field(default_factory=SkipRates)
    masks: str = MaskKind.RANDOM
    precision: str = "fp32"
    threads: int = 1
    batch: int = 1
    size: int = 224
    patches: tuple[int, ...] = PATCHES
    groups: tuple[int, ...] = GROUPS
    images: Path | None = None
    repeats: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InvalidInput for what cannot be measured on any machine."""
        kinds = (MaskKind.RANDOM, MaskKind.CLUSTERED)
        for what, name, known in (
            ("masks", self.masks, kinds),
            ("precision", self.precision, PRECISIONS),
        ):
            if name not in known:
                raise InvalidInput(f"--{what} must be one of {', '.join(known)}, got '{name}'")
        for what, value, least in (
            ("batch", self.batch, 1),
            ("threads", self.threads, 1),
            ("repeats", self.repeats, FEWEST_REPEATS),
            ("seed", self.seed, 0),
        ):
            if value < least:
                raise InvalidInput(f"--{what} must be at least {least}, got {value}")
        if not 1 <= self.size <= MAX_IMAGE_SIZE:
            raise InvalidInput(f"--size must be 1 to {MAX_IMAGE_SIZE} pixels, got {self.size}")

    @property
    def clustered(self) -> bool:
        """Whether active patches lie together."""
        return self.masks == MaskKind.CLUSTERED

    @property
    def draws(self) -> int:
        """Over how many masks and batches it goes round; each is run twice at least."""
        return min(NUM_DRAWS, self.repeats // 2)


@dataclass(frozen=True)
class _Built:
    """A network of the design that is loaded, with the inputs and masks of every draw."""

    role: Role
    network: NetworkDesign
    engine: CpuEngine
    contender: OwnEngine


def check_plan(question: PlanQuestion, say: Say = lambda line: None) -> PlanReport:
    """Design for this machine, build what was designed, and measure; `say` hears of progress.

    Raises LatencyError where the device is not this machine, EngineError where this one cannot run
    the precision, and InvalidInput or ConfigError with the reason.
    """
    load = os.getloadavg()[0]
    # Wrong input is told before half a minute of measuring the machine.
    check_runs(question.device, question.precision, question.threads)
    plain = _bundle(question, [STATIC] * NUM_STAGES)
    pictures = _pictures(question, plain)
    found = _designed(question, _here(question.device, say))
    if question.images is None:
        say("no --images DIR: made-up pictures are measured, and int8 is calibrated on them")
    scales = None
    if question.precision == "int8":
        from engines.bench.scales import with_scales

        scales = with_scales(plain, pictures, say).manifest.quantisation
    inputs = batches(pictures.at(question.size), question.batch, question.draws)
    with ExitStack() as loaded:
        built = [
            _build(question, role, network, inputs, scales, loaded)
            for role, network in _networks(found)
        ]
        expected_s = 2 * question.repeats * sum(each.network.total_s for each in built)
        say(
            f"measuring {question.repeats} turns of {len(built)} networks, about {expected_s:.0f} s"
        )
        times = interleave(
            {str(i): each.contender for i, each in enumerate(built)},
            repeats=question.repeats,
            draws=question.draws,
        )
        networks = tuple(_measured(question, each, times[str(i)]) for i, each in enumerate(built))
        isa = built[0].engine.isa
    split = noise(times["0"])
    return PlanReport(
        **judge(networks).model_dump(),
        networks=networks,
        design=found,
        isa=isa,
        masks=question.masks,
        images=pictures.source,
        repeats=question.repeats,
        draws=question.draws,
        seed=question.seed,
        noise=split,
        too_noisy=split.too_noisy,
        machine=Machine(cpu=this_device().cpu, cpus=os.cpu_count() or 1, load=load),
    )


def over_draws(times_s: Sequence[float], draws: int) -> float:
    """Mean over draws of the median of a draw's runs, in the order of `timing.interleave`.

    A mean, because masks differ in what they cost and a rate is met by their mean alone.
    """
    per_draw: list[list[float]] = [[] for _ in range(draws)]
    for repeat, taken in enumerate(times_s):
        per_draw[(repeat // 2) % draws].append(taken)
    return statistics.fmean(statistics.median(taken) for taken in per_draw)


def _here(device: str, say: Say) -> Host:
    found = device_named(device, say=say)
    if not isinstance(found, Host):
        raise InvalidInput(
            f"a plan for '{device}' cannot be measured here; leave out --device, or name the "
            "FILE.json of `laud measure device -o FILE.json`"
        )
    here = this_device()
    if found.device != here:
        raise LatencyError(
            f"'{device}' was measured on {found.device.slug}, this is {here.slug}; measure again "
            "with: laud measure device"
        )
    return found


def _pictures(question: PlanQuestion, plain: Bundle) -> Pictures:
    if question.images is None:
        return MadeUpPictures(question.seed)
    crop_ratio = plain.manifest.preprocessing.crop_ratio
    return FolderPictures(question.images, crop_ratio, max(FEWEST_PICTURES, question.batch))


def _designed(question: PlanQuestion, host: Host) -> Design:
    costs = NativeCosts(
        question.arch,
        question.size,
        host,
        batch=question.batch,
        precision=question.precision,
        threads=question.threads,
        clustered=question.clustered,
    )
    return design(costs, question.rates, patches=question.patches, groups=question.groups)


def _networks(found: Design) -> list[tuple[Role, NetworkDesign]]:
    """The chosen one first, the static one last, and none twice."""
    static = found.static.stages
    roles: list[tuple[Role, NetworkDesign]] = [("chosen", found.chosen)]
    others: list[tuple[Role, NetworkDesign]] = [
        *(("alternative", each) for each in found.alternatives),
        *(("besides", each) for each in found.besides),
    ]
    roles += [(role, each) for role, each in others if each.stages != static]
    return roles if found.chosen.stages == static else [*roles, ("static", found.static)]


def _bundle(question: PlanQuestion, stages: Sequence[Candidate]) -> Bundle:
    net = network_with(question.arch, stages)
    return synthetic_bundle(question.arch, net, question.size, question.seed)


def _build(
    question: PlanQuestion,
    role: Role,
    network: NetworkDesign,
    inputs: Sequence[UInt8Array],
    scales: Quantisation | None,
    loaded: ExitStack,
) -> _Built:
    bundle = _bundle(question, network.stages)
    if scales is not None:
        bundle = _quantised(bundle, scales)
    engine = loaded.enter_context(
        CpuEngine(bundle, threads=question.threads, precision=question.precision)
    )
    image = MapSize(question.size, question.size)
    masks = design_masks(
        question.arch,
        network.stages,
        image,
        question.rates,
        MaskKind(question.masks),
        batch=question.batch,
        draws=question.draws,
        seed=question.seed,
    )
    asking = bundle.manifest.points[-1].point
    return _Built(role, network, engine, OwnEngine(engine, asking, inputs, masks))


def _quantised(bundle: Bundle, scales: Quantisation) -> Bundle:
    """With scales of the static network: what is not a masker is the same in both."""
    manifest = bundle.manifest
    calibration = scales.calibration.model_copy(update={"agreement": (1.0,) * len(manifest.points)})
    own = scales.model_copy(update={"points": manifest.points, "calibration": calibration})
    return replace(bundle, manifest=manifest.model_copy(update={"quantisation": own}))


def _measured(question: PlanQuestion, of: _Built, times_s: Sequence[float]) -> Measured:
    net = network_with(question.arch, of.network.stages)
    whole = static_macs(net, MapSize(question.size, question.size))
    executed = np.mean([answer.macs for answer in of.contender.answers()])
    return Measured(
        role=of.role,
        stages=of.network.stages,
        predicted_ms=of.network.total_s * 1e3,
        measured_ms=over_draws(times_s, question.draws) * 1e3,
        macs_ratio=float(executed) / whole,
        run=spread(times_s),
    )
