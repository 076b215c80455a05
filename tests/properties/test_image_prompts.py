"""Prompts on images: parity with the original, equal results for all input types, errors for everything else."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis_profiles import examples
from image_strategies import LAYOUTS, rgb_images
from junk import anything
from parity import NARROW, TOLERANCE, build_pair, random_image
from prompt_strategies import CONTAINERS, Prompt, prompts
from sam2.sam2_image_predictor import SAM2ImagePredictor as OfficialPredictor

from sam2fast import SAM2ImagePredictor
from sam2fast.transforms import ImageError
from sam2fast.utils.testing import relative_error

SIDE, SIZE = 128, (37, 52)
MASK_SIDE = SIDE // 4
ARGUMENTS = ("point_coords", "point_labels", "box", "mask_input")
WHAT_IS_WRONG = "expected|holds|no array of numbers|belong together|do not fit|wrong way round"


class Pair(NamedTuple):
    official: Any
    ours: SAM2ImagePredictor


@pytest.fixture(scope="module")
def pair() -> Pair:
    official_model, model = build_pair("sam2.1_t", [f"++model.image_size={SIDE}", *NARROW])
    official = OfficialPredictor(official_model)
    official._bb_feat_sizes = [(SIDE // stride, SIDE // stride) for stride in (4, 8, 16)]
    return Pair(official, SAM2ImagePredictor(model))


@pytest.fixture(scope="module")
def predictor(pair) -> SAM2ImagePredictor:
    """A predictor with a fixed image."""
    predictor = SAM2ImagePredictor(pair.ours.model)
    predictor.set_image(random_image(*SIZE))
    return predictor


def assert_close(actual: Any, expected: Any, logits: bool = True) -> None:
    """Compares logits; boolean masks may differ at the threshold."""
    for i, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        if logits or i:
            assert relative_error(ours, theirs) <= TOLERANCE


def assert_equal(actual: Any, expected: Any) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def assert_answer(answer: Any, count: int | None, options: dict[str, bool], size: tuple[int, int] = SIZE) -> None:
    """Checks shape and dtype of a result, and that it has no NaN."""
    masks, ious, low_res = answer
    channels = 3 if options.get("multimask_output", True) else 1
    leading = (count, channels) if count != 1 else (channels,)
    assert masks.shape == (*leading, *size)
    assert ious.shape == leading and low_res.shape == (*leading, MASK_SIDE, MASK_SIDE)
    assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in answer)
    assert np.abs(low_res).max(initial=0) <= 32
    if not options.get("return_logits"):
        assert np.isin(masks, [0, 1]).all()


DRAWN = prompts(SIZE, MASK_SIDE)


@examples(10)
@given(rgb_images(), st.data())
def test_as_the_original(pair, rgb, data):
    size = rgb.shape[:2]
    prompt = data.draw(prompts(size, MASK_SIDE))
    assume(prompt.count == 1 or set(prompt.arrays) != {"mask_input"})  # the original fails
    answers = []
    for predictor in pair:
        predictor.set_image(rgb)
        answers.append(predictor.predict(**prompt.arguments()))
    assert_close(answers[1], answers[0], prompt.options["return_logits"])
    assert_answer(answers[1], prompt.count, prompt.options, size)
    logits = pair.ours.predict(**prompt.arrays, **(prompt.options | {"return_logits": True}))[0]
    cut = pair.ours.predict(**prompt.arrays, **(prompt.options | {"return_logits": False}))[0]
    np.testing.assert_array_equal(cut, logits > 0)


@examples(12)
@given(prompts(SIZE, MASK_SIDE, far=True), st.data())
def test_every_container(predictor, prompt, data):
    expected = predictor.predict(**prompt.arguments())
    held = {}
    for name, x in prompt.arrays.items():
        kinds = sorted(CONTAINERS) if x.size else sorted(LAYOUTS)  # empty lists have no shape
        held[name] = CONTAINERS[data.draw(st.sampled_from(kinds))](x)
    assert_equal(predictor.predict(**held, **prompt.options), expected)
    if prompt.count == 1:
        assert_equal(predictor.predict(**prompt.one(0)), expected)


@examples(5)
@given(DRAWN)
def test_normalized_coordinates_equal_pixels(predictor, prompt):
    height, width = SIZE
    shares = dict(prompt.arrays)
    for name, sides in (("point_coords", [width, height]), ("box", [width, height] * 2)):
        if name in shares:
            shares[name] = shares[name] / sides
    options = prompt.options | {"return_logits": True}
    in_pixels = predictor.predict(**prompt.arrays, **options)
    assert_close(predictor.predict(**shares, **options, normalize_coords=False), in_pixels)


@examples(3)
@given(st.lists(st.tuples(rgb_images(), st.data()), min_size=1, max_size=3))
def test_batched_images_equal_single_images(pair, drawn):
    """Images of any sizes, each with different prompts or none."""
    images = [rgb for rgb, _ in drawn]
    given_prompts = [data.draw(prompts(rgb.shape[:2], MASK_SIDE, most=2)) for rgb, data in drawn]
    options = given_prompts[0].options | {"return_logits": True}
    columns = {f"{name}_batch": [p.arrays.get(name) for p in given_prompts] for name in ARGUMENTS}
    pair.ours.set_image_batch(images)
    together = pair.ours.predict_batch(**columns, **options)
    for i, rgb in enumerate(images):
        pair.ours.set_image(rgb)
        assert_close([x[i] for x in together], pair.ours.predict(**given_prompts[i].arrays, **options))


def _invalid(draw: Any, prompt: Prompt) -> tuple[dict[str, Any], str]:
    """An invalid prompt, and its expected message."""
    arrays = dict(prompt.arrays)
    name = draw(st.sampled_from(sorted(arrays)))
    spoiled = arrays[name].astype(np.float64)
    faults = ["lengthened", "complex", "missing" if name.startswith("point") else "something else", "something else"]
    if spoiled.size:
        faults += ["not finite", "too large", {"box": "reversed", "point_labels": "unknown"}.get(name, "too large")]
        place = draw(st.integers(0, spoiled.size - 1))
    fault = draw(st.sampled_from(faults))
    if fault == "missing":
        del arrays[name]
        return arrays, "belong together"
    if fault == "something else":
        arrays[name] = draw(st.sampled_from(["text", {"x": 1}, object(), [[1, 2], [3]], [None], np.array(["a"])]))
        return arrays, name
    if fault == "not finite":
        spoiled.flat[place] = draw(st.sampled_from([np.nan, np.inf, -np.inf, -1e300]))
    elif fault == "too large":
        spoiled.flat[place] = draw(st.sampled_from([1e16, -3e37]))
    elif fault == "complex":
        spoiled = spoiled + 1j
    elif fault == "lengthened":
        spoiled = np.concatenate([spoiled, np.ones((*spoiled.shape[:-1], 1))], axis=-1)
    elif fault == "reversed":
        spoiled[0] = [20.5, 3, 20, 4]
    else:
        spoiled.flat[place] = draw(st.sampled_from([7, -2, 4, 0.5, 1e9]))
    arrays[name] = spoiled
    return arrays, "point_" if name.startswith("point") else name


@examples(30)
@given(DRAWN.filter(lambda p: p.arrays), st.data())
def test_an_invalid_prompt(predictor, prompt, data):
    before = predictor.get_image_embedding()
    arrays, name = _invalid(data.draw, prompt)
    with pytest.raises(ValueError, match=name) as caught:
        predictor.predict(**arrays, **prompt.options)
    assert caught.match(WHAT_IS_WRONG)
    assert predictor.get_image_embedding() is before


@examples(50)
@example({"box": [0, 0, 3e38, 3e38]}, True)
@example({"mask_input": np.full((1, MASK_SIDE, MASK_SIDE), 1e30)}, True)
@example({"mask_input": torch.zeros(1, MASK_SIDE, MASK_SIDE).to_sparse()}, True)
@given(st.dictionaries(st.sampled_from(ARGUMENTS), anything()), st.booleans())
def test_any_prompt(predictor, drawn, multimask_output):
    """Any input gives masks without NaN, or a ``ValueError`` with the reason."""
    try:
        answer = predictor.predict(**drawn, multimask_output=multimask_output)
    except ValueError as error:
        assert any(name in str(error) for name in drawn) or "the prompts do not fit together" in str(error)
    else:
        assert_answer(answer, len(answer[0]) if answer[0].ndim == 4 else 1, {"multimask_output": multimask_output})


@examples(25)
@example({"box_batch": 5})
@example({"box_batch": {"a": [0, 0, 1, 1], "b": [0, 0, 1, 1]}})
@example({"box_batch": "ab"})
@given(st.dictionaries(st.sampled_from([f"{name}_batch" for name in ARGUMENTS]), anything(), min_size=1))
def test_any_prompts_of_a_batch(pair, drawn):
    if not pair.ours._is_batch or len(pair.ours.get_image_embedding()) != 2:
        pair.ours.set_image_batch([random_image(*SIZE)] * 2)
    try:
        masks, ious, low_res = pair.ours.predict_batch(**drawn)
    except (TypeError, ValueError) as error:
        assert any(name.removesuffix("_batch") in str(error) for name in drawn) or "do not fit" in str(error)
    else:
        assert len(masks) == len(ious) == len(low_res) == 2


@examples(6)
@given(st.lists(st.sampled_from(["good", "bad", "batch", "bad batch", "reset"]), min_size=1, max_size=5), st.data())
def test_an_invalid_image_keeps_the_previous_one(pair, calls, data):
    """After any sequence of images, the predictor uses the last valid one."""
    predictor = SAM2ImagePredictor(pair.ours.model)
    last, is_batch = None, False
    bad = np.full((4, 5, 3), np.nan)
    for call in calls:
        rgb = data.draw(rgb_images())
        if call == "good":
            predictor.set_image(rgb)
            last, is_batch = rgb, False
        elif call == "batch":
            predictor.set_image_batch([rgb])
            last, is_batch = rgb, True
        elif call == "bad":
            with pytest.raises(ImageError, match="nan"):
                predictor.set_image(bad)
        elif call == "bad batch":
            with pytest.raises(ImageError, match="nan"):
                predictor.set_image_batch([rgb, bad])
        else:
            predictor.reset_predictor()
            last, is_batch = None, False
    if last is None:
        with pytest.raises(RuntimeError, match="no image is set"):
            predictor.predict(box=[0, 0, 1, 1])
        return
    if not is_batch:
        with pytest.raises(RuntimeError, match="set_image_batch"):
            predictor.predict_batch()
    fresh = SAM2ImagePredictor(pair.ours.model)
    fresh.set_image(last)
    assert_equal(predictor.predict(box=[0, 0, 1, 1]), fresh.predict(box=[0, 0, 1, 1]))
