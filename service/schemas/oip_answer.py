"""The Open Inference Protocol v2: writing of infer answers."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import orjson

from engines.core import Float32Array
from service.schemas.oip import EXPLANATION, LABEL, POINT, WantedOutput

Datatype = Literal["FP32", "INT32", "BYTES"]
Tensor = tuple[Datatype, npt.NDArray[Any]]
"""Its name in the protocol, and the values: of BYTES strings."""

_NUMBERS = {"FP32": "<f4", "INT32": "<i4"}


class Answers(Protocol):
    """What the images of a request got, as tensors whose first dimension they are."""

    def tensor(self, output: WantedOutput) -> Tensor:
        """One of the outputs that the model has."""


@dataclass(frozen=True, slots=True)
class Results:
    """What the images of a request got, in their order, where the model labels them.

    probabilities: (N, classes). labels: of the classes. points: names, N. explanations: JSON, N;
    empty where the output was not asked for.
    """

    probabilities: Float32Array
    labels: Sequence[str]
    points: Sequence[str]
    explanations: Sequence[str] = ()

    def tensor(self, output: WantedOutput) -> Tensor:
        """See Answers."""
        probabilities, labels = self.probabilities, self.labels
        if output.name == LABEL:
            return "BYTES", texts([labels[i] for i in probabilities.argmax(axis=1)])
        if output.name == POINT:
            return "BYTES", texts(self.points)
        if output.name == EXPLANATION:
            return "BYTES", texts(self.explanations)
        if not output.classification:
            return "FP32", probabilities
        order = (-probabilities).argsort(axis=1, kind="stable")[:, : output.classification]
        shown = [
            [f"{float(row[i]):f}:{i}:{labels[i]}" for i in best]
            for row, best in zip(probabilities, order, strict=True)
        ]
        return "BYTES", np.array(shown, object)


def infer_answer(
    head: Mapping[str, Any], outputs: Sequence[WantedOutput], results: Answers
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where binary data follows.

    head: the fields before `outputs`.
    """
    described: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for output in outputs:
        datatype, values = results.tensor(output)
        entry: dict[str, Any] = {
            "name": output.name,
            "datatype": datatype,
            "shape": list(values.shape),
        }
        if output.binary:
            number = _NUMBERS.get(datatype)
            blob = _joined_bytes(values) if number is None else values.astype(number).tobytes()
            entry["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            entry["data"] = values.ravel().tolist()
        described.append(entry)
    text = orjson.dumps({**head, "outputs": described})
    return b"".join([text, *blobs]), len(text) if blobs else None


def texts(values: Sequence[str]) -> npt.NDArray[Any]:
    """Strings as a tensor (N,)."""
    return np.array([*values], object)


def _joined_bytes(values: npt.NDArray[Any]) -> bytes:
    encoded = [str(value).encode() for value in values.ravel()]
    return b"".join(struct.pack("<I", len(item)) + item for item in encoded)
