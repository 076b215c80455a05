"""How approximations are asked for, and what is refused."""

import pickle
import re

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
    ("asked", "reason"),
    [
        ("pooled_memory", "no approximation 'pooled_memory'; the known ones are memory_slots"),
        (["still_frames", "still_frames=0.1"], "still_frames is given twice"),
        ({"memory_slots": 0}, "memory_slots is 0; expected an integer of 1 or more"),
        ("memory_slots=2.5", "memory_slots is '2.5'"),
        ({"still_frames": -0.1}, "still_frames is -0.1; expected a difference of pixels from 0 to 1"),
        ({"still_frames": float("nan")}, "still_frames is nan"),
        ("still_frames=much", "still_frames is 'much'"),
        ("fp8_attention=2", "fp8_attention is '2'; it takes no value but True, False and 'emulated'"),
        ("=", "no approximation ''"),
        *((asked, "approximation") for asked in (3, [3], [("memory_slots", 3)])),
    ],
)
def test_refused(asked, reason):
    with pytest.raises((TypeError, ValueError), match=re.escape(reason)):
        Approximations.of(asked)


def test_the_builder_and_the_attribute():
    assert build_sam2_video_predictor(nano.CONFIG, None, device="cpu").approximations == EXACT
    predictor = build_sam2_video_predictor(nano.CONFIG, None, device="cpu", approximations=["memory_slots=2"])
    assert predictor.approximations == Approximations(memory_slots=2)
    for asked in ("memory_slots=8", "nothing"):
        with pytest.raises(ValueError, match="8 is more than the 7 memories|no approximation 'nothing'"):
            predictor.approximations = asked
        assert predictor.approximations == Approximations(memory_slots=2)
        with pytest.raises(ValueError, match="8 is more than the 7 memories|no approximation 'nothing'"):
            build_sam2_video_predictor(nano.CONFIG, None, device="cpu", approximations=asked)
    predictor.approximations = None
    assert predictor.approximations == EXACT
    predictor.approximations = "fp8_attention"
    assert pickle.loads(pickle.dumps(predictor)).approximations.fp8_attention
