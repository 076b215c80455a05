"""What the training model has beyond the official one."""

import pytest
import torch
import torch.nn.functional as F
from mini_model import NARROW
from planned import without_plans
from small_training import build
from training_pair import batch_of_discs

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.engine import cpu


@pytest.fixture
def model(tmp_path):
    return build(tmp_path).model.train()


def gradients(model, batch):
    model.zero_grad()
    frames = model(batch).frames
    sum(masks.sigmoid().mean() for frame in frames for masks in frame.multimasks).backward()  # type: ignore[union-attr]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_image_encoder_may_be_recomputed(model):
    batch = batch_of_discs(2)
    expected = gradients(model, batch)
    model.use_act_ckpt_image_encoder = True
    found = gradients(model, batch)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("+trainer.model.freeze=[encoder.*]", "no parameter matches 'encoder"),
        ("+trainer.model.pt_sampling_for_eval=best", "pt_sampling_for_eval"),
        ("++trainer.model.directly_add_no_mem_embed=false", "directly_add_no_mem_embed"),
        ("++trainer.model.num_init_cond_frames_for_train=2", "less than num_init_cond_frames"),
        ("+trainer.model.identity_memory=0", "feature_std"),
    ],
)
def test_refusals(tmp_path, key, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, key)


def test_a_frozen_image_encoder_is_computed_from_its_plan(tmp_path, monkeypatch):
    frozen = ("+trainer.model.freeze_image_encoder=true", "+trainer.model.freeze=[sam_mask_decoder.conv_s*]")
    model, batch, calls = build(tmp_path, *frozen).model.train(), batch_of_discs(2), []
    encode = cpu.encode
    monkeypatch.setattr(cpu, "encode", lambda *args: calls.append(args) or encode(*args))
    found = gradients(model, batch)
    assert len(calls) == 1 and model.image_encoder.trunk.blocks[0].training
    with without_plans():
        expected = gradients(model, batch)
    assert len(calls) == 1 and found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
    model.image_encoder.trunk.blocks[1].drop_path.drop_prob = 0.5  # which training has, frozen or not
    gradients(model, batch)
    model.image_encoder.trunk.blocks[1].drop_path.drop_prob = 0.0
    model.image_encoder.trunk.blocks[1].mlp.requires_grad_(True)
    assert "image_encoder.trunk.blocks.1.mlp.layers.0.weight" in gradients(model, batch) and len(calls) == 1


def test_evaluation_frame_by_frame(model):
    model.eval()
    batch = batch_of_discs(3)
    with torch.no_grad():
        at_once = model(batch)
        model.forward_backbone_per_frame_for_eval = True
        one_by_one = model(batch)
    assert len(at_once.levels) == 3 and one_by_one.levels == []
    for a, b in zip(at_once.frames, one_by_one.frames, strict=True):
        torch.testing.assert_close(a.masks[-1], b.masks[-1], rtol=1e-3, atol=1e-3)


def test_a_model_without_memory(tmp_path):
    model = build(tmp_path, "++trainer.model.num_maskmem=0").model.eval()
    frames = model(batch_of_discs(2)).frames
    assert frames[1].masks_high_res[-1].shape == (3, 1, 64, 64)


def test_memory_attention_starts_as_the_identity(tmp_path):
    attention = build(tmp_path, "+trainer.model.identity_memory=0.25").model.memory_attention
    C, C_mem = attention.d_model, attention.layers[0].cross_attn_image.k_proj.in_features
    features, position, memory = torch.randn(16, 2, C), torch.randn(16, 2, C), torch.randn(16, 2, C_mem)
    out = attention(features, memory, position, memory)
    torch.testing.assert_close(out, 0.25 * F.layer_norm(features + 0.1 * position, (C,)))
    out.square().sum().backward()
    for layer in attention.layers:
        for last in (layer.self_attn.out_proj, layer.cross_attn_image.out_proj, layer.linear2):
            assert last.weight.grad.abs().max() > 0, "what starts at zero cannot learn"


def test_the_model_in_training_tracks_as_the_predictor_does(tmp_path):
    """With the same weights and clicks, the video predictor gives the masks of the training model."""
    overrides = ["++model.image_size=64", *NARROW]
    model = build(tmp_path, "trainer.model.num_correction_pt_per_frame=1").model.eval()
    predictor = build_sam2_video_predictor(
        "nano/sam2fast_nano.yaml", None, "cpu", hydra_overrides_extra=overrides, apply_postprocessing=False
    )
    predictor.load_state_dict(model.state_dict())
    batch = batch_of_discs(4, objects=(2,))
    with torch.no_grad():
        frames = model(batch).frames
    state = predictor.init_state([*batch.frames[:, 0].numpy()])
    prompt = frames[0].prompts[-1]
    assert prompt is not None and prompt["point_labels"].shape == (2, 2)
    for o in range(2):
        for click in range(2):  # one by one: the second gets the mask of the first
            points, labels = (prompt[key][o, click : click + 1] for key in ("point_coords", "point_labels"))
            predictor.add_new_points_or_box(state, 0, o, points, labels, clear_old_points=False)
    for t, _, logits in predictor.propagate_in_video(state, progress=False):
        torch.testing.assert_close(frames[t].masks_high_res[-1], logits, rtol=1e-3, atol=1e-3)
