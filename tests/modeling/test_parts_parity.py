"""Parts of the model that images do not use, against the official ones, live, on identical tame weights."""

import copy

import oracle
import pytest
import torch
from double_precision import double_precision
from parity import CHECK_ITSELF, NARROW, TOLERANCE, build_pair, random_map

from sam2fast.modeling.layers import MLP
from sam2fast.utils.testing import relative_error

SIZE = 128
SIDE = SIZE // 16  # of the stride-16 map


@pytest.fixture(scope="module", params=["sam2_t", "sam2.1_t"])
def pair(request):
    return build_pair(request.param, [f"++model.image_size={SIZE}", *NARROW])


def assert_same(call, official, ours, check_itself=True) -> None:
    """``call(model)`` gives a tensor, or a tuple of them, that agrees; first the oracle agrees with itself."""
    with torch.no_grad():
        expected, actual = call(official), call(ours)
        with oracle.written_out_attention():
            changed = call(official) if check_itself else expected
    expected, changed, actual = ([x] if isinstance(x, torch.Tensor) else list(x) for x in (expected, changed, actual))
    assert len(expected) == len(actual)
    for i, (e, c, a) in enumerate(zip(expected, changed, actual, strict=True)):
        if e.std(correction=0) == 0 and e.abs().max() == 0:
            assert torch.equal(e, a.to(e.dtype)), f"result {i}"
            continue
        assert relative_error(e, c) < TOLERANCE / 3, f"result {i}: the case is not tame"
        assert relative_error(e, a) <= TOLERANCE, f"result {i}"


def test_parameters_have_the_same_order(pair):
    """States of optimizers name parameters by their number."""
    official, ours = ([name for name, _ in model.named_parameters()] for model in pair)
    assert official == ours


def test_gelu_by_tanh_takes_effect():
    mlp, x = MLP(8, 16, 8, 2, activation=torch.nn.GELU), random_map(5, 8) * 3
    mlp.act = torch.nn.GELU(approximate="tanh")
    with torch.no_grad():
        expected = mlp.layers[1](mlp.act(mlp.layers[0](x)))
        assert torch.equal(mlp(x), expected)


@pytest.mark.parametrize(
    ("side", "maps", "pointers"), [(SIDE, 1, 0), (SIDE, 3, 8)], ids=["one map", "maps and pointers"]
)
def test_memory_attention(pair, side, maps, pointers):
    call = memory_attention_call(side, maps, pointers)
    assert_same(call, *pair)


@CHECK_ITSELF
def test_memory_attention_at_full_size(check_itself):
    """One layer, of one generation: here they do not differ."""
    overrides = [f"++model.image_size={SIZE}", *NARROW, "++model.memory_attention.num_layers=1"]
    assert_same(memory_attention_call(64, 1, 4, batch=1), *build_pair("sam2.1_t", overrides), check_itself)


def test_memory_attention_to_pointers_only(pair):
    """The official model fails here; an object without spatial memory must still be tracked."""
    with torch.no_grad():
        assert memory_attention_call(SIDE, 0, 12)(pair[1]).isfinite().all()


def memory_attention_call(side, maps, pointers, batch=2):
    tokens, memory = side * side, maps * side * side + pointers

    def call(model):
        return model.memory_attention(
            curr=[random_map(tokens, batch, 256, seed=1)],
            curr_pos=[random_map(tokens, batch, 256, seed=2)],
            memory=random_map(memory, batch, 64, seed=3),
            memory_pos=random_map(memory, batch, 64, seed=4),
            num_obj_ptr_tokens=pointers,
        )

    return call


def test_memory_encoder(pair):
    def call(model):
        out = model.memory_encoder(random_map(2, 256, SIDE, SIDE), random_map(2, 1, SIZE, SIZE, seed=1))
        return out["vision_features"], out["vision_pos_enc"][0]

    assert_same(call, *pair)


def heads_inputs(B: int = 2):
    features = random_map(B, 256, SIDE, SIDE)
    high_res = [random_map(B, 32, 4 * SIDE, 4 * SIDE, seed=1), random_map(B, 64, 2 * SIDE, 2 * SIDE, seed=2)]
    points = {
        "point_coords": random_map(B, 3, 2, seed=3).abs() * 60,
        "point_labels": torch.tensor([[1, 0, -1], [2, 3, 1]], dtype=torch.int32),
    }
    return features, high_res, points


@pytest.mark.parametrize("multimask", [False, True], ids=["single", "three masks"])
@pytest.mark.parametrize("prompt", ["nothing", "points", "points and mask", "large mask"])
def test_sam_heads(pair, multimask, prompt):
    features, high_res, points = heads_inputs()
    side = SIZE if prompt == "large mask" else SIZE // 4
    masks = random_map(2, 1, side, side, seed=5) if "mask" in prompt else None
    arguments = {
        "point_inputs": points if "points" in prompt else None,
        "mask_inputs": masks,
        "high_res_features": high_res,
        "multimask_output": multimask,
    }
    assert_same(lambda model: model._forward_sam_heads(features, **arguments), *pair)


@pytest.mark.parametrize("empty", [False, True], ids=["object", "empty mask"])
def test_mask_as_output(pair, empty):
    features, high_res, _ = heads_inputs()
    mask = (random_map(2, 1, SIZE, SIZE, seed=6) > 0.5).float() * (0.0 if empty else 1.0)
    assert_same(lambda model: model._use_mask_as_output(features, high_res, mask), *pair)


@pytest.mark.parametrize("from_points", [False, True], ids=["tracked", "prompted"])
@pytest.mark.parametrize(
    "overrides",
    [{}, {"non_overlap_masks_for_mem_enc": True}, {"training": True}],
    ids=["plain", "non-overlapping", "training"],
)
def test_new_memory(pair, from_points, overrides, monkeypatch):
    for model in pair:
        monkeypatch.setattr(model, "binarize_mask_from_pts_for_mem_enc", True)
        for name, value in overrides.items():
            monkeypatch.setattr(model, name, value)
    features = random_map(SIDE * SIDE, 3, 256)
    scores = torch.tensor([[2.0], [-1.0], [0.5]])

    def call(model):
        masks = random_map(3, 1, SIZE, SIZE, seed=7)
        memory, encoding = model._encode_new_memory([features.clone()], [(SIDE, SIDE)], masks, scores, from_points)
        return memory, encoding[0]

    assert_same(call, *pair)


def test_forward_image(pair):
    """The official dict."""

    def call(model):
        out = model.forward_image(random_map(1, 3, SIZE, SIZE))
        _, tokens, positions, sizes = model._prepare_backbone_features(out)
        assert sizes == [(4 * SIDE,) * 2, (2 * SIDE,) * 2, (SIDE,) * 2]
        return (out["vision_features"], *out["backbone_fpn"], *out["vision_pos_enc"], *tokens, *positions)

    assert_same(call, *pair)


def test_image_encoder_forward(pair):
    def call(model):
        out = model.image_encoder(random_map(2, 3, SIZE, SIZE))
        return (out["vision_features"], *out["backbone_fpn"], *out["vision_pos_enc"])

    assert_same(call, *pair)


@CHECK_ITSELF
@pytest.mark.parametrize("size", [224, 416], ids=str)
def test_odd_sized_maps(size, check_itself):
    """Sizes at which windows are padded in every stage."""
    official, ours = build_pair("sam2.1_t", [f"++model.image_size={size}", *NARROW])
    x = random_map(1, 3, size, size)
    assert_same(lambda model: model.forward_image(x)["backbone_fpn"], official, ours, check_itself)


@pytest.mark.parametrize("clicks", [None, 0, 1, 2])
@pytest.mark.parametrize("initial", [True, False])
def test_when_three_masks_are_predicted(pair, clicks, initial):
    points = None if clicks is None else {"point_labels": torch.ones(1, clicks)}
    assert pair[0]._use_multimask(initial, points) == pair[1]._use_multimask(initial, points)


def test_gradients_reach_every_parameter_of_the_image_path(pair):
    """Training needs the same graph: gradients agree with the official package's."""
    gradients = []
    with double_precision():
        image = random_map(1, 3, SIZE, SIZE).double()
        features, high_res, points = heads_inputs()
        features, high_res = features.double(), [x.double() for x in high_res]
        points["point_coords"] = points["point_coords"].double()
        for model in (copy.deepcopy(model).double() for model in pair):
            out = model.forward_image(image)
            loss = sum(x.square().mean() for x in out["backbone_fpn"])
            heads = model._forward_sam_heads(features, points, None, high_res, multimask_output=True)
            (loss + heads[0].square().mean() * 1e-2 + heads[2].sum() + heads[5].square().sum()).backward()
            gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    expected, actual = gradients
    assert expected.keys() == actual.keys() and len(expected) > 150
    for name, gradient in expected.items():
        if gradient.abs().max() > 1e-6:
            assert relative_error(gradient, actual[name]) <= TOLERANCE, name
