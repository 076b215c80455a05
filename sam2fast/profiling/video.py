"""A video's frames, from the decoder to masks of their size, once the memory is full."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from sam2fast.profiling import costs
from sam2fast.profiling.limits import Limits
from sam2fast.profiling.model_parts import memory_attention_parts, memory_encoder_parts, model_parts
from sam2fast.profiling.passes import Whole, profile
from sam2fast.profiling.patches import Patches, replace
from sam2fast.profiling.profile import Profile
from sam2fast.profiling.prompts import scattered_points
from sam2fast.profiling.recorder import Cost
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking import passes, steps
from sam2fast.tracking.state import VideoState
from sam2fast.video_io import VideoError, open_frames
from sam2fast.video_io import frames as video_frames


def profile_video(
    predictor: SAM2VideoPredictor,
    video: Any,
    *,
    prompts: Mapping[Any, Mapping[str, Any]] | None = None,
    objects: int = 1,
    frames: int = 5,
    runs: int = 1,
    trace: Path | None = None,
    limits: Limits | None = None,
) -> Profile:
    """Tracks objects from the first frame on, and says where the time of the last of these frames goes.

    Args:
        predictor: afterwards as it was.
        video: what ``init_state`` takes, and can be opened several times.
        prompts: ``points`` and ``labels``, ``box``, or both, of each object on the first frame, by its id.
        objects: without them, so many clicks, each on an object of its own, are spread over the first frame.
        frames: how many are timed. As many as the memory holds are tracked before, or those that there are.
        runs: how often the video is tracked for the time.
        trace: a file for Chrome's or Perfetto's trace viewer, written by one more run.
        limits: of the device, if they are known; else they are measured.

    Raises:
        FileNotFoundError, VideoError, TypeError: the video cannot be used, or has a single frame.
        ValueError: prompts, ``objects``, ``frames`` or ``runs`` are wrong, or parts cannot be timed on the device.
        OSError: the trace cannot be written.
    """
    if frames < 1 or objects < 1:
        raise ValueError(f"frames is {frames} and objects is {objects}; expected 1 or more")
    with closing(open_frames(video, predictor.image_size)) as opened:
        size, length = (opened.height, opened.width), len(opened)
    if length < 2:
        raise VideoError("the video has a single frame, which is prompted and not tracked; expected two or more")
    if not prompts:
        points = scattered_points(objects, *size)
        prompts = {i + 1: {"points": [point], "labels": [1]} for i, point in enumerate(points)}
    timed = min(frames, length - 1)
    before = min(length - 1 - timed, predictor.num_maskmem)
    return profile(_Video(predictor, video, size, prompts, before, timed), runs, trace, limits)


class _Video:
    unit = "frame"

    def __init__(
        self,
        predictor: SAM2VideoPredictor,
        video: Any,
        size: tuple[int, int],
        prompts: Mapping[Any, Mapping[str, Any]],
        before: int,
        timed: int,
    ) -> None:
        self.model: SAM2VideoPredictor = predictor
        self.video = video
        self.prompts = prompts
        self.before, self.timed = before, timed
        self.has_fast_path = predictor._recording() is not None
        self.is_warm = before > 0
        self.subject = {
            "kind": "video",
            "width": size[1],
            "height": size[0],
            "image_size": predictor.image_size,
            "objects": len(prompts),
            "first_frame": before + 1,
            "frames": timed,
        }

    def run(self, instrument: Callable[[Any], None], whole: Whole) -> None:
        predictor = self.model
        state = predictor.init_state(self.video)
        with closing(state.frames):
            for obj_id, prompt in self.prompts.items():
                predictor.add_new_points_or_box(state, 0, obj_id, **prompt)
            answers = predictor.propagate_in_video(
                state, start_frame_idx=0, max_frame_num_to_track=self.before + self.timed, progress=False
            )
            for _ in range(1 + self.before):
                next(answers)
            instrument(state)
            for _ in range(self.timed):
                with whole():
                    next(answers)

    @contextmanager
    def plain_path(self) -> Iterator[None]:
        with ExitStack() as undo:
            replace(undo, self.model, "fast", lambda fast: False)
            yield

    def parts(self, patches: Patches, state: VideoState) -> None:
        model_parts(patches, self.model)
        memory_attention_parts(patches, self.model)
        memory_encoder_parts(patches, self.model)
        patches.part(state.frames, "pixels", "decode", then=lambda out, index: Cost(nbytes=costs.bytes_of(out)))
        patches.part(video_frames, "resize_and_normalise", "preprocess", weights=())
        patches.part(state.bank, "attended", "memory tables")
        patches.part(state.bank, "write_memories", "copies", weights=())
        patches.part(state.bank, "write_pointers", "copies", weights=())
        patches.part(steps, "encode", "memory encoding")
        patches.part(steps, "fill_holes_in_mask_scores", "hole filling", weights=())
        patches.part(passes, "returned_masks", "masks to video size", weights=())
