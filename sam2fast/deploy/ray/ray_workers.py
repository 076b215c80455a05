"""Ray actors that run jobs, and the driver's pool of actors."""

import logging
import os
import pickle
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from sam2fast import __version__
from sam2fast.deploy.parallel.pool import JOBS_AHEAD, JobResult, JobSource, Pool, PoolWorker
from sam2fast.deploy.parallel.process import WorkerError
from sam2fast.deploy.parallel.worker import THREAD_VARIABLES, Service, WorkerSetup, answer_of

# Prefix of environment variables that workers inherit from the driver.
INHERITED_VARIABLES = "SAM2FAST_"
# Time between checks for new nodes.
SECONDS_BETWEEN_CHECKS = 10.0
# Time without a started worker after which a warning is logged.
SECONDS_TO_WARNING = 60.0
# Maximum number of starts: a worker that cannot start is retried once, perhaps on another node.
MOST_STARTS = 2
# Numbers of characters kept from the beginning and the end of Ray's message about a lost worker.
FIRST_CHARACTERS, LAST_CHARACTERS = 160, 240


class ActorSetup(NamedTuple):
    """Arguments of a :class:`WorkerActor`."""

    worker: WorkerSetup
    version: str  # version of sam2fast on the driver
    folder: str  # working directory of the driver
    variables: dict[str, str]  # environment variables of the driver with the prefix SAM2FAST_


def actor_setup(worker: WorkerSetup) -> ActorSetup:
    """Returns the setup of an actor with this process's working directory and ``SAM2FAST_*`` variables."""
    variables = {name: value for name, value in os.environ.items() if name.startswith(INHERITED_VARIABLES)}
    return ActorSetup(worker, __version__, os.getcwd(), variables)


class WorkerActor:
    """Ray actor that builds a predictor once and runs jobs one after another.

    Methods never raise. Like worker processes, actors return :func:`~sam2fast.deploy.parallel.worker.answer_of`.
    """

    def __init__(self, setup: ActorSetup) -> None:
        self._setup = setup

    def make(self) -> bytes:
        """Builds the predictor and returns the names of the actor's machine and device, such as ``node7/cuda:0``."""
        return answer_of(self._make)[0]

    def do(self, job: bytes) -> bytes:
        """Runs a pickled job and returns the pickled answer."""
        return answer_of(partial(self._service.do, job))[0]

    def _make(self) -> str:
        setup, here = self._setup, socket.gethostname()
        if setup.version != __version__:
            raise RuntimeError(
                f"{here} has sam2fast {__version__}, but the driver has {setup.version}; install the same on both"
            )
        os.environ.update(setup.variables, **dict.fromkeys(THREAD_VARIABLES, str(setup.worker.threads)))
        if os.path.isdir(setup.folder):  # if the folder is missing, only absolute paths work in jobs
            os.chdir(setup.folder)
        self._service = Service(setup.worker)
        return f"{here}/{setup.worker.device}"


class RayWorker:
    """Handle of a :class:`WorkerActor` in the driver. Has the interface of a worker process."""

    def __init__(self, ray: Any, setup: Any, device: str, needs: dict[str, Any], failed_starts: int = 0) -> None:
        self.device, self.failed_starts = device, failed_starts
        self._ray = ray
        # The pool handles losses, because Ray's restart would not report which job was lost.
        self._actor = ray.remote(WorkerActor).options(max_restarts=0, max_task_retries=0, **needs).remote(setup)
        self._replies: deque[Any] = deque([self._actor.make.remote()])
        self._is_made = False

    @property
    def next_reply(self) -> Any:
        """Returns Ray's reference to the next answer."""
        return self._replies[0]

    def send(self, job: bytes) -> None:
        """Sends a pickled job. :meth:`reply` returns the answer."""
        self._replies.append(self._actor.do.remote(job))

    def reply(self) -> tuple[bool, Any]:
        """Returns the next answer. The first answer comes from :meth:`WorkerActor.make`, later answers from jobs.

        Raises:
            WorkerError: If the actor or its answer is lost.
        """
        try:
            done, value = pickle.loads(self._ray.get(self._replies.popleft()))  # noqa: S301  from this run's processes
        except self._ray.exceptions.RayError as error:
            why = " ".join(str(error).split())
            if len(why) > FIRST_CHARACTERS + LAST_CHARACTERS:
                why = f"{why[:FIRST_CHARACTERS]} ... {why[-LAST_CHARACTERS:]}"
            raise WorkerError(f"the worker on {self.device} was lost: {why}") from error
        if done and not self._is_made:
            self._is_made, self.device = True, value
        return done, value

    def end(self) -> None:
        """Kills the actor. Can be called twice."""
        self._ray.kill(self._actor, no_restart=True)


class RayPool(Pool):
    """Pool that replaces lost workers and starts more workers as the cluster grows, up to ``wanted()`` workers."""

    def __init__(
        self,
        ray: Any,
        hire: Callable[[int], RayWorker],
        wanted: Callable[[], int],
        source: JobSource,
        ordered: bool,
    ) -> None:
        super().__init__([], source, JOBS_AHEAD if ordered else None)
        self._ray, self._hire, self._wanted, self._ordered = ray, hire, wanted, ordered
        self._given_up = 0  # number of workers that could not start
        self._begun = self._looked = time.monotonic()
        self._has_warned = False
        self._grow()

    def end(self) -> None:
        """Ends all workers."""
        for member in self._members:
            member.worker.end()

    def _grow(self) -> None:
        for _ in range(self._wanted() - self._given_up - len(self._members)):
            self._members.append(PoolWorker(self._hire(0)))
        if self._ordered:
            self._most_ahead = JOBS_AHEAD * len(self._members)

    def _wait_for_answers(self, busy: list[PoolWorker]) -> list[PoolWorker]:
        members = {member.worker.next_reply: member for member in busy}
        ready, _ = self._ray.wait(list(members), timeout=SECONDS_BETWEEN_CHECKS)
        if ready:  # collects all workers that have answered, because the first wait returns only one
            ready, _ = self._ray.wait(list(members), num_returns=len(members), timeout=0)
        if time.monotonic() - self._looked > SECONDS_BETWEEN_CHECKS:
            self._grow()
            if any(member.is_ready for member in self._members):
                self._has_warned = True
            elif not self._has_warned and time.monotonic() - self._begun > SECONDS_TO_WARNING:
                self._has_warned = True
                text = "no worker has begun after %.0f s: Ray has no room yet, or models load slowly; waiting on"
                logging.getLogger("sam2fast").warning(text, SECONDS_TO_WARNING)
            self._looked = time.monotonic()
        return [members[reference] for reference in ready]

    def _handle_loss(self, member: PoolWorker, why: str) -> Iterator[JobResult]:
        failed_starts = 0 if member.is_ready else member.worker.failed_starts + 1
        is_replaced = failed_starts < MOST_STARTS
        if is_replaced:
            self._members.append(PoolWorker(self._hire(failed_starts)))
        else:
            self._given_up += 1
        member.worker.end()  # ends a worker that is still alive, so that its device becomes free
        logging.getLogger("sam2fast").warning("%s; another worker replaces it" if is_replaced else "%s", why)
        yield from super()._handle_loss(member, why)
