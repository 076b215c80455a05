"""Mutation tests: each wrong tracker must fail the parity check that the right one passes."""

import dataclasses

import pytest
import torch
from parity import NARROW
from video import SMALL, Session, build_video_pair, clip, compare, jpeg_folder, run, run_official

from sam2fast.engine.plans import memory
from sam2fast.modeling import memory_selection
from sam2fast.modeling.attention import RoPEAttention
from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.tracking import attending, step
from sam2fast.tracking.memory_bank import MemoryBank
from sam2fast.tracking.strategies import base


def scenario(s: Session) -> None:
    s.points(1, 1, (60, 40, 1), (30, 20, 0))
    s.points(3, 2, box=[20, 20, 70, 60])
    s.propagate()
    s.propagate(start_frame_idx=5, reverse=True)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Our predictor, its video, and the official answers."""
    overrides = ["++model.max_obj_ptrs_in_encoder=4", *NARROW]
    official, ours = build_video_pair(overrides=overrides, image_size=SMALL)
    video = jpeg_folder(tmp_path_factory.mktemp("video"), clip(7))
    return ours, video, run_official(official, video, scenario, check_itself=False)


def older_by_one(monkeypatch, model):
    right = memory_selection.recent_frames
    wrong = lambda frame, reverse, rules: [t - 1 for t in right(frame, reverse, rules)]  # noqa: E731
    monkeypatch.setattr(memory_selection, "recent_frames", wrong)


def time_row_off_by_one(monkeypatch, model):
    right = attending.attended_by_tables

    def wrong(model, pages, pointers, tables, *rest):
        later = tables._replace(page_time=(tables.page_time + 1).clamp(max=model.num_maskmem - 1))
        return right(model, pages, pointers, later, *rest)

    for module in (attending, step):
        monkeypatch.setattr(module, "attended_by_tables", wrong)


def pointer_time_sign(monkeypatch, model):
    right = memory.sine_1d
    monkeypatch.setattr(memory, "sine_1d", lambda distance, *args: right(-distance, *args))


def rope_axes(monkeypatch, model):
    right = RoPEAttention._table

    def wrong(*args, **kwargs):
        return tuple(torch.cat(t.chunk(2, dim=-1)[::-1], dim=-1) for t in right(*args, **kwargs))

    monkeypatch.setattr(RoPEAttention, "_table", wrong)


def sigmoid_bias(monkeypatch, model):
    monkeypatch.setattr(model, "sigmoid_bias_for_mem_enc", model.sigmoid_bias_for_mem_enc * 1.01)


def wrong_direction(monkeypatch, model):
    right = base.select_memories

    def wrong(frame, conditioning, tracked, num_frames, reverse, rules):
        return right(frame, conditioning, tracked, num_frames, not reverse, rules)

    for module in (attending, base):
        monkeypatch.setattr(module, "select_memories", wrong)


def anothers_memory(monkeypatch, model):
    right = MemoryBank.attended_rows
    monkeypatch.setattr(MemoryBank, "attended_rows", lambda bank, objects: right(bank, objects[::-1]))


def filled_masks_remembered(monkeypatch, model):
    right = step.encode_masks

    def wrong(model, features, masks, scores, from_prompt, *rest):
        filled = masks if from_prompt else step.fill_holes_in_mask_scores(masks, 8)
        return right(model, features, filled, scores, from_prompt, *rest)

    monkeypatch.setattr(step, "encode_masks", wrong)


def prompts_not_binarised(monkeypatch, model):
    monkeypatch.setattr(model, "binarize_mask_from_pts_for_mem_enc", False)


def pointers_from_the_future(monkeypatch, model):
    right = MemoryRules.of
    monkeypatch.setattr(
        MemoryRules, "of", staticmethod(lambda *given: dataclasses.replace(right(*given), only_past_pointers=False))
    )


def missing_no_memory_embedding(monkeypatch, model):
    monkeypatch.setattr(step, "without_memory", lambda model, features: features.embedding)


MUTATIONS = [
    older_by_one,
    time_row_off_by_one,
    pointer_time_sign,
    rope_axes,
    sigmoid_bias,
    wrong_direction,
    anothers_memory,
    filled_masks_remembered,
    prompts_not_binarised,
    pointers_from_the_future,
    missing_no_memory_embedding,
]


def test_the_right_one_passes(case):
    ours, video, expected = case
    compare(expected, run(ours, video, scenario))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda f: f.__name__)
def test_a_wrong_one_fails(mutation, case, monkeypatch):
    ours, video, expected = case
    mutation(monkeypatch, ours)
    with pytest.raises(AssertionError, match="logits differ"):
        compare(expected, run(ours, video, scenario))
