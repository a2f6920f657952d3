"""What runs on NVIDIA GPUs. So far: the kernels, and compiling them without a GPU."""
