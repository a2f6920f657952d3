"""`?explain=1` and the tinted overlay of a detector that skips, from the engine that serves. No
torch."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
from PIL import Image

from engines.architecture import MapSize
from engines.bundle import Bundle, read_bundle
from engines.cpu.detector import CpuDetector
from engines.detection.architecture import detector_macs, macs_per_object
from tests.engines.cpu.detectors import RAGGED
from tests.engines.evaluation.skipping import NET, SIZE, UNITS, skipping_bundle
from tests.service.explaining import asking, picture, png

pytestmark = pytest.mark.anyio

ROUTES = ["/v1/detect", "/v1/segment"]
SKIPPING = {"x-operating-point": "skip"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(skipping_bundle(tmp_path_factory.mktemp("bundles") / "things.laud"))


@pytest.fixture
async def client(bundle: Bundle) -> AsyncIterator[httpx.AsyncClient]:
    """Of a service with the native engine, which it closes."""
    async with asking(bundle, CpuDetector(bundle, threads=1)) as found:
        yield found


@pytest.mark.parametrize("route", ROUTES)
async def test_what_the_engine_decided_is_told(
    client: httpx.AsyncClient, bundle: Bundle, route: str
) -> None:
    """Blocks, levels and map are those decisions, and the work is what the engine counted."""
    answer = await client.post(
        f"{route}?explain=1", content=png(picture(SIZE, SIZE)), headers=SKIPPING
    )
    assert answer.status_code == 200, answer.text
    told = answer.json()["explain"]
    point = bundle.manifest.point("skip").point
    with CpuDetector(bundle, threads=1) as engine:
        output = engine.infer(picture(SIZE, SIZE)[np.newaxis], [point])
    decided = np.split(output.arrays["decisions"][0], np.cumsum(UNITS)[:-1])
    maskers = [masker for block in told["blocks"] for masker in block["maskers"]]
    maskers += [level["masker"] for level in told["levels"]]
    rows = ["".join(masker["rows"]) for masker in maskers]
    assert rows == ["".join("01"[int(unit)] for unit in units) for units in decided]
    assert [masker["active"] for masker in maskers] == [int(units.sum()) for units in decided]
    assert {len(set(row)) for row in rows} > {1}, "some skip in part, or nothing is tested"
    assert told["map"]["maskers"] == len(UNITS)
    assert 0 < np.sum(told["map"]["counts"]) < len(UNITS) * 16
    assert told["macs"]["total"] == round(float(output.macs[0]))
    nothing = detector_macs(NET, RAGGED, MapSize(SIZE, SIZE))
    dense = output.macs[0] - macs_per_object(RAGGED) * output.arrays["counts"][0]
    assert told["macs_ratio"] == pytest.approx(dense / nothing.dense, abs=1e-4)
    parts = [told["macs"][part] for part in ("backbone", "pyramid", "heads", "masks")]
    assert sum(parts) == told["macs"]["total"]
    ratios = [block["macs_ratio"] for block in told["blocks"]]
    assert all(0 < ratio <= 1.1 for ratio in ratios)
    assert min(ratios) < 1


async def test_full_is_told_to_compute_everything(client: httpx.AsyncClient) -> None:
    headers = {"x-operating-point": "full"}
    answer = await client.post(
        "/v1/detect?explain=1", content=png(picture(SIZE, SIZE)), headers=headers
    )
    told = answer.json()["explain"]
    assert told["macs_ratio"] == 1.0
    assert {block["macs_ratio"] for block in told["blocks"]} == {1.0}
    assert set(np.ravel(told["map"]["counts"])) == {len(UNITS)}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("width", "height"), [(64, 64), (150, 90), (30, 200)])
async def test_an_overlay_that_explains_is_blue_where_maskers_skipped(
    client: httpx.AsyncClient, route: str, width: int, height: int
) -> None:
    """As blue as the map says, whatever the picture's shape; nothing of it is padding."""
    body = png(picture(width, height))
    ask = f"{route}?min_score=1"
    plain, tinted = [
        await client.post(f"{ask}&overlay=1{more}", content=body, headers=SKIPPING)
        for more in ("", "&explain=1")
    ]
    assert tinted.headers["content-type"] == "image/jpeg"
    before, after = (
        np.asarray(Image.open(io.BytesIO(each.content))).astype(int) for each in (plain, tinted)
    )
    assert before.shape == after.shape == (height, width, 3)
    told = (await client.post(f"{ask}&explain=1", content=body, headers=SKIPPING)).json()
    kept, maskers = np.array(told["explain"]["map"]["counts"]), told["explain"]["map"]["maskers"]
    assert len(set(kept.flat)) > 2
    edges = np.arange(len(kept) + 1) * max(width, height) // len(kept)
    seen = 0
    for (row, column), count in np.ndenumerate(kept):
        if edges[row + 1] > height or edges[column + 1] > width:
            continue
        # Edges of patches lie between pixels, and JPEG blurs them.
        inside = np.s_[
            edges[row] + 3 : edges[row + 1] - 3, edges[column] + 3 : edges[column + 1] - 3
        ]
        share = 0.45 * (1 - count / maskers)
        wanted = before[inside].mean(axis=(0, 1)) * (1 - share) + np.array((40, 90, 255)) * share
        assert np.abs(after[inside].mean(axis=(0, 1)) - wanted).max() < 6, (row, column)
        seen += 1
    assert seen >= 4 * min(width, height) // max(width, height)


async def test_an_overlay_of_full_is_not_tinted(client: httpx.AsyncClient) -> None:
    headers, body = {"x-operating-point": "full"}, png(picture(90, 60))
    plain, tinted = [
        await client.post(f"/v1/segment?overlay=1{more}", content=body, headers=headers)
        for more in ("", "&explain=1")
    ]
    assert plain.content == tinted.content
