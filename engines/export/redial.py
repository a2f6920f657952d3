"""`laud export --dial`: the points of a bundle, chosen anew on this machine with the same weights.

Which points are worth their latency depends on the machine and on the engine; what was trained does
not. Candidates are the image sizes that the bundle's own dial tells of, what glances make of them,
and those points that skip whose thresholds the bundle still has.
"""

from __future__ import annotations

from pathlib import Path

from engines.architecture import only_resnet
from engines.bundle import Bundle, check_output, classifier, read_bundle
from engines.core import OperatingPoint, static_point
from engines.errors import BundleError
from engines.export.pictures import Say, some_pictures
from engines.export.run import exported
from engines.runs import PointRequest, Run


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
    bundle = classifier(read_bundle(source), "a new dial")
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
    config = manifest.provenance.config
    run = Run(
        name=manifest.name,
        labels=manifest.labels,
        preprocessing=manifest.preprocessing,
        architecture=net,
        points=tuple(requests),
        glances=bool(config.get("glances", True)),
        last_phase="dynamic",
        data=data,
        config=config,
        notices=manifest.provenance.notices,
    )
    return run, learned
