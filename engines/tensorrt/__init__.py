"""What runs on NVIDIA GPUs. So far: the kernels, compiled without a GPU, and plugins of them."""
