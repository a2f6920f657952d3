"""Operators as plugins are the operators of the file, and launch what specifications say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from engines.architecture import MapSize
from engines.errors import EngineError, InvalidInput
from engines.tensorrt.plugins.operators import NAMESPACE, OPERATORS, Launch
from engines.tensorrt.spec import ConvSpec, DilateSpec
from tests.engines.tensorrt.plugins.questions import QUESTIONS, SIZES, SM, Question

CONVOLUTIONS = [name for name, each in QUESTIONS.items() if isinstance(each.spec, ConvSpec)]


def known_shapes(question: Question, images: int, size: MapSize) -> dict[str, list[int]]:
    """Of the inputs, with nothing left open."""
    sizes = question.sizes(images, size)
    return {
        name: [sizes[each] if isinstance(each, str) else each for each in shape]
        for name, shape in question.input_shapes().items()
    }


def launch(question: Question, images: int, size: MapSize) -> Launch:
    shapes = known_shapes(question, images, size)
    operator = OPERATORS[question.operator]
    return operator.launch(question.dtype, shapes, question.attributes, SM)


def test_names_and_order_are_those_of_the_file() -> None:
    pytest.importorskip("onnx")
    from engines.export.onnx import operators

    assert NAMESPACE == operators.DOMAIN
    assert {name for name in operators.OPERATORS if operators.plugin(name)} == OPERATORS.keys()
    for name, operator in OPERATORS.items():
        declared, asked = operators.function(name), operators.plugin(name)
        assert list(operator.inputs) == list(declared.input)
        assert list(operator.outputs) == list(declared.output)
        assert [*operator.attributes, *asked] == list(declared.attribute)
        assert asked == {"plugin_namespace": NAMESPACE, "plugin_version": "1"}


@pytest.mark.parametrize("name", QUESTIONS)
def test_tensors_are_of_the_types_of_the_kernel(name: str) -> None:
    question = QUESTIONS[name]
    operator, dtype = OPERATORS[question.operator], question.dtype
    types = {"map": f"*{dtype}", "weight": f"*{dtype}", "list": "*i32", "number": "*fp32"}
    kinds = [*operator.inputs.values(), *operator.outputs.values()]
    arguments = question.spec.signature(SM).arguments.values()
    assert [types[kind] for kind in kinds] == [each for each in arguments if "*" in each]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_launched_as_its_specification_says(name: str) -> None:
    question = QUESTIONS[name]
    assert isinstance(question.spec, ConvSpec)
    for images, size in SIZES:
        found = launch(question, images, size)
        assert found.spec == question.spec
        assert found.grid == question.spec.grid(images, size, SM)
        assert found.numbers == list(question.spec.numbers(size).values())


def test_lists_take_a_program_for_each_image() -> None:
    for name in QUESTIONS.keys() - CONVOLUTIONS:
        question = QUESTIONS[name]
        for images, size in SIZES:
            found = launch(question, images, size)
            assert (found.spec, found.grid) == (question.spec, (images, 1, 1))
            names = [each for each, kind in found.spec.signature(SM).arguments.items()
                     if kind == "i32"]  # fmt: skip
            assert len(found.numbers) == len(names)
            if isinstance(found.spec, DilateSpec):
                numbers = found.spec.numbers(question.read(size))
                assert dict(zip(names, found.numbers, strict=True)) == numbers


@pytest.mark.parametrize("name", QUESTIONS)
def test_shapes_of_outputs(name: str) -> None:
    question = QUESTIONS[name]
    for images, size in SIZES:
        found = OPERATORS[question.operator].output_shapes(
            known_shapes(question, images, size), question.attributes
        )
        assert [list(shape) for shape in found] == question.output_shapes(images, size)


def test_questions_are_of_every_operator_and_of_maps_that_nothing_divides() -> None:
    assert {question.operator for question in QUESTIONS.values()} == OPERATORS.keys()
    assert {images for images, _ in SIZES} == {1, 2, 3, 4}
    specs = [each.spec for each in QUESTIONS.values() if isinstance(each.spec, ConvSpec)]
    assert {spec.dtype for spec in specs} == {"fp16", "fp32"}
    assert any(spec.patch and SIZES[0][1].width % spec.patch for spec in specs)
    assert any(spec.outputs % 8 for spec in specs if spec.dtype == "fp16"), "pitches are padded"


def test_weights_have_to_be_known() -> None:
    question = QUESTIONS["1x1 of pixels"]
    open_size = object()
    shapes: dict[str, Sequence[object]] = {
        **known_shapes(question, *SIZES[0]),
        "weight": [1, 1, 20, open_size],
    }
    with pytest.raises(EngineError, match="weights of a convolution that skips"):
        OPERATORS["block_conv"].launch("fp16", shapes, question.attributes, SM)


def test_groups_have_to_divide_channels() -> None:
    question = QUESTIONS["3x3 within groups"]
    attributes = {**question.attributes, "group": 7}
    with pytest.raises(InvalidInput, match="a group of 7 channels does not divide"):
        OPERATORS["conv_within_groups"].launch(
            "fp16", known_shapes(question, *SIZES[0]), attributes, SM
        )


def test_importing_plugins_loads_neither_tensorrt_nor_triton() -> None:
    code = (
        "import sys, engines.tensorrt.plugins; "
        "sys.exit(len({'tensorrt', 'triton', 'torch', 'onnx'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
