"""Tracks objects through a video from clicks, boxes and masks on any frame."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor

from sam2fast.compat.loaded_frames import load_frames, load_video_frames, replaced_loader
from sam2fast.compat.overridden import answers_of, flow_of, keep_originals, with_overrides
from sam2fast.compat.private_api import PrivateMethods
from sam2fast.compat.video_state import VideoState, checked_session
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.prompt_inputs import plain_id, plain_ids
from sam2fast.tracking.object_results import frames_of_pass, requested
from sam2fast.tracking.outputs import Output, TrackScores, check_output, delayed
from sam2fast.tracking.predictor_methods import PredictorMethods
from sam2fast.tracking.prompting import add_mask, add_points_or_box, clear_prompts, commit_prompts, remove_object
from sam2fast.tracking.propagation import Progress, frames_at_once
from sam2fast.tracking.proposals import ClickCandidates, predict_candidates
from sam2fast.tracking.session import TrackedObject
from sam2fast.tracking.strategies import StrategyLike, strategy_of
from sam2fast.tracking.tracker import Tracker
from sam2fast.utils.numbers import at_least, frame_number
from sam2fast.utils.thread_guard import shared
from sam2fast.video_io import VideoError, open_frames
from sam2fast.video_io.volumes import Axis

__all__ = ["SAM2VideoPredictor", "SAM2VideoPredictorVOS", "TrackedObject", "VideoState"]


@keep_originals
class SAM2VideoPredictor(PrivateMethods, PredictorMethods[VideoState], SAM2Base):
    """Tracks objects through videos. The predictor is the model. :meth:`init_state` returns the state of one video.

    Names, defaults, results and their order match ``sam2.sam2_video_predictor.SAM2VideoPredictor``. If a user replaced
    a private method, ``flow_of`` returns the official control flow, which calls the method, and otherwise None.

    Args:
        fill_hole_area: Maximum area of holes to fill, in low-resolution pixels. 0 fills no holes.
        non_overlap_masks: If True, each pixel of returned masks belongs only to the object with the largest logit.
        clear_non_cond_mem_around_input: If True, a prompt removes the object's results on tracked frames up to
            ``num_maskmem`` strides away, since the masks on these frames may be wrong.
        add_all_frames_to_correct_as_cond: If True, corrected frames become conditioning frames, and later passes keep
            the corrected masks. If False, the next pass overwrites a corrected mask, as in the official package.
        **kwargs: Arguments of :class:`~sam2fast.modeling.sam2_base.SAM2Base`.

    Attributes:
        selection_watch, fast: See :class:`~sam2fast.tracking.settings.TrackingModel`.
    """

    def __init__(
        self,
        fill_hole_area: float = 0,
        non_overlap_masks: bool = False,
        clear_non_cond_mem_around_input: bool = False,
        add_all_frames_to_correct_as_cond: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.fill_hole_area = fill_hole_area
        self.non_overlap_masks = non_overlap_masks
        self.clear_non_cond_mem_around_input = clear_non_cond_mem_around_input
        self.add_all_frames_to_correct_as_cond = add_all_frames_to_correct_as_cond
        self._load_video_frames = replaced_loader(load_video_frames)  # None if a user did not replace load_video_frames

    @property
    def _tracker(self) -> Tracker:
        return with_overrides(self, super()._tracker)

    @classmethod
    def from_pretrained(cls, model_id: str | Path, **kwargs: Any) -> "SAM2VideoPredictor":
        """Calls ``build_sam2_video_predictor_hf`` with ``sam2fast/mini``, a Hugging Face id or a checkpoint."""
        return resolve_name("sam2fast.build_sam.build_sam2_video_predictor_hf")(model_id, **kwargs)

    @shared
    @torch.inference_mode()
    def init_state(
        self,
        video_path: Any,
        offload_video_to_cpu: bool = False,
        offload_state_to_cpu: bool = False,
        async_loading_frames: bool = False,
        *,
        max_history: int | None = None,
        strategy: StrategyLike | None = None,
        window: tuple[float, float] | None = None,
        axis: Axis | None = None,
    ) -> VideoState:
        """Opens a video and encodes the first frame. Other frames are decoded when needed.

        Args:
            video_path: Folder of images, video file (path, bytes or file object), or frames. See
                :func:`sam2fast.video_io.open_frames`. If ``load_video_frames`` is replaced, or was replaced when the
                model was built, the replacement receives this argument.
            offload_video_to_cpu: Argument of a replaced ``load_video_frames``. Otherwise ignored, because the device
                only holds the data in use.
            offload_state_to_cpu: Value for ``state["storage_device"]``, without other effects.
            async_loading_frames: If True, decodes frames ahead. Up to eight threads decode images.
            max_history: Number of tracked frames to keep per object, besides conditioning frames. For later passes,
                older frames count as never tracked. None keeps all frames, which takes about 0.8 MB (bf16) or 1.3 MB
                (fp32) of CPU memory per object and frame at 1024x1024.
            strategy: Strategy as in :func:`~sam2fast.build_sam.build_sam2_video_predictor`. None: the predictor's.
            window: Values (low, high) to map to black and white, in volumes and in images of more than 8 bits.
            axis: Axis of a volume, see :func:`sam2fast.video_io.open_volume`.

        Returns:
            State of the video, which is an argument of the other methods. The state also has the keys of the official
            ``inference_state``.

        Raises:
            FileNotFoundError, VideoError, TypeError: If the video cannot be used, or ``max_history`` is not an integer.
            ValueError: If ``max_history`` is too small for a frame's memories, or strategy, window or axis is invalid.
        """
        tracker = self._tracker
        max_history = self._checked_history(max_history)
        # With CUDA graphs, the CPU is free to decode frames while the device computes.
        prefetch = async_loading_frames or tracker.uses_recordings
        offload, load = bool(offload_video_to_cpu), replaced_loader(load_video_frames) or self._load_video_frames
        if load is None:
            frames = open_frames(
                video_path, self.image_size, device=self.device, prefetch=prefetch, window=window, axis=axis
            )
        elif window is not None or axis is not None:
            raise ValueError("window and axis are for videos that sam2fast reads; load_video_frames has been replaced")
        else:
            frames = load_frames(load, video_path, self, offload, async_loading_frames)
        try:
            opened = tracker.new_state(
                frames,
                offload_video_to_cpu=offload,
                offload_state_to_cpu=bool(offload_state_to_cpu),
                max_history=max_history,
                strategy=None if strategy is None else strategy_of(strategy),
            )
            state = cast(VideoState, opened)
            if flow_of(self, state) is None:
                tracker.encode(state, [0])
            else:
                self._get_image_feature(state, frame_idx=0, batch_size=1)
            return state
        except BaseException:
            frames.close()  # the traceback would keep open frames, with their file and thread, alive
            raise

    @checked_session
    @torch.inference_mode()
    def reset_state(self, inference_state: VideoState) -> None:
        """Removes all objects and prompts. The video stays open.

        Raises:
            TypeError, ValueError: If ``inference_state`` is not a session, or belongs to another model.
        """
        flow = flow_of(self, inference_state)
        inference_state.clear() if flow is None else flow.reset()

    @checked_session
    @torch.inference_mode()
    def add_new_points_or_box(
        self,
        inference_state: VideoState,
        frame_idx: int,
        obj_id: Any,
        points: Any = None,
        labels: Any = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: Any = None,
    ) -> tuple[int, list[Any], Tensor]:
        """Adds points or a box for a new or known object. A failed call leaves a session from ``init_state`` unchanged.

        On a tracked frame, the prompt is a correction, and the prediction starts from the tracked mask and the memory.
        If ``add_all_frames_to_correct_as_cond`` is True, later passes keep the corrected mask.

        Args:
            frame_idx: Index of the frame, starting from 0.
            obj_id: Object id, any hashable value. NumPy numbers and tensors of one element become Python numbers.
            points: Points ``(N, 2)``, (x, y) in pixels of the video.
            labels: Labels ``(N)``: 1 foreground, 0 background.
            clear_old_points: If True, the points replace earlier points of the object on the frame.
            normalize_coords: If False, the coordinates are in [0, 1] instead of in pixels.
            box: Box ``(4)``, XYXY in pixels of the video.

        Returns:
            The frame index, the ids of all objects, and fp32 mask logits ``(objects, 1, H, W)`` of all objects on the
            frame. The logits of objects without a result on the frame are -1024.

        Raises:
            TypeError: If ``inference_state`` is no session, ``frame_idx`` is no integer, or ``obj_id`` is not hashable.
            IndexError, VideoError: If the frame does not exist, or cannot be read.
            ValueError: If the session belongs to another model, points come without labels, points and box are missing,
                a box comes with ``clear_old_points=False``, or a prompt has the wrong shape or values.
        """
        state, frame = inference_state, frame_number(frame_idx, inference_state.num_frames, "frame_idx")
        prompt = points, labels, clear_old_points, normalize_coords, box
        flow, obj_id = flow_of(self, state), plain_id(obj_id)
        if flow is not None:
            return flow.add_points_or_box(frame, obj_id, *prompt)
        return add_points_or_box(self._tracker, state, frame, obj_id, *prompt)

    @checked_session
    @torch.inference_mode()
    def propose_masks(
        self,
        inference_state: VideoState,
        frame_idx: int,
        obj_id: Any,
        points: Any,
        labels: Any,
        *,
        refine: bool = True,
        normalize_coords: bool = True,
    ) -> ClickCandidates:
        """Returns the candidate masks from which :meth:`add_new_points_or_box` selects. The session is unchanged.

        In published configurations, there are three candidates for one point, and one candidate for several points.

        Args:
            points, labels: All points of the object on the frame, and their labels. The corners of a box have the
                labels 2 and 3, and come first.
            refine: If True, the points refine the object's mask on the frame, as in :meth:`add_new_points_or_box`. If
                False, the object's prompts on the frame are ignored.
            frame_idx, obj_id, normalize_coords: See :meth:`add_new_points_or_box`.

        Raises:
            RuntimeError: If the session is the official dict. :meth:`add_new_points_or_box` lists other errors.
        """
        state, frame = inference_state, frame_number(frame_idx, inference_state.num_frames, "frame_idx")
        flow_of(self, state, "propose_masks")
        prompt = points, labels, refine, normalize_coords
        return predict_candidates(self._tracker, state, frame, plain_id(obj_id), *prompt)

    def add_new_points(self, *args: Any, **kwargs: Any) -> tuple[int, list[Any], Tensor]:
        """Calls :meth:`add_new_points_or_box`. ``add_new_points`` is the old name of the method."""
        return self.add_new_points_or_box(*args, **kwargs)

    @checked_session
    @torch.inference_mode()
    def add_new_mask(
        self, inference_state: VideoState, frame_idx: int, obj_id: Any, mask: Any
    ) -> tuple[int, list[Any], Tensor]:
        """Adds a mask ``(H, W)`` of any size. The mask becomes the object's result on the frame.

        Arrays are converted to bool, with a warning about negative and fractional values. A tensor of the model's
        input size is used unchanged. Other masks are resized and thresholded at 0.5.

        :meth:`add_new_points_or_box` lists the results and errors.
        """
        state, frame = inference_state, frame_number(frame_idx, inference_state.num_frames, "frame_idx")
        flow, obj_id = flow_of(self, state), plain_id(obj_id)
        if flow is not None:
            return flow.add_mask(frame, obj_id, mask)
        return add_mask(self._tracker, state, frame, obj_id, mask)

    @checked_session
    @torch.inference_mode()
    def clear_all_prompts_in_frame(
        self, inference_state: VideoState, frame_idx: int, obj_id: Any, need_output: bool = True
    ) -> tuple[int, list[Any], Tensor] | None:
        """Removes an object's prompts on one frame.

        If a propagation has used the object's mask on the frame, the mask stays as the result of a tracked frame. An
        unknown id does not raise an error, and adds no object.

        Returns:
            Results of :meth:`add_new_points_or_box`, or None if ``need_output`` is False.

        Raises:
            TypeError, ValueError: If ``inference_state`` is not a session, or belongs to another model.
            IndexError: If the frame does not exist.
        """
        frame = frame_number(frame_idx, inference_state.num_frames, "frame_idx")
        flow, obj_id = flow_of(self, inference_state), plain_id(obj_id)
        if flow is not None:
            return flow.clear_prompts(frame, obj_id, need_output)
        return clear_prompts(self._tracker, inference_state, frame, obj_id, need_output)

    @checked_session
    @torch.inference_mode()
    def remove_object(
        self, inference_state: VideoState, obj_id: Any, strict: bool = False, need_output: bool = True
    ) -> tuple[list[Any], list[tuple[int, Tensor]]]:
        """Removes an object. Results of other objects are kept.

        Args:
            strict: If True, an unknown id raises an error.
            need_output: If True, returns masks of the remaining objects on the frames where the object had prompts.

        Returns:
            The remaining ids, and a list of pairs: frame index and mask logits ``(objects, 1, H, W)``.

        Raises:
            TypeError, ValueError: If ``inference_state`` is not a session, or belongs to another model.
            RuntimeError: If the id is unknown and ``strict`` is True.
        """
        state, flow, obj_id = inference_state, flow_of(self, inference_state), plain_id(obj_id)
        if flow is not None:
            updated = flow.remove_object(obj_id, strict, need_output)
            return state["obj_ids"], updated
        updated = remove_object(self._tracker, state, obj_id, strict, need_output)
        return state.obj_ids, updated

    @checked_session
    @torch.inference_mode()
    def propagate_in_video_preflight(
        self, inference_state: VideoState, *, obj_ids: Iterable[Any] | None = None
    ) -> None:
        """Encodes the memories of frames with new prompts. :meth:`propagate_in_video` calls this method first.

        Args:
            obj_ids: Ids of the objects with these prompts. None: all objects.

        Raises:
            TypeError, ValueError: If ``inference_state`` is not a session, belongs to another model, or ids are empty.
            RuntimeError: If an object is unknown or has no conditioning frames, there are no objects, or ids come with
                the official dict. The session stays unchanged.
        """
        ids = None if obj_ids is None else plain_ids(obj_ids)
        flow = flow_of(self, inference_state, None if ids is None else "obj_ids")
        commit_prompts(self._tracker, inference_state, ids) if flow is None else flow.commit_prompts()

    @overload
    def propagate_in_video(
        self,
        inference_state: VideoState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        *,
        return_scores: Literal[False] = False,
        progress: Progress = True,
        encode_ahead: int | None = None,
        output: Output = "logits",
        lag: int = 0,
        obj_ids: Iterable[Any] | None = None,
    ) -> Iterator[tuple[int, list[Any], Tensor]]: ...

    @overload
    def propagate_in_video(
        self,
        inference_state: VideoState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        *,
        return_scores: Literal[True],
        progress: Progress = True,
        encode_ahead: int | None = None,
        output: Output = "logits",
        lag: int = 0,
        obj_ids: Iterable[Any] | None = None,
    ) -> Iterator[tuple[int, list[Any], Tensor, TrackScores]]: ...

    @checked_session
    @torch.inference_mode()
    def propagate_in_video(
        self,
        inference_state: VideoState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        *,
        return_scores: bool = False,
        progress: Progress = True,
        encode_ahead: int | None = None,
        output: Output = "logits",
        lag: int = 0,
        obj_ids: Iterable[Any] | None = None,
    ) -> Iterator[tuple[Any, ...]]:
        """Tracks objects frame by frame, and yields the results of each frame.

        If an object is removed during a propagation, later frames omit the object. New objects and prompts take effect
        in the next propagation. The strategy ``sam2long`` selects masks at the end of a pass, and yields no frame
        earlier.

        Args:
            start_frame_idx: First frame to track, by default the earliest conditioning frame.
            max_frame_num_to_track: Maximum number of frames to track after the first frame, by default all.
            reverse: If True, tracks backwards in time. As in the official package, frame 0 as start yields nothing.
            return_scores: If True, yields a fourth element, :class:`TrackScores`.
            progress: If True, shows a bar on stderr. A function such as ``tqdm.notebook.tqdm`` wraps the frame indices.
            encode_ahead: Number of frames to encode as one batch, by default 4 on CUDA and 1 on other devices.
            output: Format of the masks. ``"logits"`` is the official format. Other formats take less memory and time:
                ``"bool"``, ``"bits"`` (eight pixels per byte, see :func:`sam2fast.kernels.mask_ops.unpack_masks`), and
                ``"low_res"`` (the model's logits ``(objects, 1, 4h, 4h)``, which may overlap).
            lag: Number of frames by which results are delayed. With 1 or more, masks and scores are copied to the CPU
                while the next frame is tracked. Delayed results still contain objects that were removed after tracking.
            obj_ids: Ids of the objects to track. None: all objects. Prompts and results of other objects stay
                unchanged. Other objects also take no part if objects compete for pixels (``non_overlap_masks``, the
                strategy ``together``).

        Yields:
            The frame index, the ids of the tracked objects in the session's order, and the masks of these objects in
            the format ``output``, by default fp32 logits ``(objects, 1, H, W)``.

        Raises:
            RuntimeError: If :meth:`propagate_in_video_preflight` raises a RuntimeError, the model is in training mode,
                or the last prompt of an object was removed.
            IndexError: If the start frame does not exist. The index after the last frame is valid, and yields nothing.
            ValueError: If the session belongs to another model, a number of frames or ``lag`` is negative,
                ``encode_ahead`` is less than 1, ``output`` is unknown, or ``obj_ids`` is empty.
            TypeError: If ``inference_state`` is not a session, or a number is not an integer.
            VideoError: If a frame cannot be read (FileNotFoundError or TypeError in a list), or frames are missing.
        """
        state = inference_state
        if max_frame_num_to_track is not None:
            max_frame_num_to_track = at_least(0, max_frame_num_to_track, "max_frame_num_to_track")
        batch, lag, reverse = frames_at_once(encode_ahead, self.device), at_least(0, lag, "lag"), bool(reverse)
        check_output(output)
        if start_frame_idx is not None:
            start_frame_idx = frame_number(start_frame_idx, state.num_frames, "start_frame_idx", may_be_the_end=True)
        selected = {} if obj_ids is None else {"obj_ids": plain_ids(obj_ids)}
        self.check_recordings()
        self.propagate_in_video_preflight(state, **selected)
        flow = flow_of(self, state)
        if start_frame_idx is None and flow is not None:
            start_frame_idx = flow.first_frame()
        # Custom states may lack `objects`.
        tracked = requested(state.objects, **selected).values() if start_frame_idx is None else ()
        order = frames_of_pass(tracked, state.num_frames, start_frame_idx, max_frame_num_to_track, reverse)
        answers = answers_of(self, state, order, reverse, return_scores, progress, batch, output, **selected)
        yield from delayed(answers, lag) if lag else answers
        wants_more = max_frame_num_to_track is None or len(order) <= max_frame_num_to_track
        truncated = getattr(state.frames, "truncated", None)  # custom states may hold any frames
        if order and wants_more and not reverse and truncated is not None:
            raise VideoError(truncated)


class SAM2VideoPredictorVOS(SAM2VideoPredictor):
    """:class:`SAM2VideoPredictor` that logs why CUDA graphs cannot be used. The official class is compiled."""

    explains_eager = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # the official signature
        super().__init__(*args, **kwargs)
