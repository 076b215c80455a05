"""Triton kernels, imported as ``sam2fast.kernels``; each has a reference implementation in torch.

``import kernels`` from the top of a checkout also finds this folder. The folder defines nothing, so that libraries such
as transformers do not mistake it for the package ``kernels`` on PyPI.
"""
