"""`?explain=1` says the same whichever engine serves a detector that skips."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

from engines.bundle import read_bundle
from engines.registry import load_engine
from tests.engines.evaluation.skipping import skipping_bundle
from tests.service.explaining import asking, picture, png

pytestmark = [pytest.mark.torch, pytest.mark.anyio]


async def test_both_engines_explain_alike(tmp_path: Path) -> None:
    bundle = read_bundle(skipping_bundle(tmp_path / "things.laud"))
    told = []
    for kind in ("cpu", "reference"):
        async with asking(bundle, load_engine(bundle, kind=kind, threads=1)) as client:
            answers = [
                await client.post(
                    "/v1/segment?explain=1",
                    content=png(picture(width, height)),
                    headers={"x-operating-point": point},
                )
                for point in ("skip", "full")
                for width, height in ((64, 64), (97, 31), (3, 200))
            ]
        told.append([answer.json()["explain"] for answer in answers])
    for own, reference in zip(*told, strict=True):
        # Of objects that are as sure as the limit one engine may find one more.
        for each in (own, reference):
            for name in ("masks", "total"):
                del each["macs"][name]
            del each["objects"]
        assert own == reference
    assert {each["skips_nothing"] for each in told[0]} == {True, False}
