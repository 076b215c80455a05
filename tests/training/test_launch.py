"""Ranks from the environment, options of the command, and jobs of a cluster."""

import json
import os
import pickle
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cluster_runs
import pytest
import torch
from click.testing import CliRunner
from small_training import RECIPE, build, overrides

from sam2fast.cli import main
from sam2fast.cli.train_run import TrainingRun
from sam2fast.training.distributed import launch, ranks, slurm
from sam2fast.training.distributed.ranks import Ranks, join
from sam2fast.training.distributed.strategies import wrap
from sam2fast.training.settings import DistributedConf
from sam2fast.utils.reproducibility import is_deterministic

CLIP = "trainer.data.train.datasets.0.batch_size=1"


def test_a_process_on_windows_is_not_abandoned(monkeypatch):
    """In a virtual environment its parent is not the launcher but a program in between."""
    monkeypatch.setenv(launch.LAUNCHED, "folder")
    monkeypatch.setenv(launch.LAUNCHER, str(os.getppid()))
    assert not launch.is_abandoned()
    monkeypatch.setenv(launch.LAUNCHER, str(os.getpid()))
    assert launch.is_abandoned()
    monkeypatch.setattr("sys.platform", "win32")
    assert not launch.is_abandoned()


PLACE = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("variables", "backend", "accelerator", "message"),
    [
        ({"WORLD_SIZE": "2"}, None, "cpu", "RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not"),
        ({**PLACE, "RANK": "2"}, None, "cpu", "RANK 2, LOCAL_RANK 1 and WORLD_SIZE 2 contradict"),
        (PLACE, "nccl", "cpu", "nccl is for GPUs"),
        (PLACE, None, "auto", "no CUDA here for process 1 of 2; set trainer.accelerator=cpu"),
    ],
)
def test_processes_that_cannot_join(variables, backend, accelerator, message, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "available_device", lambda accelerator: torch.device("cpu"))
    with pytest.raises(ValueError, match=message):
        join(DistributedConf(backend=backend, timeout_mins=0.01), accelerator)


def shard(part):
    """A model with a part that cannot be sharded."""
    parts = {"auxiliary": None, "encoder_cache": None, part: object()}
    objective: Any = SimpleNamespace(auxiliary=parts["auxiliary"], model=SimpleNamespace(**parts))
    return wrap(objective, Ranks(torch.device("cpu"), 0, 2, 0, is_group=True), DistributedConf(strategy="fsdp"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: DistributedConf(comms_dtype="float8"), "comms_dtype"),
        (lambda _: DistributedConf(timeout_mins=0), "timeout_mins"),
        (lambda _: shard("auxiliary"), "auxiliary.*strategy=ddp"),
        (lambda _: shard("encoder_cache"), "encoder_cache.*strategy=ddp"),
        (lambda folder: build(folder, *(f"+trainer.data.train.{x}" for x in ("rank=1", "world_size=2"))), r"\(0, 1\)"),
    ],
)
def test_refused_settings(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(tmp_path)


def test_every_second_batch(tmp_path):
    loader = build(tmp_path, CLIP).data["train"]
    every = [batch.names for batch in loader.epoch(0)]
    assert [batch.names for batch in loader.epoch(0, 1, 2)] == every[1::2] and len(every) == 6


def test_a_preempted_job_is_requeued(tmp_path, monkeypatch):
    """Two real processes, by submitit's local executor."""
    support = str(Path(cluster_runs.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", support, prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    notes = tmp_path / "notes"
    notes.mkdir()
    job = slurm.Job(tmp_path / "cluster", processes=2, gpus=False, cpus=1, hours=0.1, cluster="local")
    submitted = slurm.submit(job, partial(cluster_runs.interrupted_once, notes))
    submitted.wait()
    found = {file.name: json.loads(file.read_text()) for file in notes.iterdir()}
    assert sorted(found) == ["0-0", "0-1", "1-0", "1-1"]
    for name, note in found.items():
        rank, turn = name.split("-")
        assert note["place"][:4] == [rank, rank, "2", "127.0.0.1"] and note["cwd"] == str(tmp_path)
        assert note["asked"] == [False, turn == "0"]
    assert len({note["place"][4] for note in found.values()}) == 1


def test_both_signals_save_and_one_requeues(monkeypatch):
    monkeypatch.delenv("SUBMITIT_PREEMPT_SIGNAL", raising=False)
    done: list[int] = []
    numbers = (signal.SIGUSR2, signal.SIGTERM)
    before = [signal.signal(number, lambda number, frame: done.append(number)) for number in numbers]
    try:
        for told, handled in (((), []), ((signal.SIGTERM,), [signal.SIGTERM]), (numbers[::-1], [signal.SIGUSR2])):
            done.clear()
            with slurm.Interruption() as interruption:
                for number in told:
                    os.kill(os.getpid(), number)
                assert interruption.is_asked() == bool(told) and done == []
            interruption.go_on()
            assert done == handled
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def train(*arguments):
    return CliRunner().invoke(main, ["train", "-c", RECIPE, *arguments])


@pytest.fixture
def jobs(monkeypatch):
    """The submissions, as the cluster would get them; none is accepted."""
    jobs = []

    def submit(job, run):
        jobs.append((job, pickle.loads(pickle.dumps(run))))
        raise slurm.SubmissionError("no such partition: big")

    monkeypatch.setattr(slurm, "submit", submit)
    return jobs


def test_the_command_submits_its_options(tmp_path, jobs):
    options = "--use-cluster 1 --partition big --account us --qos low --num-nodes 2 --num-gpus 8 --timeout-hours 3"
    result = train(*options.split(), "--minutes", "5", *overrides(tmp_path))
    assert result.exit_code == 1 and result.output == "sam2fast: no such partition: big\n"
    ((job, run),) = jobs
    asked = {"partition": "big", "account": "us", "qos": "low", "nodes": 2, "processes": 8, "hours": 3.0}
    assert {name: getattr(job, name) for name in asked} == asked
    assert job.folder == tmp_path / "logs/cluster" and job.gpus and job.cluster == "slurm"
    assert run.minutes == 5 and run.overrides == tuple(overrides(tmp_path)) and not run.deterministic


def test_a_deterministic_run_stays_so_elsewhere(tmp_path, jobs, monkeypatch):
    seen = []

    def build(run):
        seen.append(is_deterministic())
        raise RuntimeError("enough")

    CliRunner().invoke(main, ["--deterministic", "train", "-c", RECIPE, "--use-cluster", "1", *overrides(tmp_path)])
    ((_, run),) = jobs
    assert run.arguments()[:2] == ["--deterministic", "train"] and not is_deterministic()
    monkeypatch.setattr(TrainingRun, "build", build)
    with pytest.raises(RuntimeError, match="enough"):
        run()
    assert seen == [True] and not is_deterministic()


@pytest.mark.parametrize(
    ("where", "wrong", "message"),
    [
        ("--use-cluster 1", "clips.count=0", "count must be in [1, "),
        ("--use-cluster 1", "trainer.optim.optimizer._target_=mine.Adam", "'mine.Adam'"),
        ("--num-gpus 2", "trainer.max_epoch=2", "'trainer.max_epoch'"),
    ],
)
def test_broken_runs_are_not_started(where, wrong, message, tmp_path, jobs):
    result = train(*where.split(), *overrides(tmp_path), wrong)
    assert result.exit_code == 1 and message in result.output and len(result.output.strip().splitlines()) == 1
    assert not jobs


def test_a_single_process_can_be_restarted(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("sam2fast.cli.train.on_this_machine", lambda launch, arguments: started.append(launch))
    result = train("--num-gpus", "1", "--restarts", "3", *overrides(tmp_path, "scratch.updates=1"))
    assert result.exit_code == 0 and [(launch.num_gpus, launch.restarts) for launch in started] == [(1, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--partition big", "need --use-cluster 1"),
        ("--num-gpus 2 --num-nodes 2", "--num-gpus N and --rendezvous"),
        ("--num-gpus 2 --rendezvous host:29400", "--rendezvous needs --num-nodes"),
        ("--use-cluster 1 --rendezvous host:29400", "without --use-cluster"),
        ("--use-cluster local --num-nodes 2", "--use-cluster local"),
        ("--restarts 1", "--restarts needs --num-gpus"),
        ("--num-gpus 2", "leave --num-gpus out"),  # in a process of torchrun
    ],
)
def test_options_that_contradict_each_other(options, message, tmp_path):
    environment = {"WORLD_SIZE": "2"} if options == "--num-gpus 2" else {}
    result = CliRunner().invoke(main, ["train", "-c", RECIPE, *options.split(), *overrides(tmp_path)], env=environment)
    assert result.exit_code == 2 and message in result.output
    assert not list(tmp_path.iterdir())
