"""The Open Inference Protocol over HTTP: metadata, inference in all its forms, refusals."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.service.conftest import Running, Serving
from tests.service.oip_requests import (
    INFER,
    LENGTH,
    MODEL,
    assert_refused,
    binary_request,
    image_input,
    infer,
    output,
)
from tests.service.scripted import SIZE, encoded, jpeg, model, pixels

pytestmark = pytest.mark.anyio


async def test_the_server_describes_itself(running: Running) -> None:
    body = (await running.client.get("/v2")).json()
    assert body.keys() == {"name", "version", "extensions"}
    assert "binary_tensor_data" in body["extensions"]
    assert (await running.client.get("/v2/health/live")).json() == {"live": True}
    assert (await running.client.get("/v2/health/ready")).json() == {"ready": True}


@pytest.mark.parametrize("version", ["", "/versions/1"])
async def test_a_model_describes_itself(running: Running, version: str) -> None:
    body = (await running.client.get(MODEL + version)).json()
    assert (body["name"], body["versions"]) == ("colours", ["1"])
    # Load generators send every input that is named, so only the one they can make up is.
    assert body["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]}]
    assert body["outputs"] == [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
        {"name": "point", "datatype": "BYTES", "shape": [-1]},
    ]
    ready = (await running.client.get(f"{MODEL}{version}/ready")).json()
    assert ready == {"name": "colours", "ready": True}


@pytest.mark.parametrize("version", ["", "/versions/1"])
async def test_a_model_tells_its_configuration(running: Running, version: str) -> None:
    config = (await running.client.get(f"{MODEL}{version}/config")).json()
    assert (config["name"], config["max_batch_size"]) == ("colours", 32)
    metadata = (await running.client.get(MODEL)).json()
    for kind in ("input", "output"):
        names = [tensor["name"] for tensor in metadata[f"{kind}s"]]
        assert [tensor["name"] for tensor in config[kind]] == names
    told = {name: entry["string_value"] for name, entry in config["parameters"].items()}
    assert "'image_bytes' BYTES [-1] (JPEG, PNG or WebP files)" in told["inputs"]
    assert told["operating_points"] == "full, small, skip"


@pytest.mark.parametrize("version", ["", "/versions/1"])
async def test_images_as_pixels_in_json(running: Running, version: str) -> None:
    content = orjson.dumps({"id": "mine", "inputs": [image_input("green", "blue")]})
    answer = await running.client.post(f"{MODEL}{version}/infer", content=content)
    assert answer.headers["content-type"] == "application/json"
    assert LENGTH not in answer.headers
    assert output(answer, "label") == ["green", "blue"]
    assert np.array(output(answer, "probabilities")).reshape(2, 3).argmax(axis=1).tolist() == [1, 2]
    body = answer.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("colours", "1", "mine")
    assert output(answer, "point") == ["full", "full"]


async def test_much_json_is_parsed_beside_the_event_loop(running: Running) -> None:
    colours = ("red", "green", "blue") * 3
    answer = await infer(running.client, image_input(*colours), padding="x" * 70_000)
    assert output(answer, "label") == list(colours)
    wrong = await infer(running.client, image_input("red", data=[0]), padding="x" * 70_000)
    assert "must be 3072 whole numbers" in await assert_refused(running, wrong, 400)
    assert running.service.memory.used == 0


async def test_every_image_is_an_entry_of_the_queue(running: Running) -> None:
    await infer(running.client, image_input("red", "green", "blue"))
    assert sorted(len(batch) for batch in running.engine.batches) in ([1, 2], [1, 1, 1])


async def test_files_behind_the_json_and_binary_answers(running: Running) -> None:
    content, headers = binary_request(
        jpeg("red"), encoded("PNG", "green"), parameters={"binary_data_output": True}
    )
    answer = await running.client.post(INFER, content=content, headers=headers)
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers[LENGTH])
    first, second, third = orjson.loads(answer.content[:length])["outputs"]
    assert (first["name"], first["shape"]) == ("probabilities", [2, 3])
    size = first["parameters"]["binary_data_size"]
    found = np.frombuffer(answer.content[length : length + size], "<f4").reshape(2, 3)
    assert found.argmax(axis=1).tolist() == [0, 1]
    assert (second["name"], third["name"]) == ("label", "point")
    labels, points = b"\3\0\0\0red\5\0\0\0green", b"\4\0\0\0full\4\0\0\0full"
    assert answer.content[length + size :] == labels + points


async def test_pixels_and_their_file_give_the_same_answer(running: Running) -> None:
    content, headers = binary_request(encoded("PNG", "blue"))
    file = await running.client.post(INFER, content=content, headers=headers)
    assert output(file, "probabilities") == output(
        await infer(running.client, image_input("blue")), "probabilities"
    )


@pytest.mark.parametrize("body", [jpeg("green"), pixels("green").tobytes()], ids=["file", "pixels"])
async def test_a_body_without_json(running: Running, body: bytes) -> None:
    answer = await running.client.post(INFER, content=body, headers={LENGTH: "0"})
    assert answer.status_code == 200
    assert answer.content.endswith(b"\5\0\0\0green" + b"\4\0\0\0full")


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/x-www-form-urlencoded", "text/x"]
)
async def test_the_content_type_does_not_matter(running: Running, content_type: str) -> None:
    """The C++ client posts JSON as a form."""
    content = orjson.dumps({"inputs": [image_input("red")]})
    answer = await running.client.post(
        INFER, content=content, headers={"content-type": content_type}
    )
    assert output(answer, "label") == ["red"]


async def test_classification_gives_the_best_as_text(running: Running) -> None:
    wanted = {"name": "probabilities", "parameters": {"classification": 2}}
    answer = await infer(running.client, image_input("blue"), outputs=[wanted])
    first, second = output(answer, "probabilities")
    assert first.endswith(":2:blue")
    assert second.endswith(":0:red")
    assert float(first.split(":")[0]) == pytest.approx(201 / 243, abs=1e-5)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/v2/models/other", "unknown model 'other'; there are: colours"),
        ("/v2/models/other/ready", "unknown model 'other'; there are: colours"),
        ("/v2/models/other/config", "unknown model 'other'; there are: colours"),
        (f"{MODEL}/versions/2", "'colours' has version 1 only, got '2'"),
        (f"{MODEL}/versions/latest/ready", "'colours' has version 1 only, got 'latest'"),
    ],
)
async def test_unknown_models_and_versions(running: Running, path: str, reason: str) -> None:
    assert await assert_refused(running, await running.client.get(path), 404) == reason


async def test_infer_of_an_unknown_model(serving: Serving) -> None:
    async with serving(model("colours"), model("b")) as running:
        answer = await running.client.post("/v2/models/x/infer", content=b"{}")
        reason = await assert_refused(running, answer, 404)
        assert reason == "unknown model 'x'; there are: b, colours"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"datatype": "FP32"}, "send 'image' UINT8 [-1, 32, 32, 3] (RGB pixels) or 'image_bytes'"),
        ({"shape": [1, 3, SIZE, SIZE]}, "has shape [1, 3, 32, 32]: send"),
        ({"shape": [1, 2**62, 2**62, 3]}, "'shape' must list sizes"),
        ({"shape": [33, SIZE, SIZE, 3]}, "33 images in one request, the limit is 32"),
        ({"name": "input"}, "one input is taken, got 'input'"),
        ({"data": [0]}, "must be 3072 whole numbers"),
    ],
)
async def test_wrong_tensors(running: Running, changes: dict[str, Any], reason: str) -> None:
    answer = await infer(running.client, image_input("red", **changes))
    assert reason in await assert_refused(running, answer, 400)


@pytest.mark.parametrize("missing", ["name", "datatype", "shape", "data"])
async def test_a_missing_field(running: Running, missing: str) -> None:
    entry = image_input("red")
    del entry[missing]
    answer = await infer(running.client, entry)
    assert missing in await assert_refused(running, answer, 400)


@pytest.mark.parametrize(
    ("file", "status", "reason"),
    [
        (jpeg()[:-40], 400, "cannot be decoded"),
        (b"", 400, "the image is empty (0 bytes)"),
        (b"some text", 415, "got text"),
    ],
)
async def test_one_bad_file_among_good_ones(
    running: Running, file: bytes, status: int, reason: str
) -> None:
    content, headers = binary_request(jpeg(), file)
    answer = await running.client.post(INFER, content=content, headers=headers)
    assert reason in await assert_refused(running, answer, status)
    assert await running.metric("laud_images_in_flight") == 0


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
async def test_compressed_bodies(
    running: Running, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    """The length header is that of the JSON as it was, as tritonclient sends it."""
    content, headers = binary_request(jpeg("green"))
    headers["content-encoding"] = encoding
    answer = await running.client.post(INFER, content=compress(content), headers=headers)
    assert output(answer, "label") == ["green"]


async def test_bodies_that_are_too_large_or_compressed_otherwise(serving: Serving) -> None:
    async with serving(max_body_bytes=50_000) as running:
        large = await running.client.post(INFER, content=bytes(50_001))
        assert "the limit is 50,000" in await assert_refused(running, large, 413)
        headers = {"content-encoding": "gzip"}
        bomb = await running.client.post(
            INFER, content=gzip.compress(bytes(10**6)), headers=headers
        )
        assert "inflates to more than" in await assert_refused(running, bomb, 413)
        headers = {"content-encoding": "br"}
        other = await running.client.post(INFER, content=b"x", headers=headers)
        assert "content-encoding 'br' is not accepted" in await assert_refused(running, other, 415)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("POST", "/v2/models/colours/nothing", 404),
        ("GET", "/v2/tpusharedmemory/status", 404),
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
    ],
)
async def test_paths_and_methods_that_there_are_not(
    running: Running, method: str, path: str, status: int
) -> None:
    """A body other than `error` ends the C++ client."""
    assert await assert_refused(running, await running.client.request(method, path), status)


async def test_the_description_says_what_infer_takes(running: Running) -> None:
    paths = (await running.client.get("/openapi.json")).json()["paths"]
    described = paths["/v2/models/{name}/infer"]["post"]
    assert set(described["requestBody"]["content"]) == {
        "application/json",
        "application/octet-stream",
    }
    names = {parameter["name"] for parameter in described["parameters"]}
    assert {"name", "x-slo-ms", "x-operating-point"} <= names
    assert "model_version" not in names
    assert {"400", "404", "429", "503", "504"} <= set(described["responses"])


async def test_nothing_is_answered_before_the_start(serving: Serving) -> None:
    async with serving(start=False) as running:
        for path in ("/v2/health/ready", MODEL, f"{MODEL}/ready"):
            answer = await running.client.get(path)
            assert answer.status_code in (404, 503)
            assert answer.json().keys() == {"error"}
        assert (await running.client.get("/v2/health/live")).status_code == 200


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "99999999", "9" * 5000])
async def test_nonsense_in_the_length_header(running: Running, length: str) -> None:
    answer = await running.client.post(INFER, content=b"{}", headers={LENGTH: length})
    reason = await assert_refused(running, answer, 400)
    assert LENGTH in reason
    assert len(reason) < 200


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.binary(max_size=300), st.none() | st.integers(-1, 400).map(str))
@example(b"", None)
@example(b"", "0")
@example(b"{}", "2")
@example(pixels().tobytes()[:-1], "0")
async def test_any_bytes_are_answered(running: Running, body: bytes, length: str | None) -> None:
    headers = {} if length is None else {LENGTH: length}
    answer = await running.client.post(INFER, content=body, headers=headers)
    assert answer.status_code == 200 or 400 <= answer.status_code < 500
    if answer.status_code != 200:
        assert answer.json().keys() == {"error"}
