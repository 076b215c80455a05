"""Triton kernels, imported as ``sam2fast.kernels``; each has a reference implementation in torch."""

if __name__ != "sam2fast.kernels":
    raise ImportError("import sam2fast.kernels; the name `kernels` belongs to a PyPI package")
