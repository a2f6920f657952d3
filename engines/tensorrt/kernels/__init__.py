"""Triton kernels of the operators that skip, each beside a slow reference in torch.

Argument order is that of TensorRT's ahead-of-time plugins: pointers of inputs, int32 numbers,
pointers of outputs; what is known when a kernel is compiled comes last. Maps are NHWC in memory,
with a pitch: channels from one pixel to the next, a multiple of 8 in fp16 as TensorRT's HWC8 has
it. Counts and indices are clamped, since TensorRT times kernels on made-up data; nothing waits for
the host, so grids cover the most there can be and programs without work end at once.
"""
