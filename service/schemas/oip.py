"""The Open Inference Protocol v2: parsing of infer requests.

JSON, with tensors in it or as binary data behind it (the binary extension): then the header
`Inference-Header-Content-Length` gives the length of the JSON. Everything here is a pure function;
whatever a client sends gives a value or a BadRequest that says what was wrong.

What is asked by parameters is for others to read (service.objectives), but for those about the form
of the answer: `binary_data_output`, and `explain`. Parameters that nobody knows are no fault: those
of other servers come here too.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import orjson

from engines.core import UInt8Array
from engines.errors import ImageError, UnsupportedImage
from engines.preprocessing import read_header
from service.errors import BadRequest

IMAGE = "image"
IMAGE_BYTES = "image_bytes"
PROBABILITIES = "probabilities"
LABEL = "label"
COUNTS = "counts"
BOXES = "boxes"
SCORES = "scores"
LABELS = "labels"
MASKS = "masks"
POINT = "point"
EXPLANATION = "explanation"
EXPLAIN = "explain"
LENGTH_HEADER = "inference-header-content-length"

CLASS_OUTPUTS = (PROBABILITIES, LABEL, POINT)
OBJECT_OUTPUTS = (COUNTS, BOXES, SCORES, LABELS, POINT)
MASK_OUTPUTS = (COUNTS, BOXES, SCORES, LABELS, MASKS, POINT)
"""What is answered where no outputs are named, by what a model finds."""

_MAX_JSON_BYTES_BEFORE_BINARY = 64 * 1024
_MUCH_JSON_BYTES = 64 * 1024
_MAX_DIMENSION = 2**31
_MAX_TENSORS = 16
_MAX_ID = 128
_MAX_QUOTE = 80


@dataclass(frozen=True, slots=True)
class Form:
    """What a model takes: images of `size` pixels, at most `max_images` in one request; and which
    outputs it has, beside the explanation."""

    size: int
    max_images: int
    outputs: tuple[str, ...] = CLASS_OUTPUTS

    @property
    def text(self) -> str:
        """Both accepted forms, as error messages name them."""
        return (
            f"'{IMAGE}' UINT8 [-1, {self.size}, {self.size}, 3] (RGB pixels) or "
            f"'{IMAGE_BYTES}' BYTES [-1] (JPEG, PNG or WebP files)"
        )


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """An output that was asked for; classification: the k most probable as text, 0 for numbers."""

    name: str
    binary: bool
    classification: int = 0


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A parsed request. images: pixels (S, S, 3) each, or encoded files."""

    id: str
    images: Sequence[UInt8Array | bytes]
    outputs: tuple[WantedOutput, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def explain(self) -> bool:
        """Whether the answer tells what was computed of each image."""
        return any(output.name == EXPLANATION for output in self.outputs)


def parse_infer(body: bytes, header_length: str | None, form: Form) -> InferRequest:
    """The request in `body`; `header_length` is the value of its length header, if any.

    Raises BadRequest.
    """
    if header_length is None:
        return _parse(body, memoryview(b""), form)
    length = _whole(header_length)
    if length is None:
        raise BadRequest(f"{LENGTH_HEADER} must be a number of bytes, got '{header_length[:32]}'")
    if length > len(body):
        raise BadRequest(f"{LENGTH_HEADER} is {length}, but the body has {len(body)} bytes")
    if length == 0:
        if not body:
            raise BadRequest(f"the body is empty; send {form.text}")
        return InferRequest("", [_raw(body, form)], _default_outputs(form, binary=True))
    if length < len(body) and length > _MAX_JSON_BYTES_BEFORE_BINARY:
        raise BadRequest(
            f"the JSON before binary data may have {_MAX_JSON_BYTES_BEFORE_BINARY} bytes, "
            f"got {length}"
        )
    return _parse(body[:length], memoryview(body)[length:], form)


def is_slow(body: bytes, header_length: str | None) -> bool:
    """Whether parsing takes an event loop's milliseconds: much JSON, as tensors in it are."""
    if len(body) <= _MUCH_JSON_BYTES:
        return False
    length = None if header_length is None else _whole(header_length)
    return length is None or length > _MAX_JSON_BYTES_BEFORE_BINARY


def _whole(text: str) -> int | None:
    """The number of bytes that a header says; None where it says none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 12 else None


def _raw(body: bytes, form: Form) -> UInt8Array | bytes:
    """A body without JSON: one file, or the pixels of one image."""
    shape = (form.size, form.size, 3)
    if len(body) != math.prod(shape):
        return body
    try:
        read_header(body)
    except UnsupportedImage:
        return np.frombuffer(body, np.uint8).reshape(shape)
    except ImageError:
        return body
    return body


def _parse(header: bytes, binary: memoryview, form: Form) -> InferRequest:
    try:
        content = orjson.loads(header)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the request is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise BadRequest("the request must be a JSON object with 'inputs'")
    parameters = _mapping(content.get("parameters"), "parameters")
    identifier = content.get("id", "")
    if not isinstance(identifier, str) or len(identifier) > _MAX_ID:
        raise BadRequest(f"'id' must be a string of at most {_MAX_ID} characters")
    inputs = _tensors(content.get("inputs"), "inputs")
    if not inputs:
        raise BadRequest(f"'inputs' is missing or empty; send {form.text}")
    images = _images(inputs, binary, form)
    return InferRequest(identifier, images, _outputs(content, parameters, form), parameters)


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(f"'{name}' must be a JSON object")
    return value


def _tensors(value: Any, name: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > _MAX_TENSORS:
        raise BadRequest(f"'{name}' must be a list of at most {_MAX_TENSORS} tensors")
    for item in value:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise BadRequest(f"every entry of '{name}' must be an object with a 'name'")
    return value


def _images(
    inputs: list[dict[str, Any]], binary: memoryview, form: Form
) -> Sequence[UInt8Array | bytes]:
    names = [item["name"] for item in inputs]
    if len(inputs) != 1 or names[0] not in (IMAGE, IMAGE_BYTES):
        got = ", ".join(f"'{name:.80}'" for name in names)
        raise BadRequest(f"one input is taken, got {got}: send {form.text}")
    item = inputs[0]
    expected = "UINT8" if item["name"] == IMAGE else "BYTES"
    if item.get("datatype") != expected:
        raise BadRequest(
            f"input '{item['name']}' has datatype {shown(item.get('datatype'))}, expected "
            f"{expected}: send {form.text}"
        )
    shape = _shape(item, form)
    data = _binary_part(item, binary)
    if item["name"] == IMAGE:
        return list(_pixels(item, data, shape))
    return _files(item, data, shape[0])


def _shape(item: dict[str, Any], form: Form) -> tuple[int, ...]:
    shape = item.get("shape")
    if (
        not isinstance(shape, list)
        or not all(type(n) is int and 0 <= n < _MAX_DIMENSION for n in shape)
        or not shape
    ):
        raise BadRequest(f"input '{item['name']}': 'shape' must list sizes, got {shown(shape)}")
    rest = [form.size, form.size, 3] if item["name"] == IMAGE else []
    if shape[1:] != rest or shape[0] < 1:
        raise BadRequest(f"input '{item['name']}' has shape {shown(shape)}: send {form.text}")
    if shape[0] > form.max_images:
        raise BadRequest(f"{shape[0]} images in one request, the limit is {form.max_images}")
    return tuple(shape)


def _binary_part(item: dict[str, Any], binary: memoryview) -> memoryview | None:
    """The tensor's binary data, None where its values stand in the JSON."""
    size = _own_parameters(item).get("binary_data_size")
    if size is None:
        if binary:
            raise BadRequest(
                f"{len(binary)} bytes follow the JSON, but no input has binary_data_size"
            )
        if "data" not in item:
            raise BadRequest(f"input '{item['name']}' has neither 'data' nor binary_data_size")
        return None
    if type(size) is not int or size != len(binary):
        raise BadRequest(
            f"input '{item['name']}': binary_data_size is {shown(size)}, but {len(binary)} "
            "bytes follow the JSON"
        )
    if "data" in item:
        raise BadRequest(f"input '{item['name']}' has both 'data' and binary_data_size")
    return binary


def _own_parameters(item: dict[str, Any]) -> dict[str, Any]:
    """The parameters of an input or output."""
    own = _mapping(item.get("parameters"), "parameters")
    if "shared_memory_region" in own:
        raise BadRequest(
            f"'{item['name']:.80}': shared memory is not supported; tensors travel in the body"
        )
    return own


def _pixels(item: dict[str, Any], data: memoryview | None, shape: tuple[int, ...]) -> UInt8Array:
    count = math.prod(shape)
    if data is not None:
        if len(data) != count:
            raise BadRequest(f"input '{IMAGE}' needs {count} bytes for its shape, got {len(data)}")
        return np.frombuffer(data, np.uint8).reshape(shape)
    values = _flat(item["data"], len(shape))
    # Not np.array, which makes room for the longest string in a list at each of its places.
    if len(values) != count or {*map(type, values)} != {int}:
        raise BadRequest(
            f"input '{IMAGE}': 'data' must be {count} whole numbers, flat or nested as its shape"
        )
    try:
        return np.frombuffer(bytes(values), np.uint8).reshape(shape)
    except ValueError:
        raise BadRequest(f"input '{IMAGE}': values must be 0 to 255") from None


def _flat(data: Any, depth: int) -> list[Any]:
    """The values of a tensor, row after row, that is nested `depth` lists deep or less."""
    values: list[Any] = data if isinstance(data, list) else []
    for _ in range(depth - 1):
        if not all(isinstance(row, list) for row in values):
            break
        values = list(chain.from_iterable(values))
    return values


def shown(value: Any) -> str:
    """A wrong value as an error message quotes it: never longer than a line."""
    try:
        text = repr(value)
    except RecursionError:
        return "something nested too deeply"
    return text if len(text) <= _MAX_QUOTE else f"{text[:_MAX_QUOTE]}..."


def _files(item: dict[str, Any], data: memoryview | None, count: int) -> list[bytes]:
    if data is not None:
        return _split_bytes(data, count)
    values = item["data"]
    if not isinstance(values, list) or len(values) != count:
        raise BadRequest(f"input '{IMAGE_BYTES}': 'data' must list {count} base64 strings")
    files: list[bytes] = []
    for value in values:
        try:
            files.append(base64.b64decode(value, validate=True))
        except (TypeError, ValueError, binascii.Error):
            raise BadRequest(
                f"input '{IMAGE_BYTES}': in JSON every element must be base64 text; or send the "
                "files as binary data"
            ) from None
    return files


def _split_bytes(data: memoryview, count: int) -> list[bytes]:
    """Elements of a BYTES tensor: each a little-endian length of 4 bytes, then the bytes."""
    elements: list[bytes] = []
    at = 0
    while at < len(data) and len(elements) < count:
        if len(data) - at < 4:
            break
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if length > len(data) - at:
            raise BadRequest(
                f"input '{IMAGE_BYTES}': element {len(elements)} claims {length} bytes, "
                f"{len(data) - at} are left"
            )
        elements.append(bytes(data[at : at + length]))
        at += length
    if len(elements) != count or at != len(data):
        raise BadRequest(
            f"input '{IMAGE_BYTES}' must be {count} elements (a length of 4 bytes, then the file); "
            f"got {len(elements)} and {len(data) - at} bytes more"
        )
    return elements


def _default_outputs(form: Form, binary: bool) -> tuple[WantedOutput, ...]:
    return tuple(WantedOutput(name, binary) for name in form.outputs)


def _outputs(
    content: dict[str, Any], parameters: dict[str, Any], form: Form
) -> tuple[WantedOutput, ...]:
    default = _flag(parameters, "binary_data_output", False)
    explain = _flag(parameters, EXPLAIN, False)
    wanted = _tensors(content.get("outputs"), "outputs")
    outputs = [_output(item, default, form) for item in wanted]
    outputs = outputs or [*_default_outputs(form, default)]
    names = {output.name for output in outputs}
    if len(names) != len(outputs):
        raise BadRequest("an output is asked for twice")
    if explain and EXPLANATION not in names:
        outputs.append(WantedOutput(EXPLANATION, default))
    return tuple(outputs)


def _output(item: dict[str, Any], default: bool, form: Form) -> WantedOutput:
    name = item["name"]
    if name not in (*form.outputs, EXPLANATION):
        known = ", ".join((*form.outputs, EXPLANATION))
        raise BadRequest(f"no output '{name:.80}'; there are: {known}")
    own = _own_parameters(item)
    top = own.get("classification", 0)
    if type(top) is not int or top < 0 or (top and name != PROBABILITIES):
        raise BadRequest(
            f"'classification' must be a number of classes, for output '{PROBABILITIES}'"
            if PROBABILITIES in form.outputs
            else "'classification' is of models that label images; this one finds objects"
        )
    return WantedOutput(name, _flag(own, "binary_data", default), top)


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise BadRequest(f"parameter '{name}' must be true or false")
    return value
