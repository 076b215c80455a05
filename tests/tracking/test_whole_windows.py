"""The choice of memories in one look equals that of the rule, on random histories."""

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from sam2fast.modeling.memory_selection import MemoryRules, select_memories
from sam2fast.tracking.attending import attended_pages, whole_window
from sam2fast.tracking.page_pool import Page
from sam2fast.tracking.session import TrackedObject
from sam2fast.tracking.strategies.base import Attended

LONGEST = 24

rules = st.builds(
    MemoryRules,
    num_maskmem=st.integers(1, 7),
    stride=st.sampled_from([1, 2]),
    max_conditioning=st.sampled_from([-1, 2, 4]),
    use_pointers=st.sampled_from([True, True, False]),
    max_pointers=st.integers(1, 16),
    only_past_pointers=st.booleans(),
    signed_distances=st.booleans(),
    memory_slots=st.none() | st.integers(1, 4),
)


def of_result():
    return SimpleNamespace(memory=Page(), pointer=Page())


@st.composite
def histories(draw):
    num_frames, frame = LONGEST, draw(st.integers(0, LONGEST - 1))
    prompted = draw(st.lists(st.integers(0, LONGEST - 1), min_size=1, max_size=4, unique=True))
    missing = draw(st.lists(st.integers(0, LONGEST - 1), max_size=2))
    tracked = [t for t in range(LONGEST) if t not in (*prompted, *missing)]
    one = TrackedObject(
        conditioning={t: of_result() for t in prompted},
        tracked={t: of_result() for t in draw(st.permutations(tracked))},
    )
    return one, frame, num_frames


@settings(max_examples=600)
@given(histories(), rules, st.booleans())
def test_one_look_equals_the_rule(history, rules, reverse):
    one, frame, num_frames = history
    state = Page()
    found = whole_window(one, frame, reverse, num_frames, rules, state)
    if found is not None:
        chosen = select_memories(frame, one.conditioning, one.tracked, num_frames, reverse, rules)
        assert found == attended_pages(one, Attended(*chosen), rules, state, False)


@given(st.integers(16, LONGEST - 1), st.booleans())
def test_a_long_pass_is_looked_at_once(frame, reverse):
    frame = LONGEST - 1 - frame if reverse else frame
    prompted = LONGEST - 1 if reverse else 0
    tracked = {t: of_result() for t in range(LONGEST) if t != prompted}
    one = TrackedObject(conditioning={prompted: of_result()}, tracked=tracked)
    rules = MemoryRules(7, 1, -1, True, 16, True, False)
    assert whole_window(one, frame, reverse, LONGEST, rules, None) is not None
    del tracked[frame + 3 if reverse else frame - 3]
    assert whole_window(one, frame, reverse, LONGEST, rules, None) is None
