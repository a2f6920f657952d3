"""`POST /v1/detect` and `/v1/segment`: what is asked, what is answered, and bad input."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence

import httpx
import numpy as np
import pytest
from PIL import Image

from engines.core import OperatingPoint, Output, UInt8Array
from engines.errors import EngineError
from tests.service.conftest import Serving
from tests.service.detectors import BoxEngine, BrightEngine, detector, encoded, scene
from tests.service.scripted import jpeg, model

pytestmark = pytest.mark.anyio

DETECT, SEGMENT = "/v1/detect", "/v1/segment"


class BrokenEngine(BrightEngine):
    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        output = super().infer(images, points)
        return Output({"counts": output.arrays["counts"]}, output.activation, output.macs, {})


@pytest.fixture
async def client(serving: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(detector(BrightEngine())) as running:
        yield running.client


async def test_the_answer_says_how_it_came_about(client: httpx.AsyncClient) -> None:
    answer = await client.post(DETECT, content=encoded(scene(256, 256)))
    assert answer.status_code == 200
    assert "point" in answer.headers["server-timing"]
    body = answer.json()
    (found,) = body.pop("objects")
    assert found.keys() == {"label", "score", "box"}
    assert (found["label"], found["score"]) == ("thing", 0.9)
    assert body["outcome"] == "met"
    assert (body["model"], body["point"], body["reason"]) == ("things", "full", "best")
    assert {"slack_ms", "objective", "predicted", "measured", "milliseconds"} <= body.keys()


async def test_what_is_asked_holds(client: httpx.AsyncClient) -> None:
    picture = encoded(scene(256, 256))
    both = (await client.post(f"{DETECT}?min_score=0.1", content=picture)).json()
    assert [found["score"] for found in both["objects"]] == [0.9, 0.3]
    one = (await client.post(f"{DETECT}?min_score=0.1&top=1", content=picture)).json()
    assert len(one["objects"]) == 1
    none = (await client.post(f"{DETECT}?min_score=0.95", content=picture)).json()
    assert none["objects"] == []
    pinned = await client.post(DETECT, content=picture, headers={"x-operating-point": "small"})
    assert (pinned.json()["point"], pinned.json()["reason"]) == ("small", "pinned")
    assert np.allclose(pinned.json()["objects"][0]["box"], [32, 32, 128, 64], atol=1.5)


async def test_masks_are_polygons_where_asked_for(client: httpx.AsyncClient) -> None:
    body = encoded(scene(512, 384))
    by_default = (await client.post(SEGMENT, content=body)).json()
    runs = (await client.post(f"{SEGMENT}?masks=rle", content=body)).json()
    outlines = (await client.post(f"{SEGMENT}?masks=polygon", content=body)).json()
    assert by_default["objects"] == runs["objects"]
    (found,) = outlines["objects"]
    assert found["mask"] == [[64, 48, 256, 48, 256, 96, 64, 96]]
    assert found["area"] == runs["objects"][0]["area"] == 192 * 48
    boxes = (await client.post(f"{DETECT}?masks=polygon", content=body)).json()
    assert "mask" not in boxes["objects"][0]


@pytest.mark.parametrize("route", [DETECT, SEGMENT])
async def test_an_explanation_tells_the_work_by_part(client: httpx.AsyncClient, route: str) -> None:
    answer = await client.post(f"{route}?explain=1&top=1", content=encoded(scene(640, 480)))
    told = answer.json()["explain"]
    assert told["skips_nothing"] is True
    assert told["picture"] == [512, 384]
    assert told["padding_ratio"] == 0.25
    assert told["objects"] == 2, "all that was found, not all that is answered"
    parts = [told["macs"][part] for part in ("backbone", "pyramid", "heads", "masks")]
    assert sum(parts) == told["macs"]["total"]
    assert [level["stride"] for level in told["levels"]] == [4, 8, 16, 32]
    assert "explain" not in (await client.post(route, content=jpeg())).json()


@pytest.mark.parametrize("route", [DETECT, SEGMENT])
async def test_the_result_is_drawn(client: httpx.AsyncClient, route: str) -> None:
    answer = await client.post(f"{route}?overlay=1", content=encoded(scene(320, 256)))
    assert answer.headers["content-type"] == "image/jpeg"
    assert "server-timing" in answer.headers
    shown = Image.open(io.BytesIO(answer.content))
    assert shown.size == (320, 256)
    before = np.asarray(scene(320, 256)).astype(int)
    changed = np.abs(np.asarray(shown).astype(int) - before).max(axis=2) > 50
    rows, columns = changed.nonzero()
    edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(edges - [40, 32, 160, 64]).max() <= 4


async def test_a_large_picture_is_drawn_smaller(client: httpx.AsyncClient) -> None:
    body = encoded(scene(2600, 300))
    answer = await client.post(f"{DETECT}?overlay=1", content=body)
    assert Image.open(io.BytesIO(answer.content)).size == (2048, 236)


@pytest.mark.parametrize(
    ("body", "query", "status", "says"),
    [
        (b"", "", 400, "the body is empty"),
        (b"hello, this is text", "", 415, "got text"),
        (encoded(scene(64, 64))[:-40], "", 400, "PNG image"),
        (encoded(scene(64, 64))[:-40], "overlay=1", 400, "PNG image"),
        (jpeg(), "min_score=2", 422, "query.min_score"),
        (jpeg(), "top=501", 422, "query.top"),
        (jpeg(), "masks=bitmap", 422, "query.masks: Input should be 'rle' or 'polygon'"),
        (jpeg(), "model=other", 404, "there are: things"),
    ],
)
async def test_bad_requests_are_refused(
    client: httpx.AsyncClient, body: bytes, query: str, status: int, says: str
) -> None:
    answer = await client.post(f"{SEGMENT}?{query}", content=body)
    assert answer.status_code == status
    assert says in answer.json()["error"]
    assert (await client.post(DETECT, content=jpeg())).status_code == 200


async def test_each_task_has_its_routes(serving: Serving) -> None:
    detectors = detector(BrightEngine()), detector(BoxEngine(), "boxes")
    async with serving(model(), *detectors) as running:
        ask = running.client.post
        for url, wanted in {
            f"{DETECT}?model=colours": "POST /v1/classify",
            f"{SEGMENT}?model=boxes": "POST /v1/detect",
            "/v1/classify?model=things": "POST /v1/segment or /v1/detect",
        }.items():
            answer = await ask(url, content=jpeg())
            assert answer.status_code == 400, url
            assert answer.json()["error"].endswith(wanted)
        boxes = (await ask(f"{DETECT}?model=boxes", content=encoded(scene(256, 256)))).json()
        assert len(boxes["objects"]) == 1
        tasks = [m["task"] for m in (await running.client.get("/v1/models")).json()["models"]]
        assert tasks == ["classification", "segmentation", "detection"]


async def test_requests_count_as_inferences(serving: Serving) -> None:
    async with serving(detector(BrightEngine())) as running:
        await running.client.post(SEGMENT, content=jpeg())
        labels = {"model": "things", "point": "full", "reason": "best"}
        assert await running.metric("laud_operating_point_total", **labels) == 1


async def test_an_engine_that_finds_nothing_of_the_kind_is_notdetector(serving: Serving) -> None:
    with pytest.raises(EngineError, match="the answer has no boxes, labels, masks, scores"):
        async with serving(detector(BrokenEngine())):
            pass


async def test_the_routes_are_described(client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()
    for route in (DETECT, SEGMENT):
        operation = described["paths"][route]["post"]
        asked = {parameter["name"] for parameter in operation["parameters"]}
        assert {"model", "min_score", "top", "overlay", "explain", "x-slo-ms"} <= asked
        assert ("masks" in asked) == (route == SEGMENT)
        assert {"application/json", "image/jpeg"} == operation["responses"]["200"]["content"].keys()
