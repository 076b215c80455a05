"""Jobs on several processes: none is lost, none runs twice, and no process is left."""

import os
import pickle
import signal
import sys
import time
from functools import partial

import parallel_jobs
import pytest
import torch
from killed import start
from parallel_jobs import build_nothing
from waiting import is_alive, wait_until

from sam2fast.deploy.parallel import WorkerError, run_jobs
from sam2fast.deploy.parallel.device_list import device_list, names_several, threads_for_each
from sam2fast.deploy.parallel.pool import JOBS_AHEAD, JobSource, Pool, PoolWorker
from sam2fast.deploy.parallel.worker import packed
from sam2fast.utils.reproducibility import deterministic

TWO = ["cpu"] * 2


def test_a_killed_process_loses_no_job(tmp_path):
    """Another one runs its job."""
    jobs, results = [(number, str(tmp_path)) for number in range(8)], []
    for result in run_jobs(parallel_jobs.killed_when_seen, jobs, TWO, build_nothing):
        results.append(result)
        (tmp_path / f"seen-{result.index}").touch()
    assert sorted(r.index for r in results) == list(range(8))
    assert all(r.done and r.value[0] == r.index for r in results)
    assert (tmp_path / "killed").exists()


class DiesWithItsAnswers:
    """A worker that job 2 kills before it answers the jobs that were sent with it."""

    device = "cpu"

    def __init__(self):
        self.answers: list[int | None] = [None]  # of creating the service

    def send(self, job):
        self.answers.append(pickle.loads(job))

    def reply(self):
        if 2 in self.answers:
            raise WorkerError("it has died")
        return True, self.answers.pop(0)


class Replacing(Pool):
    def _wait_for_answers(self, busy):
        return busy

    def _handle_loss(self, member, why):
        self._members.append(PoolWorker(DiesWithItsAnswers()))
        yield from super()._handle_loss(member, why)


def test_a_job_does_not_fail_for_a_later_one():
    """The next job may kill the process before this job's answer is read; so the retry runs alone."""
    pool = Replacing([PoolWorker(DiesWithItsAnswers())], JobSource(iter(range(4))), JOBS_AHEAD)
    results = list(pool.in_order())
    assert [(result.index, result.done) for result in results] == [(0, True), (1, True), (2, False), (3, True)]


def test_no_job_waits_for_another_without_a_queue(tmp_path):
    """Two jobs that wait for each other, although one process begins later."""
    build = partial(parallel_jobs.build_one_late, flag=str(tmp_path / "first"))
    (tmp_path / "jobs").mkdir()
    results = list(run_jobs(parallel_jobs.in_company, [str(tmp_path / "jobs")] * 2, TWO, build, queue=False))
    assert len({result.unwrap() for result in results}) == 2


def test_a_killed_process_loses_its_job_without_a_retry():
    results = list(run_jobs(parallel_jobs.killed_always, range(6), TWO, build_nothing, retry=False))
    lost = [result for result in results if not result.done]
    assert sorted(result.index for result in results) == list(range(6)) and [result.index for result in lost] == [2]
    assert "the job was lost: the process " in lost[0].error


def test_no_process_is_left():
    found = []
    with pytest.raises(WorkerError, match="jobs are left, but no process to run them: the process .* signal 9"):
        for result in run_jobs(parallel_jobs.killed_always, range(6), ["cpu"], build_nothing):
            found.append((result.index, result.done))
    assert found == [(0, True), (1, True), (2, False)]


def test_jobs_that_cannot_be_iterated_are_refused_at_the_call():
    with pytest.raises(TypeError, match="not iterable"):
        run_jobs(parallel_jobs.killed_always, 6, TWO, build_nothing)


def test_tensors_that_cannot_leave_the_process():
    with pytest.raises(TypeError, match="a tensor on meta cannot go to another process"):
        packed({"masks": [torch.zeros(2, device="meta")]})
    assert len(packed(torch.zeros(1000))) > 4000  # its values, not a handle of shared memory


def test_threads_are_divided_before_torch_is_loaded():
    (result,) = run_jobs(parallel_jobs.where, [0], ["cpu"], build_nothing, threads=3)
    assert result.value[2:] == ("3", False)
    assert threads_for_each(1000) == 1 and threads_for_each(2, 5) == 5
    assert threads_for_each(1) == torch.get_num_threads()
    with pytest.raises(ValueError, match="threads is 0; expected 1 or more"):
        threads_for_each(2, 0)


@pytest.mark.parametrize(("variable", "expected"), [("6", 3), ("0", None), ("all", None), (None, None)])
def test_threads_without_torch_are_those_of_the_environment(monkeypatch, variable, expected):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert threads_for_each(2) == (expected or max(1, os.cpu_count() // 2))


def test_workers_are_as_deterministic_as_this_process():
    with deterministic():
        (result,) = run_jobs(parallel_jobs.square, [3], ["cpu"], parallel_jobs.build_when_deterministic)
    assert result.unwrap()[0] == 9


SCRIPT = """
import sys
from parallel_jobs import build_nothing, note_and_sleep
from sam2fast.deploy.parallel import run_jobs

if __name__ == "__main__":
    list(run_jobs(note_and_sleep, [sys.argv[1]] * 4, ["cpu", "cpu"], build_nothing))
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL], ids=lambda s: s.name)
def test_workers_end_with_their_parent(ending, tmp_path):
    """After Ctrl-C, which they also receive, and when the parent is killed."""
    script, notes = tmp_path / "script.py", tmp_path / "notes"
    script.write_text(SCRIPT)
    notes.mkdir()
    path = os.pathsep.join(filter(None, sys.path))
    process = start([str(script), str(notes)], env={**os.environ, "PYTHONPATH": path})
    deadline = time.monotonic() + 60
    while len(workers := [int(name) for name in os.listdir(notes)]) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    if ending == signal.SIGINT:
        os.killpg(process.pid, ending)
    else:
        process.send_signal(ending)
    stderr = process.communicate(timeout=60)[1].decode()
    assert process.returncode != 0 and stderr.count("Traceback") <= 1
    assert ("KeyboardInterrupt" in stderr) == (ending == signal.SIGINT)
    assert wait_until(lambda: not any(is_alive(pid) for pid in workers), 60)


def test_devices(monkeypatch):
    assert device_list("cpu") == ["cpu"] and device_list(["cpu", torch.device("cpu")]) == ["cpu", "cpu"]
    assert names_several("cuda:0,cuda:1") and names_several("all") and not names_several("cuda:1")
    refused = [([], 0, "no device"), ("cpu,", 0, "''"), ("cpu,gpu", 0, "'gpu'")]
    refused += [("all", 0, "every CUDA device"), ("cuda:0,cpu", 0, "CUDA is not available"), ("cuda:2", 2, "'cuda:2'")]
    for devices, count, word in refused:
        monkeypatch.setattr(torch.cuda, "is_available", lambda count=count: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        with pytest.raises((ValueError, RuntimeError), match=word):
            device_list(devices)
    assert device_list("all") == ["cuda:0", "cuda:1"] == device_list(" cuda , cuda:1")
