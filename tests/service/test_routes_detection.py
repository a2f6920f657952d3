"""`POST /v1/detect` and `/v1/segment`: objects in the picture's own pixels, and bad input."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from engines.architecture import ResNet, Stage
from engines.bundle import Manifest, PointRecord, Preprocessing, Provenance, WeightsFile
from engines.core import OperatingPoint, Output, UInt8Array, check_batch, static_point
from engines.detection.architecture import Detector
from engines.detection.rle import mask_of_rle
from engines.errors import EngineError
from service.executor import Model
from tests.service.conftest import Serving
from tests.service.scripted import HASH, ScriptedEngine, jpeg, model

pytestmark = pytest.mark.anyio

DETECT, SEGMENT = "/v1/detect", "/v1/segment"
PNG_SIZES = [(256, 256), (320, 256), (360, 360), (696, 520), (603, 1272), (1388, 1040)]


class BrightEngine(ScriptedEngine):
    """Finds the bright pixels of an image as one object, and half as surely its left half."""

    masks = True

    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        check_batch(images, points, 0)
        count = len(images)
        boxes, scores = np.zeros((count, 2, 4), np.float32), np.zeros((count, 2), np.float32)
        counts = np.zeros(count, np.int64)
        for i, image in enumerate(images):
            rows, columns = (image.min(axis=2) > 180).nonzero()
            if len(rows):
                box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                half = (box[0], box[1], (box[0] + box[2]) / 2, box[3])
                boxes[i], scores[i], counts[i] = (box, half), (0.9, 0.3), 2
        arrays: dict[str, Any] = {
            "counts": counts,
            "boxes": boxes[:, : counts.max()],
            "scores": scores[:, : counts.max()],
            "labels": np.zeros((count, counts.max()), np.int64),
        }
        if self.masks:
            arrays["masks"] = np.ones((count, counts.max(), 28, 28), np.float32)
        return Output(
            arrays, np.ones((count, 0), np.float32), np.full(count, 1e6), {"network": 0.1}
        )


class BoxEngine(BrightEngine):
    masks = False


class BrokenEngine(BrightEngine):
    def infer(self, images: UInt8Array, points: Sequence[OperatingPoint]) -> Output:
        output = super().infer(images, points)
        return Output({"counts": output.arrays["counts"]}, output.activation, output.macs, {})


def _served(engine: BrightEngine, name: str = "things") -> Model:
    stages = tuple(Stage(depth=1, width=4) for _ in range(4))
    manifest = Manifest(
        name=name,
        task="segmentation" if engine.masks else "detection",
        labels=("thing",),
        preprocessing=Preprocessing(
            crop_ratio=1.0, channel_order="rgb", mean=(0, 0, 0), std=(1, 1, 1)
        ),
        architecture=ResNet(stem_width=4, stages=stages, num_classes=1, folded=True),
        detector=Detector(width=8, masks=engine.masks),
        points=tuple(
            PointRecord(point=static_point(n, size, 0), activation=(), macs=m, macs_ratio=m / 4e6)
            for n, size, m in (("full", 512, 4e6), ("small", 256, 1e6))
        ),
        weights=WeightsFile(dtype="fp32", sha256=HASH),
        provenance=Provenance(config={}),
        versions={"laudserve": "0"},
    )
    return Model(manifest, HASH, engine)


@pytest.fixture
async def client(serving: Serving) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(_served(BrightEngine())) as running:
        yield running.client


def _picture(width: int, height: int) -> Image.Image:
    """Dark, with a bright rectangle in its upper left quarter."""
    pixels = np.full((height, width, 3), 20, np.uint8)
    pixels[height // 8 : height // 4, width // 8 : width // 2] = 250
    return Image.fromarray(pixels)


def _encoded(picture: Image.Image, form: str = "PNG", **more: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **more)
    return out.getvalue()


@pytest.mark.parametrize(("width", "height"), PNG_SIZES)
async def test_boxes_are_in_the_pixels_of_the_picture(
    client: httpx.AsyncClient, width: int, height: int
) -> None:
    body = _encoded(_picture(width, height))
    answer = (await client.post(SEGMENT, content=body)).json()
    assert (answer["width"], answer["height"]) == (width, height)
    (found,) = answer["objects"]
    wanted = [width // 8, height // 8, width // 2, height // 4]
    near = 1.5 * max(width, height, 512) / 512
    assert np.abs(np.array(found["box"]) - wanted).max() <= near
    assert found["mask"]["size"] == [height, width]
    mask = mask_of_rle((height, width), found["mask"]["counts"])
    assert mask.sum() == found["area"]
    truth = np.asarray(_picture(width, height))[:, :, 0] > 128
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9


async def test_the_answer_says_how_it_came_about(client: httpx.AsyncClient) -> None:
    answer = await client.post(DETECT, content=_encoded(_picture(256, 256)))
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
    picture = _encoded(_picture(256, 256))
    both = (await client.post(f"{DETECT}?min_score=0.1", content=picture)).json()
    assert [found["score"] for found in both["objects"]] == [0.9, 0.3]
    one = (await client.post(f"{DETECT}?min_score=0.1&top=1", content=picture)).json()
    assert len(one["objects"]) == 1
    none = (await client.post(f"{DETECT}?min_score=0.95", content=picture)).json()
    assert none["objects"] == []
    pinned = await client.post(DETECT, content=picture, headers={"x-operating-point": "small"})
    assert (pinned.json()["point"], pinned.json()["reason"]) == ("small", "pinned")
    assert np.allclose(pinned.json()["objects"][0]["box"], [32, 32, 128, 64], atol=1.5)


async def test_a_picture_without_objects_has_none(client: httpx.AsyncClient) -> None:
    answer = await client.post(SEGMENT, content=_encoded(Image.new("RGB", (300, 260))))
    assert answer.json()["objects"] == []


async def test_odd_pictures_are_understood(client: httpx.AsyncClient) -> None:
    dot = (await client.post(SEGMENT, content=_encoded(Image.new("RGB", (1, 1), "white")))).json()
    assert dot["objects"][0]["box"] == [0, 0, 1, 1]
    assert dot["objects"][0]["area"] == 1
    grey = _picture(256, 320).convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) << 8)
    plain, wide = [
        (await client.post(SEGMENT, content=_encoded(each))).json()["objects"]
        for each in (grey, deep)
    ]
    assert plain == wide
    assert len(plain) == 1


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "PNG"])
async def test_turned_pictures_are_answered_upright(client: httpx.AsyncClient, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = _picture(240, 400)
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    answer = await client.post(DETECT, content=_encoded(lying, form, exif=exif.tobytes()))
    body = answer.json()
    assert (body["width"], body["height"]) == (240, 400)
    assert np.allclose(body["objects"][0]["box"], [30, 50, 120, 100], atol=2.5)


@pytest.mark.parametrize("route", [DETECT, SEGMENT])
async def test_the_result_is_drawn(client: httpx.AsyncClient, route: str) -> None:
    answer = await client.post(f"{route}?overlay=1", content=_encoded(_picture(320, 256)))
    assert answer.headers["content-type"] == "image/jpeg"
    assert "server-timing" in answer.headers
    shown = Image.open(io.BytesIO(answer.content))
    assert shown.size == (320, 256)
    before = np.asarray(_picture(320, 256)).astype(int)
    changed = np.abs(np.asarray(shown).astype(int) - before).max(axis=2) > 50
    rows, columns = changed.nonzero()
    edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(edges - [40, 32, 160, 64]).max() <= 4


async def test_a_large_picture_is_drawn_smaller(client: httpx.AsyncClient) -> None:
    body = _encoded(_picture(2600, 300))
    answer = await client.post(f"{DETECT}?overlay=1", content=body)
    assert Image.open(io.BytesIO(answer.content)).size == (2048, 236)


@pytest.mark.parametrize(
    ("body", "query", "status", "says"),
    [
        (b"", "", 400, "the body is empty"),
        (b"hello, this is text", "", 415, "got text"),
        (_encoded(_picture(64, 64))[:-40], "", 400, "PNG image"),
        (_encoded(_picture(64, 64))[:-40], "overlay=1", 400, "PNG image"),
        (jpeg(), "min_score=2", 422, "query.min_score"),
        (jpeg(), "top=501", 422, "query.top"),
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
    async with serving(model(), _served(BrightEngine()), _served(BoxEngine(), "boxes")) as running:
        ask = running.client.post
        for url, wanted in {
            f"{DETECT}?model=colours": "POST /v1/classify",
            f"{SEGMENT}?model=boxes": "POST /v1/detect",
            "/v1/classify?model=things": "POST /v1/segment or /v1/detect",
            "/v2/models/things/infer": "POST /v1/segment or /v1/detect",
        }.items():
            answer = await ask(url, content=jpeg())
            assert answer.status_code == 400, url
            assert answer.json()["error"].endswith(wanted)
        for kind in ("", "/config"):
            assert (await running.client.get(f"/v2/models/things{kind}")).status_code == 400
        boxes = (await ask(f"{DETECT}?model=boxes", content=_encoded(_picture(256, 256)))).json()
        assert len(boxes["objects"]) == 1
        tasks = [m["task"] for m in (await running.client.get("/v1/models")).json()["models"]]
        assert tasks == ["classification", "segmentation", "detection"]


async def test_requests_count_as_inferences(serving: Serving) -> None:
    async with serving(_served(BrightEngine())) as running:
        await running.client.post(SEGMENT, content=jpeg())
        labels = {"model": "things", "point": "full", "reason": "best"}
        assert await running.metric("laud_operating_point_total", **labels) == 1


async def test_an_engine_that_finds_nothing_of_the_kind_is_not_served(serving: Serving) -> None:
    with pytest.raises(EngineError, match="the answer has no boxes, labels, masks, scores"):
        async with serving(_served(BrokenEngine())):
            pass


async def test_the_routes_are_described(client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()
    for route in (DETECT, SEGMENT):
        operation = described["paths"][route]["post"]
        asked = {parameter["name"] for parameter in operation["parameters"]}
        assert {"model", "min_score", "top", "overlay", "x-slo-ms"} <= asked
        assert {"application/json", "image/jpeg"} == operation["responses"]["200"]["content"].keys()
