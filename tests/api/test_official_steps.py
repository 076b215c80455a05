"""Programs that call the model frame by frame or override its methods, as with the official package."""

import pytest
import torch
from parity import NARROW, TOLERANCE, build_pair, random_map

from sam2fast.modeling.position_encoding import PositionEmbeddingRandom, PositionEmbeddingSine
from sam2fast.utils.testing import relative_error

SIZE, FRAMES = 64, 9
KEYS = ("pred_masks", "pred_masks_high_res", "obj_ptr", "maskmem_features", "object_score_logits")


@pytest.fixture(scope="module", params=["sam2_t", "sam2.1_t"])
def pair(request):
    return build_pair(request.param, [f"++model.image_size={SIZE}", *NARROW])


def tracked(model, reverse=False, prompted=(0, 3), objects=2, mask_first=False, prompts_first=False, corrected=()):
    """Every tensor of every frame. ``corrected`` frames keep another result; ``prompts_first`` is training's order."""
    outputs = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    found = []
    steps = list(enumerate(range(FRAMES)[:: -1 if reverse else 1]))
    if prompts_first:
        steps.sort(key=lambda step: step[0] not in prompted)
    for step, t in steps:
        backbone = model.forward_image(random_map(1, 3, SIZE, SIZE, seed=t).expand(objects, -1, -1, -1))
        _, features, positions, sizes = model._prepare_backbone_features(backbone)
        initial, points, mask = step in prompted, None, None
        if initial and mask_first and step == 0:
            mask = (random_map(objects, 1, SIZE, SIZE, seed=5) > 0).float()
        elif initial:
            points = {
                "point_coords": random_map(objects, 1, 2, seed=50 + t).abs() * 40,
                "point_labels": torch.ones(objects, 1, dtype=torch.int32),
            }
        step_inputs = (t, initial, features, positions, sizes, points, mask, outputs, FRAMES)
        out = model.track_step(*step_inputs, track_in_reverse=reverse)
        assert out["point_inputs"] is points and out["mask_inputs"] is mask
        outputs["cond_frame_outputs" if initial else "non_cond_frame_outputs"][t] = out
        if step in corrected:
            outputs["non_cond_frame_outputs"][t] = outputs["non_cond_frame_outputs"][t - 1]
        found += [out[key] for key in KEYS if key in out] + [out["maskmem_pos_enc"][0]]
    return found


def assert_same(official, ours, call):
    expected, actual = call(official), call(ours)
    assert len(expected) == len(actual) > 0
    for i, (e, a) in enumerate(zip(expected, actual, strict=True)):
        assert e.shape == a.shape, i
        if e.std(correction=0) > 0:
            assert relative_error(e, a) <= TOLERANCE, i
        else:
            torch.testing.assert_close(e, a)


@pytest.mark.parametrize(
    ("arguments", "overrides"),
    [
        ({}, {}),
        ({"reverse": True}, {"memory_temporal_stride_for_eval": 2}),
        ({"prompted": (0, 3, 4, 6), "mask_first": True}, {"max_cond_frames_in_attn": 2}),
        ({"corrected": (3,)}, {}),
    ],
    ids=["forward", "backward with a stride", "more prompts than are attended to", "a corrected frame"],
)
def test_track_step(pair, arguments, overrides, monkeypatch):
    for model in pair:
        for name, value in overrides.items():
            monkeypatch.setattr(model, name, value)
    with torch.no_grad():
        assert_same(*pair, lambda model: tracked(model, **arguments))


def test_track_step_without_memory(pair, monkeypatch):
    for model in pair:
        monkeypatch.setattr(model, "num_maskmem", 0)

    def call(model):
        _, *image = model._prepare_backbone_features(model.forward_image(random_map(1, 3, SIZE, SIZE)))
        out = model.track_step(4, False, *image, None, None, {}, FRAMES)
        assert out["maskmem_features"] is None and out["maskmem_pos_enc"] is None
        return [out[key] for key in KEYS if key != "maskmem_features"]

    with torch.no_grad():
        assert_same(*pair, call)


def test_track_step_with_an_earlier_prediction(pair):
    """Also without the memory encoder, as for every click but the last."""

    def call(model):
        _, *image = model._prepare_backbone_features(model.forward_image(random_map(1, 3, SIZE, SIZE)))
        points = {"point_coords": torch.tensor([[[30.0, 60.0]]]), "point_labels": torch.ones(1, 1, dtype=torch.int32)}
        previous = random_map(1, 1, SIZE // 4, SIZE // 4, seed=8)
        out = model.track_step(
            0, True, *image, points, None, {}, 1, run_mem_encoder=False, prev_sam_mask_logits=previous
        )
        assert out["maskmem_features"] is None
        return [out["pred_masks"], out["obj_ptr"]]

    with torch.no_grad():
        assert_same(*pair, call)
    with pytest.raises(ValueError, match="prev_sam_mask_logits needs point_inputs"):
        pair[1].track_step(
            0, True, [torch.zeros(64, 1, 8)], [], [(8, 8)], None, None, {}, 1, prev_sam_mask_logits=torch.zeros(1)
        )


def test_track_step_has_gradients(pair, monkeypatch):
    """In training all memories count, one by one, and future pointers as well."""
    for model in pair:
        monkeypatch.setattr(model, "memory_temporal_stride_for_eval", 3)

    def call(model):
        model.train()
        try:
            model.zero_grad()
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
                if hasattr(module, "dropout_p"):
                    module.dropout_p = 0.0
            loss = sum(x.square().mean() for x in tracked(model, prompted=(0, 5), objects=1, prompts_first=True))
            loss.backward()
            return [p.grad for p in (model.maskmem_tpos_enc, model.memory_encoder.out_proj.weight)]
        finally:
            model.eval()

    assert_same(*pair, call)


def test_pointers_without_encodings_leave_the_dtype_as_it_is(pair, monkeypatch):
    """fp32 zeros would turn the bf16 encodings into fp32."""
    model = pair[1]
    pointers = [torch.ones(2, model.hidden_dim, dtype=torch.bfloat16)] * 3
    monkeypatch.setattr(model, "add_tpos_enc_to_obj_ptrs", False)
    tokens, encodings = model._pointers_as_tokens(pointers, [1, 2, 3], FRAMES, pointers[0])
    assert tokens.shape == encodings.shape == (3 * model.hidden_dim // model.mem_dim, 2, model.mem_dim)
    assert encodings.dtype == tokens.dtype == torch.bfloat16 and not encodings.any()


def sine_pair():
    from sam2.modeling.position_encoding import PositionEmbeddingSine as Official

    return Official(num_pos_feats=32), PositionEmbeddingSine(num_pos_feats=32)


def test_sines_of_points_and_boxes():
    x, y, w, h = random_map(4, 6).abs()
    assert_same(*sine_pair(), lambda e: [e.encode_boxes(x, y, w, h), e.encode(x, y, w, h), *e._encode_xy(x, y)])
    points = random_map(2, 2, 3).abs(), torch.ones(2, 3)
    assert_same(*sine_pair(), lambda e: [e.encode_points(*points[0], points[1]), e._pe(2, torch.device("cpu"), 3, 5)])
    with pytest.raises(ValueError, match=r"one shape \(B, N\)"):
        sine_pair()[1].encode_points(*points[0], torch.ones(3, 2))


def test_random_features_of_pixels():
    from sam2.modeling.position_encoding import PositionEmbeddingRandom as Official

    official, ours = Official(16), PositionEmbeddingRandom(16)
    ours.load_state_dict(official.state_dict())
    points = random_map(2, 3, 2).abs() * 20
    assert_same(official, ours, lambda e: [e.forward_with_coords(points, (40, 60)), e._pe_encoding(points / 60)])


def test_parts_of_prompts_and_decoder(pair):
    boxes, masks = random_map(3, 4).abs() * 40, random_map(3, 1, SIZE // 4, SIZE // 4, seed=1)
    logits, ious = random_map(3, 4, 8, 8, seed=2), random_map(3, 4, seed=3)

    def call(model):
        prompts, decoder, trunk = model.sam_prompt_encoder, model.sam_mask_decoder, model.image_encoder.trunk
        assert prompts._get_device() == torch.device("cpu")
        assert [prompts._get_batch_size(*x) for x in ((None, boxes, None), (None, None, None))] == [3, 1]
        return [
            prompts._embed_boxes(boxes),
            prompts._embed_masks(masks),
            decoder._get_stability_scores(logits),
            *decoder._dynamic_multimask_via_stability(logits, ious),
            trunk._get_pos_embed((32, 32)),
        ]

    with torch.no_grad():
        assert_same(*pair, call)


def test_parts_of_memory_attention(pair):
    tgt, pos, memory = random_map(2, 64, 256), random_map(2, 64, 256, seed=1), random_map(2, 68, 64, seed=2)

    def call(model):
        layer = model.memory_attention.layers[0]
        heads = layer.self_attn._separate_heads(tgt, 4)
        assert heads.shape == (2, 4, 64, 64)
        return [
            layer._forward_sa(tgt, pos),
            layer._forward_ca(tgt, memory, pos, memory, 4),
            layer.self_attn._recombine_heads(heads),
        ]

    with torch.no_grad():
        assert_same(*pair, call)
