"""Work on a cluster that goes on after it was interrupted."""

from typing import Any


class Resubmitted:
    """What submitit calls in a task, and once more, in another one, after a preemption or when the time is up."""

    def checkpoint(self) -> Any:
        """What submitit is to do then: the same once more."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)
