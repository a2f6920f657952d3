"""`laud whatif`: what to expect of this machine at a rate and a latency budget, and beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.machines import (
    BUNDLE,
    DECODE_MS,
    MAX_BATCH,
    OVERHEAD_MS,
    PRECISION,
    PROFILE,
    SAVE_PROFILE,
    TABLE,
    THREADS,
    decimals,
    decode_s,
    points_used,
    the_machine,
    the_policy,
    wide_console,
)
from service.cli.output import JSON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.simulation.whatif import ClassShare, Expected, WhatIf

DEFAULT_NAME = "default"


def whatif(
    bundle: BUNDLE = None,
    slo_ms: Annotated[
        float | None, typer.Option(help="Latency budget of every request [--class-mix].")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second, of one image.")] = None,
    cv2: Annotated[
        float, typer.Option(help="Squared coefficient of variation of the gaps: 1 Poisson.")
    ] = 1.0,
    class_mix: Annotated[
        Path | None,
        typer.Option(help="YAML of latency classes: name: {share, slo_ms, min_accuracy, ...}."),
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Points at least this accurate, with --slo-ms.")
    ] = None,
    reject: Annotated[
        bool, typer.Option("--reject", help="Refuse what cannot be in time, with --slo-ms.")
    ] = False,
    policy: Annotated[str, typer.Option(help="As `policy` of the server.")] = "foresight",
    max_queue_s: Annotated[
        float, typer.Option(help="Seconds of work that may wait, as of the server.")
    ] = 2.0,
    profile: PROFILE = None,
    save_profile: SAVE_PROFILE = None,
    table: TABLE = None,
    threads: THREADS = None,
    precision: PRECISION = None,
    max_batch: MAX_BATCH = None,
    decode_ms: DECODE_MS = 0.0,
    overhead_ms: OVERHEAD_MS = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Simulate the server on the costs of this machine: how many are in time, and how accurate.

    The same at lower and higher rates, and with shorter and longer budgets, so that the cliff is
    seen before it is met. Decoding and the work of the front are only counted as far as they are
    given: `laud bench serve` measures them.

        laud whatif zoo:clothing --slo-ms 40 --rate 80 --cv2 4

    Classes, as in the server's `slo_classes` with the share of the requests that are theirs:

        laud whatif zoo:clothing --rate 80 --class-mix mix.yaml

        interactive: {share: 0.3, slo_ms: 25}
        batch: {share: 0.7, slo_ms: 200, min_accuracy: 0.9, on_infeasible: reject}
    """
    from engines.errors import InvalidInput
    from service.simulation.core import Bounds
    from service.simulation.learning import learnt_costs
    from service.simulation.whatif import Question, what_if

    if rate is None:
        raise InvalidInput("--rate says how many requests a second are expected")
    if (slo_ms is None) == (class_mix is None):
        raise InvalidInput("give --slo-ms, or --class-mix with a file of classes")
    if class_mix is not None and (min_accuracy is not None or reject):
        raise InvalidInput("with --class-mix, its classes say what --min-accuracy and --reject do")
    if not 0.0 < max_queue_s < 1e6:
        raise InvalidInput(f"--max-queue-s must be above 0 seconds, got {max_queue_s}")
    classes: Sequence[ClassShare]
    if class_mix is not None:
        classes = read_classes(class_mix)
    else:
        given = {
            "share": 1.0,
            "slo_ms": slo_ms,
            "min_accuracy": min_accuracy,
            "on_infeasible": "reject" if reject else "degrade",
        }
        classes = (_class("the options", DEFAULT_NAME, given),)
    question = Question(rate, tuple(classes), cv2, decode_s(decode_ms))
    chosen = the_policy(policy)
    name, machine = the_machine(
        bundle,
        profile,
        save_profile,
        table=table,
        threads=threads,
        precision=precision,
        max_batch=max_batch,
        overhead_ms=overhead_ms,
    )
    found = what_if(
        machine, chosen, question, costs_of=learnt_costs, bounds=Bounds(max_queue_s=max_queue_s)
    )
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        _print(name, question.classes, found)


def read_classes(path: Path) -> tuple[ClassShare, ...]:
    """The classes of a YAML file. InvalidInput names what is wrong; OSError."""
    import yaml

    from engines.errors import InvalidInput

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content:
        raise InvalidInput(f"{path} must hold classes, such as fast: {{share: 0.3, slo_ms: 25}}")
    return tuple(_class(str(path), str(name), given) for name, given in content.items())


def _class(where: str, name: str, given: Any) -> ClassShare:
    """One class, checked as the server checks it."""
    from pydantic import ValidationError

    from engines.errors import InvalidInput
    from service.objectives import SloClass
    from service.simulation.whatif import ClassShare

    if not isinstance(given, dict):
        raise InvalidInput(f"{where}: class '{name}' must be like {{share: 0.3, slo_ms: 25}}")
    share = given.get("share")
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 1e9:
        raise InvalidInput(f"{where}: class '{name}' needs a share above 0, got {share!r}")
    rest = {key: value for key, value in given.items() if key != "share"}
    try:
        found = SloClass.model_validate(rest)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
        )
        raise InvalidInput(f"{where}: class '{name}': {faults}") from None
    return ClassShare(
        name, share, found.slo_ms / 1e3, found.min_accuracy, found.on_infeasible == "degrade"
    )


def _print(name: str, classes: Sequence[ClassShare], found: WhatIf) -> None:
    total = sum(one.share for one in classes)
    said = ", ".join(
        f"{one.share / total:.0%} in {one.slo_s * 1e3:g} ms"
        + (f" at accuracy {one.min_accuracy:g} or more" if one.min_accuracy else "")
        for one in classes
    )
    typer.echo(f"{name}: {found.asked.rate_hz:g}/s, CV² {found.cv2:g}, {said}; {found.policy}")
    asked = found.asked
    typer.echo(
        f"in time {asked.attainment.mean:.2%} ({asked.attainment.low:.2%} to "
        f"{asked.attainment.high:.2%}), accuracy {decimals(asked.mean_accuracy, 4)}, late "
        f"{asked.late:.2%}, refused {asked.refused:.2%}, expired {asked.expired:.2%}"
    )
    _print_table("at other rates", found.rates)
    _print_table("with other budgets", found.slos)
    goal = "99 % in time"
    if found.most_hz is None:
        typer.echo(f"{goal}: not even at {found.rates[0].rate_hz:g}/s")
    else:
        beyond = "or more" if found.most_hz == found.rates[-1].rate_hz else "of these"
        typer.echo(f"{goal}: up to {found.most_hz:g}/s {beyond}")
    if found.least_slo_factor is not None:
        typer.echo(
            f"{goal} at {asked.rate_hz:g}/s: down to {found.least_slo_factor:g} x the budget"
        )


def _print_table(title: str, rows: Sequence[Expected]) -> None:
    from rich.table import Table

    table = Table(
        *("per s", "budget", "in time", "accuracy", "late", "refused", "p99/budget", "engine"),
        "points",
        title=title,
        title_justify="left",
        box=None,
    )
    for row in rows:
        table.add_row(
            f"{row.rate_hz:g}",
            f"x {row.slo_factor:g}",
            f"{row.attainment.mean:.2%}",
            decimals(row.mean_accuracy, 4),
            f"{row.late:.2%}",
            f"{row.refused + row.expired:.2%}",
            decimals(row.p99_over_deadline, 2),
            f"{row.busy:.0%}",
            points_used(row.points),
        )
    wide_console().print(table)
