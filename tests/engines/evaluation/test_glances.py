"""Points that glance, beside second looks for other images, and what a mixture of looks takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.bundle import read_bundle
from engines.core import Glance
from engines.errors import InvalidInput
from engines.evaluation.glances import looks_of, mixed, regrouped
from engines.evaluation.points import LabelledImages, Trial, run_trials
from engines.evaluation.timing import Latency
from engines.folders import scan_folder
from engines.registry import load_engine
from tests.engines.evaluation.test_run import write_pictures

FIRST = Latency(p50_ms=2.0, p95_ms=3.0, calls=20, noise=0.01, mean_ms=2.0)
BOTH = Latency(p50_ms=10.0, p95_ms=12.0, calls=20, noise=0.02, mean_ms=10.0)


@pytest.mark.parametrize(
    ("again", "p50", "p95", "mean"),
    [(0.0, 2.0, 3.0, 2.0), (0.25, 2.0, 12.0, 4.0), (0.75, 10.0, 12.0, 8.0)],
)
def test_quantiles_are_of_the_look_they_fall_into(
    again: float, p50: float, p95: float, mean: float
) -> None:
    found = mixed(FIRST, BOTH, again)
    assert (found.p50_ms, found.p95_ms, found.mean_ms) == (p50, p95, mean)
    assert (found.calls, found.noise) == (40, 0.02)


def test_other_images_are_looked_at_again_as_many(tmp_path: Path) -> None:
    bundle = read_bundle("zoo:clothing")
    images = LabelledImages(scan_folder(write_pictures(tmp_path / "one", 1)), 0.95)
    full = bundle.manifest.full.point
    with load_engine(bundle, threads=1) as engine:
        point = full.model_copy(
            update={"name": "glance", "glance": Glance(image_size=96, confidence=0.5)}
        )
        (sure,) = (r.confidences for r in run_trials(engine, [Trial(point.glancing(0.0))], images))
        assert sure is not None
        point = point.glancing(float(np.sort(sure)[2]))
        own = run_trials(engine, [Trial(point)], images)
        never, always = run_trials(
            engine, [Trial(point.glancing(0.0)), Trial(point.glancing(1.0))], images
        )
        for shuffle in (True, False):
            (found,) = regrouped(engine, own, images, 0, lambda line: None, shuffle=shuffle)
            assert found.again is not None
            assert found.again.sum() == 2
            assert found.macs.sum() == pytest.approx(own[0].macs.sum())
            assert np.array_equal(found.losses, np.where(found.again, always.losses, never.losses))
        with pytest.raises(InvalidInput, match="does not glance"):
            regrouped(
                engine, run_trials(engine, [Trial(full)], images), images, 0, print, shuffle=True
            )


def test_what_is_timed_of_a_point_that_glances_are_its_looks() -> None:
    full = read_bundle("zoo:clothing").manifest.full.point
    assert looks_of(full) == {"full": full}
    point = full.model_copy(update={"glance": Glance(image_size=96, confidence=0.5)})
    first, both = looks_of(point).values()
    assert (first.glance, both.glance) == (
        Glance(image_size=96, confidence=0.0),
        Glance(image_size=96, confidence=1.0),
    )
