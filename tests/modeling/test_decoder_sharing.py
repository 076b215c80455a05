"""The mask decoder's savings: one image for many prompts, folded projections, groups; against the official decoder and
against plain definitions."""

import copy

import pytest
import torch
from parity import NARROW, TOLERANCE, build_pair, random_map

from sam2fast.modeling import mask_decoder
from sam2fast.modeling.cross_attention import CrossAttention, image_chunks
from sam2fast.modeling.layers import project
from sam2fast.modeling.standard import observing
from sam2fast.utils.testing import assert_as_accurate_as, relative_error

SIZE = 128
SIDE = SIZE // 16
B = 6  # larger than a group on the CPU


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
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "autograd"])
def test_same_as_the_official_decoder(pair, case, grad):
    official, ours = pair
    inputs = arguments(official, **case)
    with torch.set_grad_enabled(grad):
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


@pytest.mark.parametrize("images", [1, B])
@pytest.mark.parametrize("size", [1, 5, 6, 100])
def test_group_size_changes_nothing(pair, images, size, monkeypatch):
    decoder = pair[1].sam_mask_decoder
    inputs = arguments(pair[1], images=images)
    with torch.no_grad():
        expected = decoder(**inputs)
        monkeypatch.setattr(mask_decoder, "GROUP_ON_CPU", size)
        assert_same(expected, decoder(**inputs), TOLERANCE / 10)


def test_memory_does_not_grow_with_prompts(pair, monkeypatch):
    """Never more prompts at once than a group, and one prompt's image tokens at a time."""
    seen, transformer = [], pair[1].sam_mask_decoder.transformer
    attend = transformer.attend

    @observing
    def record(image, point_embedding):
        queries, keys = attend(image, point_embedding)
        seen.append((len(image.tokens), len(queries), [len(x) for x in keys]))
        return queries, keys

    monkeypatch.setattr(transformer, "attend", record)
    with torch.no_grad():
        pair[1].sam_mask_decoder(**arguments(pair[1]))
        assert seen == [(1, 4, [1] * 4), (1, 2, [1] * 2)]
        seen.clear()
        pair[1].sam_mask_decoder(**arguments(pair[1], images=B, masks=B))
        assert seen == [(4, 4, [1] * 4), (2, 2, [1] * 2)]


def test_expanded_features_are_one_image(pair, monkeypatch):
    """The first frame of a video comes as views of one image; it is shared like one image."""
    decoder = pair[1].sam_mask_decoder
    inputs = arguments(pair[1])
    expanded = dict(inputs, repeat_image=False)
    expanded["image_embeddings"] = inputs["image_embeddings"].expand(B, -1, -1, -1)
    expanded["high_res_features"] = [x.expand(B, -1, -1, -1) for x in inputs["high_res_features"]]
    prepared = []
    prepare = decoder.transformer.prepare
    record = observing(lambda *args: prepared.append(args[0].shape) or prepare(*args))
    monkeypatch.setattr(decoder.transformer, "prepare", record)
    with torch.no_grad():
        assert_same(decoder(**inputs), decoder(**expanded), 0.0)
    assert prepared == [(1, SIDE * SIDE, 256)] * 2


def test_images_and_prompts_that_do_not_fit(pair):
    with pytest.raises(ValueError, match="3 images do not fit 6 prompts"):
        pair[1].sam_mask_decoder(**arguments(pair[1], image_embeddings=random_map(3, 256, SIDE, SIDE)))


def test_no_prompts_at_all(pair):
    with torch.no_grad():
        out = pair[1].sam_mask_decoder(**arguments(pair[1], prompts=0))
    assert [x.shape for x in out] == [(0, 3, 4 * SIDE, 4 * SIDE), (0, 3), (0, 3, 256), (0, 1)]


class TestFolding:
    """A cross-attention by itself, at SAM 2's widths and others."""

    ATTENTIONS = {"sam2": (256, 8, 2), "narrow": (24, 3, 1)}
    TOKENS = (1, 8, 17)

    @pytest.fixture(params=ATTENTIONS.values(), ids=ATTENTIONS.keys())
    def attention(self, request):
        torch.manual_seed(0)
        attention = CrossAttention(*request.param).requires_grad_(False)
        for name, parameter in attention.named_parameters():
            parameter.normal_(std=0.3 if "bias" in name else parameter.shape[-1] ** -0.5)
        return attention

    @staticmethod
    def double(attention):
        return copy.deepcopy(attention).double()

    @pytest.mark.parametrize("tokens", TOKENS)
    @pytest.mark.parametrize(("positions", "images"), [(256, 1), (256, 3), (255, 3), (1, 3)])
    @pytest.mark.parametrize("grad", [False, True], ids=["inference", "autograd"])
    def test_tokens_to_image(self, attention, tokens, positions, images, grad):
        width = attention.q_proj.in_features
        q, x, pe = (
            random_map(3, tokens, width),
            random_map(images, positions, width, seed=1),
            random_map(1, positions, width),
        )
        with torch.set_grad_enabled(grad):
            out = attention.tokens_to_image(q, image_chunks(x, 3), pe)
        self.compare(attention, out, q, x + pe, x)

    @pytest.mark.parametrize("tokens", TOKENS)
    @pytest.mark.parametrize(("positions", "images"), [(256, 1), (256, 3), (255, 3), (1, 3)])
    @pytest.mark.parametrize("projected", [False, True])
    @pytest.mark.parametrize("grad", [False, True], ids=["inference", "autograd"])
    def test_image_to_tokens(self, attention, tokens, positions, images, projected, grad):
        width = attention.q_proj.in_features
        x, k, v = (
            random_map(n, m, width, seed=i) for i, (n, m) in enumerate([(images, positions), (3, tokens), (3, tokens)])
        )
        with torch.set_grad_enabled(grad):
            parts = image_chunks(project(attention.q_proj, x) if projected else x, 3)
            folded = attention.fold(k, v, projected).split(len(parts))
            out = torch.cat([attention.read(*both) for both in zip(parts, folded, strict=True)])
        self.compare(attention, out, x, k, v)

    def compare(self, attention, out, *inputs):
        def plain(*inputs):
            return (attention if inputs[0].dtype == torch.float32 else self.double(attention))(*inputs)

        with torch.no_grad():
            assert_as_accurate_as(plain, out, *inputs)

    @pytest.mark.parametrize("factor", [10.0, 100.0])
    def test_scores_that_overflow_exponentials(self, attention, factor):
        """Some positions attend to one token alone, and all scores of one may lie far below those of another."""
        width = attention.q_proj.in_features
        x, k, v = random_map(3, 64, width), random_map(3, 8, width, seed=1) * factor, random_map(3, 8, width, seed=2)
        k[:, :, 0] -= 10 * factor
        with torch.no_grad():
            folded = attention.fold(k, v).split(3)
            read = torch.cat([attention.read(x[i : i + 1], folded[i]) for i in range(3)])
            attended = attention.tokens_to_image(k, image_chunks(x, 3), torch.zeros(1, 64, width))
            exact = self.double(attention)
            assert relative_error(exact(x.double(), k.double(), v.double()), read) <= TOLERANCE
            assert relative_error(exact(k.double(), x.double(), x.double()), attended) <= TOLERANCE

    def test_few_tokens_are_folded(self):
        """At SAM 2's widths up to 17, where both need as many multiplications; never with dropout."""
        attention = CrossAttention(256, 8, 2)
        assert [n for n in range(1, 40) if attention.should_fold(n)] == list(range(1, 18))
        dropping = CrossAttention(256, 8, 2, dropout=0.1)
        assert not dropping.should_fold(1) and dropping.eval().should_fold(1)

    @pytest.mark.parametrize(("prompts", "projected"), [(1, 0), (2, 0), (3, 1), (6, 1)])
    def test_a_shared_image_is_projected_for_many_tokens(self, pair, prompts, projected):
        transformer = pair[1].sam_mask_decoder.transformer
        tokens, pe = random_map(1, 256, 256), random_map(1, 256, 256)
        with torch.no_grad():
            assert len(transformer.prepare(tokens, pe, prompts * 8).projected) == projected
            assert not transformer.prepare(tokens.expand(prompts + 1, -1, -1), pe, prompts * 8).projected


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
    """At most twice the official decoder's own error, under autocast and with weights cast once."""
    official, ours = (model.sam_mask_decoder for model in pair)
    cast = copy.deepcopy(ours).to(torch.bfloat16)
    for name in cast.keep_fp32:
        getattr(cast, name).float()
    for case in ({}, {"points": 20}, {"masks": B}, {"images": B}):
        inputs = arguments(pair[0], **case)
        with torch.no_grad():
            exact = official(**inputs)
            with torch.autocast("cpu", torch.bfloat16):
                theirs, mine = official(**inputs), ours(**inputs)
            for decoded in (mine, cast(**inputs)):
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


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "grad"),
    [({}, False), ({"prompts": 2}, True), ({"points": 20}, False)],
    ids=["folded", "folded, autograd", "projected"],
)
def test_compiled_in_one_graph(pair, case, grad):
    decoder = pair[1].sam_mask_decoder
    inputs = arguments(pair[1], **case)
    torch._dynamo.reset()
    with torch.set_grad_enabled(grad):
        compiled = torch.compile(decoder, backend="eager" if grad else "aot_eager", fullgraph=True)(**inputs)
        assert_same(decoder(**inputs), compiled)
