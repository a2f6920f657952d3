"""PyTorch definitions: masks, maskers, networks, checkpoint import and counting."""

from engines.models.checkpoints import load_official, load_torchvision
from engines.models.open_nsfw import load_open_nsfw
from engines.models.resnet import LaudResNet, fold_batchnorm

__all__ = ["LaudResNet", "fold_batchnorm", "load_official", "load_open_nsfw", "load_torchvision"]
