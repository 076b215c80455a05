"""The mask decoder against the official one: one image for many prompts, or an image for each."""

import copy

import pytest
import torch
from parity import NARROW, TOLERANCE, build_pair, random_map

from sam2fast.build_sam import cast_weights
from sam2fast.utils.testing import relative_error

SIZE = 128
SIDE = SIZE // 16
B = 6


@pytest.fixture(scope="module")
def pair():
    return build_pair("sam2.1_t", [f"++model.image_size={SIZE}", *NARROW])


def arguments(model, prompts=B, points=1, images=1, masks=0, side=SIDE, **changes):
    """What the decoder is called with: ``prompts`` prompts of some points, and mask prompts where ``masks`` says so."""
    coords = random_map(prompts, points, 2, seed=3).abs() * 15 * side
    labels = torch.arange(prompts * points).reshape(prompts, points) % 4
    prompted = random_map(masks, 1, 4 * side, 4 * side, seed=4) if masks else None
    with torch.no_grad():
        sparse, dense = model.sam_prompt_encoder((coords, labels), None, prompted)
        pe = model.sam_prompt_encoder.get_dense_pe()
    levels = [random_map(images, 32, 4 * side, 4 * side, seed=1), random_map(images, 64, 2 * side, 2 * side, seed=2)]
    return {
        "image_embeddings": random_map(images, 256, side, side),
        "image_pe": pe,
        "sparse_prompt_embeddings": sparse,
        "dense_prompt_embeddings": dense,
        "multimask_output": True,
        "repeat_image": images == 1,
        "high_res_features": levels,
        **changes,
    }


def assert_same(expected, actual, tolerance=TOLERANCE):
    names = ("masks", "IoUs", "tokens", "object scores")
    for name, e, a in zip(names, expected, actual, strict=True):
        assert e.dtype == a.dtype
        assert relative_error(e, a) <= tolerance, name


CASES = {
    "one prompt": {"prompts": 1},
    "two prompts": {"prompts": 2},
    "many prompts": {},
    "single masks": {"multimask_output": False},
    "20 points": {"points": 20},
    "one prompt of 20 points": {"prompts": 1, "points": 20},
    "a mask for each": {"masks": B},
    "one mask for all": {"masks": 1},
    "an image for each": {"images": B},
    "an image and a mask for each": {"images": B, "masks": B},
    "an image for each of 20 points": {"images": B, "points": 20},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@torch.no_grad()
def test_same_as_the_official_decoder(pair, case):
    official, ours = pair
    inputs = arguments(official, **case)
    assert_same(official.sam_mask_decoder(**inputs), ours.sam_mask_decoder(**inputs))
    del inputs["multimask_output"]
    assert_same(official.sam_mask_decoder.predict_masks(**inputs), ours.sam_mask_decoder.predict_masks(**inputs))


@pytest.mark.parametrize("overrides", [("use_high_res_features_in_sam=false",), ("image_size=224",)], ids=str)
def test_other_configurations(overrides):
    """Without finer levels, and with a number of positions (14 x 14) that fits no vector."""
    official, ours = build_pair(
        "sam2.1_t", [f"++model.image_size={SIZE}", *NARROW, *(f"++model.{x}" for x in overrides)]
    )
    inputs = arguments(official, side=official.sam_image_embedding_size)
    with torch.no_grad():
        assert_same(official.sam_mask_decoder(**inputs), ours.sam_mask_decoder(**inputs))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 2.0], ids=["all stable", "some", "none"])
def test_choice_by_stability(pair, threshold, monkeypatch):
    """Across groups; some masks are stable and others are not."""
    for model in pair:
        monkeypatch.setattr(model.sam_mask_decoder, "dynamic_multimask_via_stability", True)
        monkeypatch.setattr(model.sam_mask_decoder, "dynamic_multimask_stability_delta", 1.0)
    official, ours = (model.sam_mask_decoder for model in pair)
    inputs = arguments(pair[0], multimask_output=False)
    with torch.no_grad():
        if threshold == 0.5:
            scores = official._get_stability_scores(
                official.predict_masks(**without(inputs, "multimask_output"))[0][:, :1]
            )
            threshold = float(scores.median())
            assert scores.min() < threshold < scores.max() or len(scores.unique()) > 1
        for decoder in (official, ours):
            monkeypatch.setattr(decoder, "dynamic_multimask_stability_thresh", threshold)
        assert_same(official(**inputs), ours(**inputs))


def without(inputs, name):
    return {key: value for key, value in inputs.items() if key != name}


def test_images_and_prompts_that_do_not_fit(pair):
    with pytest.raises(ValueError, match="3 images do not fit 6 prompts"):
        pair[1].sam_mask_decoder(**arguments(pair[1], image_embeddings=random_map(3, 256, SIDE, SIDE)))


def test_no_prompts_at_all(pair):
    with torch.no_grad():
        out = pair[1].sam_mask_decoder(**arguments(pair[1], prompts=0))
    assert [x.shape for x in out] == [(0, 3, 4 * SIDE, 4 * SIDE), (0, 3), (0, 3, 256), (0, 1)]


def test_transformer_has_the_official_inputs_and_outputs(pair):
    official, ours = (model.sam_mask_decoder.transformer for model in pair)
    image, pe, points = (
        random_map(B, 256, SIDE, SIDE),
        random_map(1, 256, SIDE, SIDE, seed=1),
        random_map(B, 9, 256, seed=2),
    )
    with torch.no_grad():
        for images in (image, image[:1]):
            expected = official(images.expand(B, -1, -1, -1), pe.expand(B, -1, -1, -1), points)
            for e, a in zip(expected, ours(images, pe, points), strict=True):
                assert relative_error(e, a) <= TOLERANCE


def test_bfloat16(pair):
    """At most twice the official decoder's own error under autocast, also with weights cast once."""
    official, ours = (model.sam_mask_decoder for model in pair)
    cast = cast_weights(copy.deepcopy(pair[1]), torch.bfloat16).sam_mask_decoder
    for case in ({}, {"points": 20}, {"masks": B}, {"images": B}):
        inputs = arguments(pair[0], **case)
        with torch.no_grad():
            exact = official(**inputs)
            with torch.autocast("cpu", torch.bfloat16):
                theirs, *both = official(**inputs), ours(**inputs), cast(**inputs)
            for decoded in both:
                assert decoded[0].dtype == decoded[1].dtype == torch.float32
                for name, e, t, m in zip(("masks", "IoUs", "tokens", "scores"), exact, theirs, decoded, strict=True):
                    assert relative_error(e, m) <= 2 * relative_error(e, t), (case, name)


@pytest.mark.parametrize(
    "case", [{}, {"points": 20}, {"images": B, "masks": B}], ids=["one image", "20 points", "each"]
)
def test_gradients(pair, case):
    """Of the parameters, the image, the prompts and the finer levels, through a batch of prompts."""
    results = []
    for model in pair:
        decoder = model.sam_mask_decoder
        decoder.zero_grad()
        inputs = arguments(pair[0], **case)
        leaves = [inputs[name].requires_grad_() for name in ("image_embeddings", "sparse_prompt_embeddings")]
        leaves += [x.requires_grad_() for x in inputs["high_res_features"]]
        masks, ious, tokens, scores = decoder(**inputs)
        (masks.square().mean() * 1e-2 + ious.sum() + tokens.square().sum() + scores.sum()).backward()
        gradients = {name: p.grad for name, p in decoder.named_parameters() if p.grad is not None}
        results.append(gradients | {f"input {i}": x.grad for i, x in enumerate(leaves)})
        decoder.zero_grad()
    expected, actual = results
    assert expected.keys() == actual.keys()
    for name, gradient in expected.items():
        if gradient.abs().max() > 1e-5:
            assert relative_error(gradient, actual[name]) <= 10 * TOLERANCE, name


@pytest.mark.parametrize(
    ("case", "grad"),
    [({}, False), ({"prompts": 2}, True), ({"points": 20}, False)],
    ids=["inference", "autograd", "20 points"],
)
def test_compiled_in_one_graph(pair, case, grad):
    decoder = pair[1].sam_mask_decoder
    inputs = arguments(pair[1], **case)
    torch._dynamo.reset()
    with torch.set_grad_enabled(grad):
        compiled = torch.compile(decoder, backend="eager" if grad else "aot_eager", fullgraph=True)(**inputs)
        assert_same(decoder(**inputs), compiled)
