"""Jobs through submitit, whose tasks are real processes here."""

import functools
import os
import signal
import time
import types
from pathlib import Path

import cluster_jobs
import parallel_jobs
import pytest
from parallel_jobs import build_nothing
from small_ray import importable
from waiting import is_alive, wait_until

from sam2fast.cluster import ClusterError, on_slurm
from sam2fast.cluster.chunk import Chunk, deal
from sam2fast.cluster.result_file import append_answer, read_answers, repair
from sam2fast.parallel.pool import Task

HOURS = 1.0


@pytest.fixture(autouse=True)
def _importable():
    with importable():
        yield


def local(folder: Path, tasks: int = 2, **options):
    return on_slurm(folder / "slurm", tasks=tasks, gpus=0, cpus=1, hours=HOURS, cluster="local", **options)


def test_every_job_is_done_once_and_failures_are_results(tmp_path):
    jobs = [3, -1, *range(4, 9)]
    results = list(local(tmp_path)(parallel_jobs.square, jobs, build_nothing, ordered=True))
    assert [(r.index, r.job) for r in results] == list(enumerate(jobs))
    assert [r.value[0] for r in results if r.done] == [job * job for job in jobs if job >= 0]
    assert results[1].error == "ValueError: -1 is negative" and "in square" in results[1].trace
    pids = [r.value[1] for r in results if r.done]
    assert len(set(pids)) == 2 and os.getpid() not in pids
    assert all(r.device.endswith("/cpu") for r in results)


def test_nothing_is_left_if_all_is_well(tmp_path):
    results = list(local(tmp_path)(parallel_jobs.square, range(3), build_nothing))
    assert sorted(r.value[0] for r in results) == [0, 1, 4]
    assert not (tmp_path / "slurm").exists()
    assert list(local(tmp_path)(parallel_jobs.square, [], build_nothing)) == []


def test_a_task_that_is_killed_takes_its_jobs_along(tmp_path):
    """Those that it had done stay done, and so do the other task's."""
    jobs = [(number, str(tmp_path / "killed")) for number in range(6)]
    results = list(local(tmp_path)(parallel_jobs.killed_once, jobs, build_nothing, ordered=True))
    assert [r.index for r in results if not r.done] == [2, 4]
    assert all("ended before it" in r.error and "do the same again" in r.error for r in results if not r.done)
    (run,) = (tmp_path / "slurm").iterdir()  # with its logs
    assert any(file.name.endswith(".err") for file in run.rglob("*"))
    again = list(local(tmp_path)(parallel_jobs.killed_once, [r.job for r in results if not r.done], build_nothing))
    assert sorted(r.value[0] for r in again) == [2, 4]


def test_a_task_that_is_preempted_goes_on_behind_its_last_job(tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    results = local(tmp_path, tasks=1)(
        cluster_jobs.note_then_be_preempted, [(n, str(notes)) for n in range(4)], build_nothing
    )
    assert [r.value for r in results] == [0, 1, 2, 3]
    assert sorted(os.listdir(notes)) == ["0", "1", "2", "2-again", "3"]


def test_a_task_that_cannot_begin(tmp_path):
    """Its jobs are told so; the other task does its own."""
    build = functools.partial(parallel_jobs.build_on_the_second, flag=str(tmp_path / "first"))
    results = list(local(tmp_path)(parallel_jobs.square, range(4), build, ordered=True))
    failed = [r for r in results if not r.done]
    assert len(failed) == 2 and all("could not begin: OSError: the first one cannot" in r.error for r in failed)
    assert sorted(r.value[0] for r in results if r.done) in ([0, 4], [1, 9])


@pytest.fixture
def ignored_interrupt():
    """As in a process in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


def test_what_is_closed_is_cancelled(tmp_path, ignored_interrupt):
    notes = tmp_path / "notes"
    notes.mkdir()
    results = local(tmp_path, tasks=3)(cluster_jobs.first_quick, [(n, str(notes)) for n in range(3)], build_nothing)
    next(results)
    assert wait_until(lambda: len(os.listdir(notes)) == 2, 60)
    results.close()
    assert wait_until(lambda: not any(is_alive(int(pid)) for pid in os.listdir(notes)), 60)


def test_what_slurm_is_asked_for(tmp_path, monkeypatch):
    """By programs that only note what they are told: there is no SLURM here."""
    programs = {"srun": "", "sacct": "", "sbatch": f"cp $1 {tmp_path}/asked; echo Submitted batch job 7"}
    programs["scancel"] = f"echo $1 >> {tmp_path}/cancelled"
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def interrupt(seconds):
        raise KeyboardInterrupt

    clock = types.SimpleNamespace(monotonic=time.monotonic, sleep=interrupt)
    monkeypatch.setattr("sam2fast.cluster.slurm_array.time", clock)
    runner = on_slurm(tmp_path / "slurm", partition="gpu", account="us", qos="high", tasks=2, cpus=3, hours=1.5)
    with pytest.raises(KeyboardInterrupt):
        next(runner(parallel_jobs.square, range(5), build_nothing))
    asked = (tmp_path / "asked").read_text()
    for line in (
        "--partition=gpu", "--account=us", "--qos=high", "--gpus-per-node=1", "--cpus-per-task=3", "--time=90",
        "--array=0-1%2", "--job-name=sam2fast",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in asked, asked
    assert (tmp_path / "cancelled").read_text().split() == ["7_0", "7_1"]


def test_in_this_process(tmp_path):
    """For debugging."""
    runner = on_slurm(tmp_path, gpus=0, cpus=1, cluster="debug")
    (result,) = runner(cluster_jobs.this_process, [1], build_nothing)
    assert result.value == os.getpid()


def test_shares_are_equally_heavy():
    weights = [1, 9, 2, 5, 4, 3]
    tasks = [Task(index, weight, b"") for index, weight in enumerate(weights)]
    shares = deal(tasks, 2, float)
    assert sorted(sum(task.job for task in share) for share in shares) == [12, 12]
    assert [task.job for share in shares for task in share][:1] == [9]  # the longest first
    assert [[t.index for t in share] for share in deal(tasks, 4, lambda job: 1.0)] == [[0, 4], [1, 5], [2], [3]]
    assert [[t.index for t in share] for share in deal(tasks[:3], 2, lambda job: 0.0)] == [[0, 2], [1]]
    assert len(deal(tasks, 99, float)) == 6


def test_answers_that_are_cut_off(tmp_path):
    file = tmp_path / "answers"
    assert repair(file) == set() and list(read_answers(file)) == []
    append_answer(file, 5, b"five")
    append_answer(file, 7, b"")
    whole = file.read_bytes()
    for cut in (1, 9, 17):  # within the answer's head, its head alone, and a part of what follows
        append_answer(file, 8, b"eight")
        file.write_bytes(file.read_bytes()[: len(whole) + cut])
        assert [(a.job, a.content) for a in read_answers(file)] == [(5, b"five"), (7, b"")]
        assert repair(file) == {5, 7} and file.read_bytes() == whole
    last = list(read_answers(file))[0].end
    append_answer(file, 9, b"nine")
    assert [a.job for a in read_answers(file, last)] == [7, 9]


def test_a_chunk_that_is_done_loads_nothing(tmp_path):
    """When its task is begun once more."""
    file = tmp_path / "answers"
    append_answer(file, 0, b"")
    Chunk(None, [(0, b"")], file)()
    assert [a.job for a in read_answers(file)] == [0]


def test_no_cluster(tmp_path, monkeypatch):
    """This machine has no SLURM."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="could not be submitted to slurm"):
        next(on_slurm(tmp_path / "slurm")(parallel_jobs.square, [1], build_nothing))
    assert not (tmp_path / "slurm").exists()
    for arguments in ({"tasks": 0}, {"cpus": 0}, {"gpus": -1}, {"hours": 0}, {"cluster": "moon"}):
        with pytest.raises(ValueError, match=next(iter(arguments)).removesuffix("s")):
            on_slurm(tmp_path, **arguments)
