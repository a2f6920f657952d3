"""The Open Inference Protocol's answers, and requests of any bytes at all."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.errors import BadRequest
from service.schemas.oip import Form, InferRequest, WantedOutput, parse_infer
from service.schemas.oip_answer import Results, infer_answer

FORM = Form(size=2, max_images=3)
LABELS = ("a", "b", "ü")
PROBABILITIES = np.array([[0.25, 0.5, 0.25], [0.25, 0.25, 0.5]], np.float32)
RESULTS = Results(PROBABILITIES, LABELS, ("full", "skip"), ('{"a": 1}', "{}"))


def answer(*outputs: WantedOutput) -> tuple[dict[str, Any], bytes, int | None]:
    """JSON, what follows it, and the announced length of the JSON."""
    content, length = infer_answer({"id": "mine"}, outputs, RESULTS)
    return orjson.loads(content[:length]), content[length:] if length else b"", length


def split(blob: bytes) -> list[str]:
    found, at = [], 0
    while at < len(blob):
        (size,) = struct.unpack_from("<I", blob, at)
        found.append(blob[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return found


def test_answer_in_json() -> None:
    content, blob, length = answer(
        WantedOutput("probabilities", False), WantedOutput("label", False)
    )
    assert (blob, length) == (b"", None)
    assert content == {
        "id": "mine",
        "outputs": [
            {
                "name": "probabilities",
                "datatype": "FP32",
                "shape": [2, 3],
                "data": PROBABILITIES.ravel().tolist(),
            },
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["b", "ü"]},
        ],
    }


def test_answer_behind_the_json_is_in_the_order_asked_for() -> None:
    content, blob, _ = answer(WantedOutput("label", True), WantedOutput("probabilities", True))
    sizes = [output["parameters"]["binary_data_size"] for output in content["outputs"]]
    assert sum(sizes) == len(blob)
    assert split(blob[: sizes[0]]) == ["b", "ü"]
    found = np.frombuffer(blob[sizes[0] :], "<f4").reshape(2, 3)
    np.testing.assert_array_equal(found, PROBABILITIES)
    assert all("data" not in output for output in content["outputs"])


def test_answer_may_be_of_both_kinds() -> None:
    content, blob, length = answer(
        WantedOutput("label", False), WantedOutput("probabilities", True)
    )
    assert length is not None
    assert content["outputs"][0]["data"] == ["b", "ü"]
    assert len(blob) == PROBABILITIES.nbytes


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(("k", "shown"), [(1, 1), (2, 2), (99, 3)])
def test_classification_is_score_index_and_label(binary: bool, k: int, shown: int) -> None:
    content, blob, _ = answer(WantedOutput("probabilities", binary, classification=k))
    (output,) = content["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, shown])
    texts = split(blob) if binary else output["data"]
    assert texts[0] == "0.500000:1:b"
    assert texts[shown] == "0.500000:2:ü"
    if shown == 3:
        assert texts[1:3] == ["0.250000:0:a", "0.250000:2:ü"]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("name", "texts"), [("point", ["full", "skip"]), ("explanation", ['{"a": 1}', "{}"])]
)
def test_texts_are_one_for_each_image(binary: bool, name: str, texts: list[str]) -> None:
    content, blob, _ = answer(WantedOutput(name, binary))
    (output,) = content["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2])
    assert (split(blob) if binary else output["data"]) == texts


def test_the_label_of_a_tie_is_the_first() -> None:
    even = Results(np.full((1, 3), 1 / 3, np.float32), LABELS, ["full"])
    content, _ = infer_answer({}, [WantedOutput("label", False)], even)
    assert orjson.loads(content)["outputs"][0]["data"] == ["a"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
NAMES = st.sampled_from(["image", "image_bytes", "other"])
INPUTS = st.fixed_dictionaries(
    {},
    optional={
        "name": NAMES | JSON,
        "datatype": st.sampled_from(["UINT8", "BYTES", "FP32"]) | JSON,
        "shape": st.sampled_from([[1, 2, 2, 3], [1], [2]]) | JSON,
        "data": st.sampled_from([[1] * 12, ["eA=="]]) | JSON,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 20) | JSON})
        | JSON,
    },
)
OUTPUTS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["probabilities", "label", "point", "explanation"]) | JSON,
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data", "classification", "shared_memory_region"]),
            JSON,
            max_size=2,
        )
        | JSON,
    },
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "id": JSON,
        "inputs": st.lists(INPUTS, max_size=2) | JSON,
        "outputs": st.lists(OUTPUTS, max_size=2) | JSON,
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_output", "explain"]), st.booleans() | JSON, max_size=2
        )
        | JSON,
    },
)


def parse(body: bytes, length: str | None) -> InferRequest | None:
    """Refused or parsed, and then answerable."""
    try:
        parsed = parse_infer(body, length, FORM)
    except BadRequest:
        return None
    images = len(parsed.images)
    assert 1 <= images <= FORM.max_images
    few = np.repeat(PROBABILITIES, 2, 0)[:images]
    content, _ = infer_answer(
        {}, parsed.outputs, Results(few, LABELS, ["full"] * images, ["{}"] * images)
    )
    assert content
    return parsed


@given(st.binary(max_size=200), st.none() | st.text(max_size=6) | st.integers(-2, 300).map(str))
@example(b'{"inputs":' + b"[" * 5000, None)
@example(b'"\\ud800"', None)
def test_any_bytes_are_parsed_or_refused(body: bytes, length: str | None) -> None:
    parse(body, length)


@given(REQUESTS, st.binary(max_size=40), st.sampled_from(["none", "right", "off"]))
def test_any_json_is_parsed_or_refused(content: Any, blob: bytes, header: str) -> None:
    text = orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS) if _fits(content) else b"{}"
    length = {"none": None, "right": str(len(text)), "off": str(len(text) + 1)}[header]
    parse(text + blob, length)


def _fits(content: Any) -> bool:
    """Whether JSON can say it: no integers beyond 64 bits."""
    try:
        orjson.dumps(content)
    except orjson.JSONEncodeError:
        return False
    return True
