"""Files that a training writes (features, images, reports) while the disk is full or the process is killed."""

import errno
import os
import random
from pathlib import Path

import pytest
import torch
from file_contents import files_of
from killed import Fault, forked, tells_errors
from PIL import Image

from sam2fast.checkpoints import CheckpointError
from sam2fast.cli.train_run import save_traceback
from sam2fast.io.images import write_jpeg
from sam2fast.training.feature_cache import DAMAGED, EncoderCache, EncoderCacheConf, read_levels, write_levels
from sam2fast.training.reporting import Reporter

LEVELS = [torch.ones(40, 20, 20, dtype=torch.float16), torch.zeros(3, 1, 1, dtype=torch.float16)]


def test_features_are_not_cached_on_a_full_disk(tmp_path: Path) -> None:
    for size in (1, 10_000, 32_300):
        ended = forked(lambda: int(write_levels(tmp_path / "a.npz", LEVELS)), Fault(size=size, number=None))
        assert (ended.code, ended.stderr, files_of(tmp_path)) == (0, "", {})
        forked(lambda: write_levels(tmp_path / "a.npz", LEVELS), Fault(size=size))
        assert list(tmp_path.glob("*.npz")) == []
        (left,) = tmp_path.glob(".*.part")
        left.unlink()


def test_training_continues_without_space_for_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = EncoderCache(EncoderCacheConf(str(tmp_path)), lambda frames: [frames.float()], {})
    frames = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).view(2, 4, 4, 3)
    monkeypatch.setattr("sam2fast.training.feature_cache.write_levels", lambda path, levels: False)
    for _ in range(2):
        assert torch.equal(kept(frames)[0], frames.float())
    assert kept.computed == 4 and caplog.text.count("is full; further frames are encoded each time") == 1


def test_damaged_features_are_detected(tmp_path: Path) -> None:
    """A few hundred files with bytes changed, removed or inserted."""
    path, rng = tmp_path / "a.npz", random.Random(0)
    levels = [torch.zeros(4, 8, 8, dtype=torch.float16), torch.ones(3, 1, 1, dtype=torch.float16)]
    assert write_levels(path, levels)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"(4, 8, 8)", b"(4, 8, 1)"))  # numpy would stop reading before the checksum
    with pytest.raises(DAMAGED):
        read_levels(path)
    for _ in range(500):
        changed, place = bytearray(whole), rng.randrange(len(whole))
        kind = rng.randrange(4)
        if kind < 2:
            changed[place] = rng.randrange(256)
        elif kind == 2:
            del changed[place : place + rng.randrange(1, 20)]
        else:
            changed[place:place] = rng.randbytes(rng.randrange(1, 9))
        path.write_bytes(changed)
        try:
            found = read_levels(path)
        except DAMAGED:
            continue
        assert len(found) == 2 and all(torch.equal(a, b) for a, b in zip(found, levels, strict=True))


def test_a_truncated_image_is_an_error(tmp_path: Path) -> None:
    """Pillow accepts a truncated JPEG file."""
    image = Image.effect_noise((64, 64), 50).convert("RGB")
    ended = forked(tells_errors(lambda: write_jpeg(image, tmp_path / "a.jpg", 95)), Fault(size=2000, number=None))
    assert ended.code == 1 and ended.stdout.startswith(f"{errno.EFBIG} ")


@pytest.mark.parametrize("tensorboard", [False, True])
def test_reports_name_their_file(tmp_path: Path, tensorboard: bool) -> None:
    def report() -> None:
        reporter = Reporter(tmp_path, 0, tensorboard)
        if tensorboard:
            (tmp_path / "metrics.jsonl").symlink_to(os.devnull)
        for step in range(1, 100):
            reporter.report(step, "train", {f"a name that is rather long {number}": 1.0 for number in range(50)})

    ended = forked(tells_errors(report), Fault(size=5000, number=None))
    name = tmp_path / ("tensorboard" if tensorboard else "metrics.jsonl")
    assert (ended.code, ended.stdout) == (1, f"{errno.EFBIG} {name}\n")


def test_the_first_error_is_raised(tmp_path: Path) -> None:
    """And not the error of writing its traceback."""

    def work() -> int:
        try:
            with save_traceback(tmp_path / "error.txt"):
                raise CheckpointError("first")
        except CheckpointError:
            return 5
        return 0

    assert forked(work, Fault(0, tmp_path, number=None)).code == 5
