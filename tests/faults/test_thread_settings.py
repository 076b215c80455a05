"""Settings that hold within a block, in several threads and tasks."""

import asyncio

import torch
from at_once import at_once

from sam2fast.kernels._dispatch import backend, current_backend
from sam2fast.utils.reproducibility import deterministic, is_deterministic


def test_backends_of_threads_and_tasks(monkeypatch, often):
    monkeypatch.delenv("SAM2FAST_BACKEND", raising=False)

    def work(name: str) -> bool:
        seen = set()
        for _ in range(2000):
            with backend(name):
                seen.add(current_backend())
            seen.add(current_backend())
        return seen == {name, "auto"}

    assert at_once(lambda: work("torch"), lambda: work("triton")) == [True, True]

    async def task(name: str) -> list[str]:
        with backend(name):
            seen = []
            for _ in range(5):
                await asyncio.sleep(0)
                seen += [current_backend(), await asyncio.to_thread(current_backend)]
            return seen

    async def both() -> list[list[str]]:
        return await asyncio.gather(task("torch"), task("triton"))

    assert asyncio.run(both()) == [["torch"] * 10, ["triton"] * 10]


def switches() -> list[bool]:
    return [
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        is_deterministic(),
    ]


def test_deterministic_blocks_of_threads_overlap():
    before = switches()
    first, second = deterministic(), deterministic(warn_only=True)
    inner = [True, False, True, True]
    at_once(first.__enter__)
    assert switches() == inner
    at_once(second.__enter__)
    at_once(lambda: first.__exit__(None, None, None))
    assert switches() == [True, True, True, True]  # the second block is still open
    at_once(lambda: second.__exit__(None, None, None))
    assert switches() == before
