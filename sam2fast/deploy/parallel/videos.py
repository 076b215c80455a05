"""Tracks videos on several devices, each video in one process, from prompts to run lengths."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sam2fast.deploy.parallel.device_list import Devices
from sam2fast.deploy.parallel.pool import JobResult, run_jobs

if TYPE_CHECKING:
    from sam2fast.compat.video_state import VideoState
    from sam2fast.io.rle import RLE
    from sam2fast.sam2_video_predictor import SAM2VideoPredictor


class VideoPrompt(NamedTuple):
    """Prompt for one object on one frame: points or a box, or a mask.

    Values have the types of arguments of ``SAM2VideoPredictor.add_new_points_or_box`` and ``add_new_mask``.
    """

    frame: int
    obj_id: Any
    points: Any = None  # (N, 2), in pixels of the video
    labels: Any = None  # (N)
    box: Any = None  # (4)
    mask: Any = None  # (H, W); excludes points and box


@dataclass(frozen=True)
class VideoJob:
    """One video with its prompts.

    Attributes:
        video: picklable input of ``SAM2VideoPredictor.init_state``, preferably a path.
        prompts: prompts of the video, in the order in which they are added.
        reverse: if True, tracks forwards and then backwards from the first prompted frame.
        max_history: argument of ``init_state``.
    """

    video: Any
    prompts: Sequence[VideoPrompt]
    reverse: bool = False
    max_history: int | None = None


class TrackedMasks(NamedTuple):
    """Masks of all objects on one frame."""

    ids: list[Any]
    rles: "list[RLE]"  # compressed, in COCO's format; sam2fast.io.rle.decode_rle gives bool (H, W)
    iou: list[float]  # predicted IoU of each object
    object_score: list[float]  # logit of each object's presence


@dataclass
class TrackedVideo:
    """Masks of a video by frame index, in ascending order."""

    size: tuple[int, int]  # (H, W)
    frames: dict[int, TrackedMasks] = field(default_factory=dict)


def track_videos(
    jobs: Iterable[VideoJob],
    devices: Devices,
    build: Callable[..., "SAM2VideoPredictor"],
    *,
    ordered: bool = False,
    threads: int | None = None,
    encode_ahead: int | None = None,
) -> Iterator[JobResult]:
    """Tracks each video on one of several devices. The ``value`` of a result is a :class:`TrackedVideo`.

    ::

        build = functools.partial(build_sam2_video_predictor, "sam2.1_hiera_t", "sam2.1_hiera_tiny.pt")
        jobs = [VideoJob("a.mp4", [VideoPrompt(0, 1, points=[[210, 350]], labels=[1])]), ...]
        for result in track_videos(jobs, "cuda:0,cuda:1", build):
            print(result.job.video, result.error or len(result.value.frames))

    Args and raises: see :func:`~sam2fast.deploy.parallel.run_jobs`; for ``encode_ahead``, see ``propagate_in_video``.
    """
    return run_jobs(
        partial(track_video, encode_ahead=encode_ahead),
        jobs,
        devices,
        build,
        ordered=ordered,
        threads=threads,
        queue=False,
    )


def track_video(predictor: "SAM2VideoPredictor", job: VideoJob, *, encode_ahead: int | None = None) -> TrackedVideo:
    """Tracks one video in this process. If ``job.reverse`` is True, tracks forwards and then backwards.

    Raises the errors of the predictor's methods.
    """
    from sam2fast.io.rle import compress_run_lengths
    from sam2fast.kernels.run_lengths import encode_upsampled

    state = predictor.init_state(job.video, max_history=job.max_history)
    try:
        for prompt in job.prompts:
            add_prompt(predictor, state, prompt)
        tracked: dict[int, TrackedMasks] = {}
        # To remove overlaps, the predictor needs logits at the video's size.
        output = "logits" if predictor.non_overlap_masks else "low_res"
        options: dict[str, Any] = {"progress": False, "encode_ahead": encode_ahead, "output": output}
        for reverse in (False, True) if job.reverse else (False,):
            for frame, ids, masks, scores in predictor.propagate_in_video(
                state, reverse=reverse, return_scores=True, **options
            ):
                rles = compress_run_lengths(encode_upsampled(masks[:, 0], state.video_size))
                tracked[frame] = TrackedMasks(list(ids), rles, scores.iou.tolist(), scores.object_score.tolist())
        return TrackedVideo(state.video_size, dict(sorted(tracked.items())))
    finally:
        state.frames.close()


def add_prompt(predictor: "SAM2VideoPredictor", state: "VideoState", prompt: VideoPrompt) -> None:
    """Adds a prompt to the predictor.

    Raises:
        ValueError: If the prompt has a mask together with points or a box.
    """
    if prompt.mask is None:
        predictor.add_new_points_or_box(
            state, prompt.frame, prompt.obj_id, points=prompt.points, labels=prompt.labels, box=prompt.box
        )
    elif prompt.points is not None or prompt.box is not None:
        raise ValueError(f"the prompt for {prompt.obj_id!r} on frame {prompt.frame} has a mask, and points or a box")
    else:
        predictor.add_new_mask(state, prompt.frame, prompt.obj_id, prompt.mask)
