"""OpenVINO at its best with a static detector: every form that this CPU has, judged, then timed."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from engines.bench.detectors.answers import (
    LEAST_AGREEMENT,
    MOST_LOSS,
    Precision,
    agreement,
    answers,
    precision_of,
)
from engines.bench.detectors.graph import dense_part, static_detector
from engines.bench.detectors.report import Form, Rival
from engines.bench.detectors.scenes import ScenePictures
from engines.bench.detectors.work import CHOICE
from engines.bench.openvino_baseline import NAMES, held, hints
from engines.bench.openvino_int8 import PRESETS, Say, nncf_version, quantised
from engines.bench.timing import Contender, interleave
from engines.bundle import Bundle
from engines.core import UInt8Array
from engines.detection.scenes import Detections
from engines.errors import EngineError

_TRIAL_REPEATS = 6


class Compiled:
    """A compiled network with one request whose input shares memory with numpy."""

    def __init__(self, compiled: ov.CompiledModel, inputs: Sequence[UInt8Array]) -> None:
        """inputs: one picture (1, S, S, 3) per draw."""
        self._request = compiled.create_infer_request()
        self._names = [output.any_name for output in compiled.outputs if output.names]
        self._inputs = inputs
        self._image = np.empty_like(inputs[0])
        self._request.set_input_tensor(ov.Tensor(self._image, shared_memory=True))

    def over(self, inputs: Sequence[UInt8Array]) -> Compiled:
        """The same network, and memory, with other pictures."""
        other = object.__new__(Compiled)
        other.__dict__.update(self.__dict__, _inputs=inputs)
        return other

    def load(self, draw: int) -> None:
        """See `Contender`."""
        np.copyto(self._image, self._inputs[draw])

    def run(self) -> None:
        """See `Contender`."""
        self._request.infer()

    def arrays(self, draw: int) -> Mapping[str, npt.NDArray[Any]]:
        """Copies of what it answers to a draw, by name."""
        self.load(draw)
        self.run()
        return {name: self._request.get_tensor(name).data.copy() for name in self._names}

    def profile(self, draw: int) -> dict[str, float]:
        """Seconds of the parts of a call, where it was compiled to tell; '' is what has none."""
        self.load(draw)
        self.run()
        found: dict[str, float] = {}
        for node in self._request.profiling_info:
            part, slash, _ = node.node_name.partition("/")
            name = part if slash else ""
            found[name] = found.get(name, 0.0) + node.real_time.total_seconds()
        return found


@dataclass(frozen=True)
class Pair:
    """Up to the dense heads' answers, and up to objects; perhaps in two forms."""

    dense: Compiled
    whole: Compiled


@dataclass(frozen=True, eq=False)
class Chosen:
    """OpenVINO's contenders. same: in the precision asked for; None where it has no right form of
    it. profiled: the fastest whole form, which tells its parts."""

    same: Pair | None
    best: Pair
    profiled: Compiled
    made: Rival


@dataclass(frozen=True, eq=False)
class _Model:
    precision: str
    hint: str
    preset: str | None
    model: ov.Model


def detector_at_its_best(
    bundle: Bundle,
    pictures: ScenePictures,
    wanted: Sequence[Detections],
    inputs: Sequence[UInt8Array],
    *,
    precision: str,
    threads: int,
    cache: Path | None = None,
    say: Say = lambda line: None,
) -> Chosen:
    """Compile every form, judge its answers on all pictures, time the right ones, keep the fastest.

    wanted: what our engine finds in fp32 in each picture. inputs: pictures to time with,
    (1, S, S, 3). cache: as `openvino_at_its_best`. Raises EngineError where OpenVINO's fp32 does
    not find the same: a comparison of times would be one of different networks.
    """
    core, size = ov.Core(), inputs[0].shape[1]
    told = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
    }
    judged, labels = [image[np.newaxis] for image in pictures.at(size)], bundle.manifest.labels
    truth = precision_of(pictures.scenes, wanted, labels)
    forms: list[Form] = []
    models: list[_Model] = []
    pairs: dict[int, Pair] = {}
    for i, each in enumerate(_models(core, bundle, size, pictures, cache, say)):
        models.append(each)
        whole = _compile(core, each, each.model, told, judged)
        found = answers(whole.arrays, pictures.scenes, size)
        value = precision_of(pictures.scenes, found, labels)
        forms.append(_judged(each, agreement(wanted, found), truth, value))
        say(f"OpenVINO's {forms[i].name}: AP50 {value.ap50:.3f}, ours {truth.ap50:.3f}")
        if i == 0 and not forms[i].right:
            raise EngineError(
                f"OpenVINO's fp32 finds {forms[i].agreement:.3f} of the objects that our engine "
                "finds: it runs another network, times of the two do not compare"
            )
        if forms[i].right:
            dense = _compile(core, each, dense_part(each.model), told, inputs)
            pairs[i] = Pair(dense, whole.over(inputs))
    say(f"trying {len(pairs)} right forms of OpenVINO")
    dense_ms, whole_ms = _trial(pairs, len(inputs))
    for i in pairs:
        forms[i] = forms[i].model_copy(update={"dense_ms": dense_ms[i], "whole_ms": whole_ms[i]})
    first, best = min(pairs, key=dense_ms.__getitem__), min(pairs, key=whole_ms.__getitem__)
    alike = [i for i in pairs if forms[i].precision == precision]
    same = min(alike, key=whole_ms.__getitem__) if alike else None
    telling = {**told, "PERF_COUNT": "YES"}
    return Chosen(
        same=None if same is None else pairs[same],
        best=pairs[best] if first == best else Pair(pairs[first].dense, pairs[best].whole),
        profiled=_compile(core, models[best], models[best].model, telling, inputs),
        made=Rival(
            engine="OpenVINO",
            properties={**told, **held()},
            input=f"u8 NHWC {list(inputs[0].shape)}, normalised inside",
            forms=tuple(forms),
            same=None if same is None else forms[same],
            dense=forms[first],
            whole=forms[best],
            judged_on=pictures.source,
            versions={"openvino": ov.__version__, "nncf": nncf_version()},
        ),
    )


def _models(
    core: ov.Core,
    bundle: Bundle,
    size: int,
    pictures: ScenePictures,
    cache: Path | None,
    say: Say,
) -> Iterator[_Model]:
    """Every form that there is, the exact one first; what takes minutes is made when asked for."""
    floating = static_detector(bundle, size)
    for hint in hints(core):
        yield _Model(NAMES[hint], hint, None, floating)
    for preset in PRESETS:
        model = quantised(
            core, floating, bundle, pictures, preset, cache, say, floats=f"{CHOICE}/.*"
        )
        for hint in hints(core):
            yield _Model("int8", hint, preset, model)


def _trial(pairs: Mapping[int, Pair], draws: int) -> tuple[dict[int, float], dict[int, float]]:
    """Milliseconds of each, up to the dense answers and up to objects."""
    turns: dict[str, Contender] = {}
    for i, pair in pairs.items():
        turns |= {f"{i} dense": pair.dense, f"{i} whole": pair.whole}
    times = interleave(turns, repeats=_TRIAL_REPEATS, draws=draws)
    dense, whole = (
        {i: statistics.median(times[f"{i} {kind}"]) * 1e3 for i in pairs}
        for kind in ("dense", "whole")
    )
    return dense, whole


def _judged(of: _Model, agreed: float, truth: Precision, value: Precision) -> Form:
    # In fp32 the same arithmetic, up to the order of sums; of fewer bits it is the objects found
    # that count, not the last pixel of their boxes.
    exact = of.preset is None and of.precision == "fp32"
    loss = truth.ap50 - value.ap50
    right = agreed >= LEAST_AGREEMENT if exact else loss <= MOST_LOSS
    return Form(
        precision=of.precision,
        others=NAMES[of.hint],
        preset=of.preset,
        agreement=agreed,
        ap50=value.ap50,
        loss=loss,
        ap=value.ap,
        ap_loss=truth.ap - value.ap,
        right=right,
    )


def _compile(
    core: ov.Core,
    of: _Model,
    model: ov.Model,
    properties: Mapping[str, str],
    inputs: Sequence[UInt8Array],
) -> Compiled:
    told = {**properties, "INFERENCE_PRECISION_HINT": of.hint}
    return Compiled(core.compile_model(model, "CPU", told), inputs)
