"""Torch, the GPUs it sees, and what computes each op on them."""

import shutil
import subprocess
from typing import Any

from sam2fast.environment.machine import GIB

SECONDS_FOR_TOOLS = 10
QUERY = ("driver_version", "name", "uuid", "memory.total", "memory.used", "mig.mode.current")


def torch_facts() -> dict[str, Any]:
    """Version, what it was built for, threads, and the switches that decide how products are made."""
    import torch

    from sam2fast.kernels._launch import tf32_is_allowed

    mkldnn = torch.backends.mkldnn.is_available()
    return {
        "version": torch.__version__,
        "commit": torch.version.git_version,
        "built for CUDA": torch.version.cuda,
        "built for ROCm": torch.version.hip,
        "cuDNN": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "CUDA is available": torch.cuda.is_available(),
        "MPS": {"built": torch.backends.mps.is_built(), "available": torch.backends.mps.is_available()},
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
        "oneDNN": mkldnn,
        "bfloat16 instructions": bool(mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        "threads": torch.get_num_threads(),
        "threads between ops": torch.get_num_interop_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "TF32 in fp32 products": tf32_is_allowed(),
    }


def gpu_facts() -> dict[str, Any]:
    """Each GPU as torch sees it, and what the driver says of all in the machine."""
    import torch

    facts: dict[str, Any] = {}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = torch.cuda.get_device_properties(index)
        facts[f"cuda:{index}"] = {
            "name": found.name,
            "capability": f"{found.major}.{found.minor}",
            "memory GiB": round(found.total_memory / GIB, 1),
            "multiprocessors": found.multi_processor_count,
        }
    driver = _driver()
    return facts | ({"driver": driver} if driver else {}) or {"found": "none"}


def op_facts() -> dict[str, Any]:
    """For each device what computes the ops that have a Triton kernel, and why it is not that kernel."""
    import torch

    from sam2fast.kernels import _dispatch

    facts: dict[str, Any] = {"backend in force": _dispatch.current_backend(), "with kernels": sorted(_dispatch.KERNELS)}
    facts["cpu"] = _on_cpu(_dispatch.current_backend(), _dispatch.interpreting())
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        why = _dispatch.why_no_triton(torch.device("cuda", index))
        facts[f"cuda:{index}"] = f"torch: {why}" if why else "triton, but for what torch does better"
    if torch.backends.mps.is_available():
        facts["mps"] = "torch: Triton has no kernels for MPS"
    return facts


def _on_cpu(backend: str, interpreting: bool) -> str:
    if backend != "triton":
        return "torch: Triton's kernels are for GPUs"
    return "triton's interpreter" if interpreting else "none: SAM2FAST_BACKEND forbids torch, and Triton needs a GPU"


def _driver() -> list[dict[str, str]]:
    """What ``nvidia-smi`` says of each GPU; nothing where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"]
    try:
        # Nothing of it is anybody's input.
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=SECONDS_FOR_TOOLS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return [{"error": f"nvidia-smi: {error}"}]
    lines = (line.split(",") for line in done.stdout.splitlines() if line.strip())
    return [dict(zip(QUERY, (value.strip() for value in values), strict=False)) for values in lines]
