"""How long a server is waited for, and how often it is asked again."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sam2fast.downloads.errors import SourceError, TemporaryError

_log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Policy:
    """Limits of a download; the last two fields are for tests.

    Args:
        attempts: failures in a row, without progress between them, after which a source is given up.
        unreachable_attempts: the same for a server that is not even reached.
        connect_timeout: seconds until a connection has to stand.
        stall_timeout: seconds in which something has to arrive, and on average ``least_speed``.
        least_speed: bytes per second; a transfer that is slower counts as stalled.
        progress: new bytes that make an attempt count as progress.
        first_wait: seconds before the second attempt; doubled for each one after it, and shortened at random by up to
            half, so that machines that failed together do not come back together.
        longest_wait: seconds; a server that asks for a longer wait is given up.
    """

    attempts: int = 5
    unreachable_attempts: int = 2
    connect_timeout: float = 10.0
    stall_timeout: float = 30.0
    least_speed: float = 256.0
    progress: int = 1 << 20
    first_wait: float = 1.0
    longest_wait: float = 60.0
    sleep: Callable[[float], None] | None = None
    draw: Callable[[], float] = random.random


class Failures:
    """Counts the failures in a row of one address, and waits after each."""

    def __init__(self, url: str, policy: Policy) -> None:
        self.url = url
        self.policy = policy
        self.count = 0

    def wait(self, error: TemporaryError, progressed: bool = False) -> None:
        """Waits as long as the server asked for, or longer from failure to failure.

        Raises:
            SourceError: it has failed often enough, or asked for a longer wait than is sensible.
        """
        policy = self.policy
        self.count = 1 if progressed else self.count + 1
        most = policy.unreachable_attempts if error.unreachable else policy.attempts
        if self.count >= most:
            raise SourceError(str(error) if most == 1 else f"{error} ({self.count} attempts)") from error
        if error.retry_after is not None and error.retry_after > policy.longest_wait:
            raise SourceError(f"{error}, and asks to wait for {error.retry_after:.0f} s") from error
        wait = policy.first_wait * 2 ** (self.count - 1) * (1 - policy.draw() / 2)
        wait = min(max(wait, error.retry_after or 0.0), policy.longest_wait)
        _log.warning("%s: %s; trying again in %.1f s", self.url, error, wait)
        (policy.sleep or time.sleep)(wait)


def retried(url: str, action: Callable[[], Result], policy: Policy) -> Result:
    """What ``action`` gives, which asks for ``url``, once it does not fail for the moment.

    Raises:
        SourceError: it fails for good, or too often.
    """
    failures = Failures(url, policy)
    while True:
        try:
            return action()
        except TemporaryError as error:
            failures.wait(error)
