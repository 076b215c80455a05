"""A case whose result depends on the launch configuration: right, wrong, refused, hanging, or a crash."""

import os
import time
from collections.abc import Iterator

import torch
from registry import Calls, Case, Work, launch_module

from sam2fast.kernels._dispatch import count_launch
from sam2fast.kernels._launch import launch_config

RIGHT, WRONG, REFUSED, SLOW, FATAL, UNLAUNCHED = range(6)


def faulty_cases() -> Iterator[Case]:
    def prepare(device: torch.device) -> Calls:
        expected = torch.arange(4.0)

        def ours() -> torch.Tensor:
            fault = launch_config("layer_norm", launch_module("layer_norm").config, expected).meta["ELEMENTS"]
            print("what a case prints is not an answer", flush=True)
            if fault == SLOW:
                time.sleep(600)
            if fault == FATAL:
                os.write(2, b"an illegal access\n")
                os.abort()
            if fault == REFUSED:
                raise RuntimeError("out of resources")
            if fault != UNLAUNCHED:
                count_launch("layer_norm")
            return expected + (fault == WRONG)

        return {"torch": lambda: expected, "sam2fast": ours}

    yield Case("layer_norm", "faulty", "float32", prepare, Work())
