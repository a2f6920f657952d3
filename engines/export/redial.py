"""`laud export --dial`: the points of a bundle, chosen anew on this machine with the same weights.

Which points are worth their latency depends on the machine and on the engine; what was trained does
not. Candidates are the image sizes that the bundle's own dial tells of, what glances make of them,
and those points that skip whose thresholds the bundle still has. Thresholds of a detector's points
differ by one number, so one of them is enough for every budget at every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from engines.architecture import ResNet, only_resnet
from engines.bundle import Bundle, check_output, explain, read_bundle
from engines.core import OperatingPoint, static_point
from engines.errors import BundleError
from engines.export.pictures import Say, some_pictures
from engines.export.run import exported, library_versions
from engines.runs import Budget, PointRequest, Run, candidate_points


def redial(
    source: str | Path,
    out: Path,
    *,
    data: Path,
    calibration: Path | None = None,
    say: Say = print,
) -> Bundle:
    """Write the bundle `source` (a path or zoo:NAME) with points chosen here to `out`, and read it
    back.

    data: the folder with the validation split. calibration: pictures for int8 scales, without which
    the new bundle has none. Raises BundleError for a bundle that does not say what its points were
    chosen from, and for networks that are no ResNets.
    """
    check_output(out)
    bundle = read_bundle(source)
    if bundle.manifest.quantisation is not None and calibration is None:
        say(f"'{bundle.ref}' has int8 scales, the new bundle will not: give --int8 --calibrate DIR")
    if bundle.manifest.detector is not None:
        return _redial_detector(bundle, out, data, calibration, say)
    chosen = None if calibration is None else some_pictures(calibration)
    run, learned = _candidates(bundle, data)
    names = ", ".join(request.name for request in run.points)
    say(f"choosing from {names}" + (" and glances" if run.glances else ""))
    exported(
        run, learned, bundle.manifest.provenance, bundle.weights, out,
        data=data, calibration=chosen, all_points=False, say=say,
    )  # fmt: skip
    return read_bundle(out)


def _candidates(bundle: Bundle, data: Path) -> tuple[Run, list[OperatingPoint]]:
    """What training would have said of itself, and the points as they were learned."""
    manifest = bundle.manifest
    if manifest.dial is None:
        raise BundleError(
            f"'{bundle.path}' does not say what its points were chosen from; export its run again"
        )
    net = only_resnet(manifest.architecture, f"'{bundle.path}': a new dial")
    shipped = {record.point.name: record.point for record in manifest.points}
    requests: list[PointRequest] = []
    learned: list[OperatingPoint] = []
    for each in manifest.dial.candidates:
        point = shipped.get(each.name)
        if each.budget is None:
            point = static_point(each.name, each.image_size, len(net.maskers))
        elif point is None or point.glance is not None:
            continue
        requests.append(
            PointRequest(name=each.name, image_size=each.image_size, budget=each.budget)
        )
        learned.append(point)
    return _as_run(bundle, net, requests, data), learned


def _as_run(bundle: Bundle, net: ResNet, points: Sequence[PointRequest], data: Path) -> Run:
    manifest = bundle.manifest
    config = manifest.provenance.config
    return Run(
        name=manifest.name,
        labels=manifest.labels,
        preprocessing=manifest.preprocessing,
        architecture=net,
        points=tuple(points),
        glances=manifest.detector is None and bool(config.get("glances", True)),
        last_phase="dynamic",
        data=data,
        config=config,
        notices=manifest.provenance.notices,
        task=manifest.task,
        detector=manifest.detector,
    )


def _redial_detector(
    bundle: Bundle, out: Path, data: Path, calibration: Path | None, say: Say
) -> Bundle:
    from engines.export.detection import export_detector

    manifest = bundle.manifest
    if manifest.detector is None:
        raise BundleError(f"'{bundle.path}' finds no objects")
    net = only_resnet(manifest.architecture, f"'{bundle.path}': a new dial")
    points = [record.point for record in manifest.points if not record.point.skips_nothing]
    requests = _requests(bundle, skips=bool(points))
    say(f"choosing from {', '.join(request.name for request in requests)}")
    budgets = {each.budget for each in requests if each.budget is not None}
    thresholds = dict.fromkeys(budgets, points[0].thresholds if points else ())
    return export_detector(
        _as_run(bundle, net, requests, data), manifest.detector, thresholds,
        manifest.provenance, bundle.weights, library_versions(), out,
        data=data, calibration=calibration, say=say,
    )  # fmt: skip


def _requests(bundle: Bundle, *, skips: bool) -> list[PointRequest]:
    """What a detector's points are to be chosen from, `full` first.

    The candidates of its dial; without one, what it was trained for, at every image size that it
    ships. skips: whether it has thresholds; without, sizes are all there is.
    """
    manifest = bundle.manifest
    if manifest.dial is not None:
        found = [
            PointRequest(name=each.name, image_size=each.image_size, budget=each.budget)
            for each in manifest.dial.candidates
        ]
        return [each for each in found if skips or each.budget is None]
    sizes = [record.point.image_size for record in manifest.points]
    budgets = _trained_budgets(bundle) if skips else ()
    return list(candidate_points(sizes[0], sizes, budgets))


def _trained_budgets(bundle: Bundle) -> tuple[float, ...]:
    dynamic = bundle.manifest.provenance.config.get("dynamic")
    given = dynamic.get("budgets") if isinstance(dynamic, dict) else None
    try:
        return TypeAdapter(tuple[Budget, ...]).validate_python(given)
    except ValidationError as error:
        raise BundleError(
            f"'{bundle.path}' does not say what its points were chosen from (dynamic.budgets: "
            f"{explain(error)}); export its run again"
        ) from None
