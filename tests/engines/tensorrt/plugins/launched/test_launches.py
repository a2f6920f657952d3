"""Kernels launched with exactly what a plugin told TensorRT: they compute what they should."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engines.tensorrt.kernels import reference
from engines.tensorrt.plugins.operators import OPERATORS
from engines.tensorrt.spec import ConvSpec, DilateSpec, PartitionSpec, Signature
from tests.engines.tensorrt.interpreted.launching import run
from tests.engines.tensorrt.interpreted.layers import INFINITY, MOST, TYPES, Case
from tests.engines.tensorrt.interpreted.memory import Guarded, poisoned
from tests.engines.tensorrt.plugins.questions import MASKERS, QUESTIONS, SIZES, Question

_UNITS = {"HWC8": 8, "HWC": 1}
"""Channels that a pixel's are rounded up to."""

ANSWERS = json.loads(Path(os.environ["LAUD_ANSWERS"]).read_text("utf-8"))["answers"]


@dataclass(frozen=True)
class Launched:
    """The launch of a plugin's kernel for one of SIZES."""

    question: Question
    answer: dict[str, Any]
    place: int

    def pitch(self, name: str, channels: int) -> int:
        """Channels from one pixel to the next, by the layout that the plugin chose."""
        operator = OPERATORS[self.question.operator]
        names = [*operator.inputs, *operator.outputs]
        unit = _UNITS[self.answer["layouts"][names.index(name)]]
        return -(-channels // unit) * unit

    def run(self, inputs: list[Tensor], outputs: list[Guarded]) -> None:
        """Arguments in TensorRT's order: inputs, the numbers, outputs."""
        launch = self.answer["launches"][self.place]
        assert self.answer["entry"] == self.answer["signature"]["kernel"]
        signature = Signature(**self.answer["signature"])
        run(signature, launch["grid"], inputs, launch["numbers"], outputs)

    def lists(self, names: list[str]) -> list[Guarded]:
        """Empty outputs of int32, of the shapes that the plugin declared, by that many names."""
        shapes = self.answer["launches"][self.place]["outputs"]
        assert len(shapes) == len(names)
        return [poisoned(*shape, dtype=torch.int32) for shape in shapes]


def all_launches(kind: type) -> Callable[[Any], Any]:
    """For tests of one kind of specification."""
    return pytest.mark.parametrize(
        "launched",
        [
            pytest.param(Launched(question, ANSWERS[name], place), id=f"{name}, {images} x {size}")
            for name, question in QUESTIONS.items()
            if isinstance(question.spec, kind)
            for place, (images, size) in enumerate(SIZES)
        ],
    )


def random_list(images: int, units: int) -> reference.Listed:
    """Images of a batch have some, none, all and few active."""
    torch.manual_seed(units)
    thresholds = torch.tensor([0.0, INFINITY, -INFINITY, 0.9])[:images]
    return reference.partition(torch.randn(images, units), thresholds, torch.full((images,), MOST))


@all_launches(PartitionSpec)
def test_partition(launched: Launched) -> None:
    images, size = SIZES[launched.place]
    masker = launched.question.attributes["masker"]
    torch.manual_seed(images)
    logits = torch.randn(images, launched.question.units(size))
    thresholds, caps = torch.randn(images, MASKERS), torch.randint(0, 60, (images, MASKERS)).int()
    outputs = launched.lists(["index", "place", "count"])
    launched.run([logits, thresholds, caps], outputs)
    found = reference.Listed(*(each.tensor for each in outputs))
    wanted = reference.partition(
        logits, thresholds[:, masker], caps[:, masker].clamp(max=logits.shape[1])
    )
    assert found.equals(wanted)


@all_launches(DilateSpec)
def test_dilate(launched: Launched) -> None:
    images, size = SIZES[launched.place]
    question, spec = launched.question, launched.question.spec
    assert isinstance(spec, DilateSpec)
    listed = random_list(images, question.units(size))
    _, channels, *_ = question.input_shapes()["x"]
    assert isinstance(channels, int)
    shape = images, size.height, size.width, launched.pitch("x", channels)
    x = torch.full(shape, float("nan"), dtype=TYPES[spec.dtype])
    index, count = launched.lists(["index", "count"])
    launched.run([listed.place, listed.count, x], [index, count])
    wanted = reference.dilate(
        listed.place, listed.count, spec.patch, spec.stride, question.read(size)
    )
    for row, most, pixels in zip(index.tensor, count.tensor.tolist(), wanted, strict=True):
        assert torch.equal(row[:most], pixels)


class Answered(Case):
    """A layer whose kernel is launched as its plugin says."""

    def __init__(self, launched: Launched) -> None:
        images, size = SIZES[launched.place]
        spec = launched.question.spec
        assert isinstance(spec, ConvSpec)
        self.launched = launched
        super().__init__(spec, size, images)

    def launch(self, inputs: dict[str, Tensor], y: Guarded) -> None:
        launched, spec = self.launched, self.spec
        assert list(inputs) == list(OPERATORS[launched.question.operator].inputs)
        assert inputs["x"].shape[3] == launched.pitch("x", spec.inputs)
        assert y.tensor.shape[3] == launched.pitch("y", spec.outputs)
        launched.run(list(inputs.values()), [y])


@all_launches(ConvSpec)
def test_convolutions(launched: Launched) -> None:
    """Against torch; what is not active keeps its bits, and nothing outside is touched."""
    Answered(launched).check()
