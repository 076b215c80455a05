"""Runs the official algorithm: object by object, on nested dicts, with the predictor's private methods.

Source: ``sam2.sam2_video_predictor.SAM2VideoPredictor``.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.compat.misc import concat_points
from sam2fast.compat.video_state import KINDS, PER_OBJECT, VideoState, drop_object
from sam2fast.prompt_inputs import LOGIT_LIMIT
from sam2fast.tracking.object_results import no_prompt_error
from sam2fast.tracking.outputs import Output, format_masks
from sam2fast.tracking.prompting import click_prompt, mask_prompt
from sam2fast.tracking.propagation import Progress, with_progress
from sam2fast.tracking.strategies import Sam2

Answer = tuple[int, list[Any], Tensor]


class OfficialFlow:
    """Implements the predictor's public methods by its private methods, for a session that is the official dict.

    Raises:
        RuntimeError: If the session's strategy is not SAM 2's rule, since the official methods support no other
            strategy.
    """

    def __init__(self, predictor: Any, state: VideoState) -> None:
        if not isinstance(state.strategy, Sam2):
            raise RuntimeError(
                f"the strategy {type(state.strategy).__name__} has no effect on a session that is the official dict; "
                "with keys of inference_state or overridden private methods use strategy='sam2'"
            )
        self._predictor, self._state = predictor, state

    def add_points_or_box(
        self, frame: int, obj_id: Any, points: Any, labels: Any, clear_old_points: bool, normalize: bool, box: Any
    ) -> Answer:
        """Applies points or a box. See ``SAM2VideoPredictor.add_new_points_or_box``."""
        predictor, state = self._predictor, self._state
        size = state.video_size if normalize else (1, 1)
        prompt = points, labels, box, clear_old_points, size
        new = click_prompt(*prompt, predictor.image_size, state["device"], predictor._tracker.steps.prompt_warning)
        index = predictor._obj_id_to_idx(state, obj_id)
        points_by_frame = state["point_inputs_per_obj"][index]
        old = None if clear_old_points else points_by_frame.get(frame)
        points_by_frame[frame] = concat_points(old, new["point_coords"], new["point_labels"])
        state["mask_inputs_per_obj"][index].pop(frame, None)
        return self._predict(index, frame, points_by_frame[frame], None)

    def add_mask(self, frame: int, obj_id: Any, mask: Any) -> Answer:
        """Applies a mask. See ``SAM2VideoPredictor.add_new_mask``."""
        predictor, state = self._predictor, self._state
        prompt = mask_prompt(mask, predictor.image_size, state["device"])
        index = predictor._obj_id_to_idx(state, obj_id)
        state["mask_inputs_per_obj"][index][frame] = prompt
        state["point_inputs_per_obj"][index].pop(frame, None)
        return self._predict(index, frame, None, prompt)

    def _predict(self, index: int, frame: int, points: dict[str, Tensor] | None, mask: Tensor | None) -> Answer:
        """Predicts an object from a prompt, and stores the result."""
        predictor, state = self._predictor, self._state
        outputs, new = state["output_dict_per_obj"][index], state["temp_output_dict_per_obj"][index]
        tracked = state["frames_tracked_per_obj"][index]
        initial = frame not in tracked or not outputs[KINDS[True]]
        conditioning = initial or predictor.add_all_frames_to_correct_as_cond
        arguments: dict[str, Any] = {}
        if points is not None:
            latest = new[KINDS[conditioning]], outputs[KINDS[True]], outputs[KINDS[False]]
            before = next((by_frame[frame]["pred_masks"] for by_frame in latest if frame in by_frame), None)
            clamped = None if before is None else before.to(state["device"]).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            arguments["prev_sam_mask_logits"] = clamped
        output, _ = predictor._run_single_frame_inference(
            inference_state=state,
            output_dict=outputs,
            frame_idx=frame,
            batch_size=1,
            is_init_cond_frame=initial,
            point_inputs=points,
            mask_inputs=mask,
            reverse=False if initial else tracked[frame]["reverse"],
            run_mem_encoder=False,
            **arguments,
        )
        new[KINDS[conditioning]][frame] = output
        return frame, state["obj_ids"], self._masks(frame, conditioning)

    def _masks(self, frame: int, conditioning: bool) -> Tensor:
        """Returns mask logits ``(objects, 1, H, W)`` on a frame, at the video's size."""
        latest = self._predictor._consolidate_temp_output_across_obj(
            self._state, frame, is_cond=conditioning, consolidate_at_video_res=True
        )
        return self._predictor._get_orig_video_res_output(self._state, latest["pred_masks_video_res"])[1]

    def _remaining_masks(self, frame: int) -> Tensor:
        """Returns mask logits like :meth:`_masks`, on a frame from which a prompt was removed."""
        new = self._state["temp_output_dict_per_obj"].values()
        return self._masks(frame, any(frame in outputs[KINDS[True]] for outputs in new))

    def clear_prompts(self, frame: int, obj_id: Any, need_output: bool) -> Answer | None:
        """Removes prompts on a frame. See ``SAM2VideoPredictor.clear_all_prompts_in_frame``. Ignores unknown ids."""
        state = self._state
        if obj_id in state["obj_id_to_idx"]:
            index = self._predictor._obj_id_to_idx(state, obj_id)
            for key in ("point_inputs_per_obj", "mask_inputs_per_obj"):
                state[key][index].pop(frame, None)
            for by_frame in state["temp_output_dict_per_obj"][index].values():
                by_frame.pop(frame, None)
            outputs = state["output_dict_per_obj"][index]
            if frame in outputs[KINDS[True]]:
                outputs[KINDS[False]][frame] = outputs[KINDS[True]].pop(frame)
                state["frames_tracked_per_obj"][index].pop(frame, None)
        return (frame, state["obj_ids"], self._remaining_masks(frame)) if need_output else None

    def remove_object(self, obj_id: Any, strict: bool, need_output: bool) -> list[tuple[int, Tensor]]:
        """Removes an object. Returns the second result of ``SAM2VideoPredictor.remove_object``.

        Raises:
            RuntimeError: If the id is unknown and ``strict`` is True.
        """
        state = self._state
        if obj_id not in state["obj_id_to_idx"]:
            if strict:
                raise RuntimeError(f"there is no object {obj_id!r} to remove; the ids are {state['obj_ids']}")
            return []
        if len(state["obj_id_to_idx"]) == 1:
            self._predictor.reset_state(state)
            return []
        index = state["obj_id_to_idx"][obj_id]
        frames = sorted({*state["point_inputs_per_obj"][index], *state["mask_inputs_per_obj"][index]})
        for frame in frames:
            self._predictor.clear_all_prompts_in_frame(state, frame, obj_id, need_output=False)
        drop_object(state.to_official("an object was removed"), index)
        return [(frame, self._remaining_masks(frame)) for frame in frames] if need_output else []

    def reset(self) -> None:
        """Removes all objects. See ``SAM2VideoPredictor.reset_state``."""
        self._predictor._reset_tracking_results(self._state)
        for key in ("obj_id_to_idx", "obj_idx_to_id", "obj_ids", *PER_OBJECT):
            self._state[key].clear()

    def commit_prompts(self) -> None:
        """Encodes memories of new prompts. See ``SAM2VideoPredictor.propagate_in_video_preflight``.

        Raises:
            RuntimeError: If there is no object, or an object has no conditioning frame.
        """
        predictor, state = self._predictor, self._state
        count = predictor._get_obj_num(state)
        if not count:
            raise RuntimeError("no object to track: give points, a box or a mask first")
        for index in range(count):
            outputs, new = state["output_dict_per_obj"][index], state["temp_output_dict_per_obj"][index]
            if not outputs[KINDS[True]] and not new[KINDS[True]]:
                raise no_prompt_error(predictor._obj_idx_to_id(state, index))
            for conditioning in (False, True):
                key = KINDS[conditioning]
                for frame, output in new[key].items():
                    if output["maskmem_features"] is None and predictor.num_maskmem:
                        # Upsamples masks to the size of the model's input, as in the official package.
                        masks = output["pred_masks"].to(state["device"])
                        output["maskmem_features"], output["maskmem_pos_enc"] = predictor._run_memory_encoder(
                            inference_state=state,
                            frame_idx=frame,
                            batch_size=1,
                            high_res_masks=F.interpolate(masks, (predictor.image_size,) * 2, mode="bilinear"),
                            object_score_logits=output["object_score_logits"],
                            is_mask_from_pts=True,
                        )
                    outputs[key][frame] = output
                    if predictor.clear_non_cond_mem_around_input:
                        predictor._clear_obj_non_cond_mem_around_input(state, frame, index)
                new[key].clear()
            for frame in outputs[KINDS[True]]:
                outputs[KINDS[False]].pop(frame, None)

    def first_frame(self) -> int:
        """Returns the earliest conditioning frame."""
        return min(t for outputs in self._state["output_dict_per_obj"].values() for t in outputs[KINDS[True]])

    def propagate(self, order: Iterable[int], reverse: bool, progress: Progress, output: Output) -> Iterator[Answer]:
        """Yields the results of one pass over ``order``. See ``SAM2VideoPredictor.propagate_in_video``."""
        predictor, state = self._predictor, self._state
        predictor._get_obj_num(state)  # users may override ``_get_obj_num`` to prepare a pass
        for frame in with_progress(order, progress):
            if not state["obj_ids"]:
                return
            masks = torch.cat([self._track(index, frame, reverse) for index in range(len(state["obj_ids"]))])
            resize = lambda x: predictor._get_orig_video_res_output(state, x)[1]  # noqa: E731
            formatted = format_masks(masks, state.video_size, output, predictor.non_overlap_masks, resize)
            yield frame, state["obj_ids"], formatted

    def _track(self, index: int, frame: int, reverse: bool) -> Tensor:
        """Tracks one object to a frame, stores the result, and returns the low-resolution mask ``(1, 1, h, w)``."""
        predictor, state = self._predictor, self._state
        outputs = state["output_dict_per_obj"][index]
        if not outputs[KINDS[True]]:
            raise no_prompt_error(predictor._obj_idx_to_id(state, index))
        if frame in outputs[KINDS[True]]:
            masks: Tensor = outputs[KINDS[True]][frame]["pred_masks"].to(state["device"])
            if predictor.clear_non_cond_mem_around_input:
                predictor._clear_obj_non_cond_mem_around_input(state, frame, index)
        else:
            result, masks = predictor._run_single_frame_inference(
                inference_state=state,
                output_dict=outputs,
                frame_idx=frame,
                batch_size=1,
                is_init_cond_frame=False,
                point_inputs=None,
                mask_inputs=None,
                reverse=reverse,
                run_mem_encoder=True,
            )
            tracked = outputs[KINDS[False]]
            tracked.pop(frame, None)  # inserts the newest result last, since max_history removes the first
            tracked[frame] = result
            if state.max_history is not None:
                for old in list(tracked)[: max(0, len(tracked) - state.max_history)]:
                    del tracked[old]
        state["frames_tracked_per_obj"][index][frame] = {"reverse": reverse}
        return masks
