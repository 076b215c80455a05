"""Disturbs a command that writes a folder of results, checks the folder, and repeats the command until it is done."""

import functools
import json
import os
import random
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import moving_shapes
import numpy as np
import pytest
import track_runs
from disturbed import STOPPING, Disturbance, after_full_disk, after_signal, can_mount, chosen, left_whole, small_disk
from file_contents import files_of
from killed import Ended, Fault, Sent, forked, session_of, started, warm_up
from PIL import Image
from small_nano import write_small_nano
from vos_sets import write_masks, write_video
from waiting import wait_until

from sam2fast import nano
from sam2fast.cli import main, mask_finder, segmenter, track_run, vos


class CommandKills(ABC):
    """See tests/faults/campaign.py. ``folder`` has inputs, a model's configuration and undisturbed runs."""

    variants: Mapping[str, Sequence[Any]]  # options of the command by name of the variant
    small = (4, 200)  # smallest and largest KiB of its small disks
    seconds = 0.8  # duration
    notes = "sam2fast: note: "  # beginning of lines that it may print besides a final one

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.patch = pytest.MonkeyPatch()
        self.wholes: dict[str, dict[str, bytes]] = {}
        self.changes: dict[str, int] = {}

    def close(self) -> None:
        """Leaves this process as it was."""
        self.patch.undo()

    def use_model(self, owner: Any, builder: str, **settings: int) -> None:
        """The command's model: small, and loaded once by the function of this name."""
        config = write_small_nano(self.folder / "quick.yaml", **settings)
        self.model = ["--model", config, "--checkpoint", nano.WEIGHTS, "--device", "cpu"]
        self.patch.setattr(owner, builder, functools.cache(getattr(owner, builder)))
        self.warm_up(next(iter(self.variants)))

    def warm_up(self, variant: str) -> None:
        warm_up(self.command(self.folder / f"warm-{variant}", variant))

    @abstractmethod
    def arguments(self, out: Path, variant: str) -> list[str]:
        """The command line."""

    def command(self, out: Path, variant: str) -> Callable[[], None]:
        """The command as a function for a copy of this process."""
        return lambda: main(self.arguments(out, variant), prog_name="sam2fast")

    def busiest(self, out: Path, variant: str) -> Callable[[], None]:
        """The variant of the command that writes most often."""
        return self.command(out, variant)

    def before(self, out: Path, variant: str) -> list[str]:
        """Creates the initial content of the folder, and describes it."""
        return []

    def compared(self, name: str, content: bytes, out: Path) -> Any:
        """The part of a file's content that must be equal: the path of the results may differ."""
        if name.endswith(".files.json"):  # digests of files that have this path
            return list(json.loads(content))
        return content.replace(os.fsencode(out), b"")

    def left_whole(self, out: Path) -> None:
        """Checks that all files with final names are complete, whenever the command was ended."""
        left_whole(out)

    def after_full_disk(self, ended: Ended) -> str:
        """Checks the end of a command that may have met a full disk, and describes it."""
        return after_full_disk(self.without_notes(ended))

    def without_notes(self, ended: Ended) -> Ended:
        lines = [line for line in ended.stderr.splitlines() if not line.startswith(self.notes)]
        return ended._replace(stderr="\n".join(lines))

    def check(self, disturbance: Disturbance, ended: Ended) -> None:
        if disturbance.is_full_disk:
            self.after_full_disk(ended)
        else:
            disturbance.check(self.without_notes(ended))

    def whole(self, variant: str) -> dict[str, bytes]:
        """The files of an undisturbed run; ``changes`` then has its number of changes."""
        if variant not in self.wholes:
            out = self.folder / f"out-{variant}"
            ended = forked(self.busiest(out, variant), Fault(folder=out))
            assert (ended.code, self.without_notes(ended).stderr) == (0, ""), ended
            self.wholes[variant], self.changes[variant] = self._files(out), ended.changes
        return self.wholes[variant]

    def goes_on(self, out: Path, variant: str) -> Ended:
        """The same command again completes the results of an undisturbed run, and leaves no other files."""
        ended = forked(self.command(out, variant))
        assert ended.code == 0 and self.without_notes(ended).stderr == "", ended
        found, whole = self._files(out), self.whole(variant)
        assert sorted(found) == sorted(whole)
        assert found == whole, [name for name in whole if found[name] != whole[name]]
        return ended

    def _files(self, out: Path) -> dict[str, Any]:
        return {name: self.compared(name, content, out) for name, content in files_of(out).items()}

    def disturb(self, rng: random.Random, folder: Path) -> str:
        """See tests/faults/campaign.py."""
        variant = rng.choice(list(self.variants))
        self.whole(variant)
        if rng.random() < 0.1 and can_mount():
            with small_disk(folder / "disk", rng.randint(*self.small)) as disk:
                problem = self.after_full_disk(forked(self.busiest(disk / "out", variant)))
                self.left_whole(disk / "out")
                subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
                self.goes_on(disk / "out", variant)
            return f"{variant}: small disk: {problem}"
        out = folder / "out"
        told = self.before(out, variant)
        run, times = (self.process, 1) if rng.random() < 0.12 else (self.copy, rng.randint(1, 3))
        for _ in range(times):
            told.append(run(rng, out, variant))
            self.left_whole(out)
        self.goes_on(out, variant)
        return f"{variant}: {'; '.join(told)}"

    def copy(self, rng: random.Random, out: Path, variant: str) -> str:
        """Disturbs the command in a copy of this process, and describes how."""
        disturbance = chosen(rng, out, self.changes[variant], self.seconds)
        ended = forked(self.command(out, variant), disturbance.fault, disturbance.sent)
        self.check(disturbance, ended)
        return f"{disturbance.told} -> {ended.code}"

    def process(self, rng: random.Random, out: Path, variant: str, *workers: str) -> str:
        """Sends signals to ``sam2fast`` and its ``workers`` from the first import on; returns what happened."""
        number = rng.choice([*STOPPING, signal.SIGKILL])
        after = rng.uniform(0.0, 20.0 if workers else 9.0)
        sent = [Sent(number, after, to_group=number == signal.SIGINT and rng.random() < 0.6)]
        if rng.random() < 0.3:
            sent.append(Sent(rng.choice([signal.SIGINT, signal.SIGTERM]), rng.uniform(0.0, 0.5)))
        ended = started(["-m", "sam2fast", *self.arguments(out, variant), *workers], sent)
        told = f"process{' with workers' * bool(workers)}, {sent} -> {ended.code}"
        assert wait_until(lambda: not session_of(ended.pid)), f"{told}: processes are left"
        numbers = [each.number for each in sent]
        after_signal(self.without_notes(ended), numbers, from_the_first_import=after < 3)
        return told


class TrackKills(CommandKills):
    """``sam2fast track`` of ``frames`` frames, of which ``first`` and ``later`` have prompts."""

    variants = {"whole": [], "reverse": ["--reverse"], "stream": ["--stream"]}
    small = (8, 400)

    def __init__(self, folder: Path, frames: int = 20, first: int = 8, later: int = 14) -> None:
        super().__init__(folder)
        self.video = moving_shapes.write_video(folder / "video.mp4", moving_shapes.make_frames(frames))
        self.prompts = track_runs.prompts_at(first, later)
        self.use_model(track_run, "build_sam2_video_predictor", max_obj_ptrs_in_encoder=4)

    def arguments(self, out: Path, variant: str, formats: str = "json,png,overlay,coco") -> list[str]:
        options = [*self.prompts, *self.variants[variant], "--format", formats, "--out", out]
        return ["track", *map(str, [self.video, *options, *self.model])]

    def command(self, out: Path, variant: str, between: float = 30.0, **formats: str) -> Callable[[], None]:
        """With so many seconds between checkpoints."""

        def work() -> None:
            track_run.SECONDS_BETWEEN_CHECKPOINTS = between
            main(self.arguments(out, variant, **formats), prog_name="sam2fast")

        return work

    def busiest(self, out: Path, variant: str) -> Callable[[], None]:
        return self.command(out, variant, 0.0)

    def compared(self, name: str, content: bytes, out: Path) -> Any:
        return json.loads(content) if name == "track.json" else content

    def copy(self, rng: random.Random, out: Path, variant: str) -> str:
        disturbance, between = chosen(rng, out, self.changes[variant]), rng.choice([0.0, 0.02, 30.0])
        if between:  # changes were counted where the state is saved after each frame
            disturbance = disturbance._replace(is_certain=False)
        ended = forked(self.command(out, variant, between), disturbance.fault, disturbance.sent)
        self.check(disturbance, ended)
        return f"{disturbance.told} -> {ended.code}"


class VosKills(CommandKills):
    """``sam2fast vos`` of videos of some ``lengths``, in frames."""

    variants = {"whole": [], "late": ["--late-objects", "--all-masks"], "overwrite": ["--overwrite"]}

    def __init__(self, folder: Path, lengths: Mapping[str, int] | None = None) -> None:
        super().__init__(folder)
        discs = {0: {1: (30, 30, 18), 3: (80, 50, 20)}, 2: {1: (34, 32, 16), 3: (76, 50, 20)}}
        for name, frames in (lengths or {"a": 5, "b": 3, "c": 2}).items():
            write_video(folder / "videos" / name, frames, seed=frames)
            write_masks(folder / "masks" / name, {t: at for t, at in discs.items() if t < frames})
        self.use_model(vos, "build_for_vos")

    def arguments(self, out: Path, variant: str, *options: Any) -> list[str]:
        folders = ["--videos", self.folder / "videos", "--masks", self.folder / "masks", "--out", out]
        return ["vos", *map(str, [*folders, *self.model, *self.variants[variant], *options])]

    def before(self, out: Path, variant: str) -> list[str]:
        """Results that the variant ``overwrite`` may replace."""
        if variant != "overwrite":
            return []
        ended = forked(lambda: main(self.arguments(out, "whole", "--score-thresh", "0.5"), prog_name="sam2fast"))
        assert ended.code == 0, ended
        return ["after a run with other options"]

    def after_full_disk(self, ended: Ended) -> str:
        """Each video that was not done is reported immediately."""
        lines = ended.stderr.splitlines()
        if ended.code == 0 or len(lines) == 1:
            return after_full_disk(ended)
        assert ended.code == 1 and "Traceback" not in ended.stderr, ended
        assert lines[-1].endswith("had problems; all else was done"), ended
        for line in lines[:-1]:
            is_head = line.startswith("sam2fast: failed or incomplete: ")
            assert is_head or ("/" in line and ("No space left on device" in line or "File too large" in line)), ended
        return lines[0]

    def process(self, rng: random.Random, out: Path, variant: str, *workers: str) -> str:
        return super().process(rng, out, variant, *(["--at-once", "2"] if rng.random() < 0.7 else []))


class ImageKills(CommandKills):
    """Runs ``sam2fast segment``, ``masks`` and ``find``, which save results after each image, named by a letter."""

    _masks = ["--points-per-side", "2", "--pred-iou-thresh", "0", "--stability-score-thresh", "0"]
    variants = {
        "segment": ["--point", "20,20"],
        "segment resumed": ["--point", "20,20", "--resume"],
        "masks": _masks,
        "masks resumed": [*_masks, "--resume"],
        "find": [],
        "find resumed": ["--resume"],
    }
    seconds = 0.4

    def __init__(self, folder: Path, images: str = "abc") -> None:
        super().__init__(folder)
        for name in images:
            pixels = np.random.default_rng(ord(name)).integers(0, 60, (48, 64, 3), dtype=np.uint8)
            pixels[10:30, 10:40] += 150
            Image.fromarray(pixels).save(folder / f"{name}.png")
        inside = np.zeros((48, 64), bool)
        inside[10:30, 10:40] = True
        Image.fromarray(inside).save(folder / "mask.png")
        self._labelled = ["--reference", folder / f"{images[0]}.png", "--mask", folder / "mask.png"]
        self.patch.setattr(mask_finder, "SECONDS_BETWEEN_SAVES", 0.0)
        self.use_model(segmenter, "build_sam2")
        self.warm_up("masks")

    def arguments(self, out: Path, variant: str) -> list[str]:
        name, images = variant.split()[0], sorted(self.folder.glob("?.png"))
        labelled = self._labelled if name == "find" else []
        return [name, *map(str, [*images, *labelled, *self.variants[variant], *self.model, "--out", out])]


class ExtractKills(CommandKills):
    """``sam2fast dataset extract``."""

    variants = {"extract": []}
    seconds = 0.2
    notes = "videos: "

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "videos").mkdir(parents=True)
        for name in "ab":
            moving_shapes.write_video(folder / "videos" / f"{name}.mp4", moving_shapes.make_frames(6))

    def arguments(self, out: Path, variant: str) -> list[str]:
        videos = str(self.folder / "videos")
        return ["dataset", "extract", "--videos", videos, "--out", str(out), "--n-jobs", "1"]

    def left_whole(self, out: Path) -> None:
        """Checks that the folder of a video has all frames, complete."""
        for video in filter(Path.exists, (out / "a", out / "b")):
            assert sorted(os.listdir(video)) == ["00000.jpg", "00004.jpg"]
            for frame in video.iterdir():
                with Image.open(frame) as image:
                    image.load()

    def after_full_disk(self, ended: Ended) -> str:
        """Each video that does not fit is named, with the reason."""
        words = ("No space left on device: '", "File too large: '", "is full: ")
        assert ended.code in (0, 1) and "Traceback" not in ended.stderr, ended
        assert any(word in ended.stderr for word in words) == bool(ended.code), ended
        return ended.stderr
