"""Prints how many processes compiled kernels for a fake H100, how many were to be launched, and how many cached."""

import json
import os
import subprocess
from types import SimpleNamespace
from typing import Any

import fake_cuda
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.kernels import _warm

NANO = "configs/nano/sam2fast_nano.yaml"
ALIGNED = 1 << 20  # the address of every tensor: Triton compiles for it
CPUS = 2


def main() -> None:
    started: list[Any] = []
    hits: list[bool] = []
    start = subprocess.Popen
    device = {"get_current_device": lambda: 0, "get_current_stream": lambda device: 0}
    driver.set_active(SimpleNamespace(**device, get_current_target=lambda: GPUTarget("cuda", 90, 32)))

    def as_launched(kernel: Any, grid: Any) -> Any:
        """All of a launch but the last step."""
        return lambda *args, **kwargs: kernel.run(*args, grid=grid, warmup=True, **kwargs)

    def popen(command: Any, *args: Any, **options: Any) -> Any:
        started.extend([command] * (_warm.__name__ in command))
        return start(command, *args, **options)

    with fake_cuda.fake_cuda(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit.KernelInterface, "__getitem__", as_launched)
        patch.setattr(FakeTensor, "data_ptr", lambda self: ALIGNED)
        patch.setattr(os, "cpu_count", lambda: CPUS)
        patch.setattr(subprocess, "Popen", popen)
        patch.setattr(knobs.compilation, "listener", lambda cache_hit, **others: hits.append(cache_hit))
        fake_cuda.build(build_sam2_video_predictor, NANO, dtype=torch.bfloat16).warmup(1)
        print(json.dumps({"processes": len(started), "kernels": len(hits), "in the cache": sum(hits)}))


if __name__ == "__main__":
    main()
