"""Latency tables on disk: what is written is read back, what is of something else is refused."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engines.errors import LatencyError
from engines.latency import files
from engines.latency.tables import (
    TABLE_SCHEMA,
    BlockTable,
    Curve,
    LatencyTable,
    PointRates,
    Spread,
    check_table,
    merged,
    read_table,
    table_name,
    write_table,
)
from tests.engines.latency.cases import ABACUS, BLOCKS, NET, of_net, profile, spread, table

BUNDLE = of_net()
POINT = PointRates(
    precision="fp32",
    point="half",
    spatial=(0.1,) * BLOCKS,
    dilated=(0.30000000000000004,) * BLOCKS,
    channel=(1.0,) * BLOCKS,
)
FULL = table(profile(), profile(batch=4), points=[POINT], spreads=[spread(0.9, 1.0, 1.2)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A table that is fine."""
    path = tmp_path / FULL.file_name
    write_table(path, FULL)
    return path


def spoil(path: Path, change: Callable[[Any], None]) -> str:
    """Change the JSON and read it; why it is refused."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(LatencyError) as refusal:
        read_table(path)
    assert str(path) in str(refusal.value)
    return str(refusal.value)


# Writing and reading


def test_what_was_written_is_read_back_to_the_last_bit(path: Path) -> None:
    assert read_table(path) == FULL


def test_the_file_is_named_after_the_device(path: Path) -> None:
    assert path.name == table_name(ABACUS) == "latency-abacus-3000-4cpu-avx2.json"


def test_folders_are_made_and_others_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "t.json"
    write_table(path, FULL)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [file.name for file in path.parent.iterdir()] == ["t.json"]


def test_a_failed_write_leaves_the_old_table(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_table(path, table())
    monkeypatch.undo()
    assert read_table(path) == FULL
    assert [file.name for file in path.parent.iterdir()] == [path.name], "and nothing beside it"


# Files that are no table


def test_a_missing_table_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(LatencyError, match=r"cannot read .*No such file.*laud measure BUNDLE"):
        read_table(tmp_path / "none.json")


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(LatencyError, match="cannot read"):
        read_table(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"latency: 3"])
def test_what_is_not_json_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LatencyError, match=r"is not JSON: .*measure again with: laud measure"):
        read_table(path)


@pytest.mark.parametrize("content", ["null", "[]", "3", '"table"', "{}"])
def test_other_json_is_refused(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(LatencyError, match=r"is not a latency table: .*laud measure BUNDLE"):
        read_table(path)


def test_a_file_that_is_too_large_is_not_even_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", path.stat().st_size)
    assert read_table(path) == FULL
    monkeypatch.setattr(files, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(LatencyError, match="is larger than"):
        read_table(path)


def test_a_newer_schema_asks_for_a_newer_laudserve(path: Path) -> None:
    def newer(content: Any) -> None:
        content["schema_version"] = TABLE_SCHEMA + 1
        content["invention"] = True

    assert "install a newer laudserve" in spoil(path, newer)


def first_curve(content: Any) -> Any:
    return content["profiles"][0]["blocks"][0]["clustered"]


def set_in(*keys: str | int, to: object) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return change


CURVE = ("profiles", 0, "blocks", 0, "clustered")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_in("remark", to="quiet"), "remark"),
        (set_in("profiles", 0, "remark", to="quiet"), "remark"),
        (set_in(*CURVE, "remark", to="quiet"), "remark"),
        (set_in("device", "remark", to="quiet"), "remark"),
        (set_in("bundle", to="abc"), "bundle"),
        (set_in("engine", to="reference"), "engine"),
        (set_in("profiles", to=[]), "profiles"),
        (set_in("profiles", 0, "threads", to=0), "threads"),
        (set_in("profiles", 0, "size", to=0), "size"),
        (set_in("profiles", 0, "batch", to=0), "batch"),
        (set_in("profiles", 0, "overhead_s", to=-1e-9), "overhead_s"),
        (set_in("profiles", 0, "static_s", 0, to=-1.0), "static_s"),
        (set_in("profiles", 0, "static_s", 0, to=float("nan")), "static_s"),
        (set_in("profiles", 0, "static_s", 0, to=float("inf")), "static_s"),
        (set_in("profiles", 0, "static_s", 0, to="much"), "static_s"),
        (set_in(*CURVE, "seconds", 0, 0, to=-1.0), "seconds"),
        (set_in(*CURVE, "seconds", 0, 0, to=float("nan")), "seconds"),
        (set_in(*CURVE, "active", 3, to=1.1), "active"),
        (set_in(*CURVE, "active", 1, to=0.75), "shares 'active' must ascend"),
        (set_in(*CURVE, "active", 1, to=0.0), "shares 'active' must ascend"),
        (set_in(*CURVE, "active", to=[]), "active"),
        (set_in(*CURVE, "dilated", to=[0.0, 1.0]), "needs as many values in every row"),
        (set_in(*CURVE, "seconds", to=[[1.0, 2.0]]), "needs as many values in every row"),
        (set_in(*CURVE, "seconds", to=[[1.0] * 4] * 2), "2 rows for 1 channel shares"),
        (set_in(*CURVE, "seconds", to=[]), "0 rows for 1 channel shares"),
        (
            set_in("profiles", 0, "blocks", 3, "channel", to=[0.0, 1.0, 0.5]),
            "shares 'channel' must ascend",
        ),
        (set_in("points", 0, "spatial", 0, to=1.5), "spatial"),
        (set_in("spreads", 0, "ratios", to=[1.0]), "ratios"),
        (set_in("spreads", 0, "ratios", to=[0.0, 1.0]), "ratios"),
        (set_in("spreads", 0, "ratios", to=[1.0, 0.9]), "ratios must ascend"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(
    path: Path, change: Callable[[Any], None], reason: str
) -> None:
    line = spoil(path, change)
    assert reason in line
    assert line.endswith("measure again with: laud measure BUNDLE")
    assert "\n" not in line


def test_equal_quantiles_may_stand_next_to_each_other() -> None:
    assert spread(1.0, 1.0, 1.0).ratios == (1.0, 1.0, 1.0)


def test_rows_of_random_masks_are_checked_too() -> None:
    curve = Curve(active=(0.0, 1.0), dilated=(0.0, 1.0), seconds=((1.0, 2.0),))
    two = Curve(active=(0.0, 1.0), dilated=(0.0, 1.0), seconds=((1.0, 2.0), (1.0, 2.0)))
    with pytest.raises(ValidationError, match="block 7: 2 rows for 1 channel shares"):
        BlockTable(block=7, channel=(1.0,), clustered=curve, random=two)


# Tables of something else


def test_a_table_of_this_bundle_on_this_device_is_taken() -> None:
    check_table(FULL, BUNDLE, ABACUS)


def refusal(changed: LatencyTable, **of: Any) -> str:
    with pytest.raises(LatencyError) as found:
        check_table(changed, of.get("bundle", BUNDLE), of.get("device", ABACUS))
    return str(found.value)


def test_a_table_of_another_bundle_names_both() -> None:
    other = replace(BUNDLE, hash="b" * 64)
    line = refusal(FULL, bundle=other)
    assert "is of bundle abacus (aaaaaaaaaaaa), not of abacus (bbbbbbbbbbbb)" in line
    assert f"laud measure {other.path}" in line


@pytest.mark.parametrize(
    ("change", "there", "here"),
    [
        ({"cpu": "Slide Rule"}, "Abacus 3000 with 4 CPUs", "this is Slide Rule with 4 CPUs"),
        ({"cpus": 2}, "Abacus 3000 with 4 CPUs", "this is Abacus 3000 with 2 CPUs"),
        ({"isa": {"fp32": "avx512"}}, "(fp32 avx2, int8 avx2)", "(fp32 avx512)"),
    ],
)
def test_a_table_of_another_device_names_both(
    change: dict[str, Any], there: str, here: str
) -> None:
    line = refusal(FULL, device=ABACUS.model_copy(update=change))
    assert f"was taken on {there}" in line or there in line
    assert here in line
    assert "measure here with: laud measure" in line


@pytest.mark.parametrize(
    "changed",
    [
        table(profile(static_s=(1.0,) * (BLOCKS + 1))),
        table(profile(), profile(batch=2, static_s=(1.0,) * (BLOCKS + 3))),
        table(profile(blocks=profile().blocks[:-1])),
        table(profile(blocks=(*profile().blocks, profile().blocks[-1]))),
        table(
            profile(
                blocks=(
                    *profile().blocks[:-1],
                    profile().blocks[-1].model_copy(update={"block": 99}),
                )
            )
        ),
        table(points=[POINT.model_copy(update={"dilated": (0.5,)})]),
    ],
    ids=["parts", "later profile", "block missing", "block twice", "block unknown", "point"],
)
def test_a_table_of_other_blocks_does_not_fit(changed: LatencyTable) -> None:
    dynamic = len(NET.blocks) - 1
    line = refusal(changed)
    assert f"does not fit a network of {BLOCKS} blocks, {dynamic} of them with maskers" in line
    assert "laud measure" in line


@pytest.mark.parametrize(
    ("middle", "noisy"), [(1.0, False), (1.07, False), (1.2, True), (0.8, True)]
)
def test_a_spread_that_contradicts_the_parts_is_noisy(middle: float, noisy: bool) -> None:
    ratios = (middle - 0.1, middle, middle + 0.3)
    spread = Spread(precision="fp32", threads=1, calls=20, ratios=ratios)
    assert spread.shift == middle
    assert spread.noisy == noisy


def test_what_was_measured_before_is_kept_and_what_was_measured_again_is_new() -> None:
    first = FULL.profiles[0]
    again = first.model_copy(update={"overhead_s": 9.0})
    other = first.model_copy(update={"size": 999})
    new = FULL.model_copy(update={"profiles": (again, other), "pictures": None})
    found = merged(FULL, new)
    assert set(found.profiles) == {again, other, *FULL.profiles[1:]}
    assert found.pictures == FULL.pictures
    assert merged(FULL, FULL) == FULL


@pytest.mark.parametrize(
    ("what", "value"), [("bundle", "f" * 64), ("version", "0.0.0"), ("device", None)]
)
def test_tables_of_different_things_are_not_merged(what: str, value: object) -> None:
    if what == "device":
        value = FULL.device.model_copy(update={"cpus": 99})
    with pytest.raises(LatencyError, match=f"another {what} is there; name another file with -o"):
        merged(FULL, FULL.model_copy(update={what: value}))
