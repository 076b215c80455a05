"""Plain implementations of published strategies, against recordings of the published code and worked examples."""

import numpy as np
import pytest
from plain_distractors import PlainD4sm
from plain_strategies import Attended, PlainSamurai
from strategy_recordings import FRAMES, HEIGHT, IMAGE_SIZE, RECIPES, WIDTH, Recording

OBJECTS = [(name, obj) for name, recipe in RECIPES.items() for obj in range(recipe.objects)]


def plain_of(name, recording):
    recipe = RECIPES[name]
    if recipe.tracker == "d4sm":
        return PlainD4sm((HEIGHT, WIDTH))
    plain = PlainSamurai(IMAGE_SIZE, FRAMES)
    first = plain.prompt(0, recording.decoded(0, 0) if recipe.prompt == "click" else None)
    assert first == max(0, recording.chosen[0, 0])
    return plain


def as_recorded(attended: Attended, absent) -> Attended:
    """Sorted; pointers of absent objects are equal, so that the recording has the last of their frames for all."""
    pointers = [(max(absent) if t in absent else t, p) for t, p in attended.pointers]
    return Attended(sorted(attended.memories), sorted(pointers))


@pytest.mark.parametrize(("name", "obj"), OBJECTS)
def test_plain_implementations_do_what_was_recorded(name, obj):
    recording = Recording.load(name)
    plain, absent = plain_of(name, recording), set()
    for t in range(1, FRAMES):
        attended, expected = as_recorded(plain.attend(t), absent), recording.attended(t, obj)
        assert attended.memories == expected.memories, t
        assert [f for f, _ in attended.pointers] == [f for f, _ in expected.pointers], t
        np.testing.assert_allclose([p for _, p in attended.pointers], [p for _, p in expected.pointers], rtol=1e-6)
        found, state = plain.track(t, recording.decoded(t, obj)), recording.state[t, obj]
        if RECIPES[name].tracker == "d4sm":
            assert found == (recording.chosen[t, obj], bool(state[0])), t
        else:
            assert (found, plain.stable) == (recording.chosen[t, obj], state[8]), t
            np.testing.assert_allclose(plain.filter.mean, state[:8], rtol=1e-9, atol=1e-12)
            if recording.scores[t, obj] <= plain.PRESENCE:
                absent.add(t)


def test_recordings_show_every_rule():
    box, click, d4sm = (Recording.load(name) for name in RECIPES)
    for recording in (box, click):
        stable = recording.state[:, 0, 8]
        assert (recording.chosen[1:] != recording.ious[1:].argmax(-1))[stable[1:] == PlainSamurai.STABLE].any()
    ious = np.take_along_axis(click.ious[1:, 0], click.chosen[1:].astype(int), 1)[:, 0]
    stable, scores = click.state[:, 0, 8], click.scores[1:, 0]
    assert (np.diff(stable) < -1).any()  # it restarts ...
    assert stable.max() == PlainSamurai.STABLE and stable[-1] < PlainSamurai.STABLE  # ... also from the last stage
    assert (ious < 0.5).any() and (scores <= -1).any() and ((scores > -1) & (scores <= 0)).any()
    assert d4sm.state.sum(0).min() > 0 and (d4sm.scores[1:] <= 0).any()
    assert (d4sm.memories[-1] >= 0).all()  # full
