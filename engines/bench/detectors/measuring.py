"""Timing a detector's contenders on some pictures, turn by turn, and the parts of what they do."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engines.architecture import MapSize, ResNet
from engines.bench.detectors.plan import Subjects, parts_of
from engines.bench.detectors.report import Group, Part, Ratio, Span
from engines.bench.detectors.scenes import foreground
from engines.bench.detectors.work import CHOICE, HEADS, MASKS, PYRAMID, STEM, part_work, stage_name
from engines.bench.timing import Contender, interleave, noise, spread
from engines.core import OperatingPoint, Output, UInt8Array
from engines.cpu.detector import CpuDetector
from engines.detection.architecture import detector_macs, macs_per_object
from engines.detection.scenes import Scene
from engines.errors import EngineError
from engines.evaluation.detection import square

if TYPE_CHECKING:
    from engines.bench.detectors.openvino import Chosen

OURS, OWN_DENSE = "ours", "own_dense"
SAME, BEST = "openvino_same", "openvino_best"
REST = "rest"
"""Of OpenVINO: what it does beside the parts, such as changing layouts."""

_TO_DENSE = " to dense answers"
_OURS_BEHIND = " to dense answers, our choice and masks"
_BEHIND = 2  # parts of ours behind the dense answers: choice and masks

Float64Array = npt.NDArray[np.float64]
Times = Mapping[str, Sequence[float]]


class OwnDetector:
    """Our engine at one point, one picture (1, S, S, 3) per draw."""

    def __init__(
        self, engine: CpuDetector, point: OperatingPoint, inputs: Sequence[UInt8Array]
    ) -> None:
        self._engine, self._inputs, self._points = engine, inputs, [point]
        self._next = inputs[0]

    def load(self, draw: int) -> None:
        """See `Contender`."""
        self._next = self._inputs[draw]

    def run(self) -> Output:
        """See `Contender`."""
        return self._engine.infer(self._next, self._points)


@dataclass(frozen=True, eq=False)
class Contenders:
    """What is timed: our `engine` at the point, `static` at `whole`, and OpenVINO."""

    of: Subjects
    whole: OperatingPoint
    engine: CpuDetector
    static: CpuDetector
    openvino: Chosen

    def on(self, scenes: Sequence[Scene]) -> dict[str, Contender]:
        """By name, each with the same pictures at its own size."""
        own, others = (
            inputs_of(scenes, size) for size in (self.of.point.image_size, self.of.static_size)
        )
        ways = {SAME: self.openvino.same, BEST: self.openvino.best}
        if ways[SAME] == ways[BEST]:
            del ways[SAME]
        found: dict[str, Contender] = {OURS: OwnDetector(self.engine, self.of.point, own)}
        for name, pair in ways.items():
            if pair is not None:
                found[name + _TO_DENSE] = pair.dense.over(others)
                found[name] = pair.whole.over(others)
        return {**found, OWN_DENSE: OwnDetector(self.static, self.whole, others)}


@dataclass(frozen=True, eq=False)
class Measured:
    """A group's figures, and what our engine answered in every turn, by contender."""

    group: Group
    scenes: Sequence[Scene]
    outputs: Mapping[str, Sequence[Output]]


def inputs_of(scenes: Sequence[Scene], size: int) -> list[UInt8Array]:
    """Each as a batch of one, (1, size, size, 3). ConfigError where one cannot be read."""
    return [square(scene, size)[np.newaxis] for scene in scenes]


def measure(
    contenders: Contenders, scenes: Sequence[Scene], repeats: int, *, chosen: str, pictures: int
) -> Measured:
    """Time all on `scenes`, which stand for a group of so many pictures that were so chosen."""
    outputs: dict[str, list[Output]] = {OURS: [], OWN_DENSE: []}

    def heard(name: str, answer: object) -> None:
        if isinstance(answer, Output):
            outputs[name].append(answer)

    turns = contenders.on(scenes)
    times = interleave(turns, repeats=repeats, draws=len(scenes), heard=heard)
    dense = {name: [_to_dense_s(each) for each in found] for name, found in outputs.items()}
    whole = {name: times[name] for name in (OURS, OWN_DENSE)}
    behind = [_behind_s(each) for each in outputs[OWN_DENSE]]
    for name in (SAME, BEST):
        if name not in times and contenders.openvino.same is None:
            continue
        timed = name if name in times else BEST
        dense[name] = times[timed + _TO_DENSE]
        whole[name] = times[timed]
        both = zip(dense[name], behind, strict=True)
        whole[name + _OURS_BEHIND] = [first + rest for first, rest in both]
    answers, split = outputs[OURS], noise(times[OURS])
    of = contenders.of
    per_object = macs_per_object(parts_of(of.bundle)[1])
    macs = float(np.mean([each.macs - per_object * _count(each) for each in answers]))
    image = MapSize(of.static_size, of.static_size)
    static = float(detector_macs(*parts_of(of.static), image).dense)
    return Measured(
        group=Group(
            chosen=chosen,
            pictures=pictures,
            timed=len(scenes),
            foreground=float(np.mean([foreground(scene) for scene in scenes])),
            objects=float(np.mean([_count(each) for each in answers])),
            activation=float(np.mean([_activation(each) for each in answers])),
            macs=macs,
            dense_macs=static,
            ideal_ratio=static / macs,
            dense=_span(dense),
            everything=_span(whole),
            noise=split,
            too_noisy=split.too_noisy,
        ),
        scenes=scenes,
        outputs=outputs,
    )


def parts(contenders: Contenders, measured: Measured) -> tuple[Part, ...]:
    """What every part takes, on the pictures that were measured."""
    of = contenders.of
    net, detector = parts_of(of.static)
    point, whole = (
        _typical([_own_parts(net, each) for each in measured.outputs[name]])
        for name in (OURS, OWN_DENSE)
    )
    profiled = contenders.openvino.profiled.over(inputs_of(measured.scenes, of.static_size))
    twice = [draw for draw in range(len(measured.scenes)) for _ in range(2)]
    others = _typical([profiled.profile(draw) for draw in twice])
    counts = [_count(each) for each in measured.outputs[OWN_DENSE]]
    work = part_work(net, detector, of.static_size, round(float(np.median(counts))))
    found = [
        Part(
            name=name,
            macs=each.macs,
            num_bytes=each.num_bytes,
            point_ms=point[name] * 1e3,
            ours_ms=whole[name] * 1e3,
            openvino_ms=others.pop(name, 0.0) * 1e3,
        )
        for name, each in work.items()
    ]
    rest = Part(
        name=REST,
        macs=0,
        num_bytes=0,
        point_ms=point[REST] * 1e3,
        ours_ms=whole[REST] * 1e3,
        openvino_ms=sum(others.values()) * 1e3,
    )
    return (*found, rest)


def _own_parts(net: ResNet, output: Output) -> dict[str, float]:
    """Seconds of our engine's parts; the pixels' preparation is the rest."""
    seconds = _parts_s(output)
    found = {STEM: float(seconds[0]), REST: output.durations_s["prepare"]}
    for block, taken in zip(net.blocks, seconds[1:-4].tolist(), strict=True):
        name = stage_name(block.stage)
        found[name] = found.get(name, 0.0) + taken
    behind = seconds[-4:].tolist()
    return found | dict(zip((PYRAMID, HEADS, CHOICE, MASKS), behind, strict=True))


def _typical(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The faster of every two calls in a row, which saw the same picture; median over these."""
    names = dict.fromkeys(name for each in found for name in each)
    pairs = list(zip(found[::2], found[1::2], strict=False))
    return {
        name: float(np.median([min(a.get(name, 0.0), b.get(name, 0.0)) for a, b in pairs]))
        for name in names
    }


def _parts_s(output: Output) -> Float64Array:
    if output.parts_s is None:
        raise EngineError("the engine does not tell what its parts take")
    return output.parts_s


def _to_dense_s(output: Output) -> float:
    return output.durations_s["prepare"] + float(_parts_s(output)[:-_BEHIND].sum())


def _behind_s(output: Output) -> float:
    return float(_parts_s(output)[-_BEHIND:].sum())


def _count(output: Output) -> int:
    """Objects that were found."""
    return int(output.arrays["counts"][0])


def _activation(output: Output) -> float:
    return float(output.activation.mean()) if output.activation.size else 1.0


def _span(times: Times) -> Span:
    """By each rival's fastest way."""
    ways = {
        rival: min(
            (name for name in times if name.startswith(rival)),
            key=lambda name: statistics.median(times[name]),
        )
        for rival in (OWN_DENSE, SAME, BEST)
        if rival in times
    }
    ours = statistics.median(times[OURS]) * 1e3
    return Span(
        ours_ms=ours,
        own_dense_ms=statistics.median(times[OWN_DENSE]) * 1e3,
        openvino_best_ms=statistics.median(times[ways[BEST]]) * 1e3,
        best=ways[BEST],
        runs={name: spread(taken) for name, taken in times.items()},
        ratios={rival: _ratio(times[name], times[OURS]) for rival, name in ways.items()},
    )


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    each = [one / other for one, other in zip(theirs, ours, strict=True)]
    lower, _, upper = statistics.quantiles(each, n=4, method="inclusive")
    return Ratio(
        of_medians=statistics.median(theirs) / statistics.median(ours),
        of_sums=sum(theirs) / sum(ours),
        lower_quartile=lower,
        upper_quartile=upper,
    )
