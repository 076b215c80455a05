"""Which memories are attended to: the official choice, over thousands of random situations."""

import random
import types

import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from sam2.modeling.sam2_base import SAM2Base as OfficialBase

from sam2fast.modeling.memory_selection import MemoryRules, closest_conditioning_frames, select_memories


def official_choice(frame, conditioning, tracked, num_frames, reverse, rules):
    """What the official model concatenates, read back from values that name frame and encoding."""
    seen = {}

    def attention(curr, curr_pos, memory, memory_pos, num_obj_ptr_tokens):
        seen.update(memory=memory[:, 0, 0], position=memory_pos[:, 0, 0], pointers=num_obj_ptr_tokens)
        return curr[0]

    def output(t):
        return {
            "maskmem_features": torch.full((1, 1, 1, 1), float(t)),
            "maskmem_pos_enc": [torch.zeros(1, 1, 1, 1)],
            "obj_ptr": torch.full((1, 1), float(t)),
        }

    longest = min(num_frames, rules.max_pointers) - 1
    model = types.SimpleNamespace(
        hidden_dim=1,
        mem_dim=1,
        num_maskmem=rules.num_maskmem,
        training=False,
        max_cond_frames_in_attn=rules.max_conditioning,
        memory_temporal_stride_for_eval=rules.stride,
        maskmem_tpos_enc=torch.arange(rules.num_maskmem).float()[:, None, None, None],
        use_obj_ptrs_in_encoder=rules.use_pointers,
        max_obj_ptrs_in_encoder=rules.max_pointers,
        only_obj_ptrs_in_the_past_for_eval=rules.only_past_pointers,
        use_signed_tpos_enc_to_obj_ptrs=rules.signed_distances,
        add_tpos_enc_to_obj_ptrs=True,
        proj_tpos_enc_in_obj_ptrs=True,
        # Undoes the normalisation, so that the distance itself arrives.
        obj_ptr_tpos_proj=lambda sine: sine * longest,
        memory_attention=attention,
    )
    import sam2.modeling.sam2_base as module

    features = [torch.zeros(1, 1, 1)]
    keep, module.get_1d_sine_pe = module.get_1d_sine_pe, lambda position, dim: position[:, None]
    try:
        OfficialBase._prepare_memory_conditioned_features(
            model,
            frame,
            False,
            features,
            features,
            [(1, 1)],
            {
                "cond_frame_outputs": {t: output(t) for t in conditioning},
                "non_cond_frame_outputs": {t: output(t) for t in tracked},
            },
            num_frames,
            reverse,
        )
    finally:
        module.get_1d_sine_pe = keep
    entries = [(int(m), round(float(p))) for m, p in zip(seen["memory"], seen["position"], strict=True)]
    first = len(entries) - seen["pointers"]
    return entries[:first], entries[first:]


def situation(rng: random.Random):
    num_frames = rng.choice([2, 3, 8, 20, 40])
    frames = list(range(num_frames))
    rng.shuffle(frames)
    conditioning = frames[: rng.randint(1, min(6, num_frames))]
    share = rng.random()
    tracked = [t for t in range(num_frames) if t not in conditioning and rng.random() < share]
    rules = MemoryRules(
        num_maskmem=rng.choice([1, 2, 3, 7, 9]),
        stride=rng.choice([1, 1, 2, 3, 5]),
        max_conditioning=rng.choice([-1, -1, 2, 3, 4]),
        use_pointers=rng.random() < 0.9,
        max_pointers=rng.choice([2, 4, 16]),
        only_past_pointers=rng.random() < 0.6,
        signed_distances=rng.random() < 0.6,
    )
    return rng.randrange(num_frames), conditioning, tracked, num_frames, rng.random() < 0.5, rules


@pytest.mark.parametrize("seed", range(4))
def test_official_choice(seed):
    rng = random.Random(seed)
    both = 0
    for _ in range(1000):
        case = situation(rng)
        chosen = select_memories(*case)
        memories, pointers = official_choice(*case)
        assert (chosen.memories, chosen.pointers) == (memories, pointers), case
        both += len(memories) > 2 and len(pointers) > 2
    assert both > 200


def test_reach():
    """Nothing further away is ever chosen, but conditioning frames; and the limit itself is."""
    rng = random.Random(0)
    for _ in range(500):
        frame, conditioning, tracked, num_frames, reverse, rules = situation(rng)
        chosen = select_memories(frame, conditioning, tracked, num_frames, reverse, rules)
        for t, _ in chosen.memories + chosen.pointers:
            assert t in conditioning or abs(t - frame) <= rules.reach
    rules = MemoryRules(7, 1, -1, True, 16, True, True)
    assert rules.reach == 15
    assert select_memories(20, [0], range(1, 20), 30, False, rules).pointers[-1] == (5, 15)


def test_conditioning_frames():
    assert closest_conditioning_frames(10, [0, 3, 8, 12, 20], 3) == [8, 12, 3]
    assert closest_conditioning_frames(10, [0, 3, 8, 9], 2) == [9, 8]
    with pytest.raises(ValueError, match="max_cond_frames_in_attn is 1; expected at least 2"):
        closest_conditioning_frames(10, [0, 3], 1)
    with pytest.raises(ValueError, match="no conditioning frame"):
        select_memories(3, [], [1], 5, False, MemoryRules(7, 1, -1, True, 16, True, True))
