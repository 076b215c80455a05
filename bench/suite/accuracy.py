"""What results have to be like before they are timed.

In fp32 they may be as far from the official ones as :data:`ALLOWED`. In bfloat16 each may be twice as far from the
official one in fp32 as the official one in bfloat16 is, where both start from the same state: the first call of an
image predictor, the prompted and the first tracked frame of a video. Later frames start from memories that differ
already. Where the model chooses between masks that it predicts to be equally good, either is right, and a video that
goes on from the other one is not judged further. Where there is no official package, ours in bfloat16 is compared with
ours in fp32.
"""

import contextlib
import functools
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from suite.missing import MissingError
from suite.plans import FIRST_FRAMES, Case
from suite.sessions import worst_error
from suite.subjects import BASELINE, Setting
from suite.video_cases import FirstFrames

ALLOWED = 1e-4  # in fp32; and what no error in bfloat16 has to be below
SLACK = 2.0
# Of ours in bfloat16 where the official package is missing. On a CPU, with nano, tiny and large, ours is 0.02 to 0.06
# from fp32 results on these inputs and the official package 0.02 to 0.07; wrong masks, as of another frame, are near 1.
ALONE = 0.15
OURS = "sam2fast"


@dataclass
class Judgement:
    """What is found of the subjects of a row."""

    errors: dict[str, float] = field(default_factory=dict)  # in bfloat16, the largest from the results in fp32
    wrong: dict[str, str] = field(default_factory=dict)
    note: str = ""  # for our subjects' rows


def judged(case: Case, setting: Setting, checked: Mapping[str, Sequence[Tensor]], official_asked: bool) -> Judgement:
    """Compares the results by which subjects are judged.

    Args:
        checked: results of those that have any.
        official_asked: whether the official package was to be measured, if only it had what the case is about.
    """
    checked, found = {name: results for name, results in checked.items() if results}, Judgement()
    if case.judged is None or not checked:
        return found
    if setting.dtype == "bf16":
        return _bf16(case, setting, checked, found)
    # Where the official package has been measured too, every call is compared with it.
    if case.judged == FIRST_FRAMES and BASELINE not in checked and official_asked:
        exact = _found(case, setting, BASELINE)
        for name, results in {} if isinstance(exact, str) else checked.items():
            error = _largest(_errors(exact, results))
            if error > ALLOWED:
                found.wrong[name] = f"its first masks differ from {BASELINE} by {error:.1e}"
    return found


def _bf16(case: Case, setting: Setting, checked: Mapping[str, Sequence[Tensor]], found: Judgement) -> Judgement:
    fp32, official = replace(setting, dtype="fp32"), checked.get(BASELINE)
    name, exact, reason = BASELINE, _found(case, fp32, BASELINE), ""
    if isinstance(exact, str):
        name, exact, reason, official = OURS, _found(case, fp32, OURS), exact, None
    if isinstance(exact, str):
        found.note = f"not compared with results in fp32: {exact}"
        return found
    if official is None and not reason:
        computed = _found(case, setting, BASELINE)
        reason, official = (computed, None) if isinstance(computed, str) else ("", [first for first, *_ in computed])
    if official is None:
        found.note = f"compared with {name} in fp32, from which it may differ by {ALONE}: {reason}"
    own = [None] * len(exact) if official is None else _errors(exact, official)
    limits = [ALONE if error in (None, float("inf")) else max(SLACK * error, ALLOWED) for error in own]
    for subject, results in checked.items():
        errors = _errors(exact, results)
        if _largest(errors) != float("inf"):
            found.errors[subject] = _largest(errors)
        pairs = zip(errors, limits, strict=True)
        over = [f"{e:.1e}, where {limit:.1e} is allowed" for e, limit in pairs if e is not None and e > limit]
        if subject != BASELINE and over:
            found.wrong[subject] = f"in bfloat16 it differs from {name} in fp32 by {over[0]}"
    return found


def _errors(exact: Sequence[Sequence[Tensor]], results: Sequence[Tensor]) -> list[float | None]:
    """Of each result by itself, from the nearest of those that are right; infinite if it is of another shape.

    None for what follows a result that was not the first choice.
    """
    if len(exact) != len(results):
        return [float("inf")] * len(exact)
    found: list[float | None] = [None] * len(exact)
    for i, (right, result) in enumerate(zip(exact, results, strict=True)):
        distances = [worst_error([one], [result]) for one in right]
        found[i] = min(distances)
        if distances[0] > min(distances):
            break
    return found


def _largest(errors: Sequence[float | None]) -> float:
    return max(error for error in errors if error is not None)


def _found(case: Case, setting: Setting, subject: str) -> list[list[Tensor]] | str:
    """The results by which a subject is judged, of a session opened for this alone; or why there are none.

    For each result those that are right, the first of them the model's own choice. They are kept for the process, those
    of videos for all cases of videos.
    """
    if case.judged == FIRST_FRAMES:
        return _computed(None, replace(setting, objects=None, history=None, frames=None), subject)
    return _computed(case, setting, subject)


@functools.cache
def _computed(case: Case | None, setting: Setting, subject: str) -> list[list[Tensor]] | str:
    try:
        if case is None:
            with contextlib.closing(FirstFrames(subject, setting, alternatives=True)) as first:
                return [[one, *others] for one, others in zip(first.checked, first.alternatives, strict=True)]
        with contextlib.closing(case.open(subject, setting)) as session:
            session.prepare(setting)
            sample = session.call()
            return [[one] for one in (sample.result if session.checked is None else session.checked)]
    except MissingError as error:
        return str(error)
    except Exception as error:  # whatever it is, what can be measured is measured
        traceback.print_exc()
        return f"{subject} in {setting.dtype} failed: {type(error).__name__}"


forget = _computed.cache_clear  # results are computed again from here
