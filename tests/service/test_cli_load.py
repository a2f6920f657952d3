"""`laud load` against the real service on a socket: what it says, and when it fails.

Budgets are a minute, or so small that nothing can keep them: no test depends on the machine.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.keys import KeyFile, new_key, write_keys
from tests.service.commands import Done, Laud, assert_one_line
from tests.service.live import Live, live


@pytest.fixture
def server() -> Iterator[Live]:
    with live() as served:
        yield served


def offered(laud: Laud, server: Live, *options: object) -> Done:
    """Forty requests a second for a fifth of a second: the least that can be told about."""
    usual = ("--rate", 40, "--seconds", 0.2, "--warm-up", 0, "--cv2", 0)
    done = laud("load", url(server), *usual, *options)
    assert done.status in (0, 1), done.err
    return done


def url(server: Live) -> str:
    return f"http://127.0.0.1:{server.port}"


def runs(done: Done) -> list[dict[str, Any]]:
    return list(json.loads(done.out)["runs"])


def test_everything_that_is_due_is_sent_and_accounted_for(laud: Laud, server: Live) -> None:
    (run,) = runs(offered(laud, server, "--slo-ms", 60_000, "--json"))
    assert (run["sent"], run["answered"], run["met"], run["attainment"]) == (8, 8, 8, 1.0)
    assert run["server_said"] == {"met": 8}
    assert sum(run["points"].values()) == pytest.approx(1.0)
    assert run["latency_ms"]["p50"] <= run["latency_ms"]["p99"] <= run["latency_ms"]["max"]
    assert run["over_deadline"]["max"] == pytest.approx(run["latency_ms"]["max"] / 60_000)
    assert run["server"]["rss_mb"] > 1


def test_a_pinned_point_and_its_accuracy_come_back(laud: Laud, server: Live) -> None:
    (run,) = runs(offered(laud, server, "--slo-ms", 60_000, "--point", "full", "--json"))
    assert run["points"] == {"full": 1.0}
    assert run["mean_accuracy"] == run["effective_accuracy"] == 0.9


def test_tensors_go_to_the_open_inference_protocol(laud: Laud, server: Live) -> None:
    (run,) = runs(offered(laud, server, "--tensor", "--slo-ms", 60_000, "--json"))
    assert run["route"] == "/v2/models/colours/infer"
    assert (run["answered"], run["server_said"]) == (8, {"met": 8})


def test_budgets_that_nobody_can_keep_are_late(laud: Laud, server: Live) -> None:
    (run,) = runs(offered(laud, server, "--slo-ms", 0.001, "--json"))
    assert (run["met"], run["late"], run["attainment"]) == (0, 8, 0.0)
    assert run["effective_accuracy"] == 0.0


def test_refusals_are_counted_by_status(laud: Laud, server: Live) -> None:
    options = ("--slo-ms", 0.001, "--on-infeasible", "reject", "--json")
    (run,) = runs(offered(laud, server, *options))
    assert (run["refused"], run["answered"]) == ({"429": 8}, 0)


def test_a_sweep_is_one_run_per_rate(laud: Laud, server: Live) -> None:
    done = laud(
        "load", url(server), "--rates", "20,40", "--seconds", 0.2, "--cv2", 0, "--warm-up", 0,
        "--mix", "50:50000,50:60000", "--json",
    )  # fmt: skip
    assert [run["sent"] for run in runs(done)] == [4, 8]


def test_recorded_traffic_is_sent_as_it_was(laud: Laud, server: Live, tmp_path: Path) -> None:
    traffic = tmp_path / "traffic.jsonl"
    traffic.write_text('{"at_s": 0.0, "slo_ms": 60000, "image": "hat.jpg"}\n{"at_s": 0.1}\n')
    done = laud("load", url(server), "--replay", traffic, "--warm-up", 0, "--json")
    (run,) = runs(done)
    assert (run["sent"], run["answered"]) == (2, 2)
    assert run["load"] == f"recorded traffic of {traffic}"


def test_people_read_the_same(laud: Laud, server: Live) -> None:
    done = offered(laud, server, "--slo-ms", 60_000, "--point", "full")
    for fact in (
        f"{url(server)}/v1/classify, 40/s, CV^2 0, 0.2 s",
        "sent 8, in time 8 (100.00%), late 0; the server said: met 8",
        "goodput 40.00/s of 40.00/s offered",
        "accuracy expected: 0.9000 of answers in time, 0.9000 over all sent",
        "points: full 100.0%",
        "client: sent after it was due by p50",
        "ms of CPU time an answer",
    ):
        assert fact in done.out
    assert "40/s, CV^2 0: 8 requests" in done.err


def test_a_soak_fails_where_it_was_asked_to(laud: Laud, server: Live) -> None:
    done = offered(laud, server, "--slo-ms", 0.001, "--fail-below-attainment", 0.99)
    assert done.status == 1
    assert "failed: 0.00% in time, asked were 99.00%" in done.err
    done = offered(laud, server, "--slo-ms", 60_000, "--fail-above-mb-per-minute", 1)
    assert done.status == 1
    assert "failed: cannot tell how memory grows" in done.err


def test_keys_and_a_second_port_are_met(laud: Laud, tmp_path: Path) -> None:
    keys, key_file, key = tmp_path / "keys.yaml", tmp_path / "alice.key", new_key()
    write_keys(keys, KeyFile().with_key("alice", key, datetime.date(2026, 1, 2)))
    key_file.write_text(f"{key}\n", "utf-8")
    with live(api_keys=keys, admin_port=0) as server:
        assert "wants an API key: --key-file FILE" in assert_one_line(laud("load", url(server)))
        options = ("--slo-ms", 60_000, "--key-file", key_file, "--json")
        (run,) = runs(offered(laud, server, *options))
        assert (run["met"], run["server"]) == (8, None)
        second = f"http://127.0.0.1:{server.ports[1]}"
        (run,) = runs(offered(laud, server, *options, "--metrics-url", second))
        assert run["server"]["rss_mb"] > 1


@pytest.mark.torch
def test_a_picture_is_drawn(laud: Laud, server: Live, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "load.png"
    offered(laud, server, "--slo-ms", 60_000, "--png", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--point", "nope"), "the server answered 400: "),
        (("--model", "nope"), "no model 'nope'; there are: colours"),
        (("--rate", "0"), "the rate must be above 0"),
        (("--rates", "1,two"), "--rates takes numbers with commas"),
        (("--cv2", "-1"), "CV^2 must be 0 to"),
        (("--bursty", "1"), "--bursty is a share between 0 and 1"),
        (("--mix", "70:100"), "sum to 70.0000%"),
        (("--mix", "100:10", "--slo-ms", "10"), "choose one"),
        (("--seconds", "1", "--minutes", "1"), "choose one"),
        (("--seconds", "-1"), "a run takes above 0"),
        (("--header", "nonsense"), "write it as name:value"),
        (("--connections", "0"), "connections must be 1 to"),
        (("nowhere.jpg",), "'nowhere.jpg': no such file or folder"),
        (("--replay", "nowhere"), "No such file or directory: 'nowhere'"),
    ],
)
def test_mistakes_are_one_line(
    laud: Laud, server: Live, options: tuple[str, ...], reason: str
) -> None:
    done = laud("load", url(server), "--warm-up", 0, *options)
    assert done.status == 2
    assert reason in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


def test_a_server_that_is_not_there_is_told(laud: Laud) -> None:
    line = assert_one_line(laud("load", "http://127.0.0.1:9"))
    assert line == "cannot connect to http://127.0.0.1:9: Connection refused"
