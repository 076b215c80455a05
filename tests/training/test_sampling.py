from collections import Counter

import numpy as np
import pytest

from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.training.data.sampling import EvalSampler, RandomUniformSampler


def draws(sampler, num_frames, visible, number=400):
    return [sampler.sample(num_frames, visible, np.random.default_rng(seed)) for seed in range(number)]


def test_windows_are_consecutive_and_uniform():
    drawn = draws(RandomUniformSampler(3, 2), 6, lambda frame: [1, 2, 5])
    starts = Counter(sample.frames[0] for sample in drawn)
    assert all(sample.frames == tuple(range(sample.frames[0], sample.frames[0] + 3)) for sample in drawn)
    assert set(starts) == {0, 1, 2, 3} and max(starts.values()) - min(starts.values()) < 60
    pairs = Counter(frozenset(sample.object_ids) for sample in drawn)
    assert set(pairs) == {frozenset({1, 2}), frozenset({1, 5}), frozenset({2, 5})} and min(pairs.values()) > 90


def test_objects_are_those_of_the_first_frame_in_the_clips_order():
    drawn = draws(RandomUniformSampler(3, 9, reverse_time_prob=0.5), 5, lambda frame: [frame + 1])
    assert all(sample.object_ids == (sample.frames[0] + 1,) for sample in drawn)
    backwards = [sample for sample in drawn if sample.frames[0] > sample.frames[-1]]
    assert 120 < len(backwards) < 280 and all(s.frames[0] - s.frames[2] == 2 for s in backwards)


def test_windows_without_a_visible_object_are_drawn_again():
    drawn = draws(RandomUniformSampler(2, 1), 50, lambda frame: [3] if frame == 17 else [], number=20)
    assert {(sample.frames, sample.object_ids) for sample in drawn} == {((17, 18), (3,))}


@pytest.mark.parametrize(
    ("sampler", "num_frames", "visible", "message"),
    [
        (RandomUniformSampler(8, 3), 7, [1], "takes 8 .* only 7"),
        (RandomUniformSampler(2, 3), 7, [], "no object"),
        (EvalSampler(), 7, [], "no object"),
        (EvalSampler(), 0, [1], "no frames"),
    ],
)
def test_videos_that_do_not_do(sampler, num_frames, visible, message):
    with pytest.raises(DatasetError, match=message):
        sampler.sample(num_frames, lambda _: visible, np.random.default_rng(0))


def test_evaluation_takes_everything():
    sample = EvalSampler().sample(5, lambda frame: [2, 7] if frame == 0 else [9], np.random.default_rng(0))
    assert sample.frames == (0, 1, 2, 3, 4) and sample.object_ids == (2, 7)
