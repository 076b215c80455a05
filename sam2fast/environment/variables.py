"""Environment variables that change what is computed, where, or what is found."""

import os
from typing import Any

from sam2fast.environment.secrets import is_secret

PREFIXES = (
    *("SAM2FAST_", "TRITON_", "TORCH", "PYTORCH_", "ATEN_", "CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "NCCL_"),
    *("OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "DNNL_", "ONEDNN_"),
    *("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "HIP_", "ROCR_", "HSA_", "PYTHON"),
)
NAMES = (
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "XDG_CACHE_HOME", "VIRTUAL_ENV", "CONDA_PREFIX", "CC", "CXX"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
)
IS_SET = "(set, not shown)"


def variable_facts() -> dict[str, Any]:
    """Those that are set, by name."""
    wanted = {name: value for name, value in os.environ.items() if _matters(name.upper())}
    return {name: IS_SET if is_secret(name) else value for name, value in sorted(wanted.items())}


def _matters(name: str) -> bool:
    return name.startswith(PREFIXES) or name in NAMES
