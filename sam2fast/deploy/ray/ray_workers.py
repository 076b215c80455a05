"""Ray's actors in the place of processes of this machine."""

import logging
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from sam2fast.deploy.parallel.pool import JOBS_AHEAD, JobResult, JobSource, Member, Pool
from sam2fast.deploy.parallel.process import WorkerError
from sam2fast.deploy.ray.slot import Slot

# Between looks at what nodes there are.
SECONDS_BETWEEN_LOOKS = 10.0
# Without a single worker, until that is told.
SECONDS_TO_WONDER = 60.0
# A worker that cannot begin is tried once more, perhaps on another node.
MOST_STARTS = 2
# Of what Ray says about a loss: its first and its last words.
FIRST_CHARACTERS, LAST_CHARACTERS = 160, 240


class RayWorker:
    """An actor with a :class:`~sam2fast.deploy.ray.slot.Slot`, as a pool sees it.

    Args:
        ray: the module, connected.
        setup: of the slot, or Ray's reference to it.
        device: in words, until the actor says where it is.
        needs: options of the actor: its CPUs and GPUs.
        failed_starts: actors before it that were to be this one and could not begin.
    """

    def __init__(self, ray: Any, setup: Any, device: str, needs: dict[str, Any], failed_starts: int = 0) -> None:
        self.device, self.failed_starts = device, failed_starts
        self._ray = ray
        # Losses are our own affair: Ray would build the predictor anew, but not say which job was lost.
        self._actor = ray.remote(Slot).options(max_restarts=0, max_task_retries=0, **needs).remote(setup)
        self._replies: deque[Any] = deque([self._actor.make.remote()])
        self._is_made = False

    @property
    def next_reply(self) -> Any:
        """Ray's reference to the answer that comes next."""
        return self._replies[0]

    def send_packed(self, call: bytes) -> None:
        """Calls a method of the service; :meth:`reply` has the answer."""
        self._replies.append(self._actor.call.remote(call))

    def reply(self) -> tuple[bool, Any]:
        """The next answer, the first of which is for the making; see :class:`~sam2fast.deploy.parallel.process.Worker`.

        Raises:
            WorkerError: the actor, or its answer, is lost.
        """
        try:
            done, value = pickle.loads(self._ray.get(self._replies.popleft()))  # noqa: S301  of this run's own processes
        except self._ray.exceptions.RayError as error:
            raise WorkerError(f"the worker on {self.device} was lost: {_shortened(str(error))}") from error
        if done and not self._is_made:
            self._is_made, self.device = True, value
        return done, value

    def end(self) -> None:
        """Kills the actor, wherever it is; may be called twice."""
        self._ray.kill(self._actor, no_restart=True)


class RayPool(Pool):
    """A pool whose lost workers are replaced, and which grows with the cluster.

    Args:
        ray: the module, connected.
        hire: makes a worker, given its ``failed_starts``.
        wanted: how many workers there should be by now.
        source: of the jobs.
        ordered: results come in the order of the jobs.
        most_losses: so many workers may be lost over a job.
    """

    def __init__(
        self,
        ray: Any,
        hire: Callable[[int], RayWorker],
        wanted: Callable[[], int],
        source: JobSource,
        ordered: bool,
        most_losses: int,
    ) -> None:
        super().__init__([], source, JOBS_AHEAD if ordered else None)
        self.most_losses = most_losses
        self._ray, self._hire, self._wanted, self._ordered = ray, hire, wanted, ordered
        self._given_up = 0  # workers that could not begin
        self._begun = self._looked = time.monotonic()
        self._has_wondered = False
        self._grow()

    def end(self) -> None:
        """Ends all workers."""
        for member in self._members:
            member.worker.end()

    def _grow(self) -> None:
        for _ in range(self._wanted() - self._given_up - len(self._members)):
            self._members.append(Member(self._hire(0)))
        if self._ordered:
            self._most_ahead = JOBS_AHEAD * len(self._members)

    def _heard(self, busy: list[Member]) -> list[Member]:
        members = {member.worker.next_reply: member for member in busy}
        ready, _ = self._ray.wait(list(members), timeout=SECONDS_BETWEEN_LOOKS)
        if ready:  # and whoever else has answered by now, since looking takes longer the more workers there are
            ready, _ = self._ray.wait(list(members), num_returns=len(members), timeout=0)
        if time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
            self._grow()
            self._wonder()
            self._looked = time.monotonic()
        return [members[reference] for reference in ready]

    def _wonder(self) -> None:
        if any(member.is_ready for member in self._members):
            self._has_wondered = True
        elif not self._has_wondered and time.monotonic() - self._begun > SECONDS_TO_WONDER:
            self._has_wondered = True
            logging.getLogger("sam2fast").warning(
                "no worker has begun after %.0f s: Ray has no room yet, or models load slowly; waiting on",
                SECONDS_TO_WONDER,
            )

    def _lose(self, member: Member, why: str) -> Iterator[JobResult]:
        failed_starts = 0 if member.is_ready else member.worker.failed_starts + 1
        is_replaced = failed_starts < MOST_STARTS
        if is_replaced:
            self._members.append(Member(self._hire(failed_starts)))
        else:
            self._given_up += 1
        member.worker.end()  # one that only seems lost would hold its device
        logging.getLogger("sam2fast").warning("%s; another one takes its place" if is_replaced else "%s", why)
        yield from super()._lose(member, why)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    if len(line) <= FIRST_CHARACTERS + LAST_CHARACTERS:
        return line
    return f"{line[:FIRST_CHARACTERS]} ... {line[-LAST_CHARACTERS:]}"
