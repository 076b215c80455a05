"""``--ray``, ``--slurm`` and ``--resume``: the results of the run without."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import click.testing
import numpy as np
import pytest
from PIL import Image
from small_ray import importable, slots_of
from vos_sets import files_of as vos_files
from vos_sets import write_masks, write_video

from sam2fast.cli import main, mask_run
from sam2fast.cli.runner_options import Place
from sam2fast.parallel import JobResult
from sam2fast.parallel.runners import in_this_process

NANO = ["--model", "nano", "--device", "cpu"]
MASKS = [*NANO, "--points-per-side", "3", "--pred-iou-thresh", "0.2", "--stability-thresh", "0.3"]
NAMES = "abcdef"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def invoke(*arguments: object) -> click.testing.Result:
        result = click.testing.CliRunner().invoke(main, [str(a) for a in arguments], prog_name="sam2fast")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def photos(tmp_path) -> Path:
    """Six small pictures, and one file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate(NAMES):
        pixels = np.random.default_rng(i).integers(0, 60, (64, 96 + 8 * i, 3), dtype=np.uint8)
        pixels[:, 48:] += np.array([150, 60, 0], dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "broken.png").write_text("no picture")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.png"))}


def masks_of(folder: Path) -> dict:
    found = json.loads((folder / "masks.json").read_text())
    found["info"]["model"].pop("device")
    return found


@pytest.fixture
def expected(run, photos) -> str:
    result = run("masks", "photos", *MASKS, "--out", "one")
    assert result.exit_code == 1 and "1 of 7 images failed" in result.stderr
    return result.stdout.split("time:")[0]


def test_masks_when_a_worker_is_killed(ray_folder, run, photos, expected, tmp_path):
    """In the middle, by the signal that cannot be heeded; of a run that goes on with one that was interrupted."""
    assert run("masks", "photos/a.png", "photos/b.png", *MASKS, "--out", "ray").exit_code == 0
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "ray").glob("*.png")}
    (tmp_path / "ray/b_masks.png").unlink()  # so that this one is not done
    killed = []

    def kill() -> None:
        deadline = time.monotonic() + 100
        while len(list((tmp_path / "ray").glob("*_overlay.png"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        killed.extend(slots_of(ray_folder)[:1])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    result = run("masks", "photos", *MASKS, "--ray", "local", "--workers", "2", "--out", "ray", "--resume")
    thread.join()
    assert killed and result.exit_code == 1 and "1 of 7 images failed" in result.stderr
    assert "1 of 7 images were done before" in result.stderr and result.stdout.split("time:")[0] == expected
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "one") != {}
    assert masks_of(tmp_path / "ray") == masks_of(tmp_path / "one")
    assert len(masks_of(tmp_path / "ray")["annotations"]) > 6
    changed = {file.name for file, changed in before.items() if file.stat().st_mtime_ns != changed}
    assert changed == {"b_masks.png", "b_overlay.png"}


@pytest.mark.slow
def test_segment(ray_folder, run, photos, tmp_path):
    """It stops at the image that fails, after the same results."""
    ask, options = ["a", "broken", "c"], [*NANO, "--point", "48,30"]
    images = [f"photos/{name}.png" for name in ask]
    one = run("segment", *images, *options, "--out", "one")
    there = run("segment", *images, *options, "--ray", "local", "--workers", "1", "--out", "ray")
    assert there.exit_code == one.exit_code == 1 and there.stdout == one.stdout == ""
    assert there.stderr == one.stderr and "broken.png" in one.stderr
    for name in ("a_mask.png", "a_overlay.png", "a.json"):
        a, b = ((tmp_path / folder / name).read_bytes() for folder in ("ray", "one"))
        assert a.replace(b'"ray/', b'"one/') == b


def test_a_picture_that_is_lost_with_its_workers(run, photos, tmp_path, monkeypatch):
    """It is reported as any other that fails, and the others are done."""

    def runner(function, jobs, build, *, ordered=False):
        for result in in_this_process("cpu")(function, jobs, build, ordered=ordered):
            is_lost = Path(result.job).stem == "b"
            yield JobResult(result.index, result.job, "there", error="the job was lost: so") if is_lost else result

    monkeypatch.setattr("sam2fast.cli.masks.chosen_place", lambda *args: Place(runner, "there", False))
    result = run("masks", *(f"photos/{name}.png" for name in "abc"), *MASKS, "--format", "json")
    assert result.exit_code == 1 and "photos/b.png: the job was lost: so" in result.stderr
    assert "1 of 3 images failed" in result.stderr
    names = [image["file_name"] for image in masks_of(tmp_path / "out")["images"]]
    assert names == ["photos/a.png", "photos/c.png"]


def test_videos(ray_folder, run, tmp_path):
    """What one worker alone does with them, without Ray."""
    for name, frames in {"a": 3, "b": 2, "c": 1}.items():
        write_video(tmp_path / "videos" / name, frames, seed=frames)
        write_masks(tmp_path / "masks" / name, {0: {1: (30, 30, 18), 3: (80, 50, 20)}})
    (tmp_path / "masks/b/00000.png").write_text("no picture")
    ask = ["vos", "--videos", "videos", "--masks", "masks", *NANO]
    one = run(*ask, "--out", "one")
    there = run(*ask, "--ray", "local", "--workers", "1", "--out", "ray")
    assert there.exit_code == one.exit_code == 1 and "1 of 3 videos had problems" in there.stderr
    assert vos_files(tmp_path / "ray") == vos_files(tmp_path / "one") and len(vos_files(tmp_path / "ray")) >= 4
    contradiction = run(*ask, "--ray", "local", "--at-once", "2", "--out", "ray")
    assert contradiction.exit_code == 2 and "--at-once is for devices of this machine" in contradiction.stderr


def test_masks_through_submitit(run, photos, expected, tmp_path):
    with importable():
        result = run("masks", "photos", *MASKS, "--slurm", "local", "--workers", "1", "--out", "slurm")
    assert result.exit_code == 1 and result.stdout.split("time:")[0] == expected
    assert files_of(tmp_path / "slurm") == files_of(tmp_path / "one")
    assert masks_of(tmp_path / "slurm") == masks_of(tmp_path / "one")


# ---- going on, without a cluster ----


def test_segment_goes_on(run, photos, tmp_path):
    """The same prompts and model; the others are done again."""
    (tmp_path / "rough.png").write_bytes((photos / "a.png").read_bytes())
    for prompt in (["--point", "48,30"], ["--mask", "rough.png"]):
        ask = ["segment", "photos/a.png", "photos/b.png", *NANO, *prompt, "--json", "--resume"]
        whole = run(*ask)
        assert "0 of 2 images were done before" in whole.stderr
        before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
        (tmp_path / "out/b_overlay.png").unlink()
        again = run(*ask)
        assert "1 of 2 images were done before" in again.stderr
        assert json.loads(again.stdout)["results"] == json.loads(whole.stdout)["results"]
        changed = {file.name for file, time in before.items() if file.stat().st_mtime_ns != time}
        assert changed == {"b.json", "b_mask.png", "b_overlay.png"}
    nothing = run(*ask)
    assert "2 of 2" in nothing.stderr and json.loads(nothing.stdout)["seconds"] == {}
    (tmp_path / "out/a.json").write_text("[]")
    assert "1 of 2" in run(*ask).stderr
    assert "0 of 2" in run(*ask[:3], *NANO, "--mask", "rough.png", "--dtype", "bfloat16", "--resume").stderr


class Counted(mask_run._Generator):
    calls = 0

    def generate(self, image):
        Counted.calls += 1
        return super().generate(image)


def test_masks_go_on_here(run, photos, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(mask_run, "_Generator", Counted)
    again = run("masks", "photos", *MASKS, "--out", "one", "--resume")
    assert Counted.calls == 0 and again.exit_code == 1 and again.stdout.split("time:")[0] == expected
    whole = masks_of(tmp_path / "one")
    (tmp_path / "photos/broken.png").unlink()
    nothing = run("masks", "photos", *MASKS, "--out", "one", "--resume")
    assert nothing.exit_code == 0 and "6 of 6 images were done before" in nothing.stderr
    assert masks_of(tmp_path / "one") == whole
    # Those that are not asked for stay.
    (tmp_path / "one/c_masks.png").unlink()
    assert run("masks", "photos/c.png", *MASKS, "--out", "one", "--resume").exit_code == 0
    assert Counted.calls == 1
    sizes = {image["file_name"]: image["width"] for image in masks_of(tmp_path / "one")["images"]}
    assert sizes == {f"photos/{name}.png": 96 + 8 * i for i, name in enumerate(NAMES)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nms-thresh", "0.6"], "box_nms_thresh 0.7, now 0.6"),
        (["--dtype", "bfloat16"], "dtype float32, now bfloat16"),
    ],
)
def test_masks_by_other_options_are_not_gone_on_with(run, photos, tmp_path, arguments, message):
    ask = ["masks", "photos/a.png", *MASKS, "--format", "json", "--resume"]
    assert run(*ask).exit_code == 0
    before = (tmp_path / "out/masks.json").read_bytes()
    result = run(*ask, *arguments)
    assert result.exit_code == 1 and message in result.stderr and result.stderr.count("\n") == 1
    assert (tmp_path / "out/masks.json").read_bytes() == before


def test_results_that_cannot_be_read(run, photos, tmp_path):
    (tmp_path / "out").mkdir()
    for text in ("{", "[]", '{"info": {"model": {}}}'):
        (tmp_path / "out/masks.json").write_text(text)
        result = run("masks", "photos/a.png", *MASKS, "--resume")
        assert result.exit_code == 1 and "masks.json is no file of results" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ray", "local", "--slurm", "gpu"], "--ray or --slurm, not both"),
        (["--workers", "2"], "--workers and --worker-cpus need --ray or --slurm"),
        (["--ray", "local", "--slurm-qos", "high"], "need --slurm"),
        (["--ray", "local", "--device", "cuda:1"], "--device is what each worker computes on"),
        (["--slurm", "gpu", "--device", "cpu,cpu"], "--device is what each worker computes on"),
        (["--ray", "ray://head:10001"], "address of Ray's client"),
        (["--resume", "--format", "layers"], "add json to --format"),
    ],
)
def test_options_that_contradict_each_other(run, photos, tmp_path, arguments, message):
    result = run("masks", "photos", "--model", "nano", *arguments)
    assert result.exit_code == (1 if "://" in arguments[1] else 2) and message in result.stderr
    assert not list(tmp_path.glob("out/*"))


def test_what_is_imported_before_it_is_asked_for():
    """Neither Ray nor submitit nor torch."""
    code = "import sys, sam2fast.cluster, sam2fast.cli.vos\nassert not {'ray', 'submitit', 'torch'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_not_installed(run, photos, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run("masks", "photos", "--model", "nano", "--ray", "local")
    assert result.exit_code == 1 and result.stderr == (
        'sam2fast: --ray needs ray, which is not installed: pip install "sam2fast[cluster]"\n'
    )
