"""Predicts the masks of a session's objects on a frame, from a prompt or from memories of other frames.

The tracker runs the model, reads and writes the session's feature cache and memory bank, and stores the results of
tracked frames. :mod:`~sam2fast.tracking.prompting` stores the results of prompts.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from sam2fast.kernels.memory_attention import AttendedMemory, Fp8, why_no_fp8
from sam2fast.modeling.memory_selection import MemoryRules, Selection
from sam2fast.modeling.model_identity import OpenedWith
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.prompt_inputs import LOGIT_LIMIT
from sam2fast.tracking.approximations import Approximations
from sam2fast.tracking.attending import attended_frames, attended_pages, gather_memory
from sam2fast.tracking.features import FEATURES_KEPT, FeatureCache, FrameFeatures
from sam2fast.tracking.memory_bank import AttendedPages, MemoryBank, MemoryLayout
from sam2fast.tracking.outputs import FrameResult, Output, PackedResults, TrackScores, best_with_others, format_masks
from sam2fast.tracking.page_pool import Page
from sam2fast.tracking.session import TrackedObject, VideoSession
from sam2fast.tracking.settings import TrackingModel
from sam2fast.tracking.shared_prompts import pairs_of
from sam2fast.tracking.step import StepInput, StepSettings, build_results, encode_masks, fill_holes, predict
from sam2fast.tracking.step_runner import runner_for
from sam2fast.tracking.strategies import Strategy
from sam2fast.tracking.strategies.decision import Decision
from sam2fast.utils.async_copies import copy_to_device
from sam2fast.video_io import Frames

_log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


class Tracker:
    """Predicts the masks of objects in sessions with one model. A step is a block of :meth:`StepRunner.one_step`.

    A tracker stores neither sessions nor results, and is cheap to create.

    Args:
        model: Network, with the settings of the tracker. Settings may change between calls.

    Attributes:
        steps: Runner of recorded or eager steps. All trackers of a model share one runner.
        session: Constructor of new sessions.
        override: Function that returns the user's replacement of a predictor method by name, or None.
        check_stream: Function that raises ``TypeError`` if the user replaced a method that streams do not call.
    """

    session: Callable[..., VideoSession] = VideoSession
    override: Callable[[str], Callable[..., Any] | None] = staticmethod(lambda name: None)
    check_stream: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, model: TrackingModel) -> None:
        self.model, self.steps = model, runner_for(model)

    def format_masks(self, state: VideoSession, low_res: Tensor, output: Output) -> Tensor:
        """Converts masks to the requested format. See :func:`~sam2fast.tracking.outputs.format_masks`."""
        custom = self.override("_get_orig_video_res_output")
        resize = None if custom is None else lambda masks: custom(state, masks)[1]
        return format_masks(low_res, state.video_size, output, self.model.non_overlap_masks, resize)

    def call(self, name: str, function: Callable[Concatenate["Tracker", P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the user's replacement of method ``name`` if there is one, else ``function`` with this tracker."""
        custom = self.override(name)
        return function(self, *args, **kwargs) if custom is None else custom(*args, **kwargs)

    @property
    def uses_recordings(self) -> bool:
        """Returns True if tracking replays recorded steps."""
        return self.steps.why_eager() is None

    @property
    def clearing_distance(self) -> int:
        """Returns the distance in frames up to which ``clear_non_cond_mem_around_input`` removes results."""
        return self.model.memory_temporal_stride_for_eval * self.model.num_maskmem

    def new_state(
        self,
        frames: Frames,
        *,
        features_kept: int = FEATURES_KEPT,
        approximations: Approximations | None = None,
        offload_video_to_cpu: bool = False,
        offload_state_to_cpu: bool = False,
        max_history: int | None = None,
        max_cond_frames: int | None = None,
        strategy: Strategy | None = None,
    ) -> VideoSession:
        """Returns a session without objects. No frame is read.

        Args:
            features_kept: Number of frames with cached features.
            approximations, strategy: Settings of the session. If None, uses the tracker's settings.
            offload_video_to_cpu, offload_state_to_cpu, max_history, max_cond_frames: See :class:`VideoSession`.
        """
        if approximations is None:
            approximations = self.model.approximations
        model = self.model
        strategy = (self.model.strategy if strategy is None else strategy).for_model(model)
        frames.mean, frames.std = model.pixel_mean, model.pixel_std
        return self.session(
            frames,
            FeatureCache(frames, model.device, features_kept, approximations.still_frames),
            MemoryBank(MemoryLayout.of(model), approximations, _fp8(model, approximations), strategy),
            OpenedWith(model),
            offload_video_to_cpu,
            offload_state_to_cpu,
            max_history,
            max_cond_frames,
            strategy,
        )

    def rules(self, state: VideoSession) -> MemoryRules:
        """Returns the model's rules for memory selection, with the limits of the session."""
        rules, slots = MemoryRules.of(self.model), state.bank.approximations.memory_slots
        if slots is not None:
            rules = replace(rules, memory_slots=slots)
        if state.max_cond_frames is None or 0 <= rules.max_conditioning <= state.max_cond_frames:
            return rules
        return replace(rules, max_conditioning=state.max_cond_frames)

    def encode(self, state: VideoSession, frames: Sequence[int]) -> list[FrameFeatures]:
        """Returns features of ``frames``. Frames missing from the cache are encoded as one batch.

        Raises:
            VideoError: If a frame cannot be read.
        """
        with self.steps.one_step(state.features):
            return self._features(state, frames)

    def encode_batch(self, state: VideoSession, objects: Iterable[TrackedObject], frames: range, count: int) -> None:
        """Encodes up to ``count`` of ``frames`` as one batch, within the step of the first frame.

        The features of the later frames stay in the cache until these frames are tracked.
        """
        tracked = list(objects)
        needed = [t for t in frames[: 2 * count] if any(t not in o.conditioning for o in tracked)]
        state.features.upcoming = [t for t in needed if t != frames[0]]
        needed = [t for t in needed if t in frames[:count]]
        if count == 1 or not state.features.missing(needed[:1]):
            return
        # With recordings, :meth:`encode_ahead` encodes the next frames if the first frame is in the cache.
        if state.features.missing(frames[:1]) or not self.uses_recordings:
            self._features(state, needed)

    def encode_ahead(self, state: VideoSession, frames: range, count: int) -> None:
        """Starts encoding the next ``count`` of ``frames`` on another CUDA stream, within a step."""
        needed = state.features.upcoming
        missing = state.features.missing(needed)[:count]
        is_end = len(frames) < 2 * count
        # Waits for a full batch, unless the next frame to track is missing or the pass ends.
        is_due = missing and (len(missing) == count or missing[0] == needed[0] or is_end)
        if is_due and self.uses_recordings:
            with suppress(Exception):  # the step that tracks the frame raises the error again
                self._encode(state, missing, ahead=True, padded=count if is_end else 0)

    def _features(self, state: VideoSession, frames: Sequence[int]) -> list[FrameFeatures]:
        if state.features.missing(frames):
            self._encode(state, frames)
        return state.features.read(frames)

    def _encode(self, state: VideoSession, frames: Sequence[int], ahead: bool = False, padded: int = 0) -> None:
        state.features.encode(frames, lambda new: self.steps.encode(state.frames, new, ahead, padded))

    def makes_conditioning(self, tracked: TrackedObject, frame: int) -> bool:
        """Returns True if a new prompt of ``tracked`` on ``frame`` makes ``frame`` a conditioning frame."""
        return tracked.is_initial(frame) or self.model.add_all_frames_to_correct_as_cond

    def predict_prompted(
        self,
        state: VideoSession,
        tracked: TrackedObject,
        frame: int,
        points: dict[str, Tensor] | None,
        mask: Tensor | None,
        previous: Tensor | None,
    ) -> FrameResult:
        """Predicts one object from a prompt. :meth:`encode_memories` encodes the object's memory later.

        An initial prompt attends to no memory. A correction selects memories in the direction of the frame's last pass.

        Args:
            tracked: Object before this prompt.
            points: Tensors ``point_coords (1, P, 2)`` in input pixels and ``point_labels (1, P)``, or None.
            mask: Mask ``(1, 1, S, S)``, or None.
            previous: Logits ``(1, 1, h, w)`` of an earlier result on the frame, as decoder input with the points.
        """
        bank, decision = state.bank, None
        with self.steps.one_step(state.features):
            bank.begin_step()
            memory = self.gather(state, tracked, frame)
            if previous is not None:
                previous = self.as_mask_input(previous)
            (features,) = self._features(state, [frame])
            if state.strategy.decides:
                initial = torch.zeros(1, state.strategy.state_size, dtype=torch.float64, device=state.device)
                prompt = True, self.makes_conditioning(tracked, frame)
                decision = Decision(state.strategy, initial, self.model.image_size, state.video_size, *prompt)
            prompt_inputs = tracked.is_initial(frame), points, mask, previous
            prediction = predict(self.model, features, memory, *prompt_inputs, fp8=bank.fp8, decision=decision)
            record: Tensor | None = None
            states: list[Page] = []
            if decision is not None:
                prediction, decided = decision.outcome(prediction)
                record = decided.record
                if bank.states is not None:
                    assert decided.state is not None
                    states = bank.states.write(decided.state)
            masks = fill_holes(prediction.mask, self.fill_hole_area(state))
            pointers = bank.write_pointers(prediction.pointer)
            packed = PackedResults.of(prediction.iou, prediction.score, masks, record)
            return build_results(bank, packed, 1, [], pointers, states)[0][0]

    def as_mask_input(self, logits: Tensor) -> Tensor:
        """Moves logits of an earlier result to the device, and clamps the logits for the decoder's mask input."""
        return copy_to_device(logits, self.model.device).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)

    def track(
        self, state: VideoSession, objects: Sequence[TrackedObject], frame: int, reverse: bool
    ) -> tuple[list[FrameResult], TrackScores]:
        """Tracks objects to a frame without prompts as one batch, within a step. Results include memories.

        Returns:
            Results that may still be in flight to the CPU, and the same masks and scores on the device. If there are
            several hypotheses, each result is of the object's best hypothesis and stores the results of the other
            hypotheses.
        """
        bank = state.bank
        bank.begin_step()
        (features,) = self._features(state, [frame])
        rules, strategy = self.rules(state), state.strategy
        count = strategy.hypotheses  # rows of the batch per object
        rows = objects if count == 1 else [hypothesis for o in objects for hypothesis in o.hypotheses(count)]
        attended = self.select(state, rows, frame, reverse, rules)
        settings = StepSettings.of(self.model, state, self.fill_hole_area(state))
        pairs = pairs_of(state, objects) if strategy.sees_others else ()
        step_input = StepInput(bank, features, attended, rules, settings, pairs)
        results, scores = self.steps.step(step_input)
        if count > 1:  # the first row of each object is its best hypothesis
            results, scores = best_with_others(results, count), TrackScores(*(x[::count].contiguous() for x in scores))
        return results, scores

    def track_frame(
        self, state: VideoSession, objects: dict[Any, TrackedObject], frame: int, reverse: bool
    ) -> tuple[dict[Any, FrameResult], TrackScores]:
        """Returns the results of all objects on a frame by id, and the same masks and scores on the device.

        Runs within a step. Objects with a prompt on the frame keep the prompt's result. The other objects are tracked
        as one batch. :meth:`store_results` stores the results.
        """
        results = {obj_id: o.conditioning[frame] for obj_id, o in objects.items() if frame in o.conditioning}
        to_track = {obj_id: o for obj_id, o in objects.items() if obj_id not in results}
        parts = []
        if results:
            low_res = torch.cat([result.mask for result in results.values()]).to(state.device)
            parts.append(TrackScores.of(list(results.values()), low_res))
        if to_track:
            new, scores = self.track(state, list(to_track.values()), frame, reverse)
            results.update(zip(to_track, new, strict=True))
            parts.append(scores)
        rank = {obj_id: i for i, obj_id in enumerate(results)}
        return {i: results[i] for i in objects}, TrackScores.joined(parts, [rank[i] for i in objects])

    def store_results(
        self,
        state: VideoSession,
        objects: dict[Any, TrackedObject],
        frame: int,
        reverse: bool,
        results: dict[Any, FrameResult],
    ) -> None:
        """Stores the results of :meth:`track_frame` for all objects, even if Ctrl-C interrupts this method."""

        def store() -> None:
            for obj_id, tracked in objects.items():
                if frame not in tracked.conditioning:
                    tracked.keep_tracked(frame, results[obj_id], state.max_history)
                elif self.model.clear_non_cond_mem_around_input:
                    tracked.forget_around(frame, self.clearing_distance)
                tracked.reverse[frame] = reverse

        try:
            store()
        except BaseException:  # Ctrl-C: stores all results again, without effect on stored results
            store()
            raise

    def fill_hole_area(self, state: VideoSession) -> float:
        """Returns ``fill_hole_area`` of the session's strategy, or of the model if the strategy does not set it."""
        area = state.strategy.fill_hole_area
        return self.model.fill_hole_area if area is None else area

    def encode_memories(self, state: VideoSession, frame: int, results: Sequence[FrameResult]) -> list[FrameResult]:
        """Encodes the memories of prompt results on one frame, from masks after hole filling. Returns new results."""
        if not self.model.num_maskmem:
            return list(results)
        masks, scores = (torch.cat([getattr(r, name) for r in results]).to(state.device) for name in ("mask", "score"))
        with self.steps.one_step(state.features):
            state.bank.begin_step()
            (features,) = self._features(state, [frame])
            memories = encode_masks(self.model, features, masks, scores, from_prompt=True)
            written = state.bank.write_memories(memories)
        return [result.with_memory(memory) for result, memory in zip(results, written, strict=True)]

    def select(
        self, state: VideoSession, objects: Sequence[TrackedObject], frame: int, reverse: bool, rules: MemoryRules
    ) -> list[AttendedPages]:
        """Selects the memories and pointers that each object attends to on the frame."""
        states = [None if state.bank.states is None else o.state_before(frame, reverse) for o in objects]
        if not self.model.num_maskmem:
            return [AttendedPages([], [], [], [], 0, state=page) for page in states]
        watch = self.model.selection_watch
        selections = attended_frames(state, objects, frame, reverse, rules)
        if watch is not None:
            watch(state, objects, frame, reverse, [Selection(one.memories, one.pointers) for one in selections])
        rows, factors = zip(objects, selections, states, strict=True), state.strategy.has_factors
        return [attended_pages(o, one, rules, page, factors) for o, one, page in rows]

    def gather(self, state: VideoSession, tracked: TrackedObject, frame: int) -> AttendedMemory | None:
        """Returns the memory that a correction attends to. Initial prompts and models without memories give None."""
        if tracked.is_initial(frame) or not self.model.num_maskmem:
            return None
        rules = self.rules(state)
        attended = self.select(state, [tracked], frame, tracked.reverse[frame], rules)
        return gather_memory(self.model, state.bank, attended, rules, state.num_frames)


_warned: WeakSet[nn.Module] = WeakSet()  # models for which unsupported fp8 was logged


def _fp8(model: SAM2Base, approximations: Approximations) -> Fp8:
    """Returns ``fp8_attention``, or False if the device does not support it. Logs the reason once per model."""
    requested = approximations.fp8_attention
    why = why_no_fp8(model.device) if requested is True else None
    if why is None:
        return requested
    if model not in _warned:
        _warned.add(model)
        _log.warning("fp8_attention: memory attention stays exact: %s", why)
    return False
