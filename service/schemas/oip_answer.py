"""The Open Inference Protocol v2: writing of infer answers."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from engines.core import Float32Array
from service.schemas.oip import EXPLANATION, LABEL, POINT, WantedOutput


@dataclass(frozen=True, slots=True)
class Results:
    """What the images of a request got, in their order.

    probabilities: (N, classes). labels: of the classes. points: names, N. explanations: JSON, N;
    empty where the output was not asked for.
    """

    probabilities: Float32Array
    labels: Sequence[str]
    points: Sequence[str]
    explanations: Sequence[str] = ()


def infer_answer(
    head: Mapping[str, Any], outputs: Sequence[WantedOutput], results: Results
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where binary data follows.

    head: the fields before `outputs`.
    """
    described: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for output in outputs:
        datatype, values = _values(output, results)
        entry: dict[str, Any] = {
            "name": output.name,
            "datatype": datatype,
            "shape": list(values.shape),
        }
        if output.binary:
            blob = values.tobytes() if datatype == "FP32" else _joined_bytes(values)
            entry["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            entry["data"] = values.ravel().tolist()
        described.append(entry)
    text = orjson.dumps({**head, "outputs": described})
    return b"".join([text, *blobs]), len(text) if blobs else None


def _values(output: WantedOutput, results: Results) -> tuple[str, npt.NDArray[Any]]:
    probabilities, labels = results.probabilities, results.labels
    if output.name == LABEL:
        return "BYTES", _texts([labels[i] for i in probabilities.argmax(axis=1)])
    if output.name == POINT:
        return "BYTES", _texts(results.points)
    if output.name == EXPLANATION:
        return "BYTES", _texts(results.explanations)
    if not output.classification:
        return "FP32", np.ascontiguousarray(probabilities, "<f4")
    order = (-probabilities).argsort(axis=1, kind="stable")[:, : output.classification]
    texts = [
        [f"{float(row[i]):f}:{i}:{labels[i]}" for i in best]
        for row, best in zip(probabilities, order, strict=True)
    ]
    return "BYTES", np.array(texts, object)


def _texts(values: Sequence[str]) -> npt.NDArray[Any]:
    return np.array([*values], object)


def _joined_bytes(values: npt.NDArray[Any]) -> bytes:
    encoded = [str(value).encode() for value in values.ravel()]
    return b"".join(struct.pack("<I", len(item)) + item for item in encoded)
