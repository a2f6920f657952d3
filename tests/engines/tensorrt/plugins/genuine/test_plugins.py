"""TensorRT's own Python module takes every plugin, and gets answers to all that it asks."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tensorrt as trt
import tensorrt.plugin as trtp

from engines.architecture import REGNET_STAGES, RegNet, RegNetStage
from engines.bundle import read_bundle
from engines.core import Paradigm
from engines.errors import EngineError
from engines.export.onnx.run import onnx_model
from engines.tensorrt import compiling
from engines.tensorrt.compiling import PTX_VERSIONS, Compiled, compile_kernel
from engines.tensorrt.limits import MOST_SHARED_BYTES
from engines.tensorrt.plugins import register
from engines.tensorrt.plugins.operators import NAMESPACE, OPERATORS
from engines.tensorrt.spec import KernelSpec, PartitionSpec
from tests.engines.int8 import bundle_of, random_weights
from tests.engines.tensorrt.plugins.genuine.asking import answers, created
from tests.engines.tensorrt.plugins.genuine.expressions import replace_in
from tests.engines.tensorrt.plugins.genuine.nodes import questions
from tests.engines.tensorrt.plugins.questions import QUESTIONS, SIZES, SM, Question

_LAYOUTS = {
    "FLOAT": {"map": "HWC", "number": "LINEAR", "weight": "LINEAR"},
    "HALF": {"map": "HWC8", "weight": "LINEAR"},
    "INT32": {"list": "LINEAR"},
}


class Recorder:
    """Compiles, and remembers of which specification a PTX was made."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[KernelSpec, Compiled]] = {}

    def __call__(self, spec: KernelSpec, cc: int) -> Compiled:
        assert cc == SM
        made = compile_kernel(spec, cc)
        self.made[made.ptx] = (spec, made)
        return made


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    """All plugins are registered, and what they compile is recorded."""
    with pytest.MonkeyPatch.context() as patch:
        replace_in(trt)
        recorder = Recorder()
        patch.setattr(compiling, "compile_kernel", recorder)
        register(SM)
        yield recorder


@pytest.fixture(scope="module")
def written() -> Iterator[dict[str, Any]]:
    """Filled by the tests; at the end it is the file of answers."""
    found: dict[str, Any] = {"version": trt.__version__, "answers": {}}
    yield found
    Path(os.environ["LAUD_ANSWERS"]).write_text(json.dumps(found), encoding="utf-8")


def test_the_registry_has_every_operator(recorder: Recorder) -> None:
    creators = [
        each for each in trt.get_plugin_registry().all_creators
        if each.plugin_namespace == NAMESPACE
    ]  # fmt: skip
    assert {each.name for each in creators} == OPERATORS.keys()
    for each in creators:
        assert each.plugin_version == "1"
        fields = [(field.name, field.type) for field in each.field_names]
        names = OPERATORS[each.name].attributes
        assert fields == [(name, trt.PluginFieldType.INT32) for name in names]


def test_registering_again_is_nothing_and_another_capability_is_refused(
    recorder: Recorder,
) -> None:
    register(SM)
    with pytest.raises(EngineError, match="for compute capability 86 and cannot have those for 80"):
        register(80)


@pytest.mark.parametrize("name", QUESTIONS)
def test_answers(name: str, recorder: Recorder, written: dict[str, Any]) -> None:
    question = QUESTIONS[name]
    found = checked(question, recorder)
    signature = asdict(question.spec.signature(SM))
    written["answers"][name] = {**found, "signature": signature}


def test_every_node_of_the_demo_gets_a_kernel(recorder: Recorder) -> None:
    """In fp16. Of partition, which differs by the masker's number alone, once."""
    asked = questions(onnx_model(read_bundle("zoo:clothing"), "fp16"), "fp16")
    seen = [each for each in asked if each.operator != "partition" or each.spec == PartitionSpec(0)]
    assert {each.operator for each in seen} >= {"dilate", "block_conv_add", "conv_within_groups"}
    for each in seen:
        checked(each, recorder)


def test_every_node_of_a_detector_gets_a_kernel(recorder: Recorder) -> None:
    """Of the nuclei, whose backbone and levels skip."""
    asked = questions(onnx_model(read_bundle("zoo:nuclei"), "fp16", select=False), "fp16")
    seen = [each for each in asked if each.operator != "partition"]
    assert {each.operator for each in seen} >= {"block_conv_add", "block_conv_linear_add"}
    for each in seen:
        checked(each, recorder)


@pytest.mark.parametrize("paradigm", [Paradigm.LAYER, Paradigm.SPATIAL_CHANNEL])
def test_every_node_of_a_regnet_gets_a_kernel(recorder: Recorder, paradigm: Paradigm) -> None:
    """Of usual widths, which are multiples of 8 and of nothing more."""
    grains = {"spatial_granularity": 4} if paradigm is Paradigm.SPATIAL_CHANNEL else {}
    stages = tuple(
        RegNetStage(
            depth=1, width=stage.width, group_width=stage.group_width, paradigm=paradigm,
            channel_granularity=stage.group_width if grains else None, **grains,
        )
        for stage in REGNET_STAGES["regnet_y_400mf"]
    )  # fmt: skip
    net = RegNet(stem_width=32, stages=stages, num_classes=10, folded=True)
    model = onnx_model(bundle_of(net, random_weights(net), None), "fp16")
    asked = [each for each in questions(model, "fp16") if each.operator != "partition"]
    name = "block_conv_from_groups_add" if grains else "block_conv_add"
    assert {each.operator for each in asked} == {name}
    assert len(asked) == len(stages)
    for each in asked:
        checked(each, recorder)


def checked(question: Question, recorder: Recorder) -> dict[str, Any]:
    """The plugin's answers, which fit the kernel that the question should get."""
    found = answers(question)
    operator = OPERATORS[question.operator]
    kinds = [*operator.inputs.values(), *operator.outputs.values()]
    for kind, given, layout in zip(kinds, found["types"], found["layouts"], strict=True):
        assert _LAYOUTS[given][kind] == layout
    spec, made = recorder.made[found["ptx"]]
    assert spec == question.spec
    check_ptx(found["ptx"], found["entry"], made.threads, question.spec)
    assert made.spilled_bytes == 0
    assert made.shared_bytes <= MOST_SHARED_BYTES
    for launch, (images, size) in zip(found["launches"], SIZES, strict=True):
        assert launch["outputs"] == question.output_shapes(images, size)
        assert launch["block"] == [made.threads, 1, 1]
        assert launch["shared_bytes"] == [made.shared_bytes]
    return found


def check_ptx(ptx: str, entry: str, threads: int, spec: KernelSpec) -> None:
    """It is for the device, of the pinned version, and its parameters are what TensorRT passes."""
    version = PTX_VERSIONS[SM]
    assert f".version {version // 10}.{version % 10}" in ptx
    assert f".target sm_{SM}" in ptx
    found = re.search(rf"\.visible \.entry {entry}\((.*?)\)\s*\.reqntid (\d+)", ptx, re.DOTALL)
    assert found is not None
    assert int(found.group(2)) == threads
    kinds = [each.split()[1] for each in found.group(1).strip().split(",\n")]
    arguments = spec.signature(SM).arguments.values()
    assert kinds == [".u64" if "*" in each else ".u32" for each in arguments]


def test_a_node_that_lacks_an_attribute(recorder: Recorder) -> None:
    plugin = created("block_conv", {"stride": 1})
    with pytest.raises(EngineError, match=r"'block_conv' does not fit its plugin.*'patch'"):
        plugin.get_output_data_types([trt.float16] + [trt.int32] * 2 + [trt.float16] * 2,
                                     [4, 2, 1, 4, 1])  # fmt: skip


def test_maps_of_another_type(recorder: Recorder) -> None:
    plugin = created("block_conv", {"stride": 1, "patch": 2})
    types = [trt.bfloat16, trt.int32, trt.int32, trt.bfloat16, trt.bfloat16]
    with pytest.raises(EngineError, match="'block_conv' takes maps of fp16 and fp32"):
        plugin.get_output_data_types(types, [4, 2, 1, 4, 1])


def test_the_operators_can_be_called_by_name(recorder: Recorder) -> None:
    assert vars(getattr(trtp.op, NAMESPACE)).keys() >= OPERATORS.keys()
