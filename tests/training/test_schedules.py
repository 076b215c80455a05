"""Schedules against those of fvcore."""

import math

import fvcore.common.param_scheduler as fvcore
import pytest

from sam2fast.training import schedules

WHERES = [0.0, 1e-7, 0.0999999, 0.1, 0.25, 0.2999999, 0.3, 0.37, 0.5, 0.75, 0.9, 1 - 1e-5]


def simple(module):
    return [
        module.ConstantParamScheduler(0.1),
        module.ConstantParamScheduler(value=0.3),
        module.LinearParamScheduler(0.2, 1e-4),
        module.LinearParamScheduler(start_value=0.0, end_value=3.0),
        module.CosineParamScheduler(5e-6, 5e-7),
        module.CosineParamScheduler(start_value=0.0, end_value=1.0),
        module.StepParamScheduler(num_updates=90, values=[1.0, 0.1, 0.01, 0.001]),
    ]


def composite(module):
    return [
        module.CompositeParamScheduler(simple(module)[2:5], [0.3, 0.2, 0.5], ["rescaled", "fixed", "rescaled"]),
        module.CompositeParamScheduler(
            schedulers=[module.LinearParamScheduler(0, 1), module.CosineParamScheduler(1, 0)],
            lengths=[0.1, 0.9],
            interval_scaling=["rescaled"] * 2,
        ),
        module.CompositeParamScheduler(
            [module.ConstantParamScheduler(1), module.LinearParamScheduler(2, 3)], [0.3, 0.6995], ["rescaled"] * 2
        ),
    ]


@pytest.mark.parametrize("where", WHERES)
def test_values_are_those_of_fvcore(where):
    for ours, theirs in zip(simple(schedules), simple(fvcore), strict=True):
        assert ours(where) == theirs(where)
    # Just before a part begins, fvcore asks it for a negative share.
    for ours, theirs in zip(composite(schedules), composite(fvcore), strict=True):
        assert ours(where) == pytest.approx(theirs(where), rel=1e-6)


def test_the_end_belongs_to_the_training():
    assert [schedule(1.0) for schedule in simple(schedules)] == pytest.approx([0.1, 0.3, 1e-4, 3.0, 5e-7, 1.0, 0.001])
    assert [schedule(1.0) for schedule in composite(schedules)] == pytest.approx([5e-7, 0.0, 3])
    for n in range(1, 200):
        parts = [schedules.CosineParamScheduler(1.0, 0.5)] * 3
        assert schedules.CompositeParamScheduler(parts, [1 / (n + 2), n / (n + 2), 1 / (n + 2)])(1.0) == 0.5


@pytest.mark.parametrize("where", [-0.1, 1.1, math.nan])
def test_outside_of_the_training(where):
    for schedule in [*simple(schedules), *composite(schedules)]:
        with pytest.raises(ValueError, match="where"):
            schedule(where)


def test_warm_up():
    cosine = schedules.CosineParamScheduler(8e-4, 0.0)
    warm = schedules.WarmUpParamScheduler(cosine, 0.25)
    values = [warm(where) for where in (0, 0.125, 0.25, 0.625, 1)]
    assert values == pytest.approx([0, 4e-4, 8e-4, cosine(0.5), 0])
    assert schedules.WarmUpParamScheduler(cosine, 0.25, start_value=1e-4)(0) == 1e-4


ONE = schedules.ConstantParamScheduler(1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: schedules.CompositeParamScheduler([ONE] * 2, [1.0]), "2 schedules, 1 lengths"),
        (lambda: schedules.CompositeParamScheduler([], []), "0 schedules, 0 lengths"),
        (lambda: schedules.CompositeParamScheduler([ONE] * 2, [1.5, -0.5]), "positive"),
        (lambda: schedules.CompositeParamScheduler([ONE], [1.0], ["stretched"]), "'stretched'"),
        (lambda: schedules.StepParamScheduler(0, [1.0]), "num_updates"),
        (lambda: schedules.WarmUpParamScheduler(ONE, 1), "warm-up"),
    ],
)
def test_wrong_settings(make, words):
    with pytest.raises(ValueError, match=words):
        make()
