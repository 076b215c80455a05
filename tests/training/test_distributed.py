"""Distributed training equals one process with a larger batch, and loses nothing when a process is lost."""

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import launched
import numpy as np
import pytest
import rank_jobs
import torch
import torch.distributed as dist
from ranks import SECONDS, in_ranks
from safetensors.torch import load_file
from small_training import RECIPE, assert_same, build, checkpoint_of, overrides, reports

from sam2fast.training.adapters import is_adapter
from sam2fast.training.distributed.ranks import LostRankError, Ranks

CLIP = "trainer.data.train.datasets.0.batch_size=1"
# Four updates with a checkpoint each.
SHORT = ("scratch.updates=4", "+trainer.mode=train_only", "trainer.checkpoint.save_every_steps=1", CLIP)
# Settings with which DDP and FSDP are bitwise equal.
PLAIN = (*SHORT, "~trainer.optim.gradient_clip")
FSDP = "+trainer.distributed.strategy=fsdp"
TWO_EPOCHS = ("trainer.data.train.batches_per_epoch=null", "trainer.max_epochs=2")
# The first update has a batch prompted by clicks and one by masks, so different parameters are unused; of the three
# validation batches one process has two.
TWO_UPDATES = (
    "scratch.updates=2",
    "trainer.data.train.batches_per_epoch=4",
    "+trainer.optim.accumulate=2",
    "clips.count=3",
    "trainer.data.val.datasets.0.batch_size=1",
    "trainer.model.num_correction_pt_per_frame=1",
)
# Frozen weights beside trained ones.
ADAPTERS = (
    "scratch.updates=2",
    "trainer.data.train.batches_per_epoch=4",
    "+trainer.optim.accumulate=2",
    "+trainer.mode=train_only",
    "+trainer.model.adapters={rank: 2, alpha: 4, train: [maskmem_tpos_enc]}",
)


class Done(NamedTuple):
    """A job: its folder, and the results of its processes."""

    folder: Path
    results: list[Any]


def done(count, parent, **jobs):
    """Runs jobs in several processes, one after the other; a job is a function and its arguments besides a folder."""
    folders = {name: parent / name for name in jobs}
    tasks = ((function, folders[name], *arguments) for name, (function, *arguments) in jobs.items())
    results = in_ranks(count, rank_jobs.in_turn, *tasks)
    return {name: Done(folder, [of[i] for of in results]) for i, (name, folder) in enumerate(folders.items())}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Results of one process with batches of two clips."""
    return done(1, tmp_path_factory.mktemp("alone"), whole=(rank_jobs.gradients, *TWO_UPDATES))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Results of two processes with batches of one clip each."""
    return done(
        2,
        tmp_path_factory.mktemp("both"),
        whole=(rank_jobs.gradients, *TWO_UPDATES, CLIP),
        no_number=(rank_jobs.find_no_number,),
        left=(rank_jobs.leave_first,),
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Results of two processes that stop and resume, and of two uninterrupted ones."""
    fewer = (rank_jobs.RANDOM, *SHORT, *TWO_EPOCHS)
    return done(
        2,
        tmp_path_factory.mktemp("stopped"),
        undisturbed=(rank_jobs.train, 9, *PLAIN),
        fewer=(rank_jobs.train, 1, *fewer),
        divided=(rank_jobs.interrupted, [(1, "ddp"), (2, "fsdp"), (3, "fsdp"), (9, "ddp")], *PLAIN),
    )


def assert_one_with_twice_the_batch(one, two, is_divided=False):
    (expected,) = one.results
    assert len(expected["gradients"]) > 1
    for found in two.results:
        assert len(found["gradients"]) == (0 if is_divided else len(expected["gradients"]))
        for a, b in zip(expected["gradients"], found["gradients"], strict=False):
            assert_close(b, a)
        if not is_divided or found is two.results[0]:  # the first process gathers sharded tensors
            assert_close(found["weights"], expected["weights"])
            assert_close(found["momenta"], expected["momenta"])
        assert found["measures"] == expected["measures"]
    lines = [reports(run.folder) for run in (one, two)]
    assert len(lines[0]) == len(lines[1]) >= len(expected["gradients"])
    for a, b in zip(*lines, strict=True):
        assert b.pop("kind") == a.pop("kind") and b == pytest.approx(a, rel=1e-9)


def test_two_processes_are_one_with_twice_the_batch(alone, both):
    assert_one_with_twice_the_batch(alone["whole"], both["whole"])
    assert len(reports(both["whole"].folder)) == 3 and both["whole"].results[0]["measures"]["objects"] > 3


@pytest.mark.slow
def test_two_sharded_processes_are_too(alone, tmp_path):
    two = done(2, tmp_path, whole=(rank_jobs.gradients_and_measures, *TWO_UPDATES, CLIP, FSDP))
    for found in two["whole"].results:
        assert found["again"] == found["measures"]
    assert_one_with_twice_the_batch(alone["whole"], two["whole"], is_divided=True)


@pytest.mark.slow
def test_adapters_learn_the_same(tmp_path):
    one = done(1, tmp_path / "one", adapters=(rank_jobs.gradients, *ADAPTERS))["adapters"]
    ddp, fsdp = (rank_jobs.gradients, *ADAPTERS, CLIP), (rank_jobs.gradients, *ADAPTERS, CLIP, FSDP)
    two = done(2, tmp_path / "two", ddp=ddp, fsdp=fsdp)
    learning = {name for name, gradient in one.results[0]["gradients"][0].items() if gradient is not None}
    assert learning == {name for name in learning if is_adapter(name)} | {"maskmem_tpos_enc"} and len(learning) == 33
    for strategy, run in two.items():
        assert_one_with_twice_the_batch(one, run, is_divided=strategy == "fsdp")
        # The files of the first process, also where tensors are sharded.
        for name, read in (("adapters/adapter_model.safetensors", load_file), ("merged.pt", read_weights)):
            expected, found = (read(of.folder / "checkpoints" / name) for of in (one, run))
            assert found.keys() == expected.keys()
            assert_close(*({key: x.double().numpy() for key, x in part.items()} for part in (found, expected)))


def read_weights(path):
    return torch.load(path, weights_only=True)["model"]


def assert_close(found, expected):
    """Arrays agree to 1e-5, in fp64 much closer, and the same ones are missing."""
    assert [name for name in expected if (found[name] is None) != (expected[name] is None)] == []
    there = [name for name, value in expected.items() if value is not None]
    scale = math.sqrt(sum(float((expected[name] ** 2).sum()) for name in there))
    error = math.sqrt(sum(float(((found[name] - expected[name]) ** 2).sum()) for name in there))
    assert np.isfinite(scale) and error <= 1e-10 * scale


@pytest.mark.slow
def test_gradients_may_be_sent_rounded(alone, tmp_path):
    more = (*TWO_UPDATES, CLIP, "+trainer.distributed.comms_dtype=float16", "trainer.data.train.batches_per_epoch=2")
    (two, _), one = in_ranks(2, rank_jobs.gradients, tmp_path, *more), alone["whole"].results[0]
    pairs = [(two["gradients"][0][name], value) for name, value in one["gradients"][0].items() if value is not None]
    scale, error = (
        math.sqrt(sum(float((x**2).sum()) for x in xs)) for xs in zip(*((b, a - b) for a, b in pairs), strict=True)
    )
    assert 1e-6 * scale < error < 1e-3 * scale


def assert_same_checkpoint(a, b):
    first, second = map(checkpoint_of, (a, b))
    for name in ("steps", "world_size", "model", "ema"):
        assert_same(first[name], second[name])
    states = [[x["random_state"], *x["random_states_of_others"]] for x in (first, second)]
    for one, other in zip(*states, strict=True):
        assert torch.equal(one["torch"], other["torch"])
    assert not torch.equal(states[0][0]["torch"], states[0][1]["torch"])


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run of the command with a killed process: its folder, the process, and its output."""
    folder = tmp_path_factory.mktemp("killed")
    run = start(*COMMAND, "--num-gpus", "2", *paused(folder))
    kill_paused(run, folder)
    return folder, run, run.communicate(timeout=SECONDS)


def test_a_killed_process_ends_the_run_in_one_line(killed):
    folder, run, (output, errors) = killed
    assert run.returncode == 1 and output == ""
    assert errors.splitlines() == ["sam2fast: process 1 of 2 was killed by SIGKILL"], errors


def test_it_resumes_bitwise_also_where_one_process_stops_all(killed, stopped):
    folder = killed[0]
    assert checkpoint_of(folder)["steps"] in (1, 2)
    assert in_ranks(2, rank_jobs.interrupted, folder, [(3, "ddp"), (9, "ddp")], *PLAIN) == [[3, 4]] * 2
    assert stopped["undisturbed"].results == [4, 4]
    assert_same_checkpoint(stopped["undisturbed"].folder, folder)
    assert [report["step"] for report in reports(folder)] == [1, 2, 3, 4]


def test_ddp_and_fsdp_resume_each_others_runs(stopped):
    assert stopped["divided"].results == [[1, 2, 3, 4]] * 2
    assert_same_checkpoint(stopped["undisturbed"].folder, stopped["divided"].folder)


def test_a_process_reports_that_it_lost_the_others(both):
    assert (
        both["left"].results[0].startswith("process 0 of 2 lost the others: ") and both["left"].results[1] == "nothing"
    )


def test_a_lost_store_is_a_lost_process():
    """With TORCH_DISABLE_SHARE_RDZV_TCP_STORE the store is in the first process, not in torchrun."""
    server = [dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)]
    client = dist.TCPStore("127.0.0.1", server[0].port, is_master=False)
    ranks = Ranks(torch.device("cpu"), 1, 2, is_group=True)
    threading.Timer(0.2, server.clear).start()
    with pytest.raises(LostRankError, match="process 1 of 2 lost the others: "), ranks.reporting_lost_ranks():
        client.get("what nobody writes")


COMMAND = (sys.executable, "-m", "sam2fast", "train", "-c", RECIPE, "--threads", "1")


def settings(folder):
    """The configuration of the uninterrupted run, for the command."""
    return overrides(folder, "trainer.accelerator=cpu", rank_jobs.RANDOM, *PLAIN)


def paused(folder):
    """The same; the second process waits in the middle, see :class:`disturbed_clips.PausedClips`."""
    clips = f"{{_target_: disturbed_clips.PausedClips, file: {folder / 'paused'}, dataset: '${{clips}}'}}"
    return ["--allow-target", "disturbed_clips", *settings(folder), f"trainer.data.train.datasets.0.dataset={clips}"]


def start(*command):
    path = os.pathsep.join([str(Path(launched.__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def kill_paused(run, folder):
    """Kills the waiting process after the first checkpoint."""
    file, checkpoint, deadline = folder / "paused", folder / "checkpoints/checkpoint.pt", time.monotonic() + SECONDS
    while not (checkpoint.exists() and file.exists() and file.read_text()):
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()
        time.sleep(0.01)
    os.kill(int(file.read_text()), signal.SIGKILL)


def test_fewer_processes_resume_from_the_same_share_of_the_epoch(stopped, caplog):
    assert stopped["fewer"].results == [1, 1]  # an epoch has two updates
    trainer = build(stopped["fewer"].folder, "trainer.accelerator=cpu", rank_jobs.RANDOM, *SHORT, *TWO_EPOCHS)
    trainer.run(lambda: True)
    assert "an epoch has 4 updates now, and had 2: resuming from the same share of it, update 2" in caplog.text
    assert trainer.steps == 2 and trainer.steps_in_epoch == 3


def test_non_finite_values_end_all_processes_with_the_same_message(both):
    first, second = both["no_number"].results
    assert first == second
    for said, wrong in zip(first, ("the gradient of no_mem_embed ", "loss_iou, "), strict=True):
        assert said.startswith(f"update 0: {wrong}") and "is not finite for clips synthetic/" in said


def test_the_launcher_restarts_and_forwards_ctrl_c(tmp_path):
    ((alone, *others),) = in_ranks(1, launched.launch_all, tmp_path)
    wrong = "the 2 machines did not meet at 127.0.0.1:0, or lost each other: not all of them came in 1 seconds"
    assert alone == f"alone {wrong}"
    assert others == ["fail process 1 of 2 ended with code 5", "again done", "wait done"]
    turns = sorted(file.name for file in tmp_path.iterdir() if file.name.startswith("again"))
    assert turns == ["again-0-0", "again-0-1", "again-1-0", "again-1-1"]


@pytest.mark.slow
def test_torchrun_starts_the_same_run(stopped, tmp_path):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    run = start(*torchrun, *COMMAND[1:], *settings(tmp_path))
    output, errors = run.communicate(timeout=SECONDS)
    assert (run.returncode, output) == (0, f"checkpoints in {tmp_path / 'checkpoints'}\n"), errors
    assert "Traceback" not in errors
    assert_same_checkpoint(stopped["undisturbed"].folder, tmp_path)


@pytest.mark.slow
def test_two_machines_are_one_run(stopped, tmp_path):
    """Two launchers, as on two machines, with a rendezvous on the loopback device."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    where = ("--num-gpus", "1", "--num-nodes", "2", "--rendezvous", f"127.0.0.1:{port}")
    runs = [start(*COMMAND, *where, *settings(tmp_path)) for _ in range(2)]
    said = [run.communicate(timeout=SECONDS) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert sorted(said) == [("", ""), (f"checkpoints in {tmp_path / 'checkpoints'}\n", "")]
    assert_same_checkpoint(stopped["undisturbed"].folder, tmp_path)
