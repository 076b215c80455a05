"""Prompts and videos of any kind and value: an answer with finite masks, or one clear error and nothing changed."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparable import snapshot
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis_profiles import examples
from image_strategies import LAYOUTS
from mini_model import mini_predictor
from video import clip

from sam2fast.compat.video_state import VideoState

HEIGHT, WIDTH, FRAMES = 21, 37, 3
SIDE = 64
REFUSALS = (ValueError, IndexError)


@functools.cache
def opened() -> tuple[Any, Any]:
    predictor = mini_predictor((f"++model.image_size={SIDE}",))
    return predictor, predictor.init_state(clip(FRAMES, HEIGHT, WIDTH))


def session() -> tuple[Any, Any]:
    """A predictor, and a state with one object on the first frame, whatever was done to it before."""
    predictor, state = opened()
    predictor.reset_state(state)
    predictor.add_new_points_or_box(state, 0, "there", [[10, 10]], [1])
    return predictor, state


numbers = st.one_of(
    st.floats(-50, 50),
    st.floats(width=64),
    st.integers(-(2**70), 2**70),
    st.sampled_from((0, -0.0, 1e38, -3.4e38, 1e300, float("nan"), float("inf"))),
)
labels = st.one_of(st.integers(-2, 4), st.booleans(), st.floats(-1, 3), st.just(float("nan")))


@st.composite
def containers(draw: Any, values: Any) -> Any:
    """The same numbers as a list, tuple, array of some dtype, strides and byte order, or tensor."""
    kind = draw(st.sampled_from(("list", "tuple", "array", "reversed", "swapped", "column", "read-only", "tensor")))
    if kind in ("list", "tuple"):
        return values if kind == "list" else tuple(values)
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, dtype=draw(st.sampled_from(("f8", "f4", "f2", "i8", "u1"))))
    except (ValueError, OverflowError):
        return values
    if kind == "reversed":
        return array[::-1].copy()[::-1]
    if kind == "swapped":
        return array.astype(array.dtype.newbyteorder())
    if kind == "column":
        return np.asfortranarray(array)
    array.flags.writeable = kind != "read-only"
    return torch.from_numpy(array.copy()) if kind == "tensor" else array


@st.composite
def clicks(draw: Any) -> tuple[Any, Any]:
    """Points and labels, mostly of the right shape."""
    count = draw(st.integers(0, 3))
    width = draw(st.sampled_from((2, 2, 2, 2, 1, 3)))
    points = draw(st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=count, max_size=count))
    wanted = draw(st.sampled_from((count, count, count, count + 1)))
    kinds = draw(st.lists(labels, min_size=wanted, max_size=wanted))
    if draw(st.booleans()):
        points, kinds = [points], [kinds]
    return draw(containers(points)), draw(containers(kinds))


def asked(state: VideoState, call: Any) -> tuple[int, list[Any], torch.Tensor] | None:
    """The answer; None if the call was refused, which changed nothing."""
    before = snapshot(state)
    try:
        return call()
    except REFUSALS as error:
        assert len(str(error)) > 10
        assert snapshot(state) == before
        return None


def check(state: VideoState, answer: Any, frame: int, obj_id: Any) -> None:
    assert answer[0] == frame and answer[1] == list(dict.fromkeys(["there", obj_id]))
    masks = answer[2]
    assert masks.dtype == torch.float32 and masks.shape == (len(answer[1]), 1, HEIGHT, WIDTH)
    assert masks.isfinite().all()
    result = state.objects[obj_id].new_conditioning[frame]
    assert all(x.isfinite().all() for x in (result.mask, result.iou, result.score))
    assert state.bank.pointers.read(result.pointer).isfinite().all()


@given(
    given=st.none() | clicks(),
    box=st.none() | st.lists(numbers, min_size=3, max_size=5).flatmap(containers) | st.just([3, 4, 20, 15]),
    joins=st.booleans(),
    normalize=st.booleans(),
    frame=st.one_of(st.integers(-1, FRAMES), st.integers(0, FRAMES - 1).map(np.int64)),
)
@examples(25)
def test_points_and_boxes_of_any_kind(given: Any, box: Any, joins: bool, normalize: bool, frame: Any) -> None:
    predictor, state = session()
    points, kinds = given or (None, None)
    prompt = frame, "new", points, kinds, not joins, normalize, box
    answer = asked(state, lambda: predictor.add_new_points_or_box(state, *prompt))
    if answer is not None:
        check(state, answer, frame, "new")


masks = st.one_of(
    hnp.arrays(
        st.sampled_from(("bool", "uint8", "int64", "uint16", "float32", "float16", ">f4", ">i2", "complex64")),
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=SIDE),
    ),
    hnp.arrays("float64", (SIDE, SIDE), elements=st.floats(), fill=st.just(0.0)),
    st.lists(st.lists(st.integers(0, 1) | st.none(), min_size=1, max_size=3), max_size=3),
    st.text(max_size=3),
)


@given(mask=masks, as_tensor=st.booleans(), flipped=st.booleans())
@examples(25)
def test_masks_of_any_kind(mask: Any, as_tensor: bool, flipped: bool) -> None:
    predictor, state = session()
    if isinstance(mask, np.ndarray):
        if as_tensor and mask.dtype.isnative:
            mask = torch.from_numpy(mask.copy())
        elif flipped and mask.ndim == 2:
            mask = mask[::-1, ::-1]
    answer = asked(state, lambda: predictor.add_new_mask(state, 1, "new", mask))
    if answer is not None:
        check(state, answer, 1, "new")


@given(values=hnp.arrays("bool", hnp.array_shapes(min_dims=2, max_dims=2, max_side=SIDE)), how=st.data())
@examples(10)
def test_a_mask_is_the_same_in_any_container(values: Any, how: st.DataObject) -> None:
    predictor, state = session()
    expected = predictor.add_new_mask(state, 1, "new", values)[2]
    dtype = how.draw(st.sampled_from(("bool", "uint8", "int32", "float32", "float64", ">f4", ">u2")))
    layouts = [*LAYOUTS.values(), np.ndarray.tolist, lambda x: torch.from_numpy(x.astype(x.dtype.newbyteorder("=")))]
    other = how.draw(st.sampled_from(layouts))(values.astype(dtype))
    assert torch.equal(predictor.add_new_mask(state, 1, "new", other)[2], expected)


@pytest.mark.parametrize(
    ("number", "flag"),
    [(np.int64, np.bool_), (np.uint8, np.uint8), (torch.tensor, torch.tensor)],
    ids=["numpy", "bytes", "torch"],
)
def test_numbers_of_other_libraries_can_be_saved(number: Any, flag: Any, tmp_path: Path) -> None:
    """Whatever numbers a session was opened and tracked with, it can be written, and read again."""
    predictor, _ = session()
    frames = clip(FRAMES, HEIGHT, WIDTH)
    flags = {"offload_video_to_cpu": flag(0), "offload_state_to_cpu": flag(1)}
    state = predictor.init_state(frames, max_history=number(16), **flags)
    predictor.add_new_points_or_box(state, number(2), "a", [[10, 10]], [1])
    options = {"reverse": flag(1), "lag": number(1), "encode_ahead": number(1), "progress": False}
    list(predictor.propagate_in_video(state, number(2), number(1), **options))
    predictor.save_state(state, tmp_path / "state")
    again = predictor.load_state(tmp_path / "state", frames)
    assert again.objects["a"].reverse == {2: True, 1: True} and snapshot(again) == snapshot(state)
    assert again.max_history == 16 and again.storage_device.type == "cpu"
    with predictor.open_stream(num_frames=number(3), max_cond_frames=number(2)) as stream:
        stream.step(frames[0])
        stream.save(tmp_path / "stream")
    with predictor.restore_stream(tmp_path / "stream") as stream:
        assert stream._opened().max_cond_frames == 2


@given(where=st.floats(0, 1), frames=st.integers(1, 4), size=st.tuples(st.integers(1, 90), st.integers(1, 90)))
@examples(5)
def test_videos_of_any_size(where: float, frames: int, size: tuple[int, int]) -> None:
    """One pixel high, one frame long: the masks have the video's size, and every frame is answered."""
    predictor, _ = session()
    height, width = size
    state = predictor.init_state(clip(frames, height, width))
    at = min(frames - 1, int(where * frames))
    predictor.add_new_points_or_box(state, at, 1, [[where * width, where * height]], [1])
    forwards = list(predictor.propagate_in_video(state, 0, progress=False))
    backwards = list(predictor.propagate_in_video(state, frames - 1, reverse=True, progress=False))
    assert [t for t, *_ in forwards] == list(range(frames))
    assert [t for t, *_ in backwards] == (list(range(frames))[::-1] if frames > 1 else [])
    for _, names, masks in forwards + backwards:
        assert names == [1] and masks.shape == (1, 1, height, width) and masks.isfinite().all()


@pytest.mark.parametrize(
    "kind",
    [torch.tensor, np.int64, np.uint8, np.asarray, lambda i: torch.tensor([i]), lambda i: torch.tensor(i).short()],
    ids=["tensor", "int64", "uint8", "array", "one element", "int16"],
)
def test_numbers_of_other_libraries_are_the_same_ids(kind: Any) -> None:
    """Each call with the same number is for the same object."""
    predictor, state = session()
    for obj_id in (kind(7), kind(7), 7):
        _, names, _ = predictor.add_new_points_or_box(state, 1, obj_id, [[5, 5]], [1])
        assert names == ["there", 7] and type(names[1]) is int
    assert predictor.add_new_mask(state, 1, kind(7), np.eye(HEIGHT, WIDTH))[1] == ["there", 7]
    predictor.clear_all_prompts_in_frame(state, 1, kind(7))
    assert not state.objects[7].masks and not state.objects[7].points
    assert predictor.remove_object(state, kind(7), strict=True)[0] == ["there"]
    with predictor.open_stream() as stream:
        stream.step(clip(1, HEIGHT, WIDTH)[0])
        stream.add_new_points_or_box(kind(7), [[5, 5]], [1])
        assert stream.add_new_mask(kind(7), np.eye(HEIGHT, WIDTH)).obj_ids == [7]
        stream.clear_prompts(kind(7))
        assert not stream._opened().objects[7].masks
        assert stream.remove_object(kind(7), strict=True) == []


@pytest.mark.parametrize(
    "mask",
    [np.full((HEIGHT, WIDTH), 0.4), np.full((HEIGHT, WIDTH), -3.5), np.full((HEIGHT, WIDTH), -1), [[-2.0, 0.5]]],
    ids=["probabilities", "logits", "integers", "list"],
)
def test_arrays_of_logits_or_probabilities_give_a_warning(mask: Any) -> None:
    predictor, state = session()
    everything = predictor.add_new_mask(state, 1, "new", np.ones((HEIGHT, WIDTH)))[2]
    message = r"every nonzero pixel counts as the object.*mask > 0 for logits, or mask > 0.5 for probabilities"
    with pytest.warns(UserWarning, match=message):
        found = predictor.add_new_mask(state, 1, "new", mask)[2]
    assert torch.equal(found, everything)  # as in the official package


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("top", [1, 255, 1.0, 255.0, True])
def test_other_arrays_give_none(top: Any) -> None:
    predictor, state = session()
    predictor.add_new_mask(state, 1, "new", np.eye(HEIGHT, WIDTH).astype(bool) * np.asarray(top))
    predictor.add_new_mask(state, 1, "new", torch.full((HEIGHT, WIDTH), -3.5))  # thresholded


def test_ids_of_any_kind_are_told_apart() -> None:
    predictor, state = session()
    for obj_id in (None, 1.5, (1, 2), frozenset({1}), b"x", float("nan"), np.str_("x"), "7", torch.tensor([1, 2])):
        _, names, _ = predictor.add_new_points_or_box(state, 1, obj_id, [[5, 5]], [1])
        assert names[0] == "there" and names[1] is obj_id or names == ["there", obj_id]
        assert predictor.remove_object(state, obj_id)[0] == ["there"]
