"""Tracks objects through a video from clicks, boxes and masks on any of its frames."""

from collections.abc import Iterator
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
from sam2fast.prompt_inputs import at_least, frame_number, plain_id
from sam2fast.tracking.outputs import Output, TrackScores, check_output, delayed
from sam2fast.tracking.prompting import add_mask, add_points_or_box, clear_prompts, commit_prompts, remove_object
from sam2fast.tracking.propagation import Progress, frames_at_once, frames_of_pass
from sam2fast.tracking.session import TrackedObject
from sam2fast.tracking.session_api import SessionMethods
from sam2fast.tracking.strategies import StrategyLike, strategy_of
from sam2fast.tracking.tracker import Tracker
from sam2fast.utils.thread_guard import shared
from sam2fast.video_io import VideoError, open_frames
from sam2fast.video_io.volumes import Axis

__all__ = ["SAM2VideoPredictor", "SAM2VideoPredictorVOS", "TrackedObject", "VideoState"]


@keep_originals
class SAM2VideoPredictor(PrivateMethods, SessionMethods[VideoState], SAM2Base):
    """The official API: checks arguments, passes data to the tracker and returns its results.

    It holds the model. Everything about a video is in the state that :meth:`init_state` returns.

    Names, defaults, results and their order are those of ``sam2.sam2_video_predictor.SAM2VideoPredictor``. If a user
    replaced one of its private methods, ``flow_of`` returns the original's flow, which calls it; otherwise None.

    Args:
        fill_hole_area: background components of at most so many low-resolution pixels are filled; 0 for none.
        non_overlap_masks: in returned masks each pixel belongs only to the object with the largest logit.
        clear_non_cond_mem_around_input: a prompt removes the object's tracked frames up to ``num_maskmem`` strides
            away, which may be wrong.
        add_all_frames_to_correct_as_cond: a correction of a tracked frame stays: later passes keep its mask and attend
            to it like to a first prompt. Otherwise, as in the original, the next pass over the frame overwrites it.
        **kwargs: see :class:`~sam2fast.modeling.sam2_base.SAM2Base`.

    Attributes:
        selection_watch, fast: see :class:`~sam2fast.tracking.session_api.SessionMethods`.
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
        self._load_video_frames = replaced_loader(load_video_frames)  # one that is there while the model is built

    @property
    def _tracker(self) -> Tracker:
        return with_overrides(self, super()._tracker)

    @classmethod
    def from_pretrained(cls, model_id: str | Path, **kwargs: Any) -> "SAM2VideoPredictor":
        """A predictor with ``sam2fast/mini`` or ``sam2fast/nano``, a model of the hub, or a local checkpoint.

        ``kwargs`` go to :func:`~sam2fast.build_sam.build_sam2_video_predictor_hf`.
        """
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
        """Opens a video and encodes its first frame. Frames are decoded when they are needed, not before.

        Args:
            video_path: a folder of images, a video file (its path, bytes, or a file object), or frames; see
                :func:`sam2fast.video_io.open_frames`. If the program has replaced ``load_video_frames``, or had when
                the model was built, an argument of that function.
            offload_video_to_cpu: only passed to a replaced ``load_video_frames``; offload_state_to_cpu: only sets
                ``state["storage_device"]``. The device always holds no more than the data in use.
            async_loading_frames: the next frames are decoded ahead, images by up to eight threads.
            max_history: how many tracked frames are kept per object, besides conditioning frames; older ones are as
                if never tracked when a later pass starts among them. None for all: on the CPU, about 0.8 MB
                (bf16) or 1.3 MB (fp32) per object and frame at 1024x1024.
            strategy: as for :func:`~sam2fast.build_sam.build_sam2_video_predictor`; None for the predictor's.
            window: the values (low, high) that become black and white, for volumes, and images of more than 8 bits.
            axis: for volumes, see :func:`sam2fast.video_io.open_volume`.

        Returns:
            A state for the other methods, which also answers the keys of the original's ``inference_state``.

        Raises:
            FileNotFoundError, VideoError, TypeError: the video cannot be used; or ``max_history`` is no integer.
            ValueError: ``max_history`` is less than one frame may attend to; or a bad strategy, window or axis.
        """
        tracker = self._tracker
        max_history = self._checked_history(max_history)
        # While CUDA graphs run on the device, the process has time to decode.
        prefetch = async_loading_frames or tracker.recordings is not None
        offload, load = bool(offload_video_to_cpu), replaced_loader(load_video_frames) or self._load_video_frames
        if load is None:
            frames = open_frames(
                video_path, self.image_size, device=self.device, prefetch=prefetch, window=window, axis=axis
            )
        elif window is not None or axis is not None:
            raise ValueError("window and axis are for videos that sam2fast reads; load_video_frames has been replaced")
        else:
            frames = load_frames(load, video_path, self.image_size, self.device, offload, async_loading_frames)
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
            frames.close()  # otherwise its file and thread would live as long as the exception
            raise

    @checked_session
    @torch.inference_mode()
    def reset_state(self, inference_state: VideoState) -> None:
        """Removes all objects and prompts; the video stays open.

        Raises:
            TypeError, ValueError: ``inference_state`` is no session, or is another model's.
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
        """Adds points or a box for an object, which may be new. If it fails, a session of ours has not changed.

        On a frame that was tracked before this is a correction: it starts from the tracked mask and the memory. See
        ``add_all_frames_to_correct_as_cond`` for how long it lasts.

        Args:
            frame_idx: the frame, from 0.
            obj_id: any hashable value; NumPy's numbers and tensors of one element become Python's numbers.
            points: ``(N, 2)`` (x, y) in pixels of the video.
            labels: ``(N)``; 1 foreground, 0 background.
            clear_old_points: these replace the object's earlier points on the frame, rather than joining them.
            normalize_coords: False if coordinates are in [0, 1] rather than in pixels.
            box: ``(4)`` XYXY in pixels of the video.

        Returns:
            The frame, the ids of all objects, and their mask logits ``(objects, 1, H, W)`` on it, fp32; -1024 for
            objects without a result on the frame.

        Raises:
            TypeError: ``inference_state`` is no session, ``frame_idx`` no integer, or ``obj_id`` cannot be hashed.
            IndexError, VideoError: no such frame, or it cannot be read.
            ValueError: the session is another model's; points without labels, neither points nor box, a box with
                ``clear_old_points=False``, or a prompt of the wrong shape or values.
        """
        state, frame = inference_state, frame_number(frame_idx, inference_state.num_frames, "frame_idx")
        prompt = points, labels, clear_old_points, normalize_coords, box
        flow, obj_id = flow_of(self, state), plain_id(obj_id)
        if flow is not None:
            return flow.add_points_or_box(frame, obj_id, *prompt)
        return add_points_or_box(self._tracker, state, frame, obj_id, *prompt)

    def add_new_points(self, *args: Any, **kwargs: Any) -> tuple[int, list[Any], Tensor]:
        """The old name of :meth:`add_new_points_or_box`."""
        return self.add_new_points_or_box(*args, **kwargs)

    @checked_session
    @torch.inference_mode()
    def add_new_mask(
        self, inference_state: VideoState, frame_idx: int, obj_id: Any, mask: Any
    ) -> tuple[int, list[Any], Tensor]:
        """Adds a mask ``(H, W)`` of any size for an object, which becomes its result on the frame.

        Arrays are converted to bool, with a warning about negative and fractional values. A tensor of the model's
        input size is used as it is; others are resized and thresholded at 0.5.

        Returns and raises: see :meth:`add_new_points_or_box`.
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

        If a propagation has used its mask there, the mask stays as the result of an ordinary tracked frame. An unknown
        id has no prompts, and stays unknown.

        Returns:
            As :meth:`add_new_points_or_box`; None without ``need_output``.

        Raises:
            TypeError, ValueError: ``inference_state`` is no session, or is another model's.
            IndexError: no such frame.
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
        """Removes an object; the others keep their results.

        Args:
            strict: an unknown id is an error.
            need_output: also return the others' masks on the frames where the object had prompts.

        Returns:
            The remaining ids, and pairs of frame and mask logits ``(objects, 1, H, W)``.

        Raises:
            TypeError, ValueError: ``inference_state`` is no session, or is another model's.
            RuntimeError: an unknown id with ``strict``.
        """
        state, flow, obj_id = inference_state, flow_of(self, inference_state), plain_id(obj_id)
        if flow is not None:
            updated = flow.remove_object(obj_id, strict, need_output)
            return state["obj_ids"], updated
        updated = remove_object(self._tracker, state, obj_id, strict, need_output)
        return state.obj_ids, updated

    @checked_session
    @torch.inference_mode()
    def propagate_in_video_preflight(self, inference_state: VideoState) -> None:
        """Encodes the memories of new prompts; :meth:`propagate_in_video` begins with it.

        Raises:
            TypeError, ValueError: ``inference_state`` is no session, or is another model's.
            RuntimeError: there is no object, or one has no conditioning frame; a session of ours has not changed then.
        """
        flow = flow_of(self, inference_state)
        commit_prompts(self._tracker, inference_state) if flow is None else flow.commit_prompts()

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
    ) -> Iterator[tuple[int, list[Any], Tensor, TrackScores]]: ...

    @overload
    def propagate_in_video(
        self,
        inference_state: VideoState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        *,
        return_scores: bool,
        progress: Progress = True,
        encode_ahead: int | None = None,
        output: Output = "logits",
        lag: int = 0,
    ) -> Iterator[tuple[Any, ...]]: ...

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
    ) -> Iterator[tuple[Any, ...]]:
        """Tracks all objects from frame to frame, and yields each frame when it is done.

        Objects removed meanwhile drop out; objects and prompts added meanwhile take part in the next propagation. With
        the strategy ``sam2long``, which decides when a pass ends, all frames are done before the first is yielded.

        Args:
            start_frame_idx: first frame; by default the earliest conditioning frame.
            max_frame_num_to_track: how many frames follow the first one, at most; by default all.
            reverse: go backwards in time. From frame 0 that yields nothing, as in the original.
            return_scores: yield a fourth element, :class:`TrackScores`.
            progress: a bar on stderr, none, or a function that wraps the frame numbers, such as ``tqdm.notebook.tqdm``.
            encode_ahead: how many frames are encoded as one batch; by default 4 on CUDA and 1 elsewhere.
            output: the form of the masks. ``"logits"`` as in the original; less memory and time take ``"bool"``,
                ``"bits"`` (eight pixels a byte, see :func:`sam2fast.kernels.mask_ops.unpack_masks`) and ``"low_res"``
                (the model's own logits, ``(objects, 1, S/4, S/4)``, which may overlap).
            lag: how many frames are tracked before the first is yielded. With 1 or more, masks and scores are on the
                CPU, where they come while the next frame is tracked; objects removed meanwhile are still among them.

        Yields:
            The frame, the ids of all objects, and their mask logits ``(objects, 1, H, W)``, fp32, or another form.

        Raises:
            RuntimeError: see :meth:`propagate_in_video_preflight`; training mode; an object's last prompt was removed.
            IndexError: no such start frame; the one after the last is allowed, and yields nothing.
            ValueError: the session is another model's; a negative number of frames or ``lag``, ``encode_ahead`` below
                1, or an unknown ``output``.
            TypeError: ``inference_state`` is no session; or a number is no integer.
            VideoError: a frame cannot be read (of a list also FileNotFoundError, TypeError); or frames are missing.
        """
        state = inference_state
        if max_frame_num_to_track is not None:
            max_frame_num_to_track = at_least(0, max_frame_num_to_track, "max_frame_num_to_track")
        batch, lag, reverse = frames_at_once(encode_ahead, self.device), at_least(0, lag, "lag"), bool(reverse)
        check_output(output)
        if start_frame_idx is not None:
            start_frame_idx = frame_number(start_frame_idx, state.num_frames, "start_frame_idx", may_be_the_end=True)
        self.check_recordings()
        self.propagate_in_video_preflight(state)
        flow = flow_of(self, state)
        if start_frame_idx is None and flow is not None:
            start_frame_idx = flow.first_frame()
        order = frames_of_pass(state, start_frame_idx, max_frame_num_to_track, reverse)
        answers = answers_of(self, state, order, reverse, return_scores, progress, batch, output)
        yield from delayed(answers, lag) if lag else answers
        wants_more = max_frame_num_to_track is None or len(order) <= max_frame_num_to_track
        truncated = getattr(state.frames, "truncated", None)  # a caller's dict may have frames of any kind
        if order and wants_more and not reverse and truncated is not None:
            raise VideoError(truncated)


class SAM2VideoPredictorVOS(SAM2VideoPredictor):
    """The same predictor under the name of the original's compiled one.

    It logs why it does not use CUDA graphs, which :class:`SAM2VideoPredictor` uses wherever they pay.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._steps.explain = True
