"""OpenVINO at its best on this machine: the static engine that every claim is measured against."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov

from engines.bench.openvino_graph import static_network
from engines.bench.openvino_int8 import PRESETS, Say, nncf_version, quantised
from engines.bench.pictures import Pictures
from engines.bench.report import Baseline, Candidate
from engines.bench.timing import interleave
from engines.bundle import Bundle
from engines.core import Float32Array, UInt8Array
from engines.errors import EngineError

_TRIAL_REPEATS = 10
NAMES = {"f32": "fp32", "bf16": "bf16"}
"""Of OpenVINO's INFERENCE_PRECISION_HINT, as we call them."""

# Holds OpenVINO to a lesser instruction set, as LAUD_CPU_ISA does ours.
_ISA_VARIABLE = "ONEDNN_MAX_CPU_ISA"


class StaticNetwork:
    """A compiled network with one request whose tensors share memory with numpy."""

    def __init__(self, compiled: ov.CompiledModel, inputs: Sequence[UInt8Array]) -> None:
        """inputs: one batch (N, S, S, 3) per draw."""
        self._request = compiled.create_infer_request()
        self._inputs = inputs
        self._image = np.empty_like(inputs[0])
        self._request.set_input_tensor(ov.Tensor(self._image, shared_memory=True))

    def load(self, draw: int) -> None:
        """See `Contender`."""
        np.copyto(self._image, self._inputs[draw])

    def run(self) -> Float32Array:
        """Probabilities (N, classes), overwritten by the next run."""
        self._request.infer()
        return np.asarray(self._request.get_output_tensor().data)


@dataclass(frozen=True)
class Rivals:
    """The two forms of OpenVINO to compare with (often the same object), and how they were made."""

    same: StaticNetwork
    best: StaticNetwork
    made: Baseline


@dataclass(frozen=True)
class _Form:
    precision: str
    hint: str
    preset: str | None
    model: ov.Model


def openvino_at_its_best(
    bundle: Bundle,
    pictures: Pictures,
    inputs: Sequence[UInt8Array],
    *,
    precision: str,
    threads: int,
    cache: Path | None = None,
    say: Say = lambda line: None,
) -> Rivals:
    """Compile every form that this CPU has, measure each shortly, keep the fastest.

    inputs: the batches of the measurement, (N, S, S, 3) per draw. pictures: what int8 is
    calibrated on. cache: folder that keeps quantised models between calls; None keeps nothing.
    Raises EngineError where OpenVINO does not have `precision` on this CPU.
    """
    core = ov.Core()
    offered = hints(core)
    if precision not in (*(NAMES[hint] for hint in offered), "int8"):
        raise EngineError(
            f"OpenVINO has no {precision} on this CPU "
            f"({core.get_property('CPU', 'FULL_DEVICE_NAME')}); one with AVX-512 has"
        )
    floating = static_network(bundle, inputs[0].shape[1])
    forms = [_Form(NAMES[hint], hint, None, floating) for hint in offered]
    for preset in PRESETS:
        model = quantised(core, floating, bundle, pictures, preset, cache, say)
        forms += [_Form("int8", hint, preset, model) for hint in offered]
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
    }
    networks = [
        StaticNetwork(_compiled(core, form, properties, inputs[0].shape), inputs) for form in forms
    ]
    say(f"trying {len(forms)} forms of OpenVINO")
    turns = {str(i): network for i, network in enumerate(networks)}
    times = interleave(turns, repeats=_TRIAL_REPEATS, draws=len(inputs))
    candidates = [
        Candidate(
            precision=form.precision,
            others=NAMES[form.hint],
            preset=form.preset,
            ms=statistics.median(times[str(i)]) * 1e3,
        )
        for i, form in enumerate(forms)
    ]
    order = sorted(range(len(forms)), key=lambda i: candidates[i].ms)
    best, same = order[0], next(i for i in order if forms[i].precision == precision)
    return Rivals(
        same=networks[same],
        best=networks[best],
        made=Baseline(
            engine="OpenVINO",
            properties={**properties, **held()},
            input=f"u8 NHWC {list(inputs[0].shape)}, normalised inside; probabilities out",
            candidates=tuple(candidates),
            same=candidates[same],
            best=candidates[best],
            calibrated_on=pictures.source,
            versions={"openvino": ov.__version__, "nncf": nncf_version()},
        ),
    )


def hints(core: ov.Core) -> list[str]:
    """What may be asked of this CPU as INFERENCE_PRECISION_HINT, the exact one first."""
    bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ["f32", "bf16"] if bf16 else ["f32"]


def held() -> dict[str, str]:
    """What the environment holds OpenVINO back by."""
    return {name: os.environ[name] for name in (_ISA_VARIABLE,) if name in os.environ}


def _compiled(
    core: ov.Core, form: _Form, properties: dict[str, str], shape: tuple[int, ...]
) -> ov.CompiledModel:
    model = form.model.clone()
    model.reshape(list(shape))
    return core.compile_model(model, "CPU", {**properties, "INFERENCE_PRECISION_HINT": form.hint})
