"""The Open Inference Protocol's requests: what is parsed, and what is refused and why."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadRequest
from service.schemas.oip import (
    Form,
    InferRequest,
    WantedOutput,
    is_slow,
    parse_infer,
)

SIZE = 2
FORM = Form(size=SIZE, max_images=3)
PIXELS = np.arange(2 * SIZE * SIZE * 3, dtype=np.uint8).reshape(2, SIZE, SIZE, 3)
LABELS = ("a", "b", "ü")
OUTPUTS = ("probabilities", "label", "point")


def tensor(**changes: Any) -> dict[str, Any]:
    """The input `image` with PIXELS in JSON; a change to None leaves that key out."""
    entry = {
        "name": "image",
        "datatype": "UINT8",
        "shape": list(PIXELS.shape),
        "data": PIXELS.ravel().tolist(),
        **changes,
    }
    return {key: value for key, value in entry.items() if value is not None}


def files_tensor(*files: bytes, **changes: Any) -> dict[str, Any]:
    """The input `image_bytes` in JSON."""
    data = [base64.b64encode(file).decode() for file in files]
    return tensor(
        **{"name": "image_bytes", "datatype": "BYTES", "shape": [len(files)], "data": data}
        | changes
    )


def body(*inputs: dict[str, Any], **rest: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **rest}).encode()


def parse_binary(blob: bytes, *inputs: dict[str, Any], **rest: Any) -> InferRequest:
    head = body(*inputs, **rest)
    return parse_infer(head + blob, str(len(head)), FORM)


def binary(entry: dict[str, Any], size: Any) -> dict[str, Any]:
    """The entry with its data behind the JSON."""
    entry.pop("data")
    return {**entry, "parameters": {"binary_data_size": size}}


def pixels_of(parsed: InferRequest) -> list[np.ndarray]:
    return [np.asarray(image) for image in parsed.images]


def joined(*files: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_pixels_in_json(nested: bool) -> None:
    data = PIXELS.tolist() if nested else PIXELS.ravel().tolist()
    parsed = parse_infer(body(tensor(data=data), id="mine"), None, FORM)
    np.testing.assert_array_equal(np.stack(pixels_of(parsed)), PIXELS)
    assert (parsed.id, parsed.parameters, parsed.explain) == ("mine", {}, False)
    assert parsed.outputs == tuple(WantedOutput(name, binary=False) for name in OUTPUTS)


def test_pixels_behind_the_json() -> None:
    parsed = parse_binary(PIXELS.tobytes(), binary(tensor(), PIXELS.nbytes))
    np.testing.assert_array_equal(np.stack(pixels_of(parsed)), PIXELS)


def test_files_in_json_are_base64() -> None:
    parsed = parse_infer(body(files_tensor(b"one", b"\xff\0")), None, FORM)
    assert list(parsed.images) == [b"one", b"\xff\0"]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=3))
def test_files_behind_the_json_have_their_lengths(files: list[bytes]) -> None:
    blob = joined(*files)
    assert list(parse_binary(blob, binary(files_tensor(*files), len(blob))).images) == files


def test_a_header_length_of_zero_makes_the_body_one_file() -> None:
    parsed = parse_infer(b"\xff\xd8raw", "0", FORM)
    assert list(parsed.images) == [b"\xff\xd8raw"]
    assert parsed.outputs == tuple(WantedOutput(name, binary=True) for name in OUTPUTS)


def test_a_header_length_of_zero_makes_the_body_one_image_of_pixels_by_its_size() -> None:
    (image,) = pixels_of(parse_infer(PIXELS[0].tobytes(), "0", FORM))
    np.testing.assert_array_equal(image, PIXELS[0])


def test_a_file_that_has_the_size_of_the_pixels_is_a_file() -> None:
    file = b"\xff\xd8\xff".ljust(PIXELS[0].nbytes, b"\0")
    assert list(parse_infer(file, "0", FORM).images) == [file]


def test_a_header_length_of_the_whole_body_is_plain_json() -> None:
    """perf_analyzer sends it so."""
    text = body(tensor())
    assert len(parse_infer(text, str(len(text)), FORM).images) == 2


def test_parameters_are_handed_on() -> None:
    parsed = parse_infer(
        body(tensor(), parameters={"operating_point": "small", "x": 1}), None, FORM
    )
    assert parsed.parameters == {"operating_point": "small", "x": 1}


@pytest.mark.parametrize("default", [False, True])
def test_binary_output_is_asked_for_each_or_for_all(default: bool) -> None:
    outputs: list[dict[str, Any]] = [
        {"name": "label"},
        {"name": "probabilities", "parameters": {"binary_data": True, "classification": 2}},
    ]
    parameters = {"binary_data_output": default}
    parsed = parse_infer(body(tensor(), outputs=outputs, parameters=parameters), None, FORM)
    assert parsed.outputs == (
        WantedOutput("label", default),
        WantedOutput("probabilities", True, classification=2),
    )
    everything = parse_infer(body(tensor(), parameters=parameters), None, FORM).outputs
    assert everything == tuple(WantedOutput(name, default) for name in OUTPUTS)


@pytest.mark.parametrize("default", [False, True])
def test_an_explanation_is_asked_for_by_parameter_or_as_an_output(default: bool) -> None:
    asked = {"explain": True, "binary_data_output": default}
    by_parameter = parse_infer(body(tensor(), parameters=asked), None, FORM)
    assert by_parameter.explain
    names = [output.name for output in by_parameter.outputs]
    assert names == [*OUTPUTS, "explanation"]
    assert by_parameter.outputs[-1].binary is default
    by_name = parse_infer(body(tensor(), outputs=[{"name": "explanation"}]), None, FORM)
    assert by_name.explain
    assert by_name.outputs == (WantedOutput("explanation", binary=False),)
    both = parse_infer(
        body(tensor(), outputs=[{"name": "explanation"}], parameters={"explain": True}), None, FORM
    )
    assert both.outputs == by_name.outputs
    neither = parse_infer(body(tensor(), parameters={"explain": False}), None, FORM)
    assert not neither.explain


@pytest.mark.parametrize(
    "parameters", [{"sequence_id": 1, "priority": 2}, {"triton_x": "y"}, {"headers": {}}]
)
def test_parameters_of_other_servers_are_no_fault(parameters: dict[str, Any]) -> None:
    assert parse_infer(body(tensor(), parameters=parameters), None, FORM).parameters == parameters


DEEP = "[" * 900 + "]" * 900
LONG = "x" * 100_000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "must be a JSON object with 'inputs'"),
        (b"{}", "'inputs' is missing or empty; send 'image' UINT8"),
        (body(), "'inputs' is missing or empty"),
        (b'{"inputs": {}}', "'inputs' must be a list"),
        (body(*[tensor()] * 17), "'inputs' must be a list of at most 16"),
        (b'{"inputs": [1]}', "every entry of 'inputs' must be an object with a 'name'"),
        (body(tensor(name=None)), "with a 'name'"),
        (body(tensor(name=3)), "with a 'name'"),
        (body(tensor(name="pixels")), "got 'pixels': send 'image' UINT8"),
        (body(tensor(), files_tensor(b"x")), "one input is taken, got 'image', 'image_bytes'"),
        (body(tensor(datatype="INT8")), "datatype 'INT8', expected UINT8"),
        (body(tensor(datatype=None)), "datatype None, expected UINT8"),
        (body(files_tensor(b"x", datatype="UINT8")), "datatype 'UINT8', expected BYTES"),
        (body(tensor(shape=None)), "'shape' must list sizes"),
        (body(tensor(shape="2")), "'shape' must list sizes"),
        (body(tensor(shape=[])), "'shape' must list sizes"),
        (body(tensor(shape=[-1, 2, 2, 3])), "'shape' must list sizes"),
        (body(tensor(shape=[2.0, 2, 2, 3])), "'shape' must list sizes"),
        (body(tensor(shape=[True, 2, 2, 3])), "'shape' must list sizes"),
        (body(tensor(shape=[2**40, 2, 2, 3])), "'shape' must list sizes"),
        (body(tensor(shape=[0, 2, 2, 3])), r"has shape \[0, 2, 2, 3\]: send"),
        (body(tensor(shape=[2, 3, 2, 2])), r"has shape \[2, 3, 2, 2\]: send"),
        (body(tensor(shape=[24])), r"has shape \[24\]: send"),
        (body(files_tensor(b"x", shape=[1, 1])), r"has shape \[1, 1\]: send"),
        (body(tensor(shape=[4, 2, 2, 3])), "4 images in one request, the limit is 3"),
        (body(tensor(data=None)), "neither 'data' nor binary_data_size"),
        (body(tensor(data=[1, 2])), "'data' must be 24 whole numbers"),
        (body(tensor(data=[[1], [2, 3]])), "'data'"),
        (body(tensor(data=[0.5] * 24)), "'data' must be 24 whole numbers"),
        (body(tensor(data=["1"] * 24)), "'data' must be 24 whole numbers"),
        (body(tensor(data=[True] * 24)), "'data' must be 24 whole numbers"),
        (body(tensor(data=[None] * 24)), "'data' must be 24 whole numbers"),
        (body(tensor(data={"0": 1})), "'data' must be 24 whole numbers"),
        (body(tensor(data=[256] * 24)), "values must be 0 to 255"),
        (body(tensor(data=[-1] * 24)), "values must be 0 to 255"),
        (body(tensor(data=[2**63] * 24)), "values must be 0 to 255"),
        (body(files_tensor(b"x", data=["?"])), "every element must be base64"),
        (body(files_tensor(b"x", data=[[1]])), "every element must be base64"),
        (body(files_tensor(b"x", data=["ü"])), "every element must be base64"),
        (body(files_tensor(b"x", data="eA==")), "must list 1 base64 strings"),
        (body(files_tensor(b"x", data=["eA==", "eA=="])), "must list 1 base64 strings"),
        (body(tensor(parameters=[])), "'parameters' must be a JSON object"),
        (body(tensor(), parameters=1), "'parameters' must be a JSON object"),
        (body(tensor(), id=1), "'id' must be a string of at most 128"),
        (body(tensor(), id="x" * 129), "'id' must be a string of at most 128"),
        (body(tensor(), outputs=[{"name": "logits"}]), "no output 'logits'; there are"),
        (body(tensor(), outputs=[{"name": "label"}] * 2), "asked for twice"),
        (
            body(tensor(), outputs=[{"name": "label", "parameters": {"classification": 1}}]),
            "'classification' must be",
        ),
        (
            body(tensor(), outputs=[{"name": "label", "parameters": {"binary_data": 1}}]),
            "'binary_data' must be true or false",
        ),
        (body(tensor(), parameters={"binary_data_output": "yes"}), "must be true or false"),
        (body(tensor(), parameters={"explain": 1}), "'explain' must be true or false"),
        (
            body(tensor(data=None, parameters={"shared_memory_region": "r"})),
            "'image': shared memory is not supported; tensors travel in the body",
        ),
        (
            body(tensor(), outputs=[{"name": "point", "parameters": {"shared_memory_region": 1}}]),
            "'point': shared memory is not supported",
        ),
    ],
)
def test_what_is_wrong_is_said(text: bytes, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        parse_infer(text, None, FORM)


@pytest.mark.parametrize("where", ["shape", "datatype"])
def test_what_is_nested_too_deeply_to_be_quoted_is_refused_all_the_same(where: str) -> None:
    deep = b"[" * 1010 + b"]" * 1010
    sent = {"shape": b"[1]", "datatype": b'"BYTES"', where: deep}
    text = b'{"inputs":[{"name":"image_bytes","datatype":%b,"shape":%b,"data":[]}]}'
    with pytest.raises(BadRequest, match="nested too deeply"):
        parse_infer(text % (sent["datatype"], sent["shape"]), None, FORM)


@pytest.mark.parametrize("datatype", ["FP32", "FP16", "FP64", "BF16"])
def test_floats_are_refused_by_naming_both_forms(datatype: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_infer(body(tensor(datatype=datatype)), None, FORM)
    assert str(refused.value) == (
        f"input 'image' has datatype '{datatype}', expected UINT8: "
        "send 'image' UINT8 [-1, 2, 2, 3] (RGB pixels) or "
        "'image_bytes' BYTES [-1] (JPEG, PNG or WebP files)"
    )


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        ("-1", "must be a number"),
        ("1.0", "must be a number"),
        ("", "must be a number"),
        ("²", "must be a number"),
        ("9" * 13, "must be a number"),
        ("999999", "but the body has"),
    ],
)
def test_a_wrong_header_length_is_refused(length: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        parse_infer(body(tensor()), length, FORM)


def test_what_an_event_loop_should_not_parse() -> None:
    """Much JSON, whether its length is announced or not; binary data behind it costs nothing."""
    long = bytes(100_000)
    assert is_slow(long, None)
    assert is_slow(long, "100000")
    assert is_slow(long, "0100000")
    assert not is_slow(long, "300")
    assert not is_slow(long, "0")
    assert not is_slow(b"{}", None)


def test_raw_binary_needs_a_body() -> None:
    with pytest.raises(BadRequest, match="the body is empty; send 'image' UINT8"):
        parse_infer(b"", "0", FORM)


@pytest.mark.parametrize(
    ("entry", "blob", "reason"),
    [
        (tensor(), b"x", "1 bytes follow the JSON, but no input has"),
        (binary(tensor(), 24), bytes(23), "binary_data_size is 24, but 23 bytes follow"),
        (binary(tensor(), -24), bytes(24), "binary_data_size is -24"),
        (binary(tensor(), 24.0), bytes(24), "binary_data_size is 24.0"),
        (binary(tensor(), True), b"x", "binary_data_size is True"),
        (binary(tensor(), 23), bytes(23), "needs 24 bytes for its shape, got 23"),
        ({**tensor(), "parameters": {"binary_data_size": 24}}, bytes(24), "both 'data' and"),
        (binary(files_tensor(b"x"), 3), bytes(3), "must be 1 elements"),
        (binary(files_tensor(b"x"), 0), b"", "must be 1 elements"),
        (
            binary(files_tensor(b"x"), 5),
            b"\xff\xff\xff\xffx",
            "claims 4294967295 bytes, 1 are left",
        ),
        (binary(files_tensor(b"x"), 10), joined(b"a", b"b"), "got 1 and 5 bytes more"),
        (binary(files_tensor(b"x", b"y"), 5), joined(b"a"), "must be 2 elements"),
    ],
)
def test_wrong_binary_data_is_refused(entry: dict[str, Any], blob: bytes, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        parse_binary(blob, entry)


def test_the_json_before_binary_data_is_bounded() -> None:
    with pytest.raises(BadRequest, match="the JSON before binary data may have 65536 bytes"):
        parse_binary(bytes(24), binary(tensor(), 24), padding="x" * 70_000)


def test_quotes_and_memory_are_bounded_whatever_is_sent() -> None:
    """A long string beside many numbers once made an array with room for it at each place."""
    long = "x" * 1_000_000
    for entry in (
        tensor(data=[long, *[1] * 1_000_000]),
        tensor(datatype=long),
        tensor(name=long),
        tensor(shape=[long]),
        tensor(shape=list(range(10_000))),
        {**tensor(), "parameters": {"binary_data_size": long}},
    ):
        with pytest.raises(BadRequest) as refused:
            parse_infer(body(entry), None, FORM)
        assert len(str(refused.value)) < 400
