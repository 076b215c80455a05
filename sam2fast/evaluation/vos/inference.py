"""Tracks videos from input masks and writes PNG masks: one video, or many with a runner."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2fast.deploy.parallel.runners import Runner
from sam2fast.io.atomic import remove_leftovers
from sam2fast.utils.embedded import find_embedded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sam2fast.compat.video_state import VideoState
    from sam2fast.evaluation.vos.input_masks import ObjectGroups
    from sam2fast.sam2_video_predictor import SAM2VideoPredictor
    from sam2fast.tracking.strategies import StrategyLike


# Logit of absent objects.
ABSENT = -1024.0


@dataclass(frozen=True)
class VosSettings:
    """Selection of the masks that are prompts, and layout of input and output masks.

    Attributes:
        score_thresh: Threshold of logits. A pixel belongs to an object if its logit is greater.
        all_masks: If True, all input masks are prompts. If False, only the masks of frame 0 are prompts, or, with
            ``late_objects``, only the first mask of each object.
        per_object: If True, input and output masks are ``OBJECT/FRAME.png`` and may overlap. Otherwise, ``FRAME.png``
            has all objects of a frame.
        late_objects: If True, each object is tracked from the first frame that shows it.
        ignored_labels: Values of masks that are not objects, such as 255 for void pixels.

    Raises:
        ValueError: If ``score_thresh`` is not above the logit of an absent object. With such a threshold, every pixel
            would belong to every object.
    """

    score_thresh: float = 0.0
    all_masks: bool = False
    per_object: bool = False
    late_objects: bool = False
    ignored_labels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.score_thresh > ABSENT:
            raise ValueError(
                f"score_thresh is {self.score_thresh}; expected more than {ABSENT:.0f}, the logit of absent objects"
            )


@dataclass(frozen=True)
class VosJob:
    """Picklable job to track one video. Another process or machine with the same files can run the job.

    Attributes:
        name: name of the output folder.
        video: folder of frames, or video file with frames named ``00000``, ``00001``, ...
        masks: folder of this video's masks.
        out: parent of the output folder, ``out / name``.
        frames: number of frames; 0 if unknown. Determines the displayed progress and the order: long videos first.
        made_from: all inputs of the result, as JSON, written to ``out / .name.json``. A folder is done if this file has
            an equal record and the folder still has all masks.
        replace: if True, replaces a folder with another record.
    """

    name: str
    video: Path
    masks: Path
    out: Path
    settings: VosSettings = VosSettings()
    frames: int = 0
    made_from: Any = None
    replace: bool = False


@dataclass(frozen=True)
class VosDone:
    """Result of a video.

    Attributes:
        frames: Number of frames written.
        objects: Number of objects tracked.
        left_out: Counts of inputs from which no object was tracked, see
            :func:`~sam2fast.evaluation.vos.input_masks.count_left_out`.
        void_tracked: True if 255, the common value of void pixels, was tracked as an object beside other objects.
        seconds: Seconds by part: ``opening`` of video and masks, ``tracking``, and waiting for ``writing``.
        problem: One-line reason if nothing was written; None on success.
    """

    name: str
    frames: int = 0
    objects: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    problem: str | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    void_tracked: bool = False


def track_job(predictor: "SAM2VideoPredictor", job: VosJob) -> VosDone:
    """Tracks a video and writes its folder atomically.

    If frames, masks or outputs cannot be read or written, the result has a ``problem``.

    Args:
        predictor: predictor with ``non_overlap_masks``, or without it if the settings are ``per_object``; see
            :func:`~sam2fast.evaluation.vos.build_for_vos`.

    Raises:
        ValueError: If ``non_overlap_masks`` of the predictor contradicts ``per_object``.
        Exception: If the predictor raises another error.
    """
    if predictor.non_overlap_masks == job.settings.per_object:
        raise ValueError(
            f"non_overlap_masks of the predictor is {predictor.non_overlap_masks}; expected the opposite of "
            f"per_object, {job.settings.per_object}: build it with build_for_vos(..., per_object=...)"
        )
    from sam2fast.datasets.dataset_files import DatasetError
    from sam2fast.evaluation.vos.outputs import atomic_folder, format_error
    from sam2fast.video_io import VideoError

    try:
        with atomic_folder(job.out / job.name, job.made_from, job.replace) as folder:
            return _track(predictor, job, folder)
    except (DatasetError, VideoError, OSError) as error:
        return VosDone(job.name, problem=format_error(error))


def _track(predictor: "SAM2VideoPredictor", job: VosJob, folder: Path) -> VosDone:
    import numpy as np

    from sam2fast.datasets.dataset_files import DatasetError
    from sam2fast.evaluation.scores import VOID
    from sam2fast.evaluation.vos.input_masks import InputMasks, count_left_out, group_all_objects, group_by_first_frame
    from sam2fast.evaluation.vos.outputs import MaskWriter
    from sam2fast.modeling.memory_selection import MemoryRules

    laps, settings = _Laps(), job.settings
    # Keeps only frames within the reach of memory selection, because propagation only goes forward.
    reach = None if predictor.strategy.looks_further else MemoryRules.of(predictor).reach
    state = predictor.init_state(job.video, async_loading_frames=True, max_history=reach)
    try:
        names = frame_names(job.video, state.num_frames)
        masks = InputMasks(job.masks, names, settings.per_object, settings.ignored_labels)
        groups = (group_by_first_frame if settings.late_objects else group_all_objects)(masks, settings.all_masks)
        if predictor.strategy.hypotheses > 1 and len(groups.groups) > 1:
            first, second, *_ = (group.start for group in groups.groups)
            raise DatasetError(
                f"an object appears on frame {second}, others on frame {first}: the strategy "
                f"{type(predictor.strategy).__name__} decides about masks when a pass ends, and a new object begins "
                "another pass; track this video with another --strategy, or without --late-objects"
            )
        colours = masks.colours(groups.palette_frame)
        written = 0
        with MaskWriter(folder, names, state.video_size, settings.per_object, colours) as writer:
            height, width = state.video_size
            empty: NDArray[np.uint8] = np.zeros((height, -(-width // 8)), dtype=np.uint8)
            nothing = dict.fromkeys(groups.ids, empty)
            for frame in range(groups.groups[0].start if settings.late_objects else 0):
                writer.add(frame, nothing)
                written += 1
            laps.end("opening")
            for frame, bits in _bits(predictor, state, groups, settings.score_thresh):
                laps.end("tracking")
                writer.add(frame, {**nothing, **bits})
                written += 1
                laps.end("writing")
        laps.end("writing")
        ids = list(state.objects)
        return VosDone(
            job.name,
            written,
            len(ids),
            laps.seconds,
            left_out=count_left_out(masks, not (settings.late_objects or settings.all_masks)),
            void_tracked=masks.has_void or (VOID in ids and not settings.per_object and len(ids) > 1),
        )
    finally:
        state.frames.close()


def frame_names(video: Path, count: int) -> list[str]:
    """Returns the names of a video's frames, without suffix, in order."""
    from sam2fast.video_io.sources import frame_files

    return [path.stem for path in frame_files(video)] if video.is_dir() else [f"{i:05d}" for i in range(count)]


def _bits(
    predictor: "SAM2VideoPredictor", state: "VideoState", objects: "ObjectGroups", threshold: float
) -> "Iterator[tuple[int, dict[int, NDArray[np.uint8]]]]":
    """Yields frames with their masks by object id, as bits ``(H, ceil(W / 8))`` uint8.

    Objects without a prompt so far are omitted. Propagation stops before each frame on which new objects appear, and
    continues with all objects, so that each frame is encoded once.
    """
    from sam2fast.kernels.mask_ops import pack_masks

    groups = objects.groups
    ends: list[int | None] = [*(group.start for group in groups[1:]), None]
    for group, end in zip(groups, ends, strict=True):
        for frame, masks in group.prompts():
            for obj_id, mask in masks.items():
                predictor.add_new_mask(state, frame, obj_id, mask)
        follow = None if end is None else end - group.start - 1
        answers: Iterator[tuple[int, list[Any], Any]] = predictor.propagate_in_video(
            state, group.start, follow, progress=False, output="bits" if threshold == 0 else "logits", lag=1
        )
        for frame, ids, outputs in answers:
            bits = (outputs if threshold == 0 else pack_masks(outputs > threshold))[:, 0].numpy()
            yield frame, dict(zip(ids, bits, strict=True))


class _Laps:
    """Measures the time of each part of a job."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def end(self, part: str) -> None:
        """Adds the time since the last call to a part."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now


def build_for_vos(
    config: str | Path,
    checkpoint: str | Path | None,
    *,
    per_object: bool = False,
    postprocessing: bool = False,
    vos_optimized: bool = False,
    dtype: str | None = None,
    strategy: "StrategyLike" = "sam2",
    image_size: int | None = None,
    device: str = "auto",
) -> "SAM2VideoPredictor":
    """Builds a predictor for :func:`track_job`. Its ``functools.partial`` can be ``build`` of :func:`run_vos`.

    Args:
        per_object: see :class:`VosSettings`. If True, masks may overlap.
        postprocessing: if True, fills holes, falls back to the best of three masks, and so on, like the interactive
            predictor.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        checkpoint: path of the weights; None for the package's weights of mini and nano.
        config, vos_optimized, strategy, image_size, device: see
            :func:`~sam2fast.build_sam.build_sam2_video_predictor`, which also lists the exceptions.

    Raises:
        ValueError: If there is no checkpoint and the model's weights are not in the package.
    """
    import torch

    from sam2fast.build_sam import build_sam2_video_predictor
    from sam2fast.downloads.catalog import short_name

    if checkpoint is None:
        embedded = find_embedded(short_name(str(config)))
        if embedded is None:
            raise ValueError(f"{config} without a checkpoint would have random weights; pass the file of its weights")
        config, checkpoint = embedded.config, embedded.weights

    return build_sam2_video_predictor(
        config,
        checkpoint,
        device,
        hydra_overrides_extra=[f"++model.non_overlap_masks={'false' if per_object else 'true'}"],
        apply_postprocessing=postprocessing,
        vos_optimized=vos_optimized,
        dtype=None if dtype is None else getattr(torch, dtype),
        strategy=strategy,
        image_size=image_size,
    )


def run_vos(
    jobs: Iterable[VosJob], runner: Runner, build: Callable[..., Any], *, is_spread: bool = False
) -> Iterator[tuple[VosJob, VosDone]]:
    """Tracks videos, longest first, and yields the jobs with their results as they complete.

    If a video fails, its result has a ``problem``, and other videos continue. No other run may write the same videos
    to the same ``out`` at the same time, except leftover tasks of a cluster.

    Args:
        jobs: jobs with different video names, or different ``out``.
        runner: function that runs the jobs, such as ``in_this_process("cuda")``.
        build: picklable function that is called with ``device=`` and returns the predictor.
        is_spread: if True, other tasks of a cluster may be writing to ``out``, so recent unfinished folders are not
            removed. Otherwise, all unfinished folders of earlier runs are removed.

    Raises:
        Exception: If ``build`` raises it, or no worker is left; see :class:`~sam2fast.deploy.parallel.runners.Runner`.
    """
    ordered = sorted(jobs, key=lambda job: -job.frames)
    folders = [job.out / job.name for job in ordered]
    remove_leftovers(folders, is_spread)
    results = runner(track_job, ordered, build)
    try:
        for result in results:
            yield result.job, result.value if result.done else VosDone(result.job.name, problem=result.error)
    finally:
        if hasattr(results, "close"):
            results.close()  # ends the worker processes that write to the folders
        remove_leftovers(folders, is_spread)
