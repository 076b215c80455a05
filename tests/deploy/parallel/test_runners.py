"""What holds of jobs on processes and on a real Ray: none is lost, none accumulates, and no process is left."""

import functools
import itertools
import os
import socket
import time

import parallel_jobs
import pytest
from parallel_jobs import build_nothing
from waiting import is_alive, wait_until

from sam2fast.deploy.parallel import WorkerError
from sam2fast.deploy.parallel.pool import JOBS_AHEAD, JOBS_AT_ONCE
from sam2fast.deploy.parallel.runners import on_devices


@pytest.fixture(params=["processes", "ray"])
def place(request):
    """Where jobs run."""
    if request.param == "ray":
        request.getfixturevalue("ray_folder")
    return request.param


@pytest.fixture
def workers(place):
    """A runner with so many workers on the CPU."""
    from sam2fast.deploy.ray import on_ray

    return (
        (lambda count: on_ray(workers=count, cpus=1)) if place == "ray" else lambda count: on_devices(["cpu"] * count)
    )


def test_every_job_runs_once_and_failures_are_results(workers, place):
    jobs = [3, -1, *range(4, 24)]
    results = list(workers(2)(parallel_jobs.square, jobs, build_nothing))
    assert sorted((r.index, r.job) for r in results) == list(enumerate(jobs))
    for result in results:
        assert result.device == ("cpu" if place == "processes" else f"{socket.gethostname()}/cpu")
        assert result.done == (result.job != -1) and (not result.done or result.unwrap()[0] == result.job**2)
    failed = next(r for r in results if r.job == -1)
    assert failed.error == "ValueError: -1 is negative" and failed.value is None
    assert failed.trace is not None and "in square" in failed.trace
    with pytest.raises(ValueError, match="-1 is negative") as caught:
        failed.unwrap()
    assert "in square" in str(caught.value.__cause__)
    pids = {r.value[1] for r in results if r.done}
    assert len(pids) <= 2 and os.getpid() not in pids
    assert wait_until(lambda: not any(is_alive(pid) for pid in pids))


@pytest.mark.parametrize(
    ("ordered", "job", "ahead"),
    [(True, parallel_jobs.first_one_late, JOBS_AHEAD), (False, parallel_jobs.large, JOBS_AT_ONCE)],
    ids=["ordered", "unordered"],
)
def test_endless_jobs_are_read_lazily(workers, ordered, job, ahead):
    """Neither jobs nor results accumulate, also while the first job runs."""
    taken, seen = [], []

    def jobs():
        for number in itertools.count(1):
            taken.append(number)
            yield number

    results = workers(2)(job, jobs(), build_nothing, ordered=ordered)
    assert not taken  # nothing starts before the first result is requested
    for result in itertools.islice(results, 12):
        seen.append(result.job)
        assert result.done
        time.sleep(0.02)
        assert len(taken) <= len(seen) + ahead * 2 + 1  # one is read ahead
    results.close()
    assert not ordered or seen == list(range(1, 13))


def test_a_job_that_kills_its_workers_is_given_up(workers):
    results = {r.index: r for r in workers(3)(parallel_jobs.killed_always, range(6), build_nothing)}
    assert sorted(results) == list(range(6)) and [r.index for r in results.values() if not r.done] == [2]
    assert "the job was lost: the " in results[2].error and results[2].error.count("\n") == 0
    with pytest.raises(WorkerError, match="the job was lost"):
        results[2].unwrap()


def test_a_worker_that_cannot_start_is_replaced(workers, tmp_path):
    build = functools.partial(parallel_jobs.build_on_the_second, flag=str(tmp_path / "first"))
    results = workers(2)(parallel_jobs.square, range(5), build, ordered=True)
    assert [r.value[0] for r in results] == [0, 1, 4, 9, 16]
    broken = functools.partial(parallel_jobs.build_where_it_can, broken_device="cpu")
    with pytest.raises(WorkerError, match="could not begin: OSError: no model on cpu"):
        list(workers(2)(parallel_jobs.square, range(5), broken))
    assert list(workers(2)(parallel_jobs.square, [], broken)) == []


def test_unpicklable_values(workers):
    """A job that cannot be pickled, an exception that cannot be unpickled, a function that cannot be imported."""
    unsent, odd = workers(1)(parallel_jobs.strange_failure, [lambda: 0, 1], build_nothing, ordered=True)
    assert not unsent.done and "cannot go to another process" in unsent.error
    assert odd.error == "Unreadable: odd" and "strange_failure" in odd.trace
    with pytest.raises(WorkerError, match="Unreadable: odd"):
        odd.unwrap()
    with pytest.raises(TypeError, match="must be picklable"):
        next(workers(1)(parallel_jobs.square, [1], lambda device: None))
