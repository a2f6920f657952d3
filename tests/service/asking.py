"""Asking `POST /v1/classify`, and what every refusal has in common."""

from __future__ import annotations

import httpx

from tests.service.scripted import jpeg

CLASSIFY = "/v1/classify"


async def classify(client: httpx.AsyncClient, body: bytes = b"", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(CLASSIFY, content=body or jpeg(), headers=named)


async def assert_unharmed(client: httpx.AsyncClient) -> None:
    answer = await classify(client, jpeg("blue"))
    assert answer.status_code == 200
    assert answer.json()["labels"][0]["label"] == "blue"


async def assert_refused(client: httpx.AsyncClient, answer: httpx.Response, status: int) -> str:
    """Refused with that status, an id, and a reason, which is returned; and the server lives on."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"error"}
    assert answer.headers["x-request-id"]
    await assert_unharmed(client)
    return str(body["error"])
