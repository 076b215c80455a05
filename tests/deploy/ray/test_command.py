"""``--ray`` and ``--resume`` give the results of a run without them."""

import json

import pytest
from cluster_commands import MASKS, NAMES, NANO, masks_of
from PIL import Image

from sam2fast.cli import mask_finder
from sam2fast.cli.runner_options import RunnerChoice
from sam2fast.cli.user_errors import UserError
from sam2fast.deploy.parallel import JobResult
from sam2fast.deploy.parallel.runners import in_this_process


def test_an_image_that_is_lost_with_its_workers(run, photos, tmp_path, monkeypatch):
    """It is reported like any failure, and the others are done."""

    def runner(function, jobs, build, *, ordered=False):
        for result in in_this_process("cpu")(function, jobs, build, ordered=ordered):
            is_lost = result.job.stem == "b"
            yield JobResult(result.index, result.job, "there", error="the job was lost: so") if is_lost else result

    monkeypatch.setattr("sam2fast.cli.masks.choose_runner", lambda *args: RunnerChoice(runner, "there", False))
    result = run("masks", *(f"photos/{name}.png" for name in "abc"), *MASKS, "--format", "json")
    assert result.exit_code == 1 and "photos/b.png: the job was lost: so" in result.stderr
    assert "1 of 3 images had problems" in result.stderr
    names = [image["file_name"] for image in masks_of(tmp_path / "out")["images"]]
    assert names == ["a.png", "c.png"]


def test_temporary_files_of_an_earlier_run_stay(run, photos, tmp_path, monkeypatch):
    """With --ray only; on one machine no process of an earlier run exists."""

    def stop(*args):
        raise UserError("stopped")

    monkeypatch.setattr("sam2fast.cli.masks.choose_runner", stop)
    monkeypatch.setattr("sam2fast.cli.segment.choose_runner", stop)
    out = tmp_path / "out"
    out.mkdir()
    for stays in (True, False):
        for verb, name in (("masks", ".a_masks.png.7.part"), ("segment", ".a_mask.png.7.part")):
            (out / name).write_text("half")
            point = ["--point", "48,30"] if verb == "segment" else []
            where = ["--ray", "local"] if stays else []
            assert run(verb, "photos/a.png", *NANO, *point, *where).stderr == "sam2fast: stopped\n"
            assert (out / name).exists() == stays


def test_segment_resumes(run, photos, tmp_path):
    """With the same prompts and model; results of other images and prompts are computed again."""
    with Image.open(photos / "a.png") as image:
        image.resize((64, 64)).save(tmp_path / "rough.png")  # the size of the model's mask inputs fits all images
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


class Counted(mask_finder.CheckedGenerator):
    calls = 0

    def generate(self, image):
        Counted.calls += 1
        return super().generate(image)


def test_masks_resumes(run, photos, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(mask_finder, "CheckedGenerator", Counted)
    again = run("masks", "photos", *MASKS, "--out", "one", "--resume")
    assert Counted.calls == 0 and again.exit_code == 1 and again.stdout.split("time:")[0] == expected
    whole = masks_of(tmp_path / "one")
    (tmp_path / "photos/broken.png").unlink()
    nothing = run("masks", "photos", *MASKS, "--out", "one", "--resume")
    assert nothing.exit_code == 0 and "6 of 6 images were done before" in nothing.stderr
    assert masks_of(tmp_path / "one") == whole
    # Results that are not requested stay.
    (tmp_path / "one/c_masks.png").unlink()
    assert run("masks", "photos/c.png", *MASKS, "--out", "one", "--resume").exit_code == 0
    assert Counted.calls == 1
    sizes = {image["file_name"]: image["width"] for image in masks_of(tmp_path / "one")["images"]}
    assert sizes == {f"{name}.png": 96 + 8 * i for i, name in enumerate(NAMES)}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("--workers 2", "need --ray"),
        ("--ray local --device cuda:1", "--device"),
        ("--ray local --device cpu,cpu", "--device"),
        ("--ray ray://head:10001", "Ray's client"),
        ("--resume --format layers", "json"),
    ],
)
def test_contradictory_options(run, photos, tmp_path, arguments, word):
    result = run("masks", "photos", "--model", "nano", *arguments.split())
    assert result.exit_code == (1 if "://" in arguments else 2) and word in result.stderr
    assert not list(tmp_path.glob("out/*"))


def test_missing_packages(run, photos, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run("masks", "photos", "--model", "nano", "--ray", "local")
    assert result.exit_code == 1 and result.stderr == (
        'sam2fast: --ray needs ray, which is not installed: pip install "sam2fast[cluster]"\n'
    )
