"""The native engine: C++ kernels that compute only what is active. Needs no torch."""
