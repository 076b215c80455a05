"""Tracks objects through a video."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sam2fast.deploy.onnx.runtime.arrays import fill_holes, resize, suppress_overlaps
from sam2fast.deploy.onnx.runtime.frames import ImageFrames
from sam2fast.deploy.onnx.runtime.graphs import NO_OBJ_SCORE, ObjectMasks, OnnxModel
from sam2fast.deploy.onnx.runtime.manifest import check_strategy
from sam2fast.deploy.onnx.runtime.objects import ObjectOnFrame, OnnxObject, OnnxVideoState
from sam2fast.deploy.onnx.runtime.prompts import (
    LOGIT_LIMIT,
    check_boxes,
    check_numbers,
    check_points,
    joined_prompt,
)
from sam2fast.deploy.onnx.runtime.together import overlaps, separated
from sam2fast.modeling.memory_selection import MemoryRules, Selection, select_memories
from sam2fast.tracking.object_results import (
    check_prompted,
    frames_of_pass,
    latest_results,
    no_prompt_error,
    remaining_results,
    still_in,
)
from sam2fast.tracking.together_rules import STATE_SIZE, updated_exempt_pairs
from sam2fast.utils.numbers import at_least, frame_number

# Maximum number of attention weights in a batch of several objects: 512 MiB in fp32.
WEIGHTS_AT_ONCE = 2**27

Answer = tuple[int, list[Any], np.ndarray]
Batch = tuple[Sequence[Any], ObjectMasks]  # object ids and their predictions


class OnnxVideoPredictor:
    """``SAM2VideoPredictor`` for an exported model, with its methods' names, arguments and results, as numpy arrays.

    Objects of a frame that attend to the same number of memories are one batch. As in the official package, results of
    all tracked frames are kept.

    Args:
        model: model from :func:`load_model`. Several predictors may share one model.
    """

    def __init__(self, model: OnnxModel) -> None:
        self.model, self.manifest = model, model.manifest
        self.rules = MemoryRules(**self.manifest.memory_rules)

    def init_state(self, video_path: str | Path | Sequence[Any], strategy: str | None = None) -> OnnxVideoState:
        """Opens a video: a folder of JPEG or PNG files named by numbers, or a list of images.

        Args:
            strategy: Strategy of this video. ``together`` compares the motion of objects with overlapping masks and
                assigns each pixel to one object. ``sam2`` treats objects independently. If None, uses the exported
                model's strategy.

        Raises:
            FileNotFoundError: If the folder does not exist or has no images.
            ValueError: If the video cannot be used, or the strategy is unknown.
        """
        name = self.manifest.strategy if strategy is None else check_strategy(strategy)
        return OnnxVideoState(ImageFrames(video_path, self.manifest.image_size), name)

    def reset_state(self, inference_state: OnnxVideoState) -> None:
        """Removes all objects. The video stays open."""
        inference_state.objects.clear()
        inference_state.exempt = frozenset()

    def add_new_points_or_box(
        self,
        inference_state: OnnxVideoState,
        frame_idx: int,
        obj_id: Any,
        points: Any = None,
        labels: Any = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: Any = None,
    ) -> Answer:
        """Adds points or a box for a new or existing object.

        Args:
            points, labels: points ``(N, 2)`` (x, y) in pixels of the video and labels ``(N)``: 1 foreground, 0
                background.
            clear_old_points: if True, replaces the object's earlier points on the frame.
            normalize_coords: if False, coordinates are in [0, 1].
            box: box ``(4)`` XYXY in pixels of the video.

        Returns:
            The frame index, the ids of all objects, and the objects' mask logits ``(objects, 1, H, W)`` on the frame.
            Logits of objects without a result on the frame are -1024.

        Raises:
            IndexError: If the video has no frame ``frame_idx``.
            ValueError: If points have no labels, points and box are missing, a box is combined with
                ``clear_old_points=False``, or shapes or values are wrong.
        """
        state, frame = inference_state, frame_number(frame_idx, inference_state.num_frames, "frame_idx")
        if points is None and labels is None and box is None:
            raise ValueError("at least one of points or box must be given")
        if box is not None and not clear_old_points:
            raise ValueError("a box comes before points and cannot join earlier ones; use clear_old_points=True")
        corners = clicks = None
        if any(x is not None and check_numbers(x, "points").size for x in (points, labels)):
            clicks = check_points(points, labels)
        if box is not None:
            numbers = check_numbers(box, "box")
            if numbers.size != 4:
                raise ValueError(f"box has shape {numbers.shape}; expected (4), the box of one object")
            corners = check_boxes(numbers.reshape(4))
        coords, types = joined_prompt(clicks, corners)
        if len(coords) != 1 or not coords.shape[1]:
            raise ValueError(f"got {len(coords)} prompts of {coords.shape[1]} points; expected one with at least 1")
        width, height = (state.video_width, state.video_height) if normalize_coords else (1, 1)
        coords = coords / np.array([width, height], np.float32) * np.float32(self.manifest.image_size)
        tracked = state.objects.get(obj_id) or OnnxObject()
        if not clear_old_points and frame in tracked.points:
            old = tracked.points[frame]
            coords, types = np.concatenate([old[0], coords], axis=1), np.concatenate([old[1], types], axis=1)
        return self._apply(state, frame, obj_id, tracked, points=(coords, types))

    def add_new_points(self, *args: Any, **kwargs: Any) -> Answer:
        """Calls :meth:`add_new_points_or_box`. The official name ``add_new_points`` is deprecated."""
        return self.add_new_points_or_box(*args, **kwargs)

    def add_new_mask(self, inference_state: OnnxVideoState, frame_idx: int, obj_id: Any, mask: Any) -> Answer:
        """Adds a mask ``(H, W)`` of any size as the object's result on the frame. Nonzero values are foreground.

        Returns and raises the same as :meth:`add_new_points_or_box`.
        """
        state, frame = inference_state, frame_number(frame_idx, inference_state.num_frames, "frame_idx")
        numbers, side = check_numbers(mask, "the mask"), self.manifest.image_size
        if numbers.ndim != 2 or not numbers.size:
            raise ValueError(f"the mask has shape {numbers.shape}; expected (H, W) of bool or numbers")
        binary = (numbers != 0).astype(np.float32)
        if binary.shape != (side, side):
            binary = (resize(binary, (side, side), antialias=True) >= 0.5).astype(np.float32)
        tracked = state.objects.get(obj_id) or OnnxObject()
        return self._apply(state, frame, obj_id, tracked, mask=binary[None, None])

    def clear_all_prompts_in_frame(
        self, inference_state: OnnxVideoState, frame_idx: int, obj_id: Any, need_output: bool = True
    ) -> Answer | None:
        """Removes an object's prompts on one frame. Does nothing for an unknown id.

        Returns:
            The results of :meth:`add_new_points_or_box`, or None if ``need_output`` is False.
        """
        state, frame = inference_state, frame_number(frame_idx, inference_state.num_frames, "frame_idx")
        if obj_id in state.objects:
            state.objects[obj_id].remove_prompts(frame)
        if not need_output:
            return None
        return frame, state.obj_ids, self._video_masks(state, state.objects, remaining_results(state.objects, frame))

    def remove_object(
        self, inference_state: OnnxVideoState, obj_id: Any, strict: bool = False, need_output: bool = True
    ) -> tuple[list[Any], list[tuple[int, np.ndarray]]]:
        """Removes an object.

        Returns:
            The remaining ids and a list of pairs ``(frame, mask logits (objects, 1, H, W))`` of the remaining objects.
            With ``need_output``, the list has all frames on which the removed object had prompts; otherwise, it is
            empty.

        Raises:
            RuntimeError: If ``strict`` is True and there is no object ``obj_id``.
        """
        state = inference_state
        if obj_id not in state.objects:
            if strict:
                raise RuntimeError(f"there is no object {obj_id!r} to remove; the ids are {state.obj_ids}")
            return state.obj_ids, []
        removed = state.objects.pop(obj_id)
        state.exempt = frozenset(pair for pair in state.exempt if obj_id not in pair)
        frames = sorted({*removed.points, *removed.masks}) if need_output and state.objects else []
        remaining = [(t, remaining_results(state.objects, t)) for t in frames]
        return state.obj_ids, [(t, self._video_masks(state, state.objects, results)) for t, results in remaining]

    def propagate_in_video_preflight(self, inference_state: OnnxVideoState) -> None:
        """Encodes the memories of new prompts. :meth:`propagate_in_video` calls this first.

        Raises:
            RuntimeError: If the video has no objects, or an object has no prompt.
        """
        state = inference_state
        check_prompted(state.objects)
        encoded = self._with_memories(state)
        if state.strategy == "together":
            state.exempt = updated_exempt_pairs(
                state.objects,
                state.exempt,
                lambda results: overlaps(np.concatenate([result.mask for result in results]) > 0).tolist(),
            )
        for tracked in state.objects.values():
            tracked.commit(encoded, self._clearing_distance)

    def propagate_in_video(
        self,
        inference_state: OnnxVideoState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
    ) -> Iterator[Answer]:
        """Tracks all objects frame by frame. Objects that are added during tracking are tracked from the next call on.

        Args:
            start_frame_idx: first frame; by default the earliest frame with a prompt. May be the video's length.
            max_frame_num_to_track: maximum number of frames after the first frame; by default all frames.
            reverse: if True, tracks backwards. As in the official package, tracking backwards from frame 0 yields
                nothing.

        Yields:
            The frame index, the ids of all objects, and the objects' mask logits ``(objects, 1, H, W)``.

        Raises:
            RuntimeError: see :meth:`propagate_in_video_preflight`.
            IndexError: If the video has no frame ``start_frame_idx``.
            TypeError: If a frame number is not an integer.
            ValueError: If ``max_frame_num_to_track`` is below 0.
        """
        state = inference_state
        start, count, objects = start_frame_idx, max_frame_num_to_track, dict(state.objects)
        if start is not None:
            start = frame_number(start, state.num_frames, "start_frame_idx", may_be_the_end=True)
        if count is not None:
            count = at_least(0, count, "max_frame_num_to_track")
        self.propagate_in_video_preflight(state)
        for frame in frames_of_pass(objects.values(), state.num_frames, start, count, reverse):
            objects = still_in(state.objects, objects)
            if not objects:
                return
            results = self._track(state, objects, frame, reverse)
            for obj_id, tracked in objects.items():
                if frame not in tracked.conditioning:
                    tracked.tracked[frame] = results[obj_id]
                elif self._clearing_distance is not None:
                    tracked.forget_around(frame, self._clearing_distance)
                tracked.reverse[frame] = reverse
            yield frame, list(objects), self._video_masks(state, objects, results)

    @property
    def _clearing_distance(self) -> int | None:
        return self.rules.stride * self.rules.num_maskmem if self.manifest.clear_non_cond_mem_around_input else None

    def _levels(self, state: OnnxVideoState, frame: int) -> list[np.ndarray]:
        """Returns the frame's feature levels. Caches the feature levels of one frame."""
        if state.encoded is None or state.encoded[0] != frame:
            state.encoded = frame, self.model.encode(state.frames[frame])
        return state.encoded[1]

    def _apply(
        self,
        state: OnnxVideoState,
        frame: int,
        obj_id: Any,
        tracked: OnnxObject,
        points: tuple[np.ndarray, np.ndarray] | None = None,
        mask: np.ndarray | None = None,
    ) -> Answer:
        """Predicts an object's mask from a prompt and stores prompt and mask. If prediction fails, stores nothing."""
        initial, levels = tracked.is_initial(frame), self._levels(state, frame)
        conditioning = initial or self.manifest.add_all_frames_to_correct_as_cond
        if mask is not None:
            predicted = self.model.take_mask(levels, mask)
        else:
            assert points is not None
            if initial:
                features = levels[-1] + self.model.no_mem_embed
            else:
                selection = self._select(state, tracked, frame, tracked.reverse[frame])
                features = self._attend(state, levels, [tracked], [selection])
            before = tracked.result_on(frame, conditioning)
            previous = None if before is None else before.mask.clip(-LOGIT_LIMIT, LOGIT_LIMIT)[None]
            multimask = self.model.use_multimask(initial, points[1].shape[1])
            predicted = self.model.predict(levels, features, points, previous, multimask)
        (result,) = self._results(predicted, None)
        tracked.set_prompt(frame, points, mask)
        tracked.new_results(conditioning)[frame] = result
        state.objects[obj_id] = tracked
        results = latest_results(state.objects, frame, conditioning)
        return frame, state.obj_ids, self._video_masks(state, state.objects, results)

    def _results(self, predicted: ObjectMasks, memories: np.ndarray | None) -> list[ObjectOnFrame]:
        """Fills holes in the predicted masks and returns one result per object. ``memories`` have unfilled masks."""
        masks = fill_holes(predicted.mask, self.manifest.fill_hole_area)
        memory, state = ([None] * len(masks) if x is None else list(x) for x in (memories, predicted.state))
        parts = zip(masks, predicted.score, predicted.pointer, memory, state, strict=True)
        return [ObjectOnFrame(*part) for part in parts]

    def _with_memories(self, state: OnnxVideoState) -> dict[int, ObjectOnFrame]:
        """Encodes memories of new results' hole-filled masks. Keys are ``id()`` of the results without memory."""
        encoded = {}
        for new in (new for o in state.objects.values() for new in (o.new_tracked, o.new_conditioning)):
            for frame, result in new.items():
                features = self._levels(state, frame)[-1]
                memory = self.model.encode_memory(features, result.mask[None], result.score[None], from_prompt=True)
                encoded[id(result)] = result._replace(memory=memory[0])
        return encoded

    def _track(
        self, state: OnnxVideoState, objects: Mapping[Any, OnnxObject], frame: int, reverse: bool
    ) -> dict[Any, ObjectOnFrame]:
        """Returns the objects' results on a frame. If an object has a prompt on the frame, its result is unchanged."""
        results: dict[Any, ObjectOnFrame] = {}
        batches: dict[tuple[int, int], list[tuple[Any, Selection]]] = {}
        for obj_id, tracked in objects.items():
            if frame in tracked.conditioning:
                results[obj_id] = tracked.conditioning[frame]
                continue
            if not tracked.conditioning:
                raise no_prompt_error(obj_id)
            selection = self._select(state, tracked, frame, reverse)
            batches.setdefault((len(selection.memories), len(selection.pointers)), []).append((obj_id, selection))
        levels = self._levels(state, frame) if batches else []
        predictions: list[Batch] = []
        for (memories, _), batch in batches.items():
            positions = levels[-1].shape[2] * levels[-1].shape[3]
            step = max(1, WEIGHTS_AT_ONCE // (positions * positions * memories))
            for start in range(0, len(batch), step):
                ids, selections = zip(*batch[start : start + step], strict=True)
                predictions.append((ids, self._predict_batch(state, levels, ids, selections)))
        if state.strategy == "together" and predictions:
            predictions = self._separated(state, [i for i in objects if i not in results], predictions, frame, reverse)
        for tracked_ids, predicted in predictions:
            encoded = self.model.encode_memory(levels[-1], predicted.mask, predicted.score, from_prompt=False)
            results.update(zip(tracked_ids, self._results(predicted, encoded), strict=True))
        return results

    def _predict_batch(
        self, state: OnnxVideoState, levels: list[np.ndarray], ids: Sequence[Any], selections: Sequence[Selection]
    ) -> ObjectMasks:
        features = self._attend(state, levels, [state.objects[obj_id] for obj_id in ids], selections)
        return self.model.predict(levels, features, None, None, self.model.use_multimask(False, 0))

    def _separated(
        self, state: OnnxVideoState, ids: Sequence[Any], batches: Sequence[Batch], frame: int, reverse: bool
    ) -> list[Batch]:
        """Assigns each pixel to one of the objects ``ids``. Returns batches with the new masks and the motion."""
        masks = {i: mask for batch, predicted in batches for i, mask in zip(batch, predicted.mask, strict=True)}
        before = [state.objects[obj_id].result_before(frame, reverse) for obj_id in ids]
        motion = [np.zeros(STATE_SIZE) if o is None or o.state is None else o.state for o in before]
        sharing = np.array([[a != b and (a, b) not in state.exempt for b in ids] for a in ids])
        logits, states = separated(np.concatenate([masks[obj_id] for obj_id in ids]), np.stack(motion), sharing)
        rows = [[ids.index(obj_id) for obj_id in batch] for batch, _ in batches]
        return [
            (batch, predicted._replace(mask=logits[row][:, None], state=states[row]))
            for (batch, predicted), row in zip(batches, rows, strict=True)
        ]

    def _select(self, state: OnnxVideoState, tracked: OnnxObject, frame: int, reverse: bool) -> Selection:
        return select_memories(frame, tracked.conditioning, tracked.tracked, state.num_frames, reverse, self.rules)

    def _attend(
        self,
        state: OnnxVideoState,
        levels: list[np.ndarray],
        objects: Sequence[OnnxObject],
        selections: Sequence[Selection],
    ) -> np.ndarray:
        """Returns the frame's map ``(B, C, H, W)``, conditioned on an equal number of memories per object."""
        pairs = list(zip(objects, selections, strict=True))
        memories = np.array([[o.kept_on(t).memory for t, _ in one.memories] for o, one in pairs], np.float32)
        rows = np.array([[row for _, row in one.memories] for _, one in pairs], np.int64)
        count, width = len(selections[0].pointers), levels[-1].shape[1]
        vectors = [o.kept_on(t).pointer for o, one in pairs for t, _ in one.pointers]
        pointers = np.array(vectors, np.float32).reshape(len(pairs), count, width)
        distances = np.array([[d for _, d in one.pointers] for _, one in pairs], np.float32).reshape(len(pairs), count)
        longest = max(1, min(state.num_frames, self.rules.max_pointers) - 1)
        return self.model.attend(levels[-1], memories, rows, pointers, distances / np.float32(longest))

    def _video_masks(
        self, state: OnnxVideoState, objects: Collection[Any], results: Mapping[Any, ObjectOnFrame]
    ) -> np.ndarray:
        """Resizes the objects' logits to the video's size and returns them as ``(objects, 1, H, W)``."""
        size = state.video_height, state.video_width
        masks = np.full((len(objects), 1, *size), NO_OBJ_SCORE, np.float32)
        for i, obj_id in enumerate(objects):
            if obj_id in results:
                masks[i] = resize(results[obj_id].mask, size)
        return suppress_overlaps(masks) if self.manifest.non_overlap_masks else masks
