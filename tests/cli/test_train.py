"""The command ``sam2fast train``."""

import errno
import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from commands import ok
from small_training import RECIPE, overrides

from sam2fast.cli import main
from sam2fast.cli.train_run import stop_condition, without_tensorboards_traceback
from sam2fast.datasets.clip import Clip
from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.training.data.synthetic.clips import SyntheticClips
from sam2fast.training.reporting import Reporter


def train(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["train", *arguments])


def test_trains_and_prints_the_folder_of_checkpoints(tmp_path: Path) -> None:
    result = ok(train("-c", RECIPE, *overrides(tmp_path, "scratch.updates=1")))
    assert "J&F" in result.output and f"checkpoints in {tmp_path}/checkpoints" in result.output
    assert "image_size: 64" in (tmp_path / "logs/config_resolved.yaml").read_text()


def test_bad_samples_are_counted_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = SyntheticClips.sample

    def sample_most(clips: SyntheticClips, index: int, rng: np.random.Generator) -> Clip:
        if index == 0:
            raise DatasetError("clip 0 is broken")
        return sample(clips, index, rng)

    monkeypatch.setattr(SyntheticClips, "sample", sample_most)
    result = train("-c", RECIPE, "--jsonl", *overrides(tmp_path, "scratch.updates=1"))
    bad = json.loads(result.stdout.splitlines()[-1])["bad_samples"]
    assert result.exit_code == 0 and bad >= 1
    assert result.stderr.endswith(
        f"note: {bad} bad samples were replaced by others of their data sets: see the warnings\n"
    )


def test_a_dry_run_builds_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it has looked for the initial weights, unless the run would resume."""
    monkeypatch.setattr("sam2fast.training.memory_estimate.describe_memory", lambda trainer: ["much memory"])
    result = train("-c", RECIPE, "--dry-run", *overrides(tmp_path))
    assert result.exit_code == 0 and "_target_: sam2fast.training.model.SAM2Train" in result.output
    assert result.output.endswith("# much memory\n")
    assert not list(tmp_path.iterdir())
    missing = overrides(tmp_path, f"+trainer.checkpoint.initialize_from={tmp_path}/missing.pt")
    dry, real = (train("-c", RECIPE, *options, *missing) for options in (["--dry-run"], []))
    assert dry.exit_code == real.exit_code == 1 and dry.stdout.endswith("# much memory\n")
    assert dry.stderr == real.stderr == f"sam2fast: no checkpoint file '{tmp_path}/missing.pt'\n"
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "checkpoints/checkpoint.pt").touch()
    assert train("-c", RECIPE, "--dry-run", *missing).exit_code == 0


def test_stops_after_the_given_minutes(tmp_path: Path) -> None:
    result = ok(train("-c", RECIPE, "--minutes", "0", *overrides(tmp_path)))
    assert "stopped after 1 updates, in epoch 1 of 1; the same command continues" in result.output
    steps = [json.loads(line)["step"] for line in (tmp_path / "logs/metrics.jsonl").read_text().splitlines()]
    assert steps == [1] and (tmp_path / "checkpoints/checkpoint.pt").exists()


def test_a_complete_run_is_not_trained_again(tmp_path: Path) -> None:
    once = overrides(tmp_path, "scratch.updates=1", "+trainer.mode=train_only")
    assert json.loads(train("-c", RECIPE, "--jsonl", *once).stdout.splitlines()[-1])["complete"]
    record = tmp_path / "logs/config_resolved.yaml"
    before = record.read_text()
    again = train("-c", RECIPE, *once)
    assert again.exit_code == 0 and "is complete, after 1 updates: nothing is trained" in again.output
    other = train("-c", RECIPE, *once, "trainer.optim.gradient_clip.max_norm=2.0")
    assert other.exit_code == 1 and "is complete, with another configuration: use another folder" in other.output
    assert record.read_text() == before
    more = train("-c", RECIPE, "--jsonl", *once, "trainer.max_epochs=2")
    assert json.loads(more.stdout.splitlines()[-1])["updates"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-c", "nano/nothing"), "no file 'nano/nothing', and no such configuration"),
        (("-c", "sam2.1/sam2.1_hiera_t"), "no section 'trainer'"),
        (("-c", RECIPE, "trainer=open"), "no section 'trainer'"),
        (("-c", RECIPE, "trainer.max_epoch=2"), "'trainer.max_epoch', which does not exist"),
        (("-c", RECIPE, "++trainer.loss.all._target_=os.system"), "'os.system', which is not part"),
        (("-c", RECIPE, "+trainer.surprise=1"), "surprise"),
        (("-c", RECIPE, "+trainer.mode=play"), "mode must be one of train, train_only, val"),
        (("-c", RECIPE, "trainer.accelerator=cuda:9"), "cuda"),
        pytest.param(
            ("-c", RECIPE, "trainer.accelerator=cuda"),
            "set trainer.accelerator=cpu or auto",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here"),
        ),
        (("-c", "sam2.1_training/sam2.1_hiera_b+_MOSE_finetune", "dataset.img_folder=/nowhere"), "/nowhere"),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    folder = (f"++scratch.folder={tmp_path}",) if "train" in arguments[1] or arguments[1] == RECIPE else ()
    result = train(*arguments, *folder)
    assert result.exit_code in (1, 2) and result.exception is not None
    assert message in result.output and "Traceback" not in result.output
    assert len(result.output.strip().splitlines()) == 1, result.output
    assert not list(tmp_path.iterdir())


def test_signals_that_stop_a_run() -> None:
    """Ignored signals, as under ``nohup``, stay ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for ignored in (None, *numbers):
            for number in numbers:
                signal.signal(number, signal.SIG_IGN if number == ignored else lambda *_: None)
            for number in numbers:
                with stop_condition(None) as stop:
                    os.kill(os.getpid(), number)
                    assert stop() == (number != ignored)
                assert signal.getsignal(number) is not signal.SIG_IGN or number == ignored
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_error_of_tensorboards_thread_is_one_exception(tmp_path, monkeypatch, capsys) -> None:
    """It is raised where the run flushes; other threads' errors are shown."""
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shown: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: shown.append(failure.exc_value))
    reports = Reporter(tmp_path)
    monkeypatch.setattr(LocalFileSystem, "_write", full)
    with without_tensorboards_traceback():
        with pytest.raises(OSError, match="No space left"):
            for step in range(100):
                reports.report(step, "train", {"loss": 1.0})
        other = threading.Thread(target=full)
        other.start()
        other.join()
    assert len(shown) == 1 and capsys.readouterr().err == ""


def test_a_users_class_needs_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_losses.py").write_text(
        "from sam2fast.training.losses import FromScratchLoss\n\n\n"
        "class Doubled(FromScratchLoss):\n"
        "    def forward(self, outputs, targets):\n"
        "        return {name: 2 * value for name, value in super().forward(outputs, targets).items()}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    loss = "trainer.loss.all._target_=my_losses.Doubled"
    arguments = ("-c", RECIPE, *overrides(tmp_path / "run", loss, "scratch.updates=1", "+trainer.mode=train_only"))
    refused = train(*arguments)
    assert refused.exit_code == 1 and "'my_losses.Doubled'" in refused.output
    ok(train(*arguments, "--allow-target", "my_losses"))
