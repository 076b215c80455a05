"""The objects of one video spread over devices: each process tracks its share, and the parts are joined frame by frame.

Objects do not see one another in SAM 2, but where overlapping masks are settled in what is returned. So each process
encodes every frame and tracks its own objects, and the parent joins their masks and settles overlaps.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from sam2fast.exclusive import ThreadGuard, exclusive_session
from sam2fast.parallel.devices import Devices, device_list, threads_for_each
from sam2fast.parallel.group import WorkerGroup
from sam2fast.parallel.merging import join, merged_state, returned
from sam2fast.parallel.object_share import ModelFacts, ObjectShare
from sam2fast.parallel.process import Worker, packed_call
from sam2fast.tracking.arguments import at_least, frame_number
from sam2fast.tracking.outputs import Output, check_output
from sam2fast.tracking.passes import Progress
from sam2fast.tracking.scores import TrackScores
from sam2fast.tracking.selection import MemoryRules
from sam2fast.video_io import Frames, open_frames

if TYPE_CHECKING:
    from sam2fast.sam2_video_predictor import SAM2VideoPredictor


class SpreadState:
    """A video whose objects are spread over processes; made by ``SpreadPredictor.init_state``.

    Attributes:
        frames: of the video, in this process.
        obj_ids: in the order in which they were first seen.
    """

    def __init__(self, number: int, frames: Frames) -> None:
        self.number, self.frames = number, frames
        self.owners: dict[Any, int] = {}  # object -> which process has it, in the order in which ids were first seen
        self.guard = ThreadGuard()

    @property
    def obj_ids(self) -> list[Any]:
        """Of all objects, in the order in which they were first named."""
        return list(self.owners)

    @property
    def num_frames(self) -> int:
        """Of the video."""
        return len(self.frames)

    @property
    def video_size(self) -> tuple[int, int]:
        """(height, width) of the video."""
        return self.frames.height, self.frames.width


class SpreadPredictor:
    """Tracks the objects of a video on several devices, by the methods of ``SAM2VideoPredictor``.

    ::

        build = functools.partial(build_sam2_video_predictor, "sam2.1_hiera_t", "sam2.1_hiera_tiny.pt")
        with SpreadPredictor(build, "cuda:0,cuda:1") as predictor:
            state = predictor.init_state("clip.mp4")
            for obj_id, box in enumerate(boxes):
                predictor.add_new_points_or_box(state, 0, obj_id, box=box)
            for frame, ids, logits in predictor.propagate_in_video(state):
                ...

    Results are those of one device, on the CPU: corrections, removals and passes in both directions included. A new
    object goes to the process that has the fewest. What a method raises it raises here, with the worker's traceback as
    the cause; when a process is lost (``WorkerError``) or a call is interrupted, all of them end, and so do the states.
    Calls of several threads take turns, each with a state of its own: while one is in a call on a state, another gets
    :class:`~sam2fast.exclusive.ConcurrentUseError`.

    Args:
        build: picklable; called in each process with ``device="cuda:1"`` and such, gives a ``SAM2VideoPredictor``.
        devices: ``"cuda:0,cuda:1"``, ``"all"`` for every CUDA device, or a list.
        threads: of each process on the CPU; by default an equal share of this one's.

    Raises:
        ValueError, RuntimeError: see :func:`~sam2fast.parallel.devices.device_list`.
        WorkerError: a process is lost.
        Exception: what ``build`` raises.
    """

    def __init__(
        self, build: Callable[..., "SAM2VideoPredictor"], devices: Devices, threads: int | None = None
    ) -> None:
        self.devices = device_list(devices)
        share = threads_for_each(len(self.devices), threads)
        self._numbers = itertools.count()
        self._group = WorkerGroup(self.devices, partial(ObjectShare, build), share)
        facts: ModelFacts = self._group.call(self._workers[:1], "facts")[0]
        self.image_size, self.non_overlap_masks = facts.image_size, facts.non_overlap_masks
        self.memory_rules: MemoryRules = facts.rules

    def close(self) -> None:
        """Ends the processes; may be called twice."""
        self._group.close()

    def __enter__(self) -> "SpreadPredictor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def init_state(
        self,
        video_path: Any,
        offload_video_to_cpu: bool = False,
        offload_state_to_cpu: bool = False,
        async_loading_frames: bool = False,
        *,
        max_history: int | None = None,
    ) -> SpreadState:
        """Opens a video in each process; arguments and errors as ``SAM2VideoPredictor.init_state`` has them.

        A path is best: frames in memory are copied to each process.

        Raises:
            TypeError: also what cannot be pickled, such as an open file.
        """
        state = self._opened(video_path)
        options = {"async_loading_frames": async_loading_frames, "max_history": max_history}
        self._for_state(state, "open", video_path, **options)
        return state

    @exclusive_session
    def close_state(self, inference_state: SpreadState) -> None:
        """Forgets a video and frees its memory; may be called twice."""
        self._group.call(self._workers, "close", inference_state.number)
        inference_state.owners.clear()
        inference_state.frames.close()

    @exclusive_session
    def reset_state(self, inference_state: SpreadState) -> None:
        """Forgets all objects and prompts; the video stays."""
        self._group.call(self._workers, "reset", inference_state.number)
        inference_state.owners.clear()

    @exclusive_session
    def add_new_points_or_box(
        self, inference_state: SpreadState, frame_idx: int, obj_id: Any, *args: Any, **kwargs: Any
    ) -> tuple[int, list[Any], Tensor]:
        """See ``SAM2VideoPredictor.add_new_points_or_box``; the masks are on the CPU."""
        return self._prompt(inference_state, "add_new_points_or_box", frame_idx, obj_id, *args, **kwargs)

    @exclusive_session
    def add_new_mask(
        self, inference_state: SpreadState, frame_idx: int, obj_id: Any, mask: Any
    ) -> tuple[int, list[Any], Tensor]:
        """See ``SAM2VideoPredictor.add_new_mask``; the masks are on the CPU."""
        return self._prompt(inference_state, "add_new_mask", frame_idx, obj_id, mask)

    @exclusive_session
    def clear_all_prompts_in_frame(
        self, inference_state: SpreadState, frame_idx: int, obj_id: Any, need_output: bool = True
    ) -> tuple[int, list[Any], Tensor] | None:
        """See ``SAM2VideoPredictor.clear_all_prompts_in_frame``."""
        state = inference_state
        owner = self._workers[state.owners.get(obj_id, 0)]
        self._group.call([owner], "take_back", state.number, frame_idx, obj_id)
        return (frame_idx, state.obj_ids, self._prompted_masks(state, frame_idx)) if need_output else None

    @exclusive_session
    def remove_object(
        self, inference_state: SpreadState, obj_id: Any, strict: bool = False, need_output: bool = True
    ) -> tuple[list[Any], list[tuple[int, Tensor]]]:
        """See ``SAM2VideoPredictor.remove_object``."""
        state = inference_state
        if obj_id not in state.owners:
            if strict:
                raise RuntimeError(f"there is no object {obj_id!r} to remove; the ids are {state.obj_ids}")
            return state.obj_ids, []
        frames = self._group.call([self._workers[state.owners[obj_id]]], "remove", state.number, obj_id)[0]
        del state.owners[obj_id]
        wanted = frames if need_output and state.owners else []
        return state.obj_ids, [(t, self._prompted_masks(state, t)) for t in wanted]

    def _prompt(
        self, state: SpreadState, method: str, frame: int, obj_id: Any, *args: Any, **kwargs: Any
    ) -> tuple[int, list[Any], Tensor]:
        counts = [list(state.owners.values()).count(i) for i in range(len(self._workers))]
        owner = state.owners.get(obj_id, counts.index(min(counts)))
        call = (state.number, method, frame, obj_id, *args)
        conditioning = self._group.call([self._workers[owner]], "prompt", *call, **kwargs)[0]
        state.owners[obj_id] = owner  # if it is new: where it was it stays
        return frame, state.obj_ids, self._masks_on(state, frame, conditioning)

    def _prompted_masks(self, state: SpreadState, frame: int) -> Tensor:
        conditioning = any(self._group.call(self._workers, "has_new_conditioning", state.number, frame))
        return self._masks_on(state, frame, conditioning)

    def _masks_on(self, state: SpreadState, frame: int, conditioning: bool) -> Tensor:
        """Mask logits ``(N, 1, H, W)`` of all objects on a frame, as prompts are answered."""
        having = self._having(state)
        if not having:
            return torch.zeros(0, 1, *state.video_size)
        parts = self._group.call(having, "masks_on", state.number, frame, conditioning)
        masks = join([ids for ids, _ in parts], [masks for _, masks in parts], state.obj_ids)
        return returned(masks, "logits", state.video_size, self.non_overlap_masks)

    @exclusive_session
    def propagate_in_video(
        self,
        inference_state: SpreadState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        *,
        return_scores: bool = False,
        progress: Progress = True,
        encode_ahead: int = 1,
        output: Output = "logits",
        lag: int = 0,
    ) -> Iterator[tuple[Any, ...]]:
        """Tracks all objects from frame to frame; see ``SAM2VideoPredictor.propagate_in_video``.

        Masks and scores are on the CPU. A ``progress`` function is given the numbers of the frames as they come.
        """
        state = inference_state
        check_output(output)
        # Here, for the processes begin with the preflight, which is a change.
        if start_frame_idx is not None:
            start_frame_idx = frame_number(start_frame_idx, state.num_frames, "start_frame_idx", may_be_the_end=True)
        if max_frame_num_to_track is not None:
            max_frame_num_to_track = at_least(0, max_frame_num_to_track, "max_frame_num_to_track")
        encode_ahead, lag = at_least(1, encode_ahead, "encode_ahead"), at_least(0, lag, "lag")
        having = self._having(state)
        if not having:
            raise RuntimeError("no object to track: give points, a box or a mask first")
        self._group.call(having, "check_prompted", state.number)
        if start_frame_idx is None:
            found = self._group.call(having, "earliest", state.number)
            start_frame_idx = min(t for t in found if t is not None)
        # With overlaps to settle, or to be enlarged: here. Bits are smaller than low-resolution logits.
        form: Output = "bits" if output in ("bool", "bits") and not self.non_overlap_masks else "low_res"
        options = {
            "start_frame_idx": start_frame_idx,
            "max_frame_num_to_track": max_frame_num_to_track,
            "reverse": bool(reverse),
            "encode_ahead": encode_ahead,
            "lag": lag,
        }
        number = next(self._numbers)
        try:
            self._group.call(having, "begin_pass", state.number, number, form, return_scores, **options)
            yield from _with_progress(self._pass(state, number, having, form, output, return_scores), progress)
        finally:
            # Not now: Python's collector may end a pass that was given up, in the middle of another call.
            self._group.call_later(having, "end_pass", state.number, number)

    def _pass(
        self,
        state: SpreadState,
        number: int,
        having: Sequence[Worker],
        form: Output,
        output: Output,
        return_scores: bool,
    ) -> Iterator[tuple[Any, ...]]:
        while parts := [part for part in self._group.call(having, "next", state.number, number) if part is not None]:
            ids = [part.ids for part in parts]
            order = [i for i in state.obj_ids if any(i in each for each in ids)]
            order += [i for each in ids for i in each if i not in order]  # removed meanwhile, and still under way
            low_res = None if parts[0].low_res is None else join(ids, [part.low_res for part in parts], order)
            source = low_res if form == "low_res" else join(ids, [part.masks for part in parts], order)
            assert source is not None
            masks = returned(source, output, state.video_size, self.non_overlap_masks)
            if not return_scores:
                yield parts[0].frame, order, masks
                continue
            iou, presence = (join(ids, [getattr(p, name) for p in parts], order) for name in ("iou", "object_score"))
            assert low_res is not None
            yield parts[0].frame, order, masks, TrackScores(iou, presence, low_res)

    @exclusive_session
    def save_state(self, inference_state: SpreadState, file: str | Path) -> None:
        """Writes the state as ``SAM2VideoPredictor.save_state`` does; either predictor loads what the other wrote."""
        from sam2fast.tracking import saved_state

        having = self._having(inference_state) or self._workers[:1]
        parts = self._group.call(having, "pack", inference_state.number)
        saved_state.save(merged_state(parts, inference_state.obj_ids), file)

    def load_state(self, file: str | Path, video_path: Any, *, async_loading_frames: bool = False) -> SpreadState:
        """A state that :meth:`save_state` wrote, or a ``SAM2VideoPredictor``'s; its objects are dealt out in turn."""
        from sam2fast.tracking import saved_state

        ids = [entry["id"] for entry in saved_state.read(file).facts["objects"]]
        state = self._opened(video_path)
        owners = {obj_id: number % len(self._workers) for number, obj_id in enumerate(ids)}
        shares = [[i for i in ids if owners[i] == number] for number in range(len(self._workers))]
        options = {"async_loading_frames": async_loading_frames}

        def load() -> None:
            calls = [packed_call("load", state.number, Path(file), video_path, own, **options) for own in shares]
            self._group.call_each(list(zip(self._workers, calls, strict=True)))

        self._closing_on_failure(state, load)
        state.owners = owners
        return state

    @property
    def _workers(self) -> list[Worker]:
        return self._group.workers

    def _opened(self, video: Any) -> SpreadState:
        return SpreadState(next(self._numbers), open_frames(video, self.image_size))

    def _having(self, state: SpreadState) -> list[Worker]:
        """The processes that have objects of a video."""
        return [worker for i, worker in enumerate(self._workers) if i in state.owners.values()]

    def _for_state(self, state: SpreadState, method: str, *args: Any, **kwargs: Any) -> None:
        call = partial(self._group.call, self._workers, method, state.number, *args, **kwargs)
        self._closing_on_failure(state, call)

    def _closing_on_failure(self, state: SpreadState, call: Callable[[], Any]) -> None:
        try:
            call()
        except BaseException:
            state.frames.close()
            raise


def _with_progress(answers: Iterator[tuple[Any, ...]], progress: Progress) -> Iterator[tuple[Any, ...]]:
    if not callable(progress):
        yield from tqdm(answers, desc="propagate in video", disable=not progress)
        return
    current: list[tuple[Any, ...]] = []

    def numbers() -> Iterator[int]:
        for answer in answers:
            current[:] = [answer]
            yield answer[0]

    for _ in progress(numbers()):
        yield current[0]
