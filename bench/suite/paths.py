"""Which path the calls of a subject took, seen afterwards on its predictor."""

from typing import Any

from suite.missing import GaveUpError
from suite.subjects import COMPILED, is_ours

RECORDED, EAGER = "recorded", "eager"


def plain_path(subject: str) -> str:
    """Of a predictor that records nothing: those of images, and the official ones."""
    return "compiled" if subject in COMPILED else EAGER


class TrackingPath:
    """What a subject's video predictor did, looked at after every call that counts."""

    def __init__(self, subject: str, predictor: Any) -> None:
        self.subject, self.predictor = subject, predictor
        self.reasons: dict[str | None, None] = {}  # None for what was recorded

    def forget(self) -> None:
        self.reasons.clear()

    def look(self, bank: Any) -> None:
        """Takes a note of whether the latest frame of a session with this memory bank was tracked by recorded steps.

        Raises:
            GaveUpError: a recording failed, since when the predictor does without.
        """
        if not is_ours(self.subject):
            return
        graphs = self.predictor._runners.graphs
        if graphs is not None and graphs.failed:
            raise GaveUpError(graphs.failure.splitlines()[0])
        why: str | None = self.predictor._tracker.why_eager()
        if why is None and self.predictor.training:
            why = "the predictor is in training mode"
        # A session's bank moves into a workspace of the graph runner when that first tracks a frame of it.
        if why is None and (graphs is None or bank not in graphs._used):
            why = "the fast path has not tracked this video"
        self.reasons[why] = None

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
