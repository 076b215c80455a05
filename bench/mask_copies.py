"""Times the way of an image's masks from the device to arrays of the host, part by part.

    python bench/mask_copies.py [--device cuda]     # results/calls/mask-copies-DEVICE-DATE.json

One mask for each of 1, 16 and 64 boxes on an image of 1200x1800. ``bits`` is what `predict` does on CUDA: masks are
packed on the device, copied with scores and logits in one copy through pinned memory, and unpacked to fp32. ``bool`` is
the way without packing: bool masks are copied to pageable memory and converted. ``first_write_ms`` is the part of
unpacking that the system takes to provide the memory.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from reports import file_name, write_report
from suite.machine import RESULTS, machine
from torch import Tensor

from sam2fast.kernels.mask_ops import upsample_and_pack, upsample_and_threshold
from sam2fast.kernels.mask_ops.bits import unpack_bits
from sam2fast.utils.async_copies import copy_to_host

SIZE, SIDE = (1200, 1800), 256
BOXES, RUNS = (1, 16, 64), 7


def median_ms(call: Callable[[], Any], device: torch.device) -> float:
    """Returns the median time of a call on the clock, in milliseconds, with the device's work."""
    taken = []
    for _ in range(RUNS + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        found = call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append((time.perf_counter() - start) * 1e3)
        del found
    return round(statistics.median(taken[1:]), 3)  # the first call compiles


def written(shape: tuple[int, ...]) -> np.ndarray:
    """Returns a new array after its first write, which makes the system provide the memory."""
    array = np.empty(shape, np.float32)
    array.fill(0)
    return array


def row(count: int, device: torch.device) -> dict[str, Any]:
    """Returns times and bytes for ``count`` masks with smooth outlines."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 1, 16, 16, generator=generator) * 4
    logits = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic").to(device)
    ious = torch.rand(count, 1, generator=generator).to(device)
    packed, masks = upsample_and_pack(logits, SIZE), upsample_and_threshold(logits, SIZE)
    on_host, bools = packed.cpu(), masks.cpu()
    array = unpack_bits(on_host, SIZE[1], np.float32)
    if not np.array_equal(array, bools.numpy()):
        raise SystemExit("packed masks differ from bool masks")

    def by_bits() -> np.ndarray:
        bits, _, _ = copy_to_host(upsample_and_pack(logits, SIZE), logits, ious)
        return unpack_bits(bits, SIZE[1], np.float32)

    def by_bool() -> list[np.ndarray]:
        found = upsample_and_threshold(logits, SIZE)
        return [x.cpu().float().numpy() for x in (found, logits, ious)]

    def times(**calls: Callable[[], Any]) -> dict[str, float]:
        return {
            name: median_ms(call, device)
            for name, call in calls.items()
            if name != "copy_ms" or device.type == "cuda"  # on the CPU nothing is copied
        }

    def total(*tensors: Tensor) -> int:
        return sum(x.nbytes for x in tensors)

    return {
        "boxes": count,
        "array_bytes": array.nbytes,
        "bits": {
            "bytes": total(packed, logits, ious),
            **times(
                device_ms=lambda: upsample_and_pack(logits, SIZE),
                copy_ms=lambda: copy_to_host(packed, logits, ious),
                unpack_ms=lambda: unpack_bits(on_host, SIZE[1], np.float32),
                all_ms=by_bits,
            ),
        },
        "bool": {
            "bytes": total(masks, logits, ious),
            **times(
                device_ms=lambda: upsample_and_threshold(logits, SIZE),
                copy_ms=lambda: [x.cpu() for x in (masks, logits, ious)],
                convert_ms=lambda: bools.float(),
                all_ms=by_bool,
            ),
        },
        "first_write_ms": median_ms(lambda: written(array.shape), device),
    }


def main() -> None:
    """Runs the command above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(parser.parse_args().device)
    rows = []
    for count in BOXES:
        rows.append(row(count, device))
        print(rows[-1], flush=True)
    about = machine(str(device))
    name = "cpu" if device.type == "cpu" else file_name(about["device"])
    print(write_report(RESULTS / "calls", f"mask-copies-{name}", machine=about, size=SIZE, rows=rows))


if __name__ == "__main__":
    main()
