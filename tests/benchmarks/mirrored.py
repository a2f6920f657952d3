"""How often a network agrees with itself on mirrored photographs: a measure for two networks.

Training shows every photograph as often mirrored as not, so that a mirrored one is the same
question to it. Of two networks that are trained apart no more can be hoped for. Needs no torch:

    .venv/bin/python tests/benchmarks/mirrored.py zoo:clothing DIR... --precision fp32
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from engines.bundle import read_bundle
from engines.evaluation.points import LabelledImages
from engines.evaluation.pool import pool_folders
from engines.registry import load_engine


def main() -> None:
    """Print the share of equal answers of `full`, and how many are right either way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--precision", default=None)
    options = parser.parse_args()
    bundle = read_bundle(options.bundle)
    manifest = bundle.manifest
    images = LabelledImages(
        pool_folders(options.folders, manifest.labels), manifest.preprocessing.crop_ratio
    )
    answers, labels = [], []
    with load_engine(bundle, kind="cpu", threads=1, precision=options.precision) as engine:
        full = manifest.at(engine.precision).points[0].point
        for numbers, pixels in images.chunks([full.image_size]):
            plain = pixels[full.image_size]
            for view in (plain, np.ascontiguousarray(plain[:, :, ::-1])):
                rows = engine.infer(view, [full] * len(view)).arrays["probabilities"]
                answers.append(rows.argmax(axis=1))
            labels.append(numbers)
    as_is, mirrored = (np.concatenate(answers[k::2]) for k in range(2))
    right = np.concatenate(labels)
    print(
        f"{engine.precision}, {full.image_size} px, {len(right)} photographs: equal answers "
        f"{(as_is == mirrored).mean():.3f}; right {(as_is == right).sum()}, "
        f"mirrored {(mirrored == right).sum()}"
    )


if __name__ == "__main__":
    main()
