"""Triton kernels, imported as ``sam2fast.kernels``. Each kernel has a reference implementation in torch.

From the top of a checkout, ``import kernels`` finds this folder. The folder defines nothing, so that libraries such as
transformers do not mistake the folder for the package ``kernels`` on PyPI.
"""
