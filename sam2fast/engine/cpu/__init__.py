"""Inference on the CPU: work in pieces that fit the cache, matrix multiplications by the faster library."""
