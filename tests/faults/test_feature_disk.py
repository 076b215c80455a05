"""Features and pictures that a training keeps, on a disk that becomes full, or by a process that is killed."""

import errno
import random
from pathlib import Path

import pytest
import torch
from file_contents import files_of
from killed import Fault, forked, tells_errors
from PIL import Image

from sam2fast.io.images import write_jpeg
from sam2fast.training.feature_cache import EncoderCacheConf, FeatureCache
from sam2fast.training.feature_files import DAMAGED, read_levels, write_levels

LEVELS = [torch.ones(40, 20, 20, dtype=torch.float16), torch.zeros(3, 1, 1, dtype=torch.float16)]


def test_features_are_not_kept_where_there_is_no_room(tmp_path: Path) -> None:
    for size in (1, 10_000, 32_300):
        ended = forked(lambda: int(write_levels(tmp_path / "a.npz", LEVELS)), Fault(size=size, number=None))
        assert (ended.code, ended.stderr, files_of(tmp_path)) == (0, "", {})
        forked(lambda: write_levels(tmp_path / "a.npz", LEVELS), Fault(size=size))
        assert list(tmp_path.glob("*.npz")) == []
        (left,) = tmp_path.glob("*.unfinished")
        left.unlink()


def test_a_training_goes_on_without_room_for_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = FeatureCache(EncoderCacheConf(str(tmp_path)), lambda frames: [frames.float()], {})
    frames = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).view(2, 4, 4, 3)
    monkeypatch.setattr("sam2fast.training.feature_cache.write_levels", lambda path, levels: False)
    for _ in range(2):
        assert torch.equal(kept(frames)[0], frames.float())
    assert kept.computed == 4 and caplog.text.count("is full; further frames are encoded each time") == 1


def test_damaged_features_are_found_out(tmp_path: Path) -> None:
    """A few hundred files with bytes changed, left out or put in."""
    path, rng = tmp_path / "a.npz", random.Random(0)
    levels = [torch.zeros(4, 8, 8, dtype=torch.float16), torch.ones(3, 1, 1, dtype=torch.float16)]
    assert write_levels(path, levels)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"(4, 8, 8)", b"(4, 8, 1)"))  # numpy would read no further, to no checksum
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


def test_a_picture_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    """Pillow takes the beginning of a JPEG file for one."""
    picture = Image.effect_noise((64, 64), 50).convert("RGB")
    ended = forked(tells_errors(lambda: write_jpeg(picture, tmp_path / "a.jpg", 95)), Fault(size=2000, number=None))
    assert ended.code == 1 and ended.stdout.startswith(f"{errno.EFBIG} ")
