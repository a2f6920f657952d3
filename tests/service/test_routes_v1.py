"""`POST /v1/classify` and `GET /v1/models`: answers, pinning, ids, and every kind of bad input."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator

import pytest

from tests.service.asking import CLASSIFY, assert_refused, assert_unharmed, classify
from tests.service.conftest import Running, Serving
from tests.service.scripted import HASH, LABELS, SECONDS, encoded, jpeg, model

pytestmark = pytest.mark.anyio

HUGE_PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII5x", 13, b"IHDR", 20_000, 20_000)


async def test_answer_has_labels_and_how_they_came_about(running: Running) -> None:
    answer = await classify(running.client, jpeg("green"), x_request_id="mine")
    assert answer.status_code == 200
    body = answer.json()
    labels = body.pop("labels")
    phases, measured = body.pop("milliseconds"), body.pop("measured")
    predicted, slack_ms = body.pop("predicted"), body.pop("slack_ms")
    assert labels[0]["label"] == "green"
    assert labels[0]["probability"] == pytest.approx(201 / 243, abs=0.01)
    assert body == {
        "model": "colours",
        "point": "full",
        "reason": "best",
        "accuracy": 0.9,
        "looked_again": None,
        "outcome": "met",
        "objective": {
            "slo_ms": 60_000.0,
            "slo_class": "default",
            "min_accuracy": None,
            "operating_point": None,
            "on_infeasible": "degrade",
        },
        "bundle": HASH,
        "engine": "scripted",
        "precision": "fp32",
        "request_id": "mine",
    }
    assert list(phases) == ["receive", "decode", "queue", "prepare", "network", "total"]
    assert phases["network"] == 2.0
    assert all(value >= 0 for value in phases.values())
    assert phases["total"] >= phases["receive"] + phases["decode"]
    assert measured.keys() == {"service_ms", "completion_ms"}
    assert measured["completion_ms"] == phases["total"]
    assert slack_ms == pytest.approx(60_000.0 - phases["total"], abs=0.002)
    assert predicted["service_p50_ms"] == pytest.approx(1e3 * SECONDS["full"], rel=0.01)
    assert 0 < predicted["service_p50_ms"] <= predicted["service_p95_ms"]
    assert predicted["service_p50_ms"] < predicted["completion_p50_ms"]
    assert predicted["completion_p50_ms"] <= predicted["completion_p95_ms"]


@pytest.mark.parametrize("colour", LABELS)
async def test_labels_are_sorted_by_probability(running: Running, colour: str) -> None:
    labels = (await classify(running.client, jpeg(colour))).json()["labels"]
    assert labels[0]["label"] == colour
    assert {label["label"] for label in labels} == set(LABELS)
    found = [label["probability"] for label in labels]
    assert found == sorted(found, reverse=True)
    assert sum(found) == pytest.approx(1.0, abs=1e-5)


async def test_equal_probabilities_go_to_the_first_label_as_in_evaluation(running: Running) -> None:
    labels = (await classify(running.client, encoded("PNG", "grey"))).json()["labels"]
    assert [label["label"] for label in labels] == list(LABELS)


@pytest.mark.parametrize(("top", "count"), [(1, 1), (2, 2), (3, 3), (1000, 3)])
async def test_top_is_how_many_labels_are_answered(running: Running, top: int, count: int) -> None:
    answer = await running.client.post(CLASSIFY, params={"top": top}, content=jpeg())
    assert len(answer.json()["labels"]) == count


@pytest.mark.parametrize("top", ["0", "-1", "1001", "many", "1.5"])
async def test_impossible_top_is_refused(running: Running, top: str) -> None:
    answer = await running.client.post(CLASSIFY, params={"top": top}, content=jpeg())
    assert "query.top" in await assert_refused(running.client, answer, 422)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
async def test_png_and_webp_are_taken(running: Running, file_format: str) -> None:
    answer = await classify(running.client, encoded(file_format, "blue"))
    assert answer.json()["labels"][0]["label"] == "blue"


@pytest.mark.parametrize(
    "content_type",
    [
        "image/jpeg",
        "IMAGE/JPEG",
        "image/png",
        "image/webp",
        "application/octet-stream",
        "image/jpeg; charset=binary",
    ],
)
async def test_the_bytes_decide_the_format_not_the_content_type(
    running: Running, content_type: str
) -> None:
    assert (await classify(running.client, content_type=content_type)).status_code == 200


async def test_raw_body_and_multipart_give_the_same_answer(running: Running) -> None:
    raw = await running.client.post(CLASSIFY, content=jpeg("blue"))
    form = await running.client.post(
        CLASSIFY,
        files={"image": ("photo.jpg", jpeg("blue"), "image/jpeg")},
        data={"comment": "any other field"},
    )
    assert raw.status_code == form.status_code == 200
    assert raw.json()["labels"] == form.json()["labels"]


@pytest.mark.parametrize(
    ("point", "accuracy"), [("full", 0.9), ("small", None), ("skip", None)], ids=str
)
async def test_header_pins_a_point(running: Running, point: str, accuracy: float | None) -> None:
    body = (await classify(running.client, x_operating_point=point)).json()
    assert (body["point"], body["reason"], body["accuracy"]) == (point, "pinned", accuracy)
    assert running.engine.batches == [(point,)]


async def test_models_are_listed_with_their_points(serving: Serving) -> None:
    async with serving(model("b"), model("a")) as running:
        listed = (await running.client.get("/v1/models")).json()["models"]
    assert [entry["name"] for entry in listed] == ["b", "a"]
    entry = listed[0]
    assert entry["labels"] == list(LABELS)
    assert entry["task"] == "classification"
    assert entry["ready"] is True
    assert (entry["bundle"], entry["engine"], entry["precision"]) == (HASH, "scripted", "fp32")
    assert [point["name"] for point in entry["points"]] == ["full", "small", "skip"]
    assert [point["image_size"] for point in entry["points"]] == [32, 24, 32]
    assert entry["points"][0]["accuracy"] == {
        "value": 0.9, "low": 0.8, "high": 0.95, "images": 100, "split": "validation",
    }  # fmt: skip
    for point in entry["points"]:
        assert point["service_p50_ms"] == pytest.approx(1e3 * SECONDS[point["name"]], rel=0.01)
        assert point["service_p95_ms"] >= point["service_p50_ms"]
    assert entry["default_class"] == "default"
    assert entry["slo_classes"] == {
        "default": {"slo_ms": 60_000.0, "min_accuracy": None, "on_infeasible": "degrade"}
    }


async def test_without_configuration_the_default_class_follows_from_what_full_takes(
    serving: Serving,
) -> None:
    async with serving(slo_classes={}) as running:
        (entry,) = (await running.client.get("/v1/models")).json()["models"]
        full = entry["points"][0]
        assert entry["default_class"] == "default"
        slo_ms = entry["slo_classes"]["default"]["slo_ms"]
        assert slo_ms == pytest.approx(3 * full["service_p95_ms"], rel=0.01)


async def test_models_can_be_looked_at_before_they_are_ready(serving: Serving) -> None:
    async with serving(start=False) as running:
        assert (await running.client.get("/v1/models")).json() == {"models": []}


async def test_model_chooses_among_several(serving: Serving) -> None:
    first, second = model("first"), model("second")
    async with serving(first, second) as running:
        answer = await running.client.post(f"{CLASSIFY}?model=second", content=jpeg())
        assert answer.json()["model"] == "second"
        assert running.engine.batches == []


async def test_missing_model_is_refused_while_two_are_served(serving: Serving) -> None:
    async with serving(model("b"), model("a")) as running:
        answer = await running.client.post(CLASSIFY, content=jpeg())
        assert answer.status_code == 400
        assert answer.json() == {"error": "name one with ?model=; there are: a, b"}


async def test_unknown_model_is_refused_and_the_known_are_listed(running: Running) -> None:
    answer = await running.client.post(f"{CLASSIFY}?model=zoo:x", content=jpeg())
    message = await assert_refused(running.client, answer, 404)
    assert message == "unknown model 'zoo:x'; there are: colours"


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (jpeg()[:-40], 400, "JPEG image cannot be decoded"),
        (jpeg()[:20], 400, "truncated"),
        (encoded("PNG")[:-40], 400, "PNG image"),
        (encoded("WEBP")[:-20], 400, "WebP image is truncated"),
        (b"hello, this is text", 415, "JPEG, PNG and WebP images are accepted, got text"),
        (b"GIF89a" + bytes(40), 415, "got a GIF image"),
        (bytes(100), 415, "got data that begins with 00"),
        (HUGE_PNG, 413, "20000x20000, the limit is 40,000,000 pixels"),
    ],
    ids=["cut-jpeg", "cut-header", "cut-png", "cut-webp", "text", "gif", "zeros", "huge-png"],
)
async def test_bad_picture_is_refused(
    running: Running, body: bytes, status: int, reason: str
) -> None:
    answer = await classify(running.client, body)
    assert reason in await assert_refused(running.client, answer, status)
    form = await running.client.post(CLASSIFY, files={"image": body})
    assert reason in await assert_refused(running.client, form, status)


async def test_empty_body_is_refused(running: Running) -> None:
    answer = await running.client.post(CLASSIFY)
    assert "the body is empty" in await assert_refused(running.client, answer, 400)
    form = await running.client.post(CLASSIFY, files={"image": b""})
    assert "the image is empty (0 bytes)" in await assert_refused(running.client, form, 400)


async def test_form_without_the_field_is_refused(running: Running) -> None:
    answer = await running.client.post(CLASSIFY, files={"picture": jpeg(), "other": b"x"})
    message = await assert_refused(running.client, answer, 400)
    assert message == "the form must have one field 'image'; its fields: 'picture', 'other'"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/json", "image/gif", "nonsense"]
)
async def test_other_content_type_is_refused(running: Running, content_type: str) -> None:
    answer = await classify(running.client, content_type=content_type)
    message = await assert_refused(running.client, answer, 415)
    assert message.startswith(f"content type '{content_type}' is not accepted; send image/jpeg")


@pytest.mark.parametrize("encoding", ["br", "zstd", "identity, gzip"])
async def test_other_content_encoding_is_refused(running: Running, encoding: str) -> None:
    answer = await classify(running.client, content_encoding=encoding)
    message = await assert_refused(running.client, answer, 415)
    assert message.startswith(f"content-encoding '{encoding}' is not accepted")


async def test_unknown_point_is_refused_and_the_known_are_listed(running: Running) -> None:
    answer = await classify(running.client, x_operating_point="tiny")
    message = await assert_refused(running.client, answer, 400)
    assert message == "unknown operating point 'tiny'; there are: small, skip, full"


@pytest.mark.parametrize("name", ["x-operating-point", "content-type", "content-encoding"])
async def test_header_that_is_no_text_is_refused(running: Running, name: str) -> None:
    answer = await running.client.post(
        CLASSIFY, content=jpeg(), headers=[(name.encode(), b"\xff\xfe\x80")]
    )
    await assert_refused(running.client, answer, 400 if name == "x-operating-point" else 415)


async def test_request_id_that_is_no_text_is_replaced(running: Running) -> None:
    for given in (b"\xff\xfe", b"", b"two words", b"x" * 129):
        answer = await running.client.post(
            CLASSIFY, content=jpeg(), headers=[(b"x-request-id", given)]
        )
        assert answer.status_code == 200
        assert len(answer.headers["x-request-id"]) == 32
        assert answer.headers["x-request-id"] == answer.json()["request_id"]


async def test_request_id_is_echoed_on_success_and_on_errors(running: Running) -> None:
    for path, status in ((CLASSIFY, 200), (f"{CLASSIFY}?model=x", 404), ("/nowhere", 404)):
        answer = await running.client.post(path, content=jpeg(), headers={"x-request-id": "a-1"})
        assert answer.status_code == status
        assert answer.headers.get_list("x-request-id") == ["a-1"]


async def test_every_request_gets_an_id_of_its_own(running: Running) -> None:
    answers = [await running.client.get(path) for path in ("/v1/models", "/v1/models", "/nowhere")]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3


async def test_body_at_the_limit_passes_and_one_byte_more_is_refused(serving: Serving) -> None:
    limit = len(jpeg())
    async with serving(max_body_bytes=limit) as running:
        assert (await classify(running.client)).status_code == 200
        answer = await running.client.post(CLASSIFY, content=jpeg() + b"\0")
        assert answer.status_code == 413
        assert answer.json() == {"error": f"the body has {limit + 1} bytes, the limit is {limit:,}"}


async def test_an_announced_body_is_refused_before_it_is_read(serving: Serving) -> None:
    was_read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal was_read
        was_read = True
        yield b""

    async with serving(max_body_bytes=5000) as running:
        for announced in ("5001", "9" * 17, "9" * 40):
            answer = await running.client.post(
                CLASSIFY, content=body(), headers={"content-length": announced}
            )
            assert answer.status_code == 413
            assert "the limit is 5,000" in answer.json()["error"]
        await assert_unharmed(running.client)
    assert not was_read


@pytest.mark.parametrize("headers", [{}, {"content-length": "10"}], ids=["chunked", "lied-about"])
async def test_an_unannounced_body_is_refused_once_it_passes_the_limit(
    serving: Serving, headers: dict[str, str]
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 10**9:
            sent += 1000
            yield bytes(1000)

    async with serving(max_body_bytes=5000) as running:
        answer = await running.client.post(CLASSIFY, content=endless(), headers=headers)
        message = await assert_refused(running.client, answer, 413)
        assert message == "the body has more than 5,000 bytes, which is the limit"
    assert sent <= 7000


async def test_chunks_are_one_picture(running: Running) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for byte in jpeg("blue"):
            yield bytes((byte,))

    answer = await running.client.post(CLASSIFY, content=chunks())
    assert answer.json()["labels"][0]["label"] == "blue"


async def test_the_interface_is_described(running: Running) -> None:
    described = (await running.client.get("/openapi.json")).json()
    operation = described["paths"][CLASSIFY]["post"]
    assert {"image/jpeg", "multipart/form-data"} <= operation["requestBody"]["content"].keys()
    asked = {parameter["name"]: parameter for parameter in operation["parameters"]}
    assert asked.keys() == {
        "model", "top", "explain",
        "x-slo-ms", "x-slo-class", "x-min-accuracy", "x-on-infeasible", "x-operating-point",
    }  # fmt: skip
    assert all(parameter["description"] for parameter in asked.values())
    assert operation["responses"].keys() == {
        "200", "400", "401", "404", "408", "413", "415", "422", "429", "500", "503", "504",
    }  # fmt: skip
    for status, answer in operation["responses"].items():
        schema = answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert schema == ("Classification" if status == "200" else "Fault")
        assert ("Retry-After" in answer.get("headers", {})) == (status in ("429", "503"))
    assert described["components"]["schemas"]["Fault"]["properties"].keys() == {"error"}
    assert (await running.client.get("/docs")).status_code == 200
