"""What is changed between and during passes of recorded steps takes effect, and is looked for once a frame."""

import copy
from collections import Counter

import pytest
import torch
from graph_sessions import TOLERANCE, assert_same, begun, counting, has_recorded, recorded_steps
from video import Session, run

from sam2fast.engine import Engine, graphs
from sam2fast.kernels._dispatch import backend
from sam2fast.modeling.position_encoding import compute_axial_cis
from sam2fast.tracking import outputs
from sam2fast.utils.testing import relative_error


def test_other_weights_are_never_tracked_with_old_recordings(replaying, plain, video):
    def track(predictor):
        s = begun(predictor, video, 2)
        return s.records[-1].masks

    before = track(replaying)
    other = {name: x * 1.05 if x.is_floating_point() else x for name, x in plain.state_dict().items()}
    replaying.load_state_dict(other, assign=True)
    assert not has_recorded(replaying)
    after = track(replaying)
    changed = copy.deepcopy(plain)
    changed.load_state_dict(other)
    assert relative_error(track(changed), after) < TOLERANCE < relative_error(before, after)
    assert not has_recorded(replaying.to(torch.float32))


def map_size(model):
    return (model.sam_image_embedding_size,) * 2


def rotations(model):
    attention = model.memory_attention.layers[0].self_attn
    return compute_axial_cis(attention.internal_dim, *map_size(model), theta=3.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "sigmoid_bias_for_mem_enc", -7.0),
        lambda m: setattr(
            m.memory_encoder.out_proj, "weight", torch.nn.Parameter(m.memory_encoder.out_proj.weight * 2)
        ),
        lambda m: setattr(m.memory_encoder.out_proj.weight, "data", m.memory_encoder.out_proj.weight.data * 2),
        # Recordings read what was computed from these.
        lambda m: m.memory_attention.layers[1].self_attn.v_proj.weight.data.mul_(2),
        # Attributes of modules inside the parts.
        lambda m: setattr(m.obj_ptr_proj, "num_layers", 2),
        lambda m: setattr(m.image_encoder.trunk.blocks[0], "window_size", 4),
        lambda m: setattr(m.memory_attention.layers[0].self_attn, "freqs_cis", rotations(m)),
        lambda m: m.image_encoder.neck.position_encoding.cache.update({map_size(m): torch.ones(256, *map_size(m))}),
    ],
    ids=[
        *("setting", "parameter", "memory of a parameter", "projection"),
        *("activation", "window", "rotations", "encoding"),
    ],
)
def test_what_is_changed_between_passes_counts(change, replaying, plain, video):
    def life(s: Session) -> None:
        s.points(0, 1, (60, 40, 1))
        s.propagate(max_frame_num_to_track=2)
        change(s.predictor)
        s.propagate(start_frame_idx=1, max_frame_num_to_track=2)

    assert_same(run(copy.deepcopy(plain), video, life), run(replaying, video, life))


def test_once_a_frame(fast, video, monkeypatch):
    """Modules are looked at, torch's switches read and results copied to the CPU once, whatever else a frame does."""
    counted = Counter()
    for owner, name in ((Engine, "watches"), (graphs, "_switches"), (outputs, "AsyncHostCopy")):
        monkeypatch.setattr(owner, name, counting(getattr(owner, name), counted))
    s = begun(fast, video, 1)
    for _ in range(3):
        s.points(0, len(s.state.objects) + 1, (20, 40, 1))
    answers = fast.propagate_in_video(s.state, 2, 4, progress=False)
    next(answers)
    for _ in range(3):
        counted.clear()
        next(answers)
        assert counted == {"watches": 1, "_switches": 1, "AsyncHostCopy": 1}


def test_switches_count_from_the_next_frame_on(fast, video):
    s = begun(fast, video, 1)
    answers = fast.propagate_in_video(s.state, 2, 4, progress=False)
    made = [next(answers) and recorded_steps(fast, s).made]
    with backend("torch"):
        made += [next(answers) and recorded_steps(fast, s).made for _ in range(2)]
    made += [next(answers) and recorded_steps(fast, s).made]
    assert made == [1, 2, 2, 2]


def replace_layer(model):
    """Replaces a layer by another one of its class, at other addresses."""
    layer = copy.deepcopy(model.memory_encoder.out_proj)
    layer.weight.data.mul_(3)
    model.memory_encoder.out_proj = layer


def change_setting(model):
    model.sam_mask_decoder.dynamic_multimask_stability_thresh = -1.0
    model.sam_mask_decoder.dynamic_multimask_stability_delta = 9.0


def hook_and_unhook(model):
    model.sam_mask_decoder.register_forward_hook(lambda *_: None).remove()


@torch.no_grad()
def write_projection(model):
    """Recordings read what was computed from it."""
    model.memory_attention.layers[1].self_attn.v_proj.weight.mul_(3)


@torch.no_grad()
def write_head(model):
    model.sam_mask_decoder.output_hypernetworks_mlps[1].layers[0].weight.mul_(3)


@pytest.mark.parametrize("change", [replace_layer, change_setting, hook_and_unhook, write_projection, write_head])
def test_changes_within_a_pass_count(change, replaying, plain, video):
    def life(predictor):
        s, found = begun(predictor, video), []
        for frame, _, masks in predictor.propagate_in_video(s.state, max_frame_num_to_track=5, progress=False):
            found.append(masks.clone())
            if frame == 2:
                change(predictor)
        return found

    for a, b in zip(life(copy.deepcopy(plain)), life(replaying), strict=True):
        assert relative_error(a, b) < TOLERANCE


def test_hooks_are_called(fast, video):
    called = []
    s = begun(fast, video, 1)
    with_hook = fast.sam_mask_decoder.register_forward_hook(lambda *_: called.append(1))
    s.propagate(start_frame_idx=2, max_frame_num_to_track=2)
    assert len(called) == 3 and not fast._tracker.uses_recordings
    with_hook.remove()
    s.propagate(start_frame_idx=5, max_frame_num_to_track=1)
    assert len(called) == 3 and fast._tracker.uses_recordings
