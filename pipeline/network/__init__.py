"""The network that denoises: NVIDIA's transformer, its layers, attention and kernels."""
