"""Which path the calls of a subject took, seen afterwards on its predictor."""

from typing import Any

from suite.missing import GaveUpError
from suite.subjects import COMPILED, is_ours

RECORDED, EAGER = "recorded", "eager"


def plain_path(subject: str) -> str:
    """Of a predictor that records nothing: those of images, and the official ones."""
    return "compiled" if subject in COMPILED else EAGER


class TrackingPath:
    """What a video predictor did, looked at after every call that counts.

    Args:
        subject: whose predictor it is.
    """

    def __init__(self, subject: str, predictor: Any) -> None:
        self.subject, self.predictor = subject, predictor
        self.reasons: dict[str | None, None] = {}  # None for what was recorded

    def forget(self) -> None:
        self.reasons.clear()

    def look(self, bank: Any) -> None:
        """Takes a note of how the latest frame of a session with this memory bank was tracked.

        Raises:
            GaveUpError: a recording failed, since when the predictor does without.
        """
        if is_ours(self.subject):
            self.reasons[why_not_recorded(self.predictor, bank)] = None

    @property
    def name(self) -> str:
        """``recorded`` if every frame was, else why not; empty if nothing was looked at."""
        if not is_ours(self.subject):
            return plain_path(self.subject)
        if not self.reasons:
            return ""
        reasons = [reason for reason in self.reasons if reason is not None]
        name = f"{EAGER}: {' and '.join(reasons)}" if reasons else RECORDED
        return f"compiled, {name}" if self.subject in COMPILED else name


def why_not_recorded(predictor: Any, bank: Any) -> str | None:
    """Why our predictor tracked the session of this bank without recorded steps; None if it tracked with them.

    Raises:
        GaveUpError: see :meth:`TrackingPath.look`.
    """
    graphs = predictor._runners.graphs
    if graphs is not None and graphs.failed:
        raise GaveUpError(graphs.failure.splitlines()[0])
    why: str | None = predictor._tracker.why_eager()
    if why is None and predictor.training:
        why = "the predictor is in training mode"
    # A session's bank moves into a workspace of the graph runner when that first tracks a frame of it.
    if why is None and (graphs is None or bank not in graphs._used):
        why = "the fast path has not tracked this video"
    return why
