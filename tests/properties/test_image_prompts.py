"""Prompts on images: parity with the official package, equal results for all input types, errors for all else."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis_profiles import examples
from image_strategies import LAYOUTS, rgb_images
from junk import anything
from numpy.typing import NDArray
from parity import NARROW, TOLERANCE, build_pair, official_image_predictor, random_image

from sam2fast import SAM2ImagePredictor
from sam2fast.utils.testing import relative_error

SIDE, SIZE = 128, (37, 52)
MASK_SIDE = SIDE // 4
ARGUMENTS = ("point_coords", "point_labels", "box", "mask_input")


class Prompt(NamedTuple):
    """Arguments of ``predict``: prompts as arrays with their leading B, and options."""

    arrays: dict[str, NDArray[Any]]
    options: dict[str, bool]

    @property
    def count(self) -> int:
        """B."""
        return max((len(x) for x in self.arrays.values()), default=1)

    def arguments(self) -> dict[str, Any]:
        return self.arrays | self.options

    def one(self, i: int) -> dict[str, Any]:
        """The i-th of the prompts alone; a mask may serve all of them."""
        return {name: x[i if len(x) > 1 else 0] for name, x in self.arrays.items()} | self.options


def coordinates(side: int, far: bool) -> st.SearchStrategy[float]:
    """In the image, on its border, outside; in halves, so that they are the same in every dtype."""
    some = st.integers(0, 2 * side) | st.integers(-side, 4 * side) | st.sampled_from([0, 2 * side])
    return (some | st.sampled_from([-(10**4), 10**6]) if far else some).map(lambda x: x / 2)


@st.composite
def prompts(draw: st.DrawFn, size: tuple[int, int], mask_side: int, most: int = 3, far: bool = False) -> Prompt:
    """Up to ``most`` prompts, each of points, a box and a mask, in pixels of an image of this size."""
    height, width = size
    count = draw(st.integers(1, most))
    kinds = draw(st.sets(st.sampled_from(["points", "box", "mask"])))
    arrays: dict[str, NDArray[Any]] = {}
    if "points" in kinds:
        points = draw(st.integers(0, 4))
        xy = st.tuples(coordinates(width, far), coordinates(height, far))
        drawn = draw(st.lists(xy, min_size=count * points, max_size=count * points))
        arrays["point_coords"] = np.array(drawn, dtype=np.float64).reshape(count, points, 2)
        labels = draw(st.lists(st.sampled_from([1, 1, 0, -1, 2, 3]), min_size=count * points, max_size=count * points))
        arrays["point_labels"] = np.array(labels, dtype=np.int64).reshape(count, points)
    if "box" in kinds:
        xy = st.tuples(coordinates(width, far), coordinates(height, far))
        corners = draw(st.lists(xy, min_size=2 * count, max_size=2 * count))
        boxes = np.array(corners, dtype=np.float64).reshape(count, 2, 2)
        arrays["box"] = np.concatenate([boxes.min(1), boxes.max(1)], axis=-1)
    if "mask" in kinds:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        many = draw(st.sampled_from([1, count])) if len(kinds) > 1 else count
        logits = rng.normal(0, draw(st.sampled_from([1e-3, 3.0, 30.0])), (many, 1, mask_side, mask_side))
        arrays["mask_input"] = logits.astype(np.float32)
    options = {name: draw(st.booleans()) for name in ("multimask_output", "return_logits")}
    return Prompt(arrays, options)


def _from_layout(layout: str) -> Callable[[NDArray[Any]], Any]:
    return lambda x: LAYOUTS[layout](x) if x.ndim > 1 else x.astype(x.dtype)


# Containers of the same numbers; a float16 has halves up to 1024.
CONTAINERS: dict[str, Callable[[NDArray[Any]], Any]] = {
    "list": lambda x: x.tolist(),
    "tuple": lambda x: tuple(x.tolist()),
    "list of arrays": list,
    "list of tensors": lambda x: [torch.from_numpy(y) for y in x.copy()],
    "lists of numbers in tensors": lambda x: [[torch.tensor(z) for z in y] for y in x] if x.ndim == 2 else x,
    "fp32": lambda x: x.astype(np.float32),
    "longdouble": lambda x: x.astype(np.longdouble),
    "objects": lambda x: x.astype(object),
    "tensor": lambda x: torch.from_numpy(x.copy()),
    "fp32 tensor with a gradient": lambda x: torch.from_numpy(x.astype(np.float32)).requires_grad_(),
    "turned tensor": lambda x: torch.from_numpy(x.T.copy()).permute(*range(x.ndim)[::-1]),
    **{layout: _from_layout(layout) for layout in LAYOUTS},
}


class Pair(NamedTuple):
    official: Any
    ours: SAM2ImagePredictor


@pytest.fixture(scope="module")
def pair() -> Pair:
    official_model, model = build_pair("sam2.1_t", [f"++model.image_size={SIDE}", *NARROW])
    return Pair(official_image_predictor(official_model), SAM2ImagePredictor(model))


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


@examples(10)
@given(rgb_images(), st.data())
def test_as_the_original(pair, rgb, data):
    size = rgb.shape[:2]
    prompt = data.draw(prompts(size, MASK_SIDE))
    assume(prompt.count == 1 or set(prompt.arrays) != {"mask_input"})  # the official package fails
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


@examples(50)
@example({"box": [0, 0, 3e38, 3e38]}, True)
@example({"point_coords": ([], (None,)), "point_labels": torch.tensor(1)}, False)
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
