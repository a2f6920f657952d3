"""Every error becomes `{"error": "..."}`, and nothing that was not meant for clients gets out."""

from __future__ import annotations

import orjson
import pytest

from engines.errors import (
    BundleError,
    EngineError,
    ImageError,
    ImageTooLarge,
    InvalidInput,
    UnsupportedImage,
)
from service import errors
from service.errors import (
    BadRequest,
    BodyTooLarge,
    ClientGone,
    NotReady,
    QueueFull,
    ServiceError,
    UnknownModel,
    UnsupportedMedia,
    error_response,
)
from service.request import Exchange
from tests.service.conftest import Running
from tests.service.scripted import jpeg

SAID = "what was wrong"


@pytest.mark.parametrize(
    ("error", "status", "outcome"),
    [
        (BadRequest(SAID), 400, "invalid"),
        (UnknownModel(SAID), 404, "not_found"),
        (BodyTooLarge(SAID), 413, "too_large"),
        (UnsupportedMedia(SAID), 415, "unsupported"),
        (QueueFull(SAID), 429, "rejected_queue"),
        (ClientGone(SAID), 499, "cancelled"),
        (NotReady(SAID), 503, "not_ready"),
        (InvalidInput(SAID), 400, "invalid"),
        (ImageError(SAID), 400, "invalid"),
        (UnsupportedImage(SAID), 415, "unsupported"),
        (ImageTooLarge(SAID), 413, "too_large"),
    ],
)
def test_errors_meant_for_clients(error: Exception, status: int, outcome: str) -> None:
    exchange = Exchange(id="mine", arrived_s=0.0)
    response = error_response(error, exchange)
    assert response.status_code == status
    assert orjson.loads(response.body) == {"error": SAID}
    assert (exchange.outcome, exchange.error) == (outcome, SAID)


@pytest.mark.parametrize(
    "error", [RuntimeError(SAID), KeyError(SAID), BundleError(SAID), EngineError(SAID)]
)
def test_other_errors_stay_inside(error: Exception) -> None:
    exchange = Exchange(id="mine", arrived_s=0.0)
    response = error_response(error, exchange)
    assert response.status_code == 500
    assert orjson.loads(response.body) == {"error": "internal error (request id mine)"}
    assert exchange.outcome == "error"


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.5, "2")])
def test_retry_after_is_whole_seconds(seconds: float, header: str) -> None:
    error = QueueFull(SAID, retry_after_s=seconds)
    response = error_response(error, Exchange(id="mine", arrived_s=0.0))
    assert response.headers["retry-after"] == header


def test_the_docstring_shows_every_error_with_its_status() -> None:
    classes = [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, ServiceError)
    ]
    lines = (errors.__doc__ or "").splitlines()
    for each in classes:
        (line,) = [line for line in lines if f" {each.__name__} " in line]
        if each.status != 500 and each is not errors.Unavailable:
            assert f" {each.status}" in line


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/v2/models/colours/versions/1/nothing", 404),
        ("GET", "/v1/classify", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/v1/classify?top=x", 422),
    ],
)
async def test_the_framework_answers_like_us(
    running: Running, method: str, path: str, status: int
) -> None:
    answer = await running.client.request(method, path)
    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.anyio
async def test_an_unexpected_error_is_a_500_that_tells_nothing(running: Running) -> None:
    def fault(images: object) -> None:
        raise RuntimeError("a secret")

    running.engine.fault = fault
    answer = await running.client.post(
        "/v1/classify", content=jpeg(), headers={"x-request-id": "mine"}
    )
    assert answer.status_code == 500
    assert answer.json() == {"error": "internal error (request id mine)"}
    assert answer.headers.get_list("x-request-id") == ["mine"]
    running.engine.fault = lambda images: None
    assert (await running.client.post("/v1/classify", content=jpeg())).status_code == 200
