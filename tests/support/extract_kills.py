"""Disturbs ``sam2fast dataset extract``, checks its files, and runs it again."""

import random
from collections.abc import Callable
from pathlib import Path

import moving_shapes
from disturbed import Disturbance, chosen
from file_contents import files_of
from killed import Ended, Fault, forked
from PIL import Image

from sam2fast.cli import main

VIDEOS, FRAMES = ("a", "b"), 6


class ExtractKills:
    """See tests/faults/campaign.py.

    Args:
        folder: gets two videos and the frames of an undisturbed run.
    """

    def __init__(self, folder: Path) -> None:
        self.videos = folder / "videos"
        self.videos.mkdir(parents=True)
        for name in VIDEOS:
            moving_shapes.write_video(self.videos / f"{name}.mp4", moving_shapes.make_frames(FRAMES))
        ended = forked(self.command(folder / "whole"), Fault(folder=folder / "whole"))
        assert (ended.code, ended.stdout) == (0, f"4 frames of 2 videos in {folder / 'whole'}\n"), ended
        self.whole, self.changes = files_of(folder / "whole"), ended.changes

    def command(self, out: Path) -> Callable[[], None]:
        arguments = ["dataset", "extract", "--videos", str(self.videos), "--out", str(out), "--n-jobs", "1"]
        return lambda: main(arguments, prog_name="sam2fast")

    def goes_on(self, out: Path) -> Ended:
        """The same command again gives the bytes of an undisturbed run, and leaves no other files."""
        ended = forked(self.command(out))
        assert ended.code == 0 and "Traceback" not in ended.stderr, ended
        assert files_of(out) == self.whole
        return ended

    def left_whole(self, out: Path) -> None:
        """Checks that the folder of a video has all frames, complete."""
        for name in VIDEOS:
            if (out / name).exists():
                frames = sorted((out / name).iterdir())
                assert [frame.name for frame in frames] == ["00000.jpg", "00004.jpg"]
                for frame in frames:
                    with Image.open(frame) as image:
                        image.load()

    def disturb(self, rng: random.Random, folder: Path) -> str:
        """See tests/faults/campaign.py."""
        out, told = folder / "out", []
        for _ in range(rng.randint(1, 3)):
            disturbance = chosen(rng, out, self.changes, seconds=0.2)
            ended = forked(self.command(out), disturbance.fault, disturbance.sent)
            self.check(disturbance, ended)
            self.left_whole(out)
            told.append(f"{disturbance.told} -> {ended.code}")
        self.goes_on(out)
        return "; ".join(told)

    def check(self, disturbance: Disturbance, ended: Ended) -> None:
        """As it does itself; but each video that does not fit is named, with the reason."""
        if disturbance.is_full_disk and ended.code:
            assert ended.code == 1 and "Traceback" not in ended.stderr, ended
            assert any(words in ended.stderr for words in ("No space left", "File too large", "disk is full")), ended
        elif not disturbance.is_full_disk:
            lines = [line for line in ended.stderr.splitlines() if not line.startswith("videos: ")]
            disturbance.check(ended._replace(stderr="\n".join(lines)))
