"""A served network at other image sizes, to measure serving where the engine weighs more.

    python tests/benchmarks/larger.py big.laud [--of zoo:clothing] [--sizes 448,384,320,224,160]
        [--pictures DIR]
    laud bench serve big.laud --images DIR --part goodput --slo-ms 300 --threads 1

The weights stay as they are, and so do their int8 scales; the first size is that of `full`, every
other one a point, and nothing is skipped. How accurate it is at sizes that it was not trained for
is not known, so no point has an accuracy: such a bundle is for times, not for answers. `--pictures`
writes eight made-up photographs of 1024x768 and about 150 kB, which decoding brings to any of these
sizes from above.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from engines.architecture import MapSize
from engines.bundle import Manifest, read_bundle, write_bundle
from engines.core import static_point
from engines.macs import static_macs
from engines.manifest import PointRecord
from service.load.made_up import made_up_jpeg

SIZES = (448, 384, 320, 224, 160)
PICTURES = 8
PIXELS, NUM_BYTES = (1024, 768), 150_000


def at_sizes(manifest: Manifest, sizes: tuple[int, ...]) -> Manifest:
    """The same network with a point per size that skips nothing; the first is `full`.

    Raises ValueError where they are not of different sizes, the largest first.
    """
    if not sizes or list(sizes) != sorted(set(sizes), reverse=True):
        raise ValueError(f"sizes must differ, and descend: {sizes}")
    net = manifest.architecture
    macs = {size: float(static_macs(net, MapSize(size, size))) for size in sizes}
    number = len(net.maskers)
    points = tuple(
        PointRecord(
            point=static_point(f"size-{size}" if place else "full", size, number),
            activation=(1.0,) * number,
            macs=macs[size],
            macs_ratio=macs[size] / macs[sizes[0]],
        )
        for place, size in enumerate(sizes)
    )
    scales = manifest.quantisation
    if scales is not None:
        # What was never answered agrees with nothing; the scales stay those that were observed.
        unknown = scales.calibration.model_copy(update={"agreement": (0.0,) * len(points)})
        scales = scales.model_copy(update={"points": points, "calibration": unknown})
    return Manifest.model_validate(
        {
            **dict(manifest),
            "name": f"{manifest.name}-{sizes[0]}",
            "points": points,
            "dial": None,
            "quantisation": scales,
        }
    )


def main() -> None:
    """Write the bundle, and pictures where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--of", default="zoo:clothing")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--pictures", type=Path, default=None)
    wanted = parser.parse_args()
    found = read_bundle(wanted.of)
    sizes = tuple(int(size) for size in wanted.sizes.split(","))
    write_bundle(wanted.bundle, at_sizes(found.manifest, sizes), found.weights)
    print(f"{wanted.bundle}: {found.manifest.name} at {wanted.sizes} px, accuracy unknown")
    if wanted.pictures is not None:
        wanted.pictures.mkdir(parents=True, exist_ok=True)
        for seed in range(PICTURES):
            picture = made_up_jpeg(*PIXELS, NUM_BYTES, seed=seed)
            (wanted.pictures / picture.name).write_bytes(picture.data)
        print(f"{PICTURES} pictures in {wanted.pictures}")


if __name__ == "__main__":
    main()
