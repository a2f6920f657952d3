"""Several folders of pictures as one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.errors import ConfigError
from engines.folders import ImageFolder, check_same_classes, relabel, scan_folder


def pool_folders(roots: Sequence[Path], labels: Sequence[str]) -> ImageFolder:
    """The pictures of all `roots`, folder by folder, with the label numbers of a network.

    Raises ConfigError for a folder without pictures, with a class that is no label, with other
    classes than the first one, or with pictures that another one has too.
    """
    found = [relabel(scan_folder(root, min_classes=1), labels) for root in roots]
    if len(found) == 1:
        return found[0]
    scanned = [scan_folder(root, min_classes=1) for root in roots]
    for other in scanned[1:]:
        check_same_classes(scanned[0], other)
    above = Path(os.path.commonpath([root.resolve() for root in roots]))
    files = [
        (folder.root.resolve() / file).relative_to(above)
        for folder in found
        for file in folder.files
    ]
    if len(set(files)) < len(files):
        raise ConfigError(
            f"{', '.join(map(str, roots))}: some pictures are in two of these folders; "
            "every picture counts once"
        )
    numbers = np.concatenate([folder.labels for folder in found])
    return ImageFolder(above, tuple(labels), tuple(files), numbers)
