"""What is measured of whole predictors. The ops have records, in ``bench/kernel_records``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from suite.image_cases import MASKS_HEIGHT, MASKS_WIDTH, POINTS_PER_SIDE, Boxes, Encode, Masks, Predict, unlike_masks
from suite.process_cases import cold_start, peak_memory
from suite.sessions import Session, worst_error
from suite.subjects import Setting
from suite.video_cases import MEASURED_TOGETHER, PREFILLED, Steady, Stream, Throughput

# By which results a subject is judged before it is timed; see :mod:`suite.accuracy`.
FIRST_CALL, FIRST_FRAMES = "first call", "first frames"
THROUGHPUT = "video throughput"


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        name: as in the result files.
        open: a subject's session at a setting; raises ``MissingError`` where there is none.
        note: what its rows say about what is timed.
        at: pairs of objects and history that it is measured at unless asked otherwise.
        runs: how often at least, where not asked otherwise.
        compare: how far the second result is from the first; 0 for the same.
        percentiles: whether the tail is of interest.
        judged: by which results in bfloat16; None where ``compare`` is all there is.
    """

    name: str
    open: Callable[[str, Setting], Session]
    note: str
    at: tuple[tuple[int | None, int | None], ...] = ((None, None),)
    runs: int = 5
    compare: Callable[[Any, Any], float] = worst_error
    percentiles: bool = False
    judged: str | None = FIRST_CALL


ONE_TO_64 = ((1, None), (16, None), (64, None))
ONE_AND_16 = ((1, None), (16, None))
OBJECTS = ((1, None), (4, None), (16, None))
HISTORIES = ((1, 10), (1, 100), (1, 1000))
CASES = (
    Case("image encode", Encode, "set_image of a image of 1200x1800"),
    Case("predict", Predict, "one click on an image that is set, three masks of 1200x1800", runs=10),
    Case("boxes", Boxes, "so many boxes in one call on an image that is set, a mask of 1200x1800 each", ONE_TO_64),
    Case("video steady frame", Steady, PREFILLED, OBJECTS + HISTORIES, judged=FIRST_FRAMES),
    Case(
        THROUGHPUT,
        Throughput,
        f"seconds per frame of {MEASURED_TOGETHER} frames tracked between two synchronisations of the device, "
        f"where no other number is given; {PREFILLED}",
        ONE_AND_16,
        runs=2,
        judged=FIRST_FRAMES,
    ),
    Case(
        "stream latency",
        Stream,
        "open_stream().step, memories full",
        ((1, None),),
        runs=100,
        percentiles=True,
        judged=FIRST_FRAMES,
    ),
    Case(
        "automatic masks",
        Masks,
        f"{POINTS_PER_SIDE}x{POINTS_PER_SIDE} points on a image of {MASKS_HEIGHT}x{MASKS_WIDTH}; the difference is "
        "the share of masks without a counterpart",
        runs=2,
        compare=unlike_masks,
        judged=None,
    ),
    Case(
        "cold start",
        cold_start,
        "a fresh process imports the package, builds the model from a checkpoint and gives the first mask of a image "
        "of 600x900; kernels compiled by an earlier process may be cached",
        runs=3,
    ),
    Case(
        "peak memory",
        peak_memory,
        "a process of its own: resident memory, or allocated on a GPU, with the model. Without a history one image is "
        "set and clicked; with one, all objects are tracked through so many frames",
        ((None, None), (4, 100)),
        runs=1,
    ),
)


def case_of(name: str) -> Case:
    return next(case for case in CASES if case.name == name)
