"""Made-up annotated pictures of a few dozen pixels, in the layouts that are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SIZE = 48
UInt16Array = npt.NDArray[np.uint16]


def discs(count: int, seed: int, height: int = SIZE, width: int = SIZE) -> UInt16Array:
    """A map of `count` numbered discs that may touch and hide each other in part."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    numbered = np.zeros((height, width), np.uint16)
    for number in range(1, count + 1):
        y, x, radius = rng.uniform(6, height - 6), rng.uniform(6, width - 6), rng.uniform(4, 7)
        numbered[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = number
    return numbered


def shown(numbered: UInt16Array, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Bright discs on dark noise, RGB."""
    noise = np.random.default_rng(seed).integers(0, 40, (*numbered.shape, 3))
    return (noise + 160 * (numbered > 0)[:, :, None]).astype(np.uint8)


def write_nuclei(root: Path, counts: dict[str, tuple[int, ...]]) -> Path:
    """Instance maps: per split, pictures with that many discs each."""
    for split, numbers in counts.items():
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for i, count in enumerate(numbers):
            numbered = discs(count, seed=10 * i + len(split))
            Image.fromarray(shown(numbered, i)).save(root / split / "images" / f"{i}.png")
            Image.fromarray(numbered).save(root / split / "labels" / f"{i}.png")
    return root


def write_voc(root: Path, objects: str, listed: str = "a") -> Path:
    """A VOC folder of one picture `a` (40 x 30) whose XML holds `objects`."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(root / "JPEGImages" / "a.jpg")
    text = f"<annotation><size><width>40</width><height>30</height></size>{objects}</annotation>"
    (root / "Annotations" / "a.xml").write_text(text)
    (root / "ImageSets" / "Main" / "train.txt").write_text(f"{listed}\n")
    return root


def voc_object(name: str, *corners: int, extra: str = "") -> str:
    """One object in VOC's XML."""
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, corners, strict=True))
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"


def write_coco(root: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    """A COCO folder of one picture `a.png` (40 x 30), two categories."""
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    Image.new("RGB", (40, 30)).save(root / "images" / "a.png")
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
        "annotations": [{"id": i, "image_id": 7, **entry} for i, entry in enumerate(annotations)],
    }
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content | changes))
    return root
