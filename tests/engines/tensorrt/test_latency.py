"""Latency tables of plans: as a file, and what is predicted of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from engines.errors import InvalidInput, LatencyError
from engines.tensorrt.latency import (
    CallLatency,
    PlanPredictor,
    PlanTable,
    plan_table_name,
    read_plan_table,
    write_plan_table,
)
from engines.tensorrt.plans import Bucket, Form

LEVELS = 5


def call(
    point: str,
    images: int,
    *seconds: float,
    again: tuple[float, ...] = (),
    form: Form = "blocks",
) -> CallLatency:
    """Timed as often as there are numbers."""
    bucket = Bucket(image_size=32, images=images, profile=0)
    return CallLatency.of(point, bucket, seconds, [again] if again else [], [], LEVELS, form)


@pytest.fixture
def table() -> PlanTable:
    return PlanTable(
        bundle="ab" * 32,
        program="cd" * 32,
        name="small",
        library="tensorrt",
        library_version="10.16.1.11",
        precision="fp16",
        device="RTX 3090",
        version="0.1.0",
        calls=(
            call("full", 4, 4.0, 6.0, 8.0),
            call("full", 1, 3.0, 1.0, 2.0),
            call("glance", 1, 1.0, 1.0, again=(3.0, 3.0)),
        ),
    )


def test_a_table_comes_back_as_it_was(table: PlanTable, tmp_path: Path) -> None:
    path = tmp_path / plan_table_name("NVIDIA GeForce RTX 3090")
    assert path.name == "latency-nvidia-geforce-rtx-3090.json"
    write_plan_table(path, table)
    assert read_plan_table(path) == table


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema_version": 2}, "install a newer laudserve"),
        ({"engine": "cpu"}, "is not a latency table of a plan: engine"),
        ({"calls": []}, "measure again with: laud verify PLAN"),
    ],
)
def test_tables_that_are_none(
    table: PlanTable, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    content = {**table.model_dump(mode="json"), **changes}
    (tmp_path / "table.json").write_text(json.dumps(content))
    with pytest.raises(LatencyError, match=says):
        read_plan_table(tmp_path / "table.json")


@pytest.mark.parametrize(
    ("batch", "quantile", "seconds"),
    [
        *[(1, 0.0, 1.0), (1, 0.5, 2.0), (1, 0.75, 2.5), (1, 1.0, 3.0)],
        *[(2, 0.5, 6.0), (4, 0.5, 6.0)],
        *[(5, 0.5, 6.0 + 2.0), (6, 0.5, 12.0), (8, 1.0, 16.0)],
    ],
)
def test_a_batch_takes_what_its_buckets_take(
    table: PlanTable, batch: int, quantile: float, seconds: float
) -> None:
    predictor = PlanPredictor(table)
    assert predictor.predict("full", batch=batch, quantile=quantile) == pytest.approx(seconds)


def test_a_glance_takes_as_long_as_images_are_looked_at_again(table: PlanTable) -> None:
    predictor = PlanPredictor(table)
    assert predictor.points == ("full", "glance")
    expected = [predictor.predict("glance", again=share) for share in (0.0, 0.25, 1.0)]
    assert expected == pytest.approx([1.0, 1.5, 3.0])
    assert predictor.predict("full", again=1.0) == pytest.approx(2.0)


def test_an_image_alone_takes_what_its_form_takes(table: PlanTable) -> None:
    more = (call("full", 1, 1.0, 1.0, form="branches"), call("skip", 1, 5.0, 5.0, form="branches"))
    both = table.model_copy(update={"calls": (*table.calls, *more)})
    chosen: dict[str, Form] = {"full": "branches"}
    predictor = PlanPredictor(both, lambda point: chosen.get(point, "blocks"))
    assert [predictor.predict("full", batch=n) for n in (1, 4, 5)] == [1.0, 6.0, 7.0]
    assert PlanPredictor(both).predict("full") == 2.0
    assert predictor.predict("skip") == 5.0, "what was not timed says nothing"
    assert set(predictor.points) == {"full", "glance", "skip"}


@pytest.mark.parametrize(
    ("point", "options", "says"),
    [
        ("half", {}, "no operating point 'half'; there are: full, glance"),
        ("full", {"batch": 0}, "at least one image"),
        ("full", {"quantile": 1.5}, "a quantile is 0 to 1"),
        ("glance", {"again": -0.1}, "a share is 0 to 1"),
    ],
)
def test_what_cannot_be_predicted(
    table: PlanTable, point: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        PlanPredictor(table).predict(point, **options)


def test_quantiles_are_of_what_calls_took() -> None:
    found = call("full", 1, *np.linspace(5.0, 1.0, 9))
    assert (found.seconds, found.calls) == ((1.0, 2.0, 3.0, 4.0, 5.0), 9)
    with pytest.raises(ValidationError, match="quantiles of 'full' must ascend"):
        CallLatency(point="full", image_size=32, images=1, calls=2, seconds=(2.0, 1.0))
