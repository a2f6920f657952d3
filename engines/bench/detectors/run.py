"""`laud bench engine` for a detector: ours at a point and dense, and OpenVINO, turn by turn."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from engines.bench.detectors.answers import Arrays, answers, precision_of
from engines.bench.detectors.measuring import Contenders, inputs_of, measure, parts
from engines.bench.detectors.plan import DetectorPlan, Subjects, parts_of, subjects
from engines.bench.detectors.report import DetectorReport
from engines.bench.detectors.scenes import ScenePictures, by_foreground, emptiest
from engines.bench.report import Machine
from engines.bench.run import check_installed
from engines.bundle import Bundle
from engines.core import OperatingPoint, static_point
from engines.cpu.detector import CpuDetector
from engines.detection.read import read_folder
from engines.evaluation.detection import check_labels
from engines.latency.identity import cpu_name

_TOOLS = ("openvino", "nncf")

Say = Callable[[str], None]


def bench_detector(plan: DetectorPlan, say: Say = lambda line: None) -> DetectorReport:
    """Measure what `plan` says; `say` hears of progress.

    Raises EngineError where a tool is not installed, the CPU lacks the precision or OpenVINO finds
    other objects than ours, and BundleError, ConfigError or InvalidInput with the reason.
    """
    check_installed(_TOOLS)
    load = os.getloadavg()[0]
    of = subjects(plan)
    scenes = read_folder(Path(plan.images or ""))
    check_labels(scenes, of.bundle.manifest.labels)
    pictures = ScenePictures(scenes)
    groups = {
        f"all {len(scenes.scenes)} pictures": scenes.scenes,
        f"the {plan.emptiest:.0%} of pictures with the least foreground, by their annotation": (
            emptiest(scenes.scenes, plan.emptiest)
        ),
    }
    # Takes seconds to import: bad input is refused before.
    from engines.bench.detectors.openvino import detector_at_its_best

    draws = plan.repeats // 2
    chosen = {name: by_foreground(group, draws) for name, group in groups.items()}
    whole = _nothing_skipped(of)
    with ExitStack() as loaded:

        def load_engine(bundle: Bundle, precision: str) -> CpuDetector:
            engine = CpuDetector(bundle, threads=plan.threads, precision=precision)
            return loaded.enter_context(engine)

        engine = load_engine(of.bundle, plan.precision)
        static = engine if plan.against is None else load_engine(of.static, plan.precision)
        exact = static if plan.precision == "fp32" else load_engine(of.static, "fp32")
        say(f"finding objects in {len(pictures.scenes)} pictures")
        wanted = answers(_finding(exact, whole, pictures), pictures.scenes, of.static_size)
        openvino = detector_at_its_best(
            of.static,
            pictures,
            wanted,
            inputs_of(next(iter(chosen.values())), of.static_size),
            precision=plan.precision,
            threads=plan.threads,
            cache=plan.cache,
            say=say,
        )
        contenders = Contenders(of, whole, engine, static, openvino)
        found = []
        for name, some in chosen.items():
            say(f"measuring {plan.repeats} turns on {len(some)} of {name}")
            count = len(groups[name])
            found.append(measure(contenders, some, plan.repeats, chosen=name, pictures=count))
        truth = precision_of(pictures.scenes, wanted, of.static.manifest.labels)
        return DetectorReport(
            arch=plan.arch,
            bundle=of.bundle.hash,
            point=of.point.name,
            size=of.point.image_size,
            against=plan.against or plan.arch,
            against_size=of.static_size,
            threads=engine.threads,
            precision=engine.precision,
            isa=engine.isa,
            images=pictures.source,
            repeats=plan.repeats,
            ap50=truth.ap50,
            ap=truth.ap,
            every=found[0].group,
            emptiest=found[1].group,
            parts=parts(contenders, found[0]),
            machine=Machine(cpu=cpu_name(), cpus=os.cpu_count() or 1, load=load),
            baseline=openvino.made,
        )


def _nothing_skipped(of: Subjects) -> OperatingPoint:
    net, detector = parts_of(of.static)
    return static_point("full", of.static_size, len(net.maskers) + detector.num_maskers)


def _finding(
    engine: CpuDetector, point: OperatingPoint, pictures: ScenePictures
) -> Callable[[int], Arrays]:
    inputs = pictures.at(point.image_size)

    def found(place: int) -> Arrays:
        output = engine.infer(inputs[place : place + 1], [point])
        arrays = {name: array[0] for name, array in output.arrays.items() if name != "counts"}
        return {name: array[: int(output.arrays["counts"][0])] for name, array in arrays.items()}

    return found
