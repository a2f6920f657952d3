"""Requests as the routes read them, and answers as both protocols write them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from engines.errors import InvalidInput
from service.load.client import Client, LoadError, Response, Server
from service.load.pictures import PictureFile, read_pictures
from service.load.session import read_key
from service.load.target import (
    Answer,
    Ask,
    Served,
    file_calls,
    find_model,
    get,
    parse_header,
    read_answer,
    tensor_calls,
)
from service.schemas.oip import OBJECT_OUTPUTS, Form, parse_infer
from tests.service.load.socket_server import Asked, answer, listening
from tests.service.scripted import SIZE, jpeg

SERVER = Server("localhost", 8000, "/images")
COLOURS = Served("colours", SIZE, ("full",), {"full": 0.9})
PICTURE = PictureFile("a.jpg", "image/jpeg", jpeg("blue"))
MODELS = {
    "models": [
        {
            "name": "colours",
            "points": [
                {"name": "full", "image_size": 32, "accuracy": {"value": 0.9}},
                {"name": "small", "image_size": 24, "accuracy": None},
            ],
        }
    ]
}


def response(content: object, **headers: bytes) -> Response:
    named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return Response(200, named, orjson.dumps(content), 0.0, 0.0)


def lines_of(head: bytes) -> list[str]:
    return head.decode().split("\r\n")


def test_a_file_is_posted_as_it_is_with_what_was_asked() -> None:
    ask = Ask("gold", "small", 0.8, "reject", (("authorization", "Bearer k"),))
    (call,) = file_calls(SERVER, COLOURS, [PICTURE], ask)
    head, body = call.parts(0.0255)
    first, *headers = lines_of(head)
    assert first == "POST /images/v1/classify?model=colours&top=1 HTTP/1.1"
    assert set(headers) == {
        "host: localhost:8000",
        "content-type: image/jpeg",
        f"content-length: {len(PICTURE.data)}",
        "x-slo-class: gold",
        "x-operating-point: small",
        "x-min-accuracy: 0.8",
        "x-on-infeasible: reject",
        "authorization: Bearer k",
        "x-slo-ms: 25.5",
        "",
    }
    assert (call.route, body) == ("/v1/classify", PICTURE.data)


def test_without_wishes_the_server_decides() -> None:
    (call,) = file_calls(SERVER, COLOURS, [PICTURE], Ask())
    head, _ = call.parts(None)
    assert not [line for line in lines_of(head) if line.startswith("x-")]


def test_a_tensor_is_what_the_open_inference_protocol_takes() -> None:
    (call,) = tensor_calls(SERVER, COLOURS, [PICTURE], Ask())
    length = next(line for line in lines_of(call.head) if line.startswith("inference-header"))
    parsed = parse_infer(call.body, length.partition(": ")[2], Form(SIZE, 4))
    (image,) = parsed.images
    assert isinstance(image, np.ndarray)
    assert image.shape == (SIZE, SIZE, 3)
    assert image.mean(axis=(0, 1)).argmax() == 2
    assert [output.name for output in parsed.outputs] == ["label"]


@pytest.mark.parametrize(("task", "route"), [("detection", "detect"), ("segmentation", "segment")])
def test_pictures_go_where_their_model_finds_objects(task: str, route: str) -> None:
    things = replace(COLOURS, name="things", task=task)
    (call,) = file_calls(SERVER, things, [PICTURE], Ask())
    assert lines_of(call.head)[0] == f"POST /images/v1/{route}?model=things HTTP/1.1"
    assert call.route == f"/v1/{route}"
    (tensor,) = tensor_calls(SERVER, things, [PICTURE], Ask())
    length = next(line for line in lines_of(tensor.head) if line.startswith("inference-header"))
    form = Form(SIZE, 4, OBJECT_OUTPUTS)
    parsed = parse_infer(tensor.body, length.partition(": ")[2], form)
    assert [output.name for output in parsed.outputs] == ["counts"]
    with pytest.raises(LoadError, match="task 'captions', which is not known"):
        file_calls(SERVER, replace(COLOURS, task="captions"), [PICTURE], Ask())


@pytest.mark.parametrize("text", ["x", "x: a\r\ny: b", ": b", "x: \N{SNOWMAN}"])
def test_what_is_no_header_is_refused(text: str) -> None:
    with pytest.raises(LoadError, match="write it as name:value"):
        parse_header(text)
    assert parse_header("X-Api-Key: k:1") == ("x-api-key", "k:1")


def test_answers_of_our_own_routes() -> None:
    said = {
        "point": "small",
        "accuracy": None,
        "objective": {"slo_ms": 40.0, "slo_class": "custom"},
        "outcome": "late",
    }
    assert read_answer(response(said)) == Answer("small", None, 0.04, "late")


def test_answers_of_the_open_inference_protocol() -> None:
    said = {"parameters": {"operating_point": "full", "accuracy": 0.9, "slo_ms": 40.0}}
    assert read_answer(response(said)) == Answer("full", 0.9, 0.04, None)
    json = orjson.dumps(said)
    binary = Response(
        200, {b"inference-header-content-length": str(len(json)).encode()}, json + b"\0", 0.0, 0.0
    )
    assert read_answer(binary) == Answer("full", 0.9, 0.04, None)


@pytest.mark.parametrize("content", [[], "x", {}, {"parameters": 3}])
def test_answers_of_others_say_nothing(content: object) -> None:
    assert read_answer(response(content)) == Answer()


@pytest.mark.anyio
async def test_the_only_model_is_found_with_its_points() -> None:
    async def models(asked: Asked) -> bytes:
        return answer(MODELS)

    async with listening(models) as told, Client(told.server) as client:
        found = await find_model(client, Ask(headers=(("x-api-key", "k"),)))
        assert found == Served(
            "colours", 32, ("full", "small"), {"full": 0.9}, {"full": 32, "small": 24}
        )
        assert told.asked[0].headers["x-api-key"] == "k"
        with pytest.raises(LoadError, match="no model 'x'; there are: colours"):
            await find_model(client, Ask(), "x")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "content", "reason"),
    [
        (404, {"error": "Not Found"}, "is no server of ours: GET /v1/models answered 404"),
        (200, {"models": "many"}, "is no server of ours"),
        (401, {"error": "key"}, "wants an API key: --key-file FILE"),
        (200, {"models": [*MODELS["models"], {"name": "b"}]}, "name a model with --model"),
    ],
)
async def test_other_servers_are_told_from_ours(status: int, content: object, reason: str) -> None:
    async def other(asked: Asked) -> bytes:
        return answer(content, status)

    async with listening(other) as told, Client(told.server) as client:
        with pytest.raises(LoadError, match=reason):
            await find_model(client, Ask())


def test_a_get_has_no_body() -> None:
    assert (
        get(SERVER, "/metrics") == b"GET /images/metrics HTTP/1.1\r\nhost: localhost:8000\r\n\r\n"
    )


def test_folders_are_searched_at_any_depth_and_thinned_evenly(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/2.JPEG", "b/3.png", "4.webp", "notes.txt", ".hidden/5.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    found = read_pictures([tmp_path])
    assert [(one.name, one.content_type) for one in found] == [
        ("4.webp", "image/webp"),
        ("1.jpg", "image/jpeg"),
        ("2.JPEG", "image/jpeg"),
        ("3.png", "image/png"),
    ]
    assert [one.name for one in read_pictures([tmp_path], most=2)] == ["4.webp", "2.JPEG"]


def test_without_files_the_package_s_samples_are_sent() -> None:
    assert {one.name for one in read_pictures([])} >= {"hat.jpg", "dress.jpg"}


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InvalidInput, match="no pictures"):
        read_pictures([tmp_path])
    with pytest.raises(InvalidInput, match="is not a"):
        read_pictures([tmp_path / "notes.txt"])
    with pytest.raises(InvalidInput, match="no such file or folder"):
        read_pictures([tmp_path / "gone"])


def test_a_key_file_holds_one_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("secret\n", "utf-8")
    assert read_key(path) == "secret"
    path.write_text("two keys\n", "utf-8")
    with pytest.raises(InvalidInput, match="one API key and nothing else"):
        read_key(path)
