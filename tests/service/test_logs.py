"""One line a request, one format for all, and nothing in it that a client could forge."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from service.logs import configure_logs, log_exchange, printable_path
from service.objectives import Objective
from service.request import Exchange
from tests.service.conftest import Running, Serving
from tests.service.scripted import jpeg, model

Lines = list[MutableMapping[str, Any]]


@pytest.fixture
def stream() -> io.StringIO:
    """For `configure_logs`, whose effects on the process end with the test."""
    return io.StringIO()


def requests_in(lines: Lines) -> Lines:
    return [line for line in lines if line["event"] == "request"]


@pytest.mark.anyio
async def test_a_request_is_one_line_with_all_about_it(running: Running, logged: Lines) -> None:
    headers = {"x-request-id": "mine", "x-operating-point": "small"}
    await running.client.post("/v1/classify?top=1", content=jpeg(), headers=headers)
    (line,) = requests_in(logged)
    phases, predicted = line.pop("ms"), line.pop("predicted_ms")
    assert phases.keys() == {"receive", "decode", "queue", "prepare", "network", "total"}
    assert predicted["service_p50"] == pytest.approx(4.0, rel=0.01)
    assert predicted["service_p50"] <= predicted["service_p95"]
    assert predicted["completion_p50"] <= predicted["completion_p95"]
    assert line.pop("slack_ms") == pytest.approx(60_000.0 - phases["total"], abs=0.002)
    assert line == {
        "event": "request",
        "log_level": "info",
        "id": "mine",
        "method": "POST",
        "path": "/v1/classify",
        "status": 200,
        "outcome": "met",
        "model": "colours",
        "point": "small",
        "reason": "pinned",
        "slo_class": "default",
        "slo_ms": 60_000.0,
        "on_infeasible": "degrade",
        "bytes": len(jpeg()),
    }


def test_a_line_has_what_was_asked_and_which_key_asked(logged: Lines) -> None:
    exchange = Exchange("mine", 0.0, status=200, outcome="late", key="camera")
    exchange.objective = Objective(0.050, "gold", min_accuracy=0.9, on_infeasible="reject")
    scope = {"method": "POST", "path": "/v1/classify"}
    log_exchange(exchange, scope, "/v1/classify", 0.0625)
    (line,) = logged
    assert line["key"] == "camera"
    assert (line["slo_class"], line["slo_ms"], line["slack_ms"]) == ("gold", 50.0, -12.5)
    assert (line["min_accuracy"], line["on_infeasible"]) == (0.9, "reject")
    assert "predicted_ms" not in line


@pytest.mark.anyio
async def test_a_refusal_is_one_line_with_its_reason(running: Running, logged: Lines) -> None:
    await running.client.post("/v1/classify", content=b"text")
    (line,) = requests_in(logged)
    assert (line["status"], line["outcome"], line["log_level"]) == (415, "unsupported", "info")
    assert "got text" in line["error"]


@pytest.mark.anyio
async def test_an_unexpected_error_is_logged_with_its_traceback(
    running: Running, logged: Lines
) -> None:
    def fault(images: object) -> None:
        raise RuntimeError("a secret")

    running.engine.fault = fault
    await running.client.post("/v1/classify", content=jpeg(), headers={"x-request-id": "mine"})
    (unexpected,) = [line for line in logged if line["event"] == "unexpected error"]
    assert unexpected["id"] == "mine"
    assert isinstance(unexpected["exc_info"], RuntimeError)
    (line,) = requests_in(logged)
    assert (line["status"], line["log_level"]) == (500, "error")


@pytest.mark.anyio
async def test_probes_that_succeed_are_quiet(running: Running, logged: Lines) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/metrics"):
        await running.client.get(path)
    assert {line["log_level"] for line in requests_in(logged)} == {"debug"}
    running.service.drain()
    logged.clear()
    await running.client.get("/v2/health/ready")
    assert [line["log_level"] for line in requests_in(logged)] == ["error"]


@pytest.mark.anyio
async def test_the_start_is_told(serving: Serving, logged: Lines) -> None:
    async with serving(model("b"), model("a")):
        pass
    loaded = [line for line in logged if line["event"] == "bundle loaded"]
    assert [(line["model"], line["engine"]) for line in loaded] == [
        ("b", "scripted"),
        ("a", "scripted"),
    ]
    points = [line for line in logged if line["event"] == "operating point"]
    assert [line["model"] for line in points] == ["b"] * 3 + ["a"] * 3
    assert [line["point"] for line in points[:3]] == ["small", "skip", "full"]
    assert (points[2]["accuracy"], points[2]["image_size"]) == (0.9, 32)
    assert points[2]["p50_ms"] == pytest.approx(10.0, rel=0.01)


def test_json_is_one_object_a_line_from_us_and_from_libraries(stream: io.StringIO) -> None:
    configure_logs("json", "info", stream)
    structlog.get_logger("laud").info("request", path="/a\nb")
    structlog.get_logger("laud").debug("hidden")
    logging.getLogger("uvicorn.error").warning("from a %s", "library")
    logging.getLogger("uvicorn.error").info("hidden")
    ours, theirs = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (ours["event"], ours["path"], ours["level"]) == ("request", "/a\nb", "info")
    assert (theirs["event"], theirs["level"]) == ("from a library", "warning")
    assert ours.keys() >= {"timestamp"}
    assert theirs.keys() >= {"timestamp"}


def test_json_is_printable_ascii_and_takes_whatever_is_logged(stream: io.StringIO) -> None:
    configure_logs("json", "info", stream)
    log = structlog.get_logger("laud")
    log.info("plain", rate=np.float64(0.25), points=("a", "b"), path=Path("/a"))
    log.info("foreign", name="jupe \x9b31m \u00e9", delete="\x7f", rate=float("nan"))
    log.info("deleted", delete="\x7f")
    log.info("others", lone="\udcff", large=1 << 70)
    lines = stream.getvalue().splitlines()
    assert all(line.isascii() and line.isprintable() for line in lines)
    plain, foreign, deleted, others = map(json.loads, lines)
    assert (plain["rate"], plain["points"]) == (0.25, ["a", "b"])
    assert "/a" in plain["path"]
    assert (foreign["name"], foreign["rate"]) == ("jupe \x9b31m \u00e9", None)
    assert foreign["delete"] == deleted["delete"] == "\x7f"
    assert (others["lone"], others["large"]) == ("\udcff", 1 << 70)
    assert all('"level":"info"' in line for line in lines), "all are written alike"


@pytest.mark.parametrize("style", ["json", "console"])
def test_tracebacks_show_no_local_variables(stream: io.StringIO, style: str) -> None:
    configure_logs(style, "info", stream)
    picture = b"PIXELS" * 3
    try:
        raise RuntimeError(f"failed with {len(picture)} bytes")
    except RuntimeError as error:
        structlog.get_logger("laud").error("unexpected", exc_info=error)
    text = stream.getvalue()
    assert "failed with 18 bytes" in text
    assert "test_logs.py" in text
    assert "PIXELSPIXELS" not in text


def test_auto_is_console_on_a_terminal_only(stream: io.StringIO) -> None:
    configure_logs("auto", "info", stream)
    structlog.get_logger("laud").info("piped")
    assert json.loads(stream.getvalue())["event"] == "piped"
    stream.isatty = lambda: True  # type: ignore[method-assign]
    configure_logs("auto", "info", stream)
    structlog.get_logger("laud").info("shown")
    assert not stream.getvalue().splitlines()[-1].startswith("{")


def test_a_client_cannot_begin_a_line(stream: io.StringIO) -> None:
    configure_logs("console", "info", stream)
    structlog.get_logger("laud").info("request", error="a\nb\x1b[31m", path="/x")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b[31m" not in stream.getvalue()


@pytest.mark.parametrize(
    ("scope", "shown"),
    [
        ({"raw_path": b"/a%0Ab", "path": "/a\nb"}, "/a%0Ab"),
        ({"raw_path": None, "path": "/a\nb"}, "/a?b"),
        ({"raw_path": b"/\xff\x1b[31m", "path": ""}, "/\\xff?[31m"),
        ({"raw_path": b"/" + b"x" * 9999, "path": ""}, "/" + "x" * 255),
    ],
)
def test_paths_are_printable_and_short(scope: dict[str, Any], shown: str) -> None:
    assert printable_path(scope) == shown
