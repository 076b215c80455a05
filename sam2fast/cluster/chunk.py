"""A share of the jobs: what one task of an array does."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2fast.cluster.result_file import append_answer, repair
from sam2fast.cluster.slot import Setup, Slot
from sam2fast.parallel.pool import Task
from sam2fast.resubmission import Resubmitted

# In the place of a job's index: the task could not begin.
NOT_BEGUN = -1


@dataclass(frozen=True)
class Chunk(Resubmitted):
    """Jobs for one process, which submitit calls without arguments.

    Called again, after it was interrupted, it does those jobs that have no answer yet.

    Attributes:
        setup: of the worker.
        calls: indices of the jobs, and each as bytes, in the order in which they are done.
        answers: a file on a file system that the machines share.
    """

    setup: Setup
    calls: Sequence[tuple[int, bytes]]
    answers: Path

    def __call__(self) -> None:
        done = repair(self.answers)
        left = [(index, call) for index, call in self.calls if index not in done]
        if not left or NOT_BEGUN in done:
            return
        slot = Slot(self.setup)
        begun = slot.make()
        if not pickle.loads(begun)[0]:  # noqa: S301  of this run's own processes
            append_answer(self.answers, NOT_BEGUN, begun)
            return
        for index, call in left:
            append_answer(self.answers, index, slot.call(call))


def deal(tasks: Sequence[Task], count: int, weigh: Callable[[Any], float]) -> list[list[Task]]:
    """Shares of about the same weight, the heaviest jobs first; as many as there are jobs, at most.

    Args:
        weigh: how long a job takes, in any unit.
    """
    count = min(count, len(tasks))
    shares: list[list[Task]] = [[] for _ in range(count)]
    weights = [0.0] * count
    for weight, task in sorted(((weigh(task.job), task) for task in tasks), key=lambda pair: -pair[0]):
        # Of equal ones the share with fewer jobs, so that jobs without weight are dealt in turn.
        lightest = min(range(count), key=lambda i: (weights[i], len(shares[i])))
        shares[lightest].append(task)
        weights[lightest] += weight
    return shares
