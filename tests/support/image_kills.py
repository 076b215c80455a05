"""Disturbs ``sam2fast segment`` and ``sam2fast masks``, checks the files, and runs the command again."""

import functools
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_kills import undisturbed
from disturbed import chosen, left_whole
from file_contents import files_of
from killed import Ended, forked, warm_up
from PIL import Image
from small_nano import write_small_nano

from sam2fast import nano
from sam2fast.build_sam import build_sam2
from sam2fast.cli import main, mask_run, segmenter

VARIANTS: dict[str, list[Any]] = {
    "segment": ["--point", "20,20"],
    "masks": ["--points-per-side", "2", "--pred-iou-thresh", "0", "--stability-thresh", "0"],
}
_load_once = functools.cache(build_sam2)


class ImageKills:
    """See tests/faults/campaign.py.

    Args:
        folder: for images, a model's configuration and undisturbed runs.
        images: their names, a letter each.
    """

    def __init__(self, folder: Path, images: str = "abc") -> None:
        self.folder = folder
        for name in images:
            pixels = np.random.default_rng(ord(name)).integers(0, 60, (48, 64, 3), dtype=np.uint8)
            pixels[10:30, 10:40] += 150
            Image.fromarray(pixels).save(folder / f"{name}.png")
        write_small_nano(folder / "quick.yaml")
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(segmenter, "build_sam2", _load_once)
        self._patch.setattr(mask_run, "SECONDS_BETWEEN_SAVES", 0.0)
        self.wholes: dict[str, dict[str, bytes]] = {}
        self.changes: dict[str, int] = {}
        for verb in VARIANTS:
            warm_up(self.command(folder / "warm", verb))

    def close(self) -> None:
        """Leaves this process as it was."""
        self._patch.undo()

    def command(self, out: Path, verb: str, *options: Any) -> Callable[[], None]:
        """The command as a copy of this process is to call it; results are saved after each image."""
        model = ["--model", self.folder / "quick.yaml", "--checkpoint", nano.WEIGHTS, "--device", "cpu"]
        images = sorted(self.folder.glob("?.png"))
        arguments = [verb, *images, *VARIANTS[verb], *model, "--out", out, *options]
        return lambda: main(list(map(str, arguments)), prog_name="sam2fast")

    def whole(self, verb: str) -> dict[str, bytes]:
        """The files of an undisturbed run."""
        if verb not in self.wholes:
            # Where results lie is among what they tell.
            out = self.folder / "out"
            self.wholes[verb], self.changes[verb] = undisturbed(self.command(out, verb), out)
            for name in self.wholes[verb]:
                (out / name).unlink()
        return self.wholes[verb]

    def goes_on(self, verb: str, *options: Any) -> Ended:
        """The same command again gives what an undisturbed run gives, byte for byte, and leaves nothing else."""
        out = self.folder / "out"
        ended = forked(self.command(out, verb, *options))
        assert ended.code == 0 and "Traceback" not in ended.stderr, ended
        found, whole = files_of(out), self.whole(verb)
        assert sorted(found) == sorted(whole)
        assert found == whole, [name for name in whole if found[name] != whole[name]]
        for name in found:
            (out / name).unlink()
        return ended

    def disturb(self, rng: random.Random, folder: Path) -> str:
        """See tests/faults/campaign.py."""
        verb, told, out = rng.choice(list(VARIANTS)), [], self.folder / "out"
        self.whole(verb)
        options = ["--resume"] if rng.random() < 0.5 else []
        try:
            for _ in range(rng.randint(1, 3)):
                disturbance = chosen(rng, out, self.changes[verb], seconds=0.4)
                ended = forked(self.command(out, verb), disturbance.fault, disturbance.sent)
                told.append(f"{disturbance.told} -> {ended.code}")
                disturbance.check(ended)
                left_whole(out)
            self.goes_on(verb, *options)
        except BaseException:
            if out.exists():
                out.rename(folder / "out")
            raise
        shutil.rmtree(out)
        return f"{verb} {' '.join(options)}: {'; '.join(told)}"
