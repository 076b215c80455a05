"""How approximations are asked for, and what is refused."""

import pickle

import pytest

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.tracking.approximations import DEFAULT_SLOTS, DEFAULT_STILL, EXACT, Approximations

ALL = Approximations(memory_slots=DEFAULT_SLOTS, still_frames=DEFAULT_STILL, fp8_attention=True)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, EXACT),
        ((), EXACT),
        ({"fp8_attention": False, "memory_slots": None}, EXACT),
        (["memory_slots", "still_frames", "fp8_attention"], ALL),
        (iter(["memory_slots=2", " still_frames = 0.5 "]), Approximations(memory_slots=2, still_frames=0.5)),
        ({"memory_slots": 3, "still_frames": 0}, Approximations(memory_slots=3, still_frames=0.0)),
        ({"memory_slots": True}, Approximations(memory_slots=DEFAULT_SLOTS)),
        ("fp8_attention", Approximations(fp8_attention=True)),
        (["fp8_attention = emulated"], Approximations(fp8_attention="emulated")),
        (ALL, ALL),
    ],
)
def test_ways_to_ask(asked, expected):
    found = Approximations.of(asked)
    assert found == expected and hash(found) == hash(expected)
    assert Approximations.of(found.named()) == found


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ("pooled_memory", "'pooled_memory'; the known ones are memory_slots"),
        (["still_frames", "still_frames=0.1"], "still_frames occurs twice"),
        ({"memory_slots": 0}, "memory_slots is 0"),
        ("memory_slots=2.5", "memory_slots is '2.5'"),
        ({"still_frames": -0.1}, "still_frames is -0.1"),
        ({"still_frames": float("nan")}, "still_frames is nan"),
        ("still_frames=much", "still_frames is 'much'"),
        ("fp8_attention=2", "fp8_attention is '2'"),
        ("=", "no approximation ''"),
        *((asked, "approximation") for asked in (3, [3], [("memory_slots", 3)])),
    ],
)
def test_refused(asked, word):
    with pytest.raises((TypeError, ValueError), match=word):
        Approximations.of(asked)


def test_the_builder_and_the_attribute():
    assert build_sam2_video_predictor(nano.CONFIG, None, device="cpu").approximations == EXACT
    predictor = build_sam2_video_predictor(nano.CONFIG, None, device="cpu", approximations=["memory_slots=2"])
    for asked, word in (("memory_slots=8", "the 7 memories"), ("nothing", "'nothing'")):
        with pytest.raises(ValueError, match=word):
            predictor.approximations = asked
        assert predictor.approximations == Approximations(memory_slots=2)
        with pytest.raises(ValueError, match=word):
            build_sam2_video_predictor(nano.CONFIG, None, device="cpu", approximations=asked)
    predictor.approximations = None
    assert predictor.approximations == EXACT
    predictor.approximations = "fp8_attention"
    assert pickle.loads(pickle.dumps(predictor)).approximations.fp8_attention
