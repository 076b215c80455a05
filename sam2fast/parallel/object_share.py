"""The objects of videos that one process tracks; :mod:`sam2fast.parallel.objects` joins them with the others'."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from sam2fast.sam2_video_predictor import SAM2VideoPredictor
    from sam2fast.tracking.outputs import Output
    from sam2fast.tracking.saved_state import PackedState
    from sam2fast.tracking.state import VideoState


class ModelFacts(NamedTuple):
    """What the parent has to know of the model."""

    image_size: int
    rules: Any  # MemoryRules
    non_overlap_masks: bool


class SharePart(NamedTuple):
    """Some objects on one frame, as arrays."""

    frame: int
    ids: list[Any]
    masks: np.ndarray | None  # (n, 1, ...) in the form asked for; None for low-resolution logits, which come anyway
    iou: np.ndarray  # (n,)
    object_score: np.ndarray  # (n,)
    low_res: np.ndarray | None  # (n, 1, S/4, S/4)


class ObjectShare:
    """The service of a worker: a predictor, states of videos by number, and the passes over them that are going on.

    Args:
        build: gives the predictor.
        device: where.
    """

    def __init__(self, build: Callable[..., "SAM2VideoPredictor"], device: str) -> None:
        self._predictor = build(device=device)
        # Overlaps are settled among the objects of all processes, not of this one.
        self._overlaps_are_settled = self._predictor.non_overlap_masks
        self._predictor.non_overlap_masks = False
        self._states: dict[int, VideoState] = {}
        self._passes: dict[tuple[int, int], Iterator[Any]] = {}  # by the numbers of video and pass

    def facts(self) -> ModelFacts:
        """Of the model, for the parent."""
        from sam2fast.tracking.selection import MemoryRules

        return ModelFacts(self._predictor.image_size, MemoryRules.of(self._predictor), self._overlaps_are_settled)

    def open(self, number: int, video: Any, **options: Any) -> None:
        """Opens a video, which has this number from here on; options as for ``init_state``."""
        self._states[number] = self._predictor.init_state(video, **options)

    def close(self, number: int) -> None:
        """Ends the passes over a video and forgets it; may be called twice."""
        for video, pass_number in list(self._passes):
            if video == number:
                self.end_pass(number, pass_number)
        state = self._states.pop(number, None)
        if state is not None:
            state.frames.close()

    def end(self) -> None:
        """Closes all videos: threads that decode frames must not be cut off by the end of the process."""
        for number in list(self._states):
            self.close(number)

    def reset(self, number: int) -> None:
        """Forgets the objects of a video."""
        self._predictor.reset_state(self._states[number])

    def pack(self, number: int) -> "PackedState":
        """A video's state with the objects that this process has."""
        from sam2fast.tracking import saved_state

        return saved_state.packed(self._states[number])

    def load(self, number: int, file: Path, video: Any, own: Sequence[Any], **options: Any) -> None:
        """A saved state with the objects that this process is to have."""
        state = self._predictor.load_state(file, video, **options)
        for obj_id in [i for i in state.objects if i not in own]:
            self._predictor.remove_object(state, obj_id, need_output=False)
        self._states[number] = state

    def prompt(self, number: int, method: str, frame: int, obj_id: Any, *args: Any, **kwargs: Any) -> bool:
        """Calls one of the predictor's methods for prompts; whether the frame became a conditioning one by it."""
        from sam2fast.tracking.prompt_answers import is_conditioning

        state = self._states[number]
        before = state.objects.get(obj_id)
        conditioning = before is None or is_conditioning(self._predictor, before, frame)
        getattr(self._predictor, method)(state, frame, obj_id, *args, **kwargs)
        return conditioning

    def take_back(self, number: int, frame: int, obj_id: Any) -> None:
        """Takes back all prompts of an object on a frame."""
        self._predictor.clear_all_prompts_in_frame(self._states[number], frame, obj_id, need_output=False)

    def remove(self, number: int, obj_id: Any) -> list[int]:
        """Removes an object; gives the frames on which it had prompts."""
        state = self._states[number]
        tracked = state.objects[obj_id]
        self._predictor.remove_object(state, obj_id, need_output=False)
        return sorted(tracked.points.keys() | tracked.masks.keys())

    def has_new_conditioning(self, number: int, frame: int) -> bool:
        """Whether a frame has prompts that no pass has seen yet."""
        return any(frame in tracked.new_conditioning for tracked in self._states[number].objects.values())

    def masks_on(self, number: int, frame: int, conditioning: bool) -> tuple[list[Any], np.ndarray]:
        """Ids of the objects and their mask logits ``(n, 1, H, W)`` on a frame, as prompts are answered."""
        import torch

        from sam2fast.tracking.prompt_answers import latest_results, masks_of

        state = self._states[number]
        with torch.inference_mode():
            results = latest_results(state.objects, frame, conditioning)
            masks = masks_of(self._predictor, state, list(state.objects), results)
        return list(state.objects), _array(masks)

    def earliest(self, number: int) -> int | None:
        """The first frame with a prompt to track from, as the next pass sees it."""
        objects = self._states[number].objects.values()
        return min((t for o in objects for t in (*o.conditioning, *o.new_conditioning)), default=None)

    def check_prompted(self, number: int) -> None:
        """Raises what :meth:`begin_pass` would, while no process has changed anything."""
        from sam2fast.tracking.prompt_memories import check_prompted

        check_prompted(self._states[number])

    def begin_pass(self, number: int, pass_number: int, form: "Output", with_low_res: bool, **options: Any) -> None:
        """Begins a pass; its frames come from :meth:`next`. There may be several at a time."""
        self._predictor.propagate_in_video_preflight(self._states[number])  # before any process tracks a frame
        passes = self._predictor.propagate_in_video(
            self._states[number], output=form, return_scores=True, progress=False, **options
        )
        low_res = with_low_res or form == "low_res"
        self._passes[number, pass_number] = (
            SharePart(
                frame,
                list(ids),
                None if form == "low_res" else _array(masks),
                _array(scores.iou),
                _array(scores.object_score),
                _array(scores.low_res_logits) if low_res else None,
            )
            for frame, ids, masks, scores in passes
        )

    def next(self, number: int, pass_number: int) -> SharePart | None:
        """The next frame of the pass, None after the last, and when the video was closed."""
        return next(self._passes.get((number, pass_number), iter(())), None)

    def end_pass(self, number: int, pass_number: int) -> None:
        """Gives a pass up, wherever it is; may be called twice."""
        self._passes.pop((number, pass_number), None)


def _array(x: "Tensor") -> np.ndarray:
    array: np.ndarray = x.detach().cpu().numpy()
    return array
