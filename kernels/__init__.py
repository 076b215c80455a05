"""Triton kernels, imported as ``sam2fast.kernels``; each has a reference implementation in torch.

``import kernels`` from the top of a checkout finds this folder, too. Nothing is defined here, so that a library that
looks for the package of that name on PyPI, such as transformers, sees that it is not installed.
"""
