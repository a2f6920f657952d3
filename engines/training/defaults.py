"""What `laud train --data DIR` asks for, in full: from options and a folder to a configuration.

The demo's recipe (configs/clothing.yaml) with the number of epochs made to fit. No torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.bundle import ZOO_PREFIX, Bundle, zoo_names
from engines.core import MAX_IMAGE_SIZE
from engines.errors import InvalidInput
from engines.manifest import MOST_POINTS
from engines.training.config import TrainConfig

DEFAULT_ARCH = "clothing"
# At .5 every run lost most, and `full` lost more in the runs that had it (docs/training.md).
BUDGETS = (0.8, 0.65)

# configs/clothing.yaml: epochs per phase, and the pictures that it saw in one.
_EPOCHS = {"static": 8, "sizes": 8, "dynamic": 12}
_PICTURES = 3068
_MOST_TIMES, _LEAST_TIMES = 4.0, 0.5
# Teaching a size is worth more than any mask of its cost (docs/training.md): down to 0.4.
_SIZE_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
# configs/clothing.yaml: `full` stays what it was, and so do the weights.
_DYNAMIC = {"full_share": 0.4, "difficulty_spread": 0.15, "start_share": 0.5}
_SMALLEST_SIZE = 16
# Half of the mixed batches are at full size; the smaller ones share the rest.
_FULL_SIZE_SHARE = 0.5
_MOST_EPOCHS = 10_000
_MOST_NAME = 64


@dataclass(frozen=True)
class Options:
    """What a user may choose. None: as the defaults have it; an empty tuple: none of these."""

    budgets: tuple[float, ...] | None = None
    sizes: tuple[int, ...] | None = None
    image_size: int | None = None
    seed: int = 0


def bundle_reference(arch: str) -> str:
    """The bundle that --arch names: one that ships, zoo:NAME, or a path; InvalidInput for none."""
    if arch in zoo_names():
        return f"{ZOO_PREFIX}{arch}"
    if not arch.startswith(ZOO_PREFIX) and not Path(arch).is_dir():
        raise InvalidInput(
            f"no arch '{arch}': --arch takes a bundle, by its path (NAME.laud) or as one that "
            f"ships: {', '.join(ZOO_PREFIX + name for name in zoo_names())}"
        )
    return arch


def check_options(options: Options, backbone: Bundle) -> None:
    """Raise InvalidInput for options that do not go together or with the backbone."""
    default_content(options, backbone, name="", root=Path(), num_pictures=1)


def default_content(
    options: Options, backbone: Bundle, *, name: str, root: Path, num_pictures: int
) -> dict[str, Any]:
    """The sections of a training configuration, as a YAML file holds them.

    backbone: where weights, stages, normalisation and image size come from. root: the folder with
    the splits. num_pictures: how many there are to train on. Raises InvalidInput for options that
    do not go together or with the backbone.
    """
    _check_backbone(backbone)
    manifest = backbone.manifest
    wanted = options.image_size
    image_size = manifest.full.point.image_size if wanted is None else wanted
    sizes = _sizes(options.sizes, image_size)
    budgets = _budgets(options.budgets)
    if (1 + len(sizes)) * (1 + len(budgets)) > MOST_POINTS:
        raise InvalidInput(
            f"{1 + len(sizes)} image sizes with {len(budgets)} budgets make more than "
            f"{MOST_POINTS} operating points; take fewer"
        )
    epochs = epochs_for(num_pictures)
    dynamic: dict[str, Any] = {"epochs": epochs["dynamic"] if budgets else 0}
    if budgets:
        dynamic |= {
            "budgets": list(budgets),
            "size_shares": _size_shares(image_size, sizes),
            **_DYNAMIC,
        }
    return {
        "name": name,
        "seed": options.seed,
        "data": {"root": str(root), "crop_ratio": manifest.preprocessing.crop_ratio},
        "init": {"source": "bundle", "path": _path_of(backbone)},
        "stages": [
            stage.model_dump(mode="json", exclude_none=True)
            for stage in manifest.architecture.stages
        ],
        "image_size": image_size,
        "static": {"epochs": epochs["static"]},
        "sizes": {"epochs": epochs["sizes"] if sizes else 0, "sizes": list(sizes)},
        "dynamic": dynamic,
    }


def epochs_for(num_pictures: int) -> dict[str, int]:
    """Epochs per phase: as many steps as the demo's training took, fewer pictures seen more often.

    Half of its epochs at least and four times as many at most, where pictures would only be learnt
    by heart.
    """
    times = min(max(_PICTURES / max(num_pictures, 1), _LEAST_TIMES), _MOST_TIMES)
    return {phase: max(round(epochs * times), 1) for phase, epochs in _EPOCHS.items()}


def with_minutes(config: TrainConfig, seconds: dict[str, float], minutes: float) -> TrainConfig:
    """The configuration with epochs that fit into `minutes`, each phase's share of it unchanged.

    seconds: what its phases take with the epochs that they have, on this machine. A phase that had
    an epoch keeps one at least, however short the time.
    """
    if not 0 < minutes < float("inf"):
        raise InvalidInput(f"--minutes must be above 0, got {minutes:g}")
    total = sum(seconds.values())
    times = minutes * 60 / total if total > 0 else 1.0
    before = epochs_of(config)
    found = {
        phase: min(max(round(epochs * times), 1), _MOST_EPOCHS) if epochs else 0
        for phase, epochs in before.items()
    }
    return with_epochs(config, found)


def with_epochs(config: TrainConfig, epochs: dict[str, int]) -> TrainConfig:
    """The configuration with other epochs per phase; what was left unset stays unset."""
    content = config.model_dump(mode="json", exclude_unset=True)
    for phase, count in epochs.items():
        content.setdefault(phase, {})["epochs"] = count
    return TrainConfig.model_validate(content)


def epochs_of(config: TrainConfig) -> dict[str, int]:
    """Epochs per phase, in the order in which they run."""
    return {
        "static": config.static.epochs,
        "sizes": config.sizes.epochs,
        "dynamic": config.dynamic.epochs,
    }


def name_for(folder: Path) -> str:
    """A bundle's name from that of a folder: lower case, what is not allowed becomes a dash."""
    name = re.sub(r"[^a-z0-9_.-]+", "-", folder.resolve().name.lower()).strip("-_.")
    return name[:_MOST_NAME] or "pictures"


def _check_backbone(backbone: Bundle) -> None:
    net = backbone.manifest.architecture
    if net.family != "resnet" or not net.folded or net.official_layout:
        raise InvalidInput(
            f"'{backbone.ref}' cannot be trained further: --arch takes a ResNet with folded batch "
            "norm, such as zoo:clothing or what `laud train` has made"
        )


def _path_of(backbone: Bundle) -> str:
    return backbone.ref if backbone.ref.startswith(ZOO_PREFIX) else str(backbone.path.resolve())


def _sizes(wanted: tuple[int, ...] | None, image_size: int) -> tuple[int, ...]:
    """Smaller image sizes, the largest first."""
    if not _SMALLEST_SIZE <= image_size <= MAX_IMAGE_SIZE:
        raise InvalidInput(
            f"--image-size must be {_SMALLEST_SIZE} to {MAX_IMAGE_SIZE}, got {image_size}"
        )
    if wanted is None:
        return default_sizes(image_size)
    for size in wanted:
        if not _SMALLEST_SIZE <= size < image_size:
            raise InvalidInput(
                f"--sizes must be at least {_SMALLEST_SIZE} and below the image size of "
                f"{image_size}, got {size}"
            )
    return tuple(sorted(set(wanted), reverse=True))


def default_sizes(image_size: int) -> tuple[int, ...]:
    """Nine to four tenths of the image size, in steps that a network's strides divide."""
    step = 16 if image_size >= 128 else 8
    sizes = {round(share * image_size / step) * step for share in _SIZE_SHARES}
    return tuple(sorted((s for s in sizes if _SMALLEST_SIZE <= s < image_size), reverse=True))


def _budgets(wanted: tuple[float, ...] | None) -> tuple[float, ...]:
    budgets = BUDGETS if wanted is None else wanted
    for budget in budgets:
        if not 0.05 < budget < 1.0:
            raise InvalidInput(
                f"--budgets are shares of the work of the whole network, between 0.05 and 1, "
                f"got {budget:g}"
            )
    return tuple(sorted(set(budgets), reverse=True))


def _size_shares(image_size: int, sizes: tuple[int, ...]) -> dict[int, float]:
    share = round((1.0 - _FULL_SIZE_SHARE) / len(sizes), 3) if sizes else 0.0
    return {image_size: round(1.0 - share * len(sizes), 3), **dict.fromkeys(sizes, share)}
