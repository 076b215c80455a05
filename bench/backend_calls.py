"""Ways of computing the same thing: what may refuse, and our kernels whatever the configuration says."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from sam2fast.kernels._dispatch import backend, interpreting

Result = TypeVar("Result")
OURS = ("triton", "sam2fast")  # our implementations among the subjects of a case, the kernels first
# Whether kernels are measured on the CPU, too, by Triton's interpreter: set by a rehearsal, whose times mean nothing.
interpreted = False
SUPPORT = Path(__file__).parents[1] / "tests" / "support"


def on_cpu() -> None:
    """Kernels run in Triton's interpreter here, repaired as for tests.

    Raises:
        RuntimeError: Triton is there already, and compiles.
    """
    global interpreted
    if not interpreting():
        if "triton" in sys.modules:
            raise RuntimeError("on a CPU kernels need Triton's interpreter: set TRITON_INTERPRET=1")
        os.environ["TRITON_INTERPRET"] = "1"
    if str(SUPPORT) not in sys.path:
        sys.path.insert(0, str(SUPPORT))
    importlib.import_module("interpreter").install()
    interpreted = True


def runs_kernels(device: torch.device) -> bool:
    """Whether our kernels are among what is measured on a device."""
    return device.type == "cuda" or interpreted


class RefusedError(RuntimeError):
    """A way of computing that does not take this shape on this device."""


def said(error: BaseException) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def may_refuse(call: Callable[[], Result]) -> Callable[[], Result]:
    """``call`` with whatever a library or compiler raises as :class:`RefusedError`; never for our own subjects."""

    def run() -> Result:
        try:
            return call()
        except Exception as error:
            raise RefusedError(said(error)) from error

    return run


def forced(
    attend: Callable[[Callable[..., Any]], Callable[[], Any]], device: torch.device
) -> dict[str, Callable[[], Any]]:
    """Attention by one of torch's kernels whatever torch would choose, on a GPU; nothing elsewhere.

    Args:
        attend: gives the call by a function of query, key and value.
    """
    if device.type != "cuda":
        return {}
    ways = {
        "FlashAttention": lambda q, k, v: torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0],
        "cuDNN": lambda q, k, v: torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, False)[0],
    }
    return {f"SDPA, {name}": may_refuse(attend(way)) for name, way in ways.items()}


def by_triton(call: Callable[[], Result]) -> Callable[[], Result]:
    """Returns ``call`` by our kernels. It raises RefusedError if ``SAM2FAST_TORCH_OPS`` leaves an op to torch."""

    def run() -> Result:
        try:
            with backend("triton"):
                return call()
        except RuntimeError as error:
            if "is in SAM2FAST_TORCH_OPS" in str(error):
                raise RefusedError(said(error)) from error
            raise

    return run


def kernel_if_any(call: Callable[[], Result], device: torch.device) -> Callable[[], Result]:
    """``call`` by our kernels where they run on the device."""
    return by_triton(call) if runs_kernels(device) else call


def ours(call: Callable[[], Any], device: torch.device) -> dict[str, Callable[[], Any]]:
    """``call`` by our kernels on a GPU, and as the dispatcher has it elsewhere."""
    return by_kernel(call, device) or {"sam2fast": call}


def by_kernel(call: Callable[[], Any], device: torch.device) -> dict[str, Callable[[], Any]]:
    """``call`` by our kernels on a GPU; nothing elsewhere."""
    return {"triton": by_triton(call)} if runs_kernels(device) else {}


def both_ways(call: Callable[[], Any], device: torch.device) -> dict[str, Callable[[], Any]]:
    """``call`` as the dispatcher has it, and on a GPU also by our kernels."""
    return {"sam2fast": call} | by_kernel(call, device)
