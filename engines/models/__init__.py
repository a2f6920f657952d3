"""PyTorch definitions: masks, maskers, networks, checkpoint import and counting."""

from engines.models.checkpoints import load_official, load_torchvision
from engines.models.network import LaudNetwork, fold_batchnorm
from engines.models.open_nsfw import load_open_nsfw
from engines.models.regnet import LaudRegNet, network_of
from engines.models.resnet import LaudResNet

__all__ = [
    "LaudNetwork",
    "LaudRegNet",
    "LaudResNet",
    "fold_batchnorm",
    "load_official",
    "load_open_nsfw",
    "load_torchvision",
    "network_of",
]
