"""GPU operators, imported as ``sam2fast.kernels``; each has a torch twin that documents it and runs everywhere."""

if __name__ != "sam2fast.kernels":
    raise ImportError("import sam2fast.kernels; the name `kernels` belongs to a PyPI package")
