"""Plugins of TensorRT for the operators that skip: thin wrappers of the kernels, ahead of time.

A plan that was built with them carries the kernels; it needs neither these nor Triton to run.
"""

from engines.tensorrt.plugins.registration import register

__all__ = ["register"]
