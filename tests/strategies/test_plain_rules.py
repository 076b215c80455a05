"""Worked examples of the rules in the plain implementations, and what holds for any history."""

import numpy as np
import pytest
from plain_distractors import Introspection, PlainD4sm, PlainDam4sam, filled, largest_part, overlap
from plain_strategies import Decoded, PlainConfident, PlainSam2Long, PlainSamurai, ranked
from strategy_histories import SIDE, disc_logits, random_batch

from sam2fast.modeling.memory_selection import closest_conditioning_frames

VIDEO = 45, 60


def decoded(*ious, score=5.0, masks=None):
    ious = (*ious, 0.1, 0.1)[:3]
    shown = disc_logits(np.array([8, 8]), 3)
    return Decoded(np.stack([shown] * 3 if masks is None else masks), np.array(ious, np.float32), score)


def tracked(plain, frames, last, **kwargs):
    for t in range(1, last):
        plain.track(t, frames.get(t, decoded(0.7, **kwargs)))
    return plain.attend(last)


def test_samurai_attends_to_the_neighbour_and_to_good_frames():
    plain = PlainSamurai(64, 100)
    plain.prompt(0)
    assert plain.attend(1).memories == [(0, 6)]
    bad = {4: decoded(0.5), 6: decoded(0.9, score=0.0), 9: decoded(0.2)}
    assert tracked(plain, bad, 10).memories == [(0, 6), (9, 0), (8, 1), (7, 2), (5, 3), (3, 4), (2, 5)]
    assert [t for t, _ in plain.attend(10).pointers] == [0, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert plain.attend(10).pointers[:2] == [(0, 10 / 15), (9, 1 / 15)]


def test_sam2long_pathways_are_equal_until_a_frame_is_uncertain():
    plain = PlainSam2Long(100)
    plain.prompt(0)
    assert plain.track(1, [decoded(0.6, 0.9, 0.2)]) == [(0, 1)]
    assert plain.track(2, [decoded(0.9, 0.8, 0.7)] * 3) == [(0, 0), (1, 0), (2, 0)]
    plain.totals[1] += 0.01
    # Uncertain: 0.9 of the best pathway, then the next other value, and then a pathway that is not yet there.
    assert plain.track(3, [decoded(0.9, 0.899, 0.896, score=1.0)] * 3) == [(1, 0), (0, 0), (2, 0)]
    assert plain.track(4, [decoded(0.9, 0.5, 0.7, score=-1.0)] * 3) == [(0, 0), (0, 2), (0, 1)]
    assert plain.totals[0] == pytest.approx(2 * np.log(0.90001) + 0.01 + np.log(0.90001), abs=1e-7)
    assert plain.finish() == {1: 0, 2: 1, 3: 0, 4: 0}
    # Equal values of a pathway with the object and one without are not the same.
    differing = [decoded(0.9, 0.5, 0.3, score=score) for score in (1.0, -1.0, 1.0)]
    plain.totals = [0.0, -0.1, -0.2]
    assert plain.track(5, differing) == [(0, 0), (1, 0), (0, 1)]


def test_sam2long_weights_memories_by_the_rank_of_their_scores():
    assert ranked([3, 1, 2]) == pytest.approx([1.05, 0.95, 1.0]) and ranked([1, 1]) == pytest.approx([0.95, 1.05])
    plain = PlainSam2Long(100)
    plain.prompt(0)
    assert plain.attend(1).memory_factors is None
    plain.track(1, [decoded(0.6, score=3.0)])
    second = plain.attend(2)
    assert (second.memories, second.pointers) == ([(0, 6), (1, 0)], [(0, 2 / 15)])
    assert second.memory_factors == pytest.approx([1.05, 0.95]) and second.pointer_factors == pytest.approx([0.95])
    for t, score in ((2, -3.0), (3, 12.0), (4, -3.0)):
        plain.track(t, [decoded(0.9, score=score)] * 3)
    fifth = plain.attend(5)
    assert fifth.memories == [(0, 6), (4, 0), (3, 1), (1, 2)]
    assert fifth.memory_factors == pytest.approx([1.05 - 0.1 / 3, 0.95, 1.05, 0.95 + 0.1 / 3])
    assert fifth.pointers == [(0, 5 / 15), (4, 1 / 15), (3, 2 / 15)]  # ranks, and not the oldest
    assert fifth.pointer_factors == pytest.approx([1.0, 0.95, 1.05])


def test_dam4sam_attends_to_every_fifth_visible_frame():
    plain = PlainDam4sam(VIDEO)
    absent = {t: decoded(0.7, score=-1.0) for t in (10, 22)}
    attended = tracked(plain, absent, 23)
    assert attended.memories == [(0, 6), (21, 0), (20, 1), (15, 2), (5, 3)]
    assert attended.pointers[:3] == [(0, 23 / 15), (21, 2 / 15), (20, 3 / 15)]
    assert PlainDam4sam(VIDEO).attend(1).pointers == [(0, 1.0)]


def test_dam4sam_chooses_four_conditioning_frames():
    plain = PlainDam4sam(VIDEO)
    tracked(plain, {}, 40)
    plain.conditioning |= {7, 14, 21, 28, 39}
    assert plain.attend(40).memories == [(28, 6), (0, 6), (21, 6), (14, 6), (39, 0), (35, 1), (30, 2)]
    plain.track(40, decoded(0.7))
    plain.conditioning.add(35)  # which then is no ordinary memory
    assert plain.attend(41).memories == [(39, 6), (0, 6), (35, 6), (28, 6), (40, 0), (30, 1), (25, 2)]


@pytest.mark.parametrize("plain", [PlainDam4sam, PlainD4sm])
def test_a_frame_with_one_that_looks_the_same_is_kept(plain):
    one, other = (disc_logits(np.array([x, 8]), 2.4) for x in (4, 12))
    frames = [one, one - 100, np.maximum(one, other)]
    plain = plain(VIDEO)
    added = [plain.track(t, decoded(0.9, masks=frames))[1] for t in range(1, 15)]
    assert [t for t, is_added in enumerate(added, 1) if is_added] == [2, 8, 14]  # not on 1, then every sixth
    assert not plain.track(15, decoded(0.8, masks=frames))[1]  # in fp32, 0.8 is hardly more


@pytest.mark.parametrize(("plain", "is_added"), [(PlainDam4sam, True), (PlainD4sm, False)])
def test_boxes_include_their_last_pixel_in_d4sm_alone(plain, is_added):
    one, wider = np.full((2, SIDE, SIDE), -9.0, np.float32)
    one[4:10, 4:7] = wider[4:10, 4:8] = 9
    plain = plain((SIDE, SIDE))  # 2 / 3 are at most 0.7, and 3 / 4 are not
    assert [plain.track(t, decoded(0.9, masks=[one, one, wider]))[1] for t in (1, 2)] == [False, is_added]


@pytest.mark.parametrize(("sizes", "is_added"), [
    ([20] * 3, True),
    ([20], False),  # the first has no ratio
    ([20, 0, 20], True),  # frames without the object do not count
    ([20, 20, 0], False),
    ([20, 20, 25], False),  # a fourth more than the median
    ([20, 20, 24], True),
    ([*[40] * 12, *[20] * 10], True),  # the median is of the ten newest
    ([*[40] * 12, *[20] * 4], False),
    ([*[20] * 5, 15, *[0] * 300, 40, 40], True),  # ... among the 300 newest
])  # fmt: skip
def test_sizes_for_introspection(sizes, is_added):
    decided = Introspection(last=0)
    chosen, other = np.zeros((2, 60, 60), bool)
    other[50:52, 50:52] = True
    for t, size in enumerate(sizes):
        chosen[:] = False
        chosen[0, :size] = chosen[9, :1] = size > 0
        chosen[0, size - 1] = False
        is_last = t == len(sizes) - 1
        assert decided.add(t, 0.9 if is_last else 0.5, chosen, [other]) == (is_last and is_added)
    assert decided.sizes == sizes


def test_masks_for_introspection():
    logits = np.full((12, 12), 5.0, np.float32)
    logits[2, 2] = logits[3, 3] = -1  # one hole of two pixels
    logits[6:9, 6:9] = -1  # and one of nine
    assert (filled(logits) <= 0).sum() == 9 and filled(logits)[2, 2] == np.float32(0.1)
    parts = np.zeros((9, 9), bool)
    parts[0, 0] = parts[1, 1] = parts[5, 5] = parts[5, 6] = True
    assert np.argwhere(largest_part(parts)).tolist() == [[0, 0], [1, 1]]
    inner, outer = np.zeros((2, 9, 9), bool)
    inner[1:4, 1:4] = outer[1:4, 1:8] = True
    assert overlap(inner, outer, 0) == 4 / 12 and overlap(inner, outer, 1) == 9 / 21
    assert overlap(inner[:, :2], outer[:, :3], 0) == 1


def test_the_confident_rule():
    plain = PlainConfident(100)
    plain.prompt(0)
    assert plain.attend(1).memories == [(0, 6)] and plain.attend(1).pointers == [(0, 1 / 15)]
    doubted = {3: decoded(0.9, score=0.0), 5: decoded(0.9, score=0.01), 9: decoded(0.9, score=-1.0)}
    attended = tracked(plain, doubted, 10)
    assert attended.memories == [(0, 6), (9, 0), (8, 1), (7, 2), (6, 3), (4, 4), (2, 5)]
    assert attended.pointers == [(0, 10 / 15), *((t, (i + 1) / 15) for i, t in enumerate([9, 8, 7, 6, 4, 2]))]
    plain.track(10, decoded(0.9))
    plain.stride = 2
    assert plain.attend(11).memories == [(0, 6), (10, 0), (8, 1), (6, 2), (4, 3), (2, 4)]


def test_the_confident_rule_backwards_and_beside_prompts():
    plain = PlainConfident(12)
    plain.prompt(6)
    for t in (7, 8, 9, 11):
        plain.track(t, decoded(0.9))
    back = plain.attend(6, reverse=True)
    assert back.memories == [(6, 6), (7, 0), (8, 1), (9, 2), (11, 3)]
    assert back.pointers == [(6, 0.0), (7, 1 / 11), (8, 2 / 11), (9, 3 / 11)]
    # The neighbour takes row 0 and rank 1 where it is prompted, too.
    assert plain.attend(5, reverse=True).memories == [(6, 6), (7, 1), (8, 2), (9, 3), (11, 4)]
    assert plain.attend(7).pointers == [(6, 1 / 11)]
    for t in (0, 1, 2):
        plain.track(t, decoded(0.9))
    assert plain.attend(3).memories == [(6, 6), (2, 0), (1, 1)]  # forward never of frame 0
    plain = PlainConfident(60)
    plain.conditioning = {3, 9, 20, 33, 41}
    for frame in (1, 10, 25, 50):
        assert plain._nearest(frame) == closest_conditioning_frames(frame, plain.conditioning, 4)


def test_histories_reach_every_rule():
    samurai = {"chosen by motion": 0, "restarted": 0, "restarted late": 0}
    kept = {PlainDam4sam: 0, PlainD4sm: 0}
    for seed in range(12):
        history = random_batch(seed, 1, 60, SIDE).history(0)
        assert history[0].masks.shape == (3, SIDE, SIDE)
        plain, others = PlainSamurai(64, 61), [kind(VIDEO) for kind in kept]
        plain.prompt(0)
        for t, one in enumerate(history, 1):
            before, chosen = plain.stable, plain.track(t, one)
            samurai["chosen by motion"] += chosen != one.argmax()
            samurai["restarted"] += 0 < before < PlainSamurai.STABLE and plain.stable == 0
            samurai["restarted late"] += before == PlainSamurai.STABLE and plain.stable == 0
            for other in others:
                other.track(t, one)
        kept[PlainDam4sam] = max(kept[PlainDam4sam], len(others[0].conditioning))
        kept[PlainD4sm] = max(kept[PlainD4sm], sum(m.kind == "distractor" for m in others[1].memories))
    assert min(samurai.values()) > 3, samurai
    assert kept[PlainDam4sam] > 5 and kept[PlainD4sm] == 3
