"""One session of `laud load`: find the server, warm up, run every rate, report."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engines.errors import InvalidInput
from service.load.arrivals import (
    Mix,
    Process,
    Recorded,
    bursty,
    gamma,
    parse_mix,
    read_recorded,
)
from service.load.client import Client, parse_url, run
from service.load.offering import Planned, offer, plan_load, plan_recorded, warm_up
from service.load.pictures import PictureFile, described, read_pictures
from service.load.records import Ledger
from service.load.report import LoadReport, LoadReports, report_of
from service.load.target import Ask, Call, file_calls, find_model, tensor_calls
from service.load.watching import watched

Say = Callable[[str], None]

MOST_SECONDS = 86_400.0
# Looks at the server's metrics, which cost it some milliseconds each.
_LOOKS = 120
_FIRST_LOOKS_S = 1.0


@dataclass(frozen=True, slots=True)
class Session:
    """What to run. rates_hz: one run each; ignored with `replay`. duration_s: of a run; None is
    the whole of `replay`. base_share: part of the rate that comes evenly (bursty); None is none.
    metrics_url: the server with its metrics; None is `url`.
    """

    url: str
    images: tuple[Path, ...] = ()
    rates_hz: tuple[float, ...] = (10.0,)
    duration_s: float | None = 10.0
    cv2: float = 1.0
    base_share: float | None = None
    replay: Path | None = None
    mix: str | None = None
    slo_ms: float | None = None
    tensor: bool = False
    model: str | None = None
    ask: Ask = field(default_factory=Ask)
    metrics_url: str | None = None
    connections: int = 256
    warm_up_s: float = 2.0
    patience_s: float = 30.0
    seed: int = 0


def run_session(session: Session, say: Say) -> LoadReports:
    """Run it; progress goes to `say`. Raises InvalidInput, LoadError, OSError."""
    _check(session)
    mix = parse_mix(session.mix) if session.mix else _one_budget(session.slo_ms)
    recorded = read_recorded(session.replay) if session.replay else ()
    pictures = read_pictures(session.images)
    return run(_run(session, mix, recorded, pictures, say))


def read_key(path: Path) -> str:
    """The API key in a file that has nothing else. InvalidInput for an empty one, OSError."""
    key = path.read_text(encoding="utf-8").strip()
    if not key or len(key.split()) != 1:
        raise InvalidInput(f"{path} must hold one API key and nothing else")
    return key


async def _run(
    session: Session,
    mix: Mix | None,
    recorded: Sequence[Recorded],
    pictures: Sequence[PictureFile],
    say: Say,
) -> LoadReports:
    server = parse_url(session.url)
    metrics = parse_url(session.metrics_url or session.url)
    reports: list[LoadReport] = []
    async with Client(server, connections=session.connections) as client:
        model = await find_model(client, session.ask, session.model)
        make = tensor_calls if session.tensor else file_calls
        calls = make(server, model, pictures, session.ask)
        for load in _loads(session, recorded):
            planned = load.plan(session, calls, mix, recorded)
            duration_s = session.duration_s or planned[-1].at_s + 1e-3
            say(f"{load.text}: {len(planned)} requests in {duration_s:g} s")
            rate_hz = len(planned) / duration_s
            await warm_up(client, calls, rate_hz, session.warm_up_s, session.seed)
            every_s = max(_FIRST_LOOKS_S, duration_s / _LOOKS)
            async with watched(metrics, session.ask.headers, every_s) as use:
                records = await offer(
                    client,
                    calls,
                    planned,
                    patience_s=session.patience_s,
                    on_sent=_progress(len(planned), say),
                )
            facts = {
                "url": server.url,
                "route": calls[0].route,
                "pictures": described(pictures, session.images),
                "load": load.text,
            }
            reports.append(report_of(records, duration_s=duration_s, described=facts, watched=use))
    return LoadReports(runs=tuple(reports))


@dataclass(frozen=True, slots=True)
class _Load:
    """One run's arrivals; process is None for recorded traffic."""

    text: str
    process: Process | None

    def plan(
        self,
        session: Session,
        calls: Sequence[Call],
        mix: Mix | None,
        recorded: Sequence[Recorded],
    ) -> tuple[Planned, ...]:
        if self.process is None:
            names = [call.name for call in calls]
            return plan_recorded(recorded, names, session.seed, session.duration_s)
        seconds = session.duration_s or 0.0
        return plan_load(self.process, seconds, len(calls), session.seed, mix)


def _loads(session: Session, recorded: Sequence[Recorded]) -> list[_Load]:
    if recorded:
        return [_Load(f"recorded traffic of {session.replay}", None)]
    cv2, share = session.cv2, session.base_share
    if share is not None:
        return [
            _Load(
                f"{rate:g}/s, {share:.0%} of it even, the rest in bursts of CV^2 {cv2:g}",
                bursty(rate * share, rate * (1 - share), cv2),
            )
            for rate in session.rates_hz
        ]
    return [_Load(f"{rate:g}/s, CV^2 {cv2:g}", gamma(rate, cv2)) for rate in session.rates_hz]


def _check(session: Session) -> None:
    seconds = session.duration_s
    if seconds is None and session.replay is None:
        raise InvalidInput("say how long: --seconds or --minutes")
    if seconds is not None and not 0 < seconds <= MOST_SECONDS:
        raise InvalidInput(f"a run takes above 0 and at most {MOST_SECONDS:,.0f} s, got {seconds}")
    if session.base_share is not None and not 0 < session.base_share < 1:
        raise InvalidInput(f"--bursty is a share between 0 and 1, got {session.base_share}")
    if session.mix and session.slo_ms is not None:
        raise InvalidInput("--mix and --slo-ms both set the budgets; choose one")
    if session.replay and session.mix:
        raise InvalidInput("--mix has no effect on --replay: the file has the budgets")
    if not 0 <= session.warm_up_s <= MOST_SECONDS:
        raise InvalidInput(f"--warm-up must be 0 or more seconds, got {session.warm_up_s}")


def _one_budget(slo_ms: float | None) -> Mix | None:
    return None if slo_ms is None else parse_mix(f"100:{slo_ms}")


def _progress(
    total: int, say: Say, clock: Callable[[], float] = time.monotonic
) -> Callable[[int, Ledger], None]:
    """Says where a run is, every ten seconds, or every second on a terminal."""
    every_s = 1.0 if sys.stderr.isatty() else 10.0
    next_s = clock() + every_s

    def on_sent(sent: int, ledger: Ledger) -> None:
        nonlocal next_s
        if clock() >= next_s:
            next_s = clock() + every_s
            say(f"  {sent} of {total} sent, {sent - len(ledger)} open")

    return on_sent
