"""One video: read, tracked from its masks, written."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2fast.evaluation.vos.folders import whole_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sam2fast.evaluation.vos.arrivals import Arrivals
    from sam2fast.sam2_video_predictor import SAM2VideoPredictor
    from sam2fast.tracking.state import VideoState

# The logit of an object where it is not there.
ABSENT = -1024.0


@dataclass(frozen=True)
class VosSettings:
    """What is tracked from which masks, and what is written.

    Attributes:
        score_thresh: a pixel is the object's if its logit is greater.
        all_masks: every mask there is, is a prompt; otherwise those of frame 0, or with ``late_objects`` each object's
            first one.
        per_object: masks in and out are ``OBJECT/FRAME.png`` and may overlap; otherwise ``FRAME.png``, one picture for
            all objects.
        late_objects: each object is tracked from the first frame on that shows it.

    Raises:
        ValueError: ``score_thresh`` is so low that everything would be every object's.
    """

    score_thresh: float = 0.0
    all_masks: bool = False
    per_object: bool = False
    late_objects: bool = False

    def __post_init__(self) -> None:
        if not self.score_thresh > ABSENT:
            raise ValueError(
                f"score_thresh is {self.score_thresh}; expected more than {ABSENT:.0f}, the logit of what is not there"
            )


@dataclass(frozen=True)
class VosJob:
    """One video; can be pickled, and done by another process or machine with the same files.

    Attributes:
        name: of the folder that is written.
        video: a folder of frames, or a video file, whose frames are called ``00000``, ``00001``, ...
        masks: the folder of this video's masks.
        out: where ``out / name`` is written.
        frames: how many there are, as far as that is known beforehand: for progress, and to begin with long videos.
        made_from: what the result depends on, as text. It is written to ``out / .name.json``, and a folder with the
            same text beside it counts as done.
        replace: a folder that was made from something else may go.
    """

    name: str
    video: Path
    masks: Path
    out: Path
    settings: VosSettings = VosSettings()
    frames: int = 0
    made_from: str = ""
    replace: bool = False


@dataclass(frozen=True)
class VosDone:
    """What became of a video.

    Attributes:
        frames: written.
        objects: tracked.
        seconds: of each part, ``opening`` (the video and its masks), ``tracking`` and ``writing`` (waiting for it).
        problem: one line on why nothing was written; None if all is well.
    """

    name: str
    frames: int = 0
    objects: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    problem: str | None = None


def track_job(predictor: "SAM2VideoPredictor", job: VosJob) -> VosDone:
    """Tracks a video and writes its folder, which appears whole.

    Frames, masks and outputs that cannot be read or written are a ``problem`` of the result.

    Args:
        predictor: with ``non_overlap_masks`` unless the settings are ``per_object``, see
            :func:`~sam2fast.evaluation.vos.build_for_vos`.

    Raises:
        ValueError: a predictor of the other kind.
        Exception: what else the predictor raises.
    """
    if predictor.non_overlap_masks == job.settings.per_object:
        raise ValueError(
            f"non_overlap_masks of the predictor is {predictor.non_overlap_masks}; expected the opposite of "
            f"per_object, {job.settings.per_object}: build it with build_for_vos(..., per_object=...)"
        )
    from sam2fast.datasets.errors import DatasetError
    from sam2fast.evaluation.vos.folders import told
    from sam2fast.video_io import VideoError

    try:
        with whole_folder(job.out / job.name, job.made_from, job.replace) as folder:
            return _track(predictor, job, folder)
    except (DatasetError, VideoError, OSError) as error:
        return VosDone(job.name, problem=told(error))


def _track(predictor: "SAM2VideoPredictor", job: VosJob, folder: Path) -> VosDone:
    from sam2fast.evaluation.vos.arrivals import as_they_appear, from_one_frame
    from sam2fast.evaluation.vos.masks import InputMasks
    from sam2fast.evaluation.vos.pictures import PictureWriter
    from sam2fast.tracking.selection import MemoryRules

    laps, settings = _Laps(), job.settings
    # Every pass goes on forwards where the one before ended, so nothing older than one frame looks back to is needed.
    reach = MemoryRules.of(predictor).reach
    state = predictor.init_state(job.video, async_loading_frames=True, max_history=reach)
    try:
        names = frame_names(job.video, state.num_frames)
        masks = InputMasks(job.masks, names, settings.per_object)
        arrivals = (as_they_appear if settings.late_objects else from_one_frame)(masks, settings.all_masks)
        colours = masks.colours(arrivals.palette_frame)
        written = 0
        with PictureWriter(folder, names, state.video_size, settings.per_object, colours) as writer:
            nothing = _no_bits(arrivals.ids, state.video_size)
            for frame in range(arrivals.groups[0].start if settings.late_objects else 0):
                writer.add(frame, nothing)
                written += 1
            laps.end("opening")
            for frame, found in _bits(predictor, state, arrivals, settings.score_thresh):
                laps.end("tracking")
                writer.add(frame, {**nothing, **found})
                written += 1
                laps.end("writing")
        laps.end("writing")
        return VosDone(job.name, written, len(state.objects), laps.seconds)
    finally:
        state.frames.close()


def frame_names(video: Path, count: int) -> list[str]:
    """The names of a video's frames, without suffix, in order."""
    from sam2fast.video_io.folders import frame_files

    return [path.stem for path in frame_files(video)] if video.is_dir() else [f"{i:05d}" for i in range(count)]


def _bits(
    predictor: "SAM2VideoPredictor", state: "VideoState", arrivals: "Arrivals", threshold: float
) -> "Iterator[tuple[int, dict[int, NDArray[np.uint8]]]]":
    """Frames and the masks on them by object id, as bits ``(H, ceil(W / 8))``.

    Objects of which nothing is known yet are not among them. One pass goes up to the frame on which the next objects
    appear, and the next pass goes on from there: objects do not see each other, so each has the masks that it would
    have alone, and the frames are encoded once for all of them.
    """
    from sam2fast.kernels.mask_ops import pack_masks

    groups = arrivals.groups
    ends: list[int | None] = [*(group.start for group in groups[1:]), None]
    for group, end in zip(groups, ends, strict=True):
        for frame, masks in group.prompts():
            for obj_id, mask in masks.items():
                predictor.add_new_mask(state, frame, obj_id, mask)
        follow = None if end is None else end - group.start - 1
        answers: Iterator[tuple[int, list[Any], Any]] = predictor.propagate_in_video(
            state, group.start, follow, progress=False, output="bits" if threshold == 0 else "logits", lag=1
        )
        for frame, ids, found in answers:
            bits = (found if threshold == 0 else pack_masks(found > threshold))[:, 0].numpy()
            yield frame, dict(zip(ids, bits, strict=True))


def _no_bits(ids: list[int], size: tuple[int, int]) -> "dict[int, NDArray[np.uint8]]":
    import numpy as np

    return dict.fromkeys(ids, np.zeros((size[0], -(-size[1] // 8)), dtype=np.uint8))


class _Laps:
    """Where the time goes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def end(self, part: str) -> None:
        """The time since the last call was spent on this part."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now
