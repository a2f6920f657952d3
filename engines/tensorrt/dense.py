"""A bundle's network without its maskers: what `full` computes, in TensorRT's own kernels alone.

That is what a plan with plugins has to beat.
"""

from __future__ import annotations

from dataclasses import replace

from engines.bundle import Bundle
from engines.core import Paradigm, static_point
from engines.manifest import PointRecord

_MASKERS = (".masker_", ".level_maskers.")


def dense_bundle(bundle: Bundle) -> Bundle:
    """The same weights in a static network, at every image size of its points; never on disk.

    Its hash stays that of the bundle.
    """
    manifest = bundle.manifest
    net = manifest.architecture
    stages = tuple(
        stage.model_copy(
            update={
                "paradigm": Paradigm.STATIC,
                "spatial_granularity": None,
                "channel_granularity": None,
            }
        )
        for stage in net.stages
    )
    records: dict[int, PointRecord] = {}
    for record in manifest.points:
        point = record.point
        for size in (point.image_size, point.glance.image_size if point.glance else None):
            if size is not None and size not in records:
                name = "full" if not records else f"size-{size}"
                records[size] = manifest.full.model_copy(
                    update={"point": static_point(name, size, 0), "activation": ()}
                )
    return replace(
        bundle,
        manifest=manifest.model_copy(
            update={
                "architecture": net.model_copy(update={"stages": stages}),
                "detector": None
                if manifest.detector is None
                else manifest.detector.model_copy(
                    update={"level_patches": None, "level_looks": None}
                ),
                "points": tuple(records.values()),
                "quantisation": None,
                "dial": None,
            }
        ),
        weights={
            name: each
            for name, each in bundle.weights.items()
            if not any(part in name for part in _MASKERS)
        },
    )
