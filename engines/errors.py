"""Every error that the `engines` package raises on purpose.

LaudError
├── InvalidInput        an argument is wrong (also a ValueError)
│   └── ImageError      bytes that are not a usable picture
│       ├── UnsupportedImage   a format that is not JPEG, PNG or WebP
│       └── ImageTooLarge      more pixels than the limit
├── ConfigError         a training configuration or data folder that cannot be used
├── CheckpointError     weights whose names, shapes or format do not fit the network
├── BundleError         a bundle that is damaged, too new or inconsistent
├── PlanError           a plan of TensorRT that is damaged, or of something else
├── EngineError         an engine that cannot run here, or was closed
└── LatencyError        a latency table that is missing, damaged or of something else
"""

from __future__ import annotations


class LaudError(Exception):
    """Base of all errors of this package; the message says what was wrong and what to do."""


class InvalidInput(LaudError, ValueError):
    """An argument of a public function is wrong."""


class ImageError(InvalidInput):
    """The bytes are not a picture that can be used: damaged, empty or not decodable."""


class UnsupportedImage(ImageError):
    """The bytes are not JPEG, PNG or WebP."""


class ImageTooLarge(ImageError):
    """The picture has more pixels than the limit; told from its header, before decoding."""


class ConfigError(LaudError):
    """A configuration file or a data folder cannot be used."""


class CheckpointError(LaudError):
    """Weights do not fit the network; the message lists names and shapes."""


class BundleError(LaudError):
    """A bundle is damaged, written by a newer version, or contradicts itself."""


class PlanError(LaudError):
    """A plan is damaged, was written by a newer version, or does not fit."""


class EngineError(LaudError):
    """An engine cannot run on this machine or has been closed."""


class LatencyError(LaudError):
    """A latency table or device description cannot be used: damaged, or of something else."""
