"""What every case gives the timer: something that can be called again and again, and how results are compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parity_rows import nan_last
from torch import Tensor

from sam2fast.utils.testing import relative_error
from suite.subjects import Built, Setting, timed


@dataclass
class Sample:
    """One call: how long it took, and its result."""

    seconds: float
    result: Any


class Session:
    """One subject of a case, with everything loaded.

    Attributes:
        notes: what its row has to say.
        compile_s: seconds spent compiling before the first call; None if nothing is compiled then.
        earlier_s: seconds of calls before the timed ones, of which the first may have compiled something.
        peak_mib: where that is measured.
        checked: results by which it is judged before anything is timed; None for those of the first call, and an empty
            list for none.
        path: which path its calls took; see :mod:`suite.subjects`.
    """

    path = ""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.compile_s: float | None = None
        self.earlier_s: list[float] = []
        self.peak_mib: float | None = None
        self.checked: list[Tensor] | None = None

    def prepare(self, setting: Setting) -> None:
        """Gets ready for calls with these objects and this history."""

    def call(self) -> Sample:
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of everything."""


class PredictorSession(Session):
    """A session of a predictor in this process."""

    def __init__(self, built: Built) -> None:
        super().__init__()
        self.built, self.notes, self.compile_s = built, list(built.notes), built.compile_s

    def close(self) -> None:
        self.built.closing.close()


def in_context(built: Any, call: Any) -> Sample:
    """Times a call of a predictor in its own dtype."""

    def run() -> Any:
        with built.context():
            return call()

    return Sample(*timed(built.setting.device, run))


def worst_error(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """The largest relative error of any object in any result; infinite if they are of different shapes.

    Together, the large logits of one object would hide the others'.
    """
    if [x.shape for x in expected] != [x.shape for x in actual]:
        return float("inf")
    return max(nan_last(relative_error(a, b)) for x, y in zip(expected, actual, strict=True)
               for a, b in zip(x, y, strict=True))  # fmt: skip
