"""A result on disk counts as done only if it is whole and was made from the same: every command, every difference."""

import json
import os
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import moving_shapes
import numpy as np
import pytest
import torch
from annotated_videos import write_sav
from commands import ends, invoke
from file_contents import files_of
from PIL import Image
from safetensors.torch import load_file, save_file
from small_nano import write_small_nano
from vos_sets import write_masks, write_video

from sam2fast import __version__, nano
from sam2fast.build_sam import build_sam2, build_sam2_video_predictor
from sam2fast.demo.in_browser import page
from sam2fast.deploy.exported import artifact
from sam2fast.deploy.onnx import export as onnx_export
from sam2fast.downloads import digests
from sam2fast.evaluation.vos import build_for_vos
from sam2fast.io.made_from import described, differences, is_whole

MODEL = "--model quick.yaml --checkpoint weights.safetensors --device cpu"
COMMANDS = {
    "segment": f"segment photos --prompts prompts.json {MODEL} --resume --out out",
    "masks": "masks photos --points-per-side 2 --pred-iou-thresh 0 --stability-score-thresh 0 --resume --out out "
    f"--format json,layers,overlay,npz {MODEL}",
    "track": f"track frames --prompts frames.json --format json,png,overlay,labelme {MODEL} --out out",
    "vos": f"vos --videos videos --masks masks {MODEL} --out out",
    "extract": "dataset extract --videos clips --n-jobs 1 --out out",
    "convert": "dataset convert sav out --to sav-png --jobs 1",
    "convert lines": "dataset convert sav out --to coco-jsonl --jobs 1",
    "convert ytvos": "dataset convert sav out --to ytvos --overlaps smaller-id --jobs 1",
    "checkpoint": "convert weights.safetensors out/weights.safetensors",
    "synthesize": "synthesize --clips 2 --frames 2 --size 64 --media media --out out",
}
EXPORTS = {
    "torch": f"export {MODEL} --out out",
    "onnx": f"export {MODEL} --format onnx --out out",
    "web": f"export {MODEL} --format web --out out",
}
EVERY = {**COMMANDS, **EXPORTS}
EVALUATE = f"evaluate-images photos --masks truth --clicks 1 {MODEL} --out out/run"
NAMED_FILES = {"torch": "decoder.pt2", "onnx": "tracker.py", "web": "index.html"}
BUILDERS = {
    "segmenter.build_sam2": cache(build_sam2),
    "track_run.build_sam2_video_predictor": cache(build_sam2_video_predictor),
    "vos.build_for_vos": cache(build_for_vos),
}
# Of a whole run, and of a video that `vos` tracked.
NOTES = (".a.json", ".b.json")
RECORDS = ("masks.json", "masks.jsonl", "track.json", ".convert.json", ".extract.json", "synthesize.json", *NOTES)
WITH_RECORD = ("masks.json", "weights.safetensors")  # results that are made again without the file
Change = Callable[[str], str]  # of the command line; may change the inputs


@pytest.fixture(scope="module")
def inputs_of_commands(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made_from") / "inputs"
    folder.mkdir()
    write_small_nano(folder / "quick.yaml", 64)
    shutil.copy(nano.WEIGHTS, folder / "weights.safetensors")
    for name in ("photos/1.png", "photos/2.png", "rough.png", "media/backgrounds/a.png"):
        write_image(folder / name, len(name))
    for name in ("truth/1.png", "truth/2.png"):
        write_image(folder / name, 2)
        Image.open(folder / name).convert("L").point(lambda value: value > 100).save(folder / name)
    moving_shapes.jpeg_folder(folder / "frames", moving_shapes.make_frames(3))
    prompt = {"object": "cup", "points": [[20, 30]], "labels": [1], "mask": "rough.png"}
    (folder / "prompts.json").write_text(json.dumps({"prompts": [prompt]}))
    prompt = {"frame": 0, "object": 1, "points": [[20, 30]], "labels": [1]}
    (folder / "frames.json").write_text(json.dumps({"prompts": [prompt]}))
    for name in "ab":
        write_video(folder / "videos" / name, 2)
        write_masks(folder / "masks" / name, {0: {1: (30, 30, 18)}})
    (folder / "clips").mkdir()
    moving_shapes.write_video(folder / "clips/a.mp4", moving_shapes.make_frames(3))
    write_sav(folder / "sav", "clip", frames=2)
    return folder


@pytest.fixture
def root(inputs_of_commands, monkeypatch) -> Path:
    """The working directory, with the inputs of all commands; always at one path, which records have."""
    root = inputs_of_commands.with_name("root")
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(inputs_of_commands, root)
    monkeypatch.chdir(root)
    for name, build in BUILDERS.items():
        monkeypatch.setattr(f"sam2fast.cli.{name}", build)
    # What is exported does not matter here: the graphs and videos are empty.
    monkeypatch.setattr("sam2fast.build_sam.build_sam2", BUILDERS["segmenter.build_sam2"])
    monkeypatch.setattr("sam2fast.build_sam.build_sam2_video_predictor", cached_predictor)
    for name in ("export_encoder", "export_decoder"):
        monkeypatch.setattr(artifact, name, lambda *_: None)
    monkeypatch.setattr(artifact, "save_program", lambda program, path: path.write_bytes(b"program"))
    monkeypatch.setattr(onnx_export, "graphs_of", lambda model: [])
    monkeypatch.setattr(onnx_export, "_version", lambda package: "1")
    monkeypatch.setattr(page, "write_runtime", lambda folder: folder.mkdir(parents=True))
    monkeypatch.setattr(page, "fill_gallery", lambda folder, workspace: None)
    return root


@pytest.fixture
def made(root) -> Callable[[str], str]:
    """Returns the line of a command whose results are in ``out``: from the second time on, copies of the first."""

    def make(command: str) -> str:
        line, kept = {**EVERY, "evaluate": EVALUATE}[command], root.with_name(command)
        if kept.exists():
            shutil.copytree(kept, root / "out")
            return line
        assert run(line).exit_code == 0
        before = files_of(root / "out")
        assert run(line).exit_code == 0 and files_of(root / "out") == before, "the same is kept"
        shutil.copytree(root / "out", kept)
        return line

    return make


def cached_predictor(*arguments, hydra_overrides_extra=(), **options):
    overrides = tuple(hydra_overrides_extra)
    return BUILDERS["track_run.build_sam2_video_predictor"](*arguments, hydra_overrides_extra=overrides, **options)


def write_image(path: Path, seed: int) -> None:
    """Half dark and half bright, so that it is also a mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 9, (64, 96, 3), dtype=np.uint8)
    pixels[:, 20 + 3 * seed :] += 200
    Image.fromarray(pixels if path.stem != "rough" else pixels.max(axis=2) // 100 * 127).save(path)


def flip(path: str, line: str) -> str:
    """Changes a byte in the middle of a file, and neither its size nor the time of its last change."""
    file = Path(path)
    before, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return line


def another_image(path: str, line: str) -> str:
    write_image(Path(path), 3)
    return line


def other_points(path: str, line: str) -> str:
    Path(path).write_text(Path(path).read_text().replace("[[20, 30]]", "[[60, 30]]"))
    return line


def comment(line: str) -> str:
    with open("quick.yaml", "a") as file:
        file.write("# a comment\n")
    return line


def renamed(folder: str, line: str) -> str:
    """Renames an input folder, and keeps its content."""
    os.rename(folder, f"other_{folder}")
    return " ".join(f"other_{folder}" if word == folder else word for word in line.split())


def changed(line: str, changes: list[Change]) -> str:
    """Returns the command line after all changes."""
    for change in changes:
        line = change(line)
    return line


def without_record(line: str) -> str:
    """As version 0.2 wrote results."""

    def stripped(value):
        if isinstance(value, list):
            return [stripped(item) for item in value]
        if isinstance(value, dict):
            return {key: stripped(item) for key, item in value.items() if key != "made_from"}
        return value

    for file in Path("out").rglob("*.json"):
        content = json.loads(file.read_text())
        file.write_text(json.dumps(stripped(content)))
    for file in Path("out").rglob("*.safetensors"):
        save_file(load_file(file), file)
    for file in Path("out").rglob("*.pt"):
        torch.save({"model": torch.load(file, weights_only=True)["model"]}, file)
    return line


MODEL_FILES = [partial(flip, "weights.safetensors"), comment]
BFLOAT16, FLOAT16 = "--dtype (float32, now bfloat16)", "--dtype (float32, now float16)"
SIZE = "and --image-size (None, now 96)"
CHANGED_VIDEOS = [partial(flip, "videos/a/00001.jpg"), partial(flip, "masks/a/00000.png"), partial(renamed, "videos")]
CHANGED_FRAMES = [partial(flip, "frames/00002.jpg"), partial(other_points, "frames.json"), partial(renamed, "frames")]
# Changes of the inputs, additional options, and the rest of the message after the version.
OTHER_RUNS = {
    "segment": (MODEL_FILES, "--dtype bfloat16 --image-size 96", f", config, weights, {BFLOAT16} {SIZE}"),
    "masks": (
        MODEL_FILES,
        "--dtype bfloat16 --tolerance 2 --box-nms-thresh 0.5 --image-size 96",
        f", config, weights, {BFLOAT16}, --tolerance (1.0, now 2.0), --box-nms-thresh (0.7, now 0.5) {SIZE}",
    ),
    "track": (
        [*MODEL_FILES, *CHANGED_FRAMES],
        "--end 1 --reverse --strategy samurai --dtype bfloat16 --image-size 96",
        ", config, weights, video path, video content, prompts, --end (None, now 1), --reverse (False, now True), "
        f"--strategy (sam2, now samurai), {BFLOAT16} {SIZE}",
    ),
    "vos": (
        [*MODEL_FILES, *CHANGED_VIDEOS],
        "--dtype bfloat16 --strategy dam4sam --score-thresh 0.5 --image-size 96",
        f", config, weights, video path, video content, mask content, {BFLOAT16}, --strategy (sam2, now dam4sam), "
        f"--score-thresh (0.0, now 0.5) {SIZE}",
    ),
    "extract": ([], "--quality 80", " and --quality (95, now 80)"),
    "convert": ([], "--images none", " and --images (all, now none)"),
    "convert lines": ([], "--images none", " and --images (all, now none)"),
    "convert ytvos": ([], "--overlaps larger-area", " and --overlaps (smaller-id, now larger-area)"),
    "checkpoint": (
        [partial(flip, "weights.safetensors")],
        "--model quick.yaml --dtype bfloat16",
        ", config, weights and --dtype (None, now bfloat16)",
    ),
    "synthesize": (
        [partial(flip, "media/backgrounds/a.png"), partial(renamed, "media")],
        "--seed 7",
        ", media path, media content and --seed (0, now 7)",
    ),
    "torch": (
        MODEL_FILES,
        "--dtype bfloat16 --points 3 --image-size 96",
        f", config, weights, {BFLOAT16}, --points (8, now 3) {SIZE}",
    ),
    "onnx": (MODEL_FILES, "--dtype float16 --image-size 96", f", config, weights, {FLOAT16} {SIZE}"),
    "web": (MODEL_FILES, "--dtype float16 --image-size 96", f", config, weights, {FLOAT16} {SIZE}"),
}


def run(line: str):
    return invoke(*line.split())


@pytest.mark.parametrize("command", EVERY)
def test_results_of_other_runs_are_refused(root, made, command, monkeypatch):
    """Changes everything, also the version: the message names every difference."""
    changes, options, rest = OTHER_RUNS[command]
    line = changed(made(command), changes)
    before = files_of(root / "out")
    for module in ("model_choice", "dataset", "synthesize"):
        monkeypatch.setattr(f"sam2fast.cli.{module}.__version__", "99")
    ends(run(f"{line} {options}"), 1, f"differs in version ({__version__}, now 99){rest}")
    assert files_of(root / "out") == before


@pytest.mark.parametrize(
    ("command", "changes", "words"),
    [
        ("vos", [partial(flip, "masks/b/00000.png")], "1 of these videos (b) made from something else: b differs"),
        ("extract", [partial(flip, "clips/a.mp4"), partial(renamed, "clips")], "a differs in video path and video"),
        ("convert", [partial(flip, "sav/clip_manual.json"), partial(renamed, "sav")], "clip differs in video path and"),
        ("checkpoint", [lambda line: f"{line} --int8"], "differs in --int8 (False, now True)"),
        *((command, [without_record], "does not say what it was made from") for command in EVERY if " " not in command),
    ],
)
def test_results_of_other_inputs_are_refused(root, made, command, changes, words):
    line = changed(made(command), changes)
    before = files_of(root / "out")
    ends(run(line), 1, words)
    assert files_of(root / "out") == before


@pytest.mark.parametrize(
    ("command", "changes", "words"),
    [
        ("segment", [partial(another_image, "photos/1.png")], "photos/1.png differs in image content"),
        (
            "segment",
            [partial(another_image, "rough.png"), partial(other_points, "prompts.json"), partial(renamed, "photos")],
            "other_photos/1.png differs in image path, prompts and mask content",
        ),
        ("masks", [partial(another_image, "photos/1.png")], "photos/1.png differs in image content"),
        ("masks", [partial(renamed, "photos")], "other_photos/1.png differs in image path"),
    ],
)
def test_results_of_other_images_are_replaced(root, made, command, changes, words):
    line = changed(made(command), changes)
    ends(run(line), 0, words)
    found = files_of(root / "out")
    shutil.rmtree(root / "out")
    assert run(line).exit_code == 0
    assert found.keys() == files_of(root / "out").keys()
    assert all(content == files_of(root / "out")[name] for name, content in found.items() if name.endswith(".png"))


@pytest.mark.parametrize("size", [100, None])
@pytest.mark.parametrize("command", COMMANDS)
def test_truncated_and_deleted_results_are_not_done(root, made, command, size):
    """They are made again, but a record of the whole run, which says what is there, is refused."""
    line = made(command)
    whole = files_of(root / "out")
    assert all(is_whole(root / "out" / name) for name in whole)
    for name, content in whole.items():
        file = root / "out" / name
        if name.endswith(".files.json"):  # without it, files of later runs are recorded
            continue
        if size is None:
            file.unlink()
        elif len(content) > size:
            file.write_bytes(b"")
            assert not is_whole(file)
            file.write_bytes(content[:size])
        else:
            continue
        result = run(line)
        if name in (*RECORDS, *WITH_RECORD) and not (name in WITH_RECORD and size is None):
            assert result.exit_code == 1 and ("out has 1 of these videos" if name in NOTES else name) in result.stderr
            file.write_bytes(content)
        else:
            assert result.exit_code == 0, result.stderr
            found = files_of(root / "out")
            assert found.keys() == whole.keys() and len(found[name]) == len(content), name


KEYS = ("info", "width", "made_from", "image_id", "segmentation", "predicted_iou")


@pytest.mark.parametrize("name", [*KEYS, "twice", "number", "[]"])
def test_damaged_masks_json(root, made, name):
    """A key is missing, an image is there twice or its name is a number, or the content is of another kind."""
    line = made("masks")
    content = json.loads((root / "out/masks.json").read_text())
    if name == "twice":
        content["images"].append({**content["images"][0], "id": 99})
    elif name == "number":
        content["images"][0]["file_name"] = 0
    elif name == "[]":
        content = []
    else:
        items = [content, *content["images"], *content["annotations"]]
        next(item for item in items if name in item).pop(name)
    (root / "out/masks.json").write_text(json.dumps(content))
    ends(run(line), 1, "out/masks.json cannot be resumed (")


@pytest.mark.parametrize("key", ["made_from", "videos", "files"])
def test_damaged_records_of_folders(root, made, key):
    """The number of files is only lost, as in a run that was interrupted."""
    line = made("convert")
    record = root / "out/.convert.json"
    whole = json.loads(record.read_text())
    record.write_text(json.dumps({**whole, key: [3]}))
    result = run(line)
    if key == "files":
        assert result.exit_code == 0 and json.loads(record.read_text()) == whole
    else:
        assert result.exit_code == 1 and "does not say what it was made from, see out/.convert.json" in result.stderr


@pytest.mark.parametrize("name", ["objects", "done", "files", "made_from"])
def test_damaged_track_json(root, made, name):
    line = made("track")
    content = json.loads((root / "out/track.json").read_text())
    (root / "out/track.json").write_text(json.dumps({key: content[key] for key in content if key != name}))
    ends(run(line), 1, "or --overwrite it")


def names_in_coco() -> list[str]:
    return sorted(image["file_name"] for image in json.loads(Path("out/masks.json").read_text())["images"])


@pytest.mark.parametrize("command", ["segment", "masks"])
def test_images_of_one_name_in_several_folders(root, made, command):
    """Each run replaces the results of the other image, although their content is equal."""
    shutil.copytree("photos", "copies")
    line = made(command)
    words = ("0 of 1 images were done before; 1 with another input", "copies/1.png differs in image path")
    ends(run(line.replace("photos", "copies/1.png")), 0, *words)
    if command == "masks":
        assert names_in_coco() == ["copies/1.png", "photos/2.png"], "relative to the parent of all images"
    ends(run(line), 0, "1 of 2 images were done before; 1 with another")
    if command == "segment":
        assert json.loads(Path("out/1.json").read_text())["results"][0]["image"] == "1.png"
    else:
        assert names_in_coco() == ["1.png", "2.png"]


@pytest.mark.parametrize(
    "line", ["segment photos/1.png --resume --out out --mask ", "track frames --out out --mask 0,1,"]
)
def test_a_mask_of_a_prompt_is_its_content_and_label(root, line):
    labels = np.zeros((48, 64), np.uint8)
    labels[5:30, 5:30], labels[32:44, 40:60] = 1, 2
    size = Image.open("photos/1.png" if line.startswith("segment") else next(Path("frames").iterdir())).size
    Image.fromarray(labels).resize(size, Image.Resampling.NEAREST).save("labels.png")
    shutil.copy("labels.png", "photos/copy.png")
    assert run(f"{line}labels.png:1 {MODEL}").exit_code == 0
    before = files_of(root / "out")
    for mask in (root / "labels.png", "photos/copy.png"):
        assert run(f"{line}{mask}:1 {MODEL}").exit_code == 0 and files_of(root / "out") == before
    assert "differs in prompts" in run(f"{line}labels.png:2 {MODEL}").stderr


@pytest.mark.parametrize("command", ["segment", "masks"])
def test_kept_results_name_what_this_run_names(root, made, command, monkeypatch):
    """The results were moved, and the command runs in another folder."""
    line = made(command)
    os.rename("out", "photos/moved")
    monkeypatch.chdir(root / "photos")
    line = line.replace("--out out", "--out moved --jsonl").replace("prompts.json", "../prompts.json")
    for word in ("photos", "quick.yaml", "weights.safetensors"):
        line = line.replace(f" {word}", " ." if word == "photos" else f" ../{word}")
    result = run(line)
    assert result.exit_code == 0 and "2 of 2 images were done before" in result.stderr, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["image"] for one in found] == ["1.png", "2.png"]
    if command == "segment":
        assert all(os.path.exists(file) for one in found for file in one["files"].values())
    else:
        images = json.loads((root / "photos/moved/masks.json").read_text())["images"]
        assert [one["file_name"] for one in images] == ["1.png", "2.png"]


def test_an_image_that_is_replaced_while_it_is_read(root, monkeypatch):
    """Its result is not taken for one of the new image."""
    from sam2fast.cli.segmenter import Segmenter

    original = Segmenter.read

    def read(self, image):
        pixels = original(self, image)
        if image.stem == "1":
            write_image(Path("photos/1.png"), 3)
        return pixels

    for command in ("segment", "masks"):
        write_image(Path("photos/1.png"), 4)
        with monkeypatch.context() as patch:
            patch.setattr(Segmenter, "read", read)
            assert run(COMMANDS[command]).exit_code == 0
        assert "photos/1.png differs in image content" in run(COMMANDS[command]).stderr


def test_overwritten_videos_are_not_taken_for_new_ones_after_an_interrupt(root, made, monkeypatch):
    line = made("convert")
    write_sav(root / "sav", "clip", seed=1, frames=2)
    with monkeypatch.context() as patch:
        patch.setattr("sam2fast.datasets.conversion.convert_video", interrupted)
        assert run(f"{line} --overwrite").exit_code == 130
    ends(run(line), 1, "clip does not say what it was made from")
    assert run(f"{line} --overwrite").exit_code == 0 and "1 videos were done before" in run(line).stdout


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("layout", ["official", "transformers"])
def test_converted_checkpoints_of_other_layouts(root, layout):
    line = f"convert weights.safetensors {'out/weights.pt' if layout == 'official' else 'out'}"
    assert run(line).exit_code == 0
    before = files_of(root / "out")
    ends(run(line), 0, "exists with the same inputs and options, and is kept")
    assert files_of(root / "out") == before and str(root).encode() not in b"".join(before.values())
    if layout == "transformers":
        (root / "out/config.json").unlink()
        assert run(line).exit_code == 0 and files_of(root / "out") == before, "incomplete"
    without_record(line)
    ends(run(line), 1, "already exists and does not say what it was made from")
    assert run(f"{line} --overwrite").exit_code == 0 and files_of(root / "out") == before
    flip("weights.safetensors", line)
    assert run(line).exit_code == 1 and files_of(root / "out") == before


@pytest.mark.parametrize("command", ["segment", "masks", "track", "vos", "evaluate"])
def test_a_repeated_run_has_the_dtype_of_the_results(root, command):
    """And refuses another dtype that is asked for, or for evaluations, replaces the results with a note."""
    line = {**COMMANDS, "evaluate": EVALUATE}[command]
    assert run(f"{line} --dtype bfloat16").exit_code == 0
    before = files_of(root / "out")
    ends(run(line), 0, "computing in bfloat16, as for the earlier results")
    assert files_of(root / "out") == before, "the same is kept"
    code = 0 if command == "evaluate" else 1
    ends(run(f"{line} --dtype float32"), code, "--dtype (bfloat16, now float32)")
    assert (files_of(root / "out") == before) == (command != "evaluate")


def other_mask(line: str) -> str:
    Image.new("L", (96, 64), 1).save("truth/1.png")
    return line


def test_evaluations_of_something_else_are_replaced(made):
    images = [partial(another_image, "photos/1.png"), other_mask, partial(renamed, "photos"), partial(renamed, "truth")]
    line = changed(made("evaluate"), [*MODEL_FILES, *images])
    line += " --dtype bfloat16 --images 1 --clicks 2 --min-area 9"
    names = "config, weights, image path, image content, mask path, mask content"
    options = f"{BFLOAT16}, --images (None, now 1), --clicks and --min-area (1, now 9)"
    ends(run(line), 0, f"differs in {names}, {options}, and is replaced")
    same = ends(run(line), 0, "run.json exists with the same inputs and options, and is kept")
    assert " click" in same.stdout
    without_record(line)
    ends(run(line), 0, "does not say what it was made from, and is replaced")


@pytest.mark.parametrize("name", ["run.json", "run.csv"])
@pytest.mark.parametrize("size", [0, 100, None])
def test_incomplete_evaluations_are_made_again(root, made, name, size):
    line, file = made("evaluate"), root / "out" / name
    whole = file.read_bytes()
    file.unlink() if size is None else file.write_bytes(whole[:size])
    assert run(line).exit_code == 0
    assert name == "run.json" or size == 100 or file.read_bytes() == whole
    assert "is kept" in run(line).stderr


def test_evaluations_with_problems_are_made_again(root, made):
    """Also if all that was evaluated is the same."""
    made("evaluate")
    write_image(root / "photos/alone.png", 2)
    for _ in range(2):
        result = run(EVALUATE)
        assert result.exit_code == 1 and "alone.png" in result.stderr and "is kept" not in result.stderr
    (root / "photos/alone.png").unlink()
    Path("photos/1.png").write_bytes(b"no image")
    for _ in range(2):
        result = run(EVALUATE)
        assert result.exit_code == 1 and "1.png" in result.stderr and "is kept" not in result.stderr


def test_evaluations_of_paths_in_a_coco_file(root):
    """An absolute path and one of another folder; the files' contents count."""
    write_image(root / "elsewhere/3.png", 3)
    square = {"size": [64, 96], "counts": [0, 2000, 4144]}
    names = [str(root / "photos/1.png"), "../elsewhere/3.png"]
    images = [{"id": i, "file_name": name, "width": 96, "height": 64} for i, name in enumerate(names)]
    annotations = [{"id": i, "image_id": i, "iscrowd": 0, "area": 2000, "segmentation": square} for i in range(2)]
    Path("coco.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    line = EVALUATE.replace("truth", "coco.json")
    assert run(line).exit_code == 0 and "is kept" in run(line).stderr
    write_image(root / "elsewhere/3.png", 4)
    assert "run.json differs in image content, and is replaced" in run(line).stderr


@pytest.mark.parametrize("target", EXPORTS)
def test_exports_in_other_formats_and_of_another_torch_are_refused(made, target, monkeypatch):
    ends(run(made(target)), 0, "out exists with the same inputs and options, and is kept")
    for other in EXPORTS.keys() - {target}:
        ends(run(EXPORTS[other]), 1, f"--format ({target}, now {other})")
    if target == "web":
        shutil.copy("quick.yaml", "other.yaml")
        assert "--model (quick.yaml, now other.yaml)" in run(EXPORTS[target].replace("quick", "other")).stderr
    monkeypatch.setattr("torch.__version__", "99")
    ends(run(EXPORTS[target]), 1, "differs in torch")


@pytest.mark.parametrize(("target", "size"), [("torch", 5), ("onnx", None), ("web", 5)])
def test_incomplete_exports_are_refused(root, made, target, size):
    """They are loaded by programs that do not check them. The folder is the user's to remove."""
    line = made(target)
    file = root / "out" / NAMED_FILES[target]
    whole = file.read_bytes()
    file.unlink() if size is None else file.write_bytes(whole[:size])
    before = files_of(root / "out")
    ends(run(line), 1, f"{file.name} is missing or incomplete")
    assert files_of(root / "out") == before
    shutil.rmtree(root / "out")
    assert run(line).exit_code == 0 and file.read_bytes() == whole


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({"weights": "a"}, {"weights": "a"}, []),
        (
            {"weights": "a", "options": {"every": 1}},
            {"weights": "b", "options": {"every": 2}},
            "weights|--every (1, now 2)",
        ),
        ({"options": {"window": [0, 1]}}, {"options": {"window": (0, 2)}}, "--window"),
        ({"options": {"window": [0, 1]}}, {"options": {"window": (0, 1)}}, []),
        ({"source": "x"}, {"video_path": "x"}, "source|video path"),
        ({"options": 3}, {"options": {"every": 1}}, "--every (None, now 1)"),
        ("a digest of 0.2", {"weights": "a"}, "unrecorded inputs"),
        (None, {"weights": "a"}, "unrecorded inputs"),
        ("this", "this", []),
    ],
)
def test_names_of_what_differs(before, now, expected):
    assert differences(before, now) == (expected and expected.split("|"))


def test_differences_as_a_clause():
    assert described(["weights"]) == "differs in weights"
    assert described(["weights", "prompts", "weights", "--dtype"]) == "differs in weights, prompts and --dtype"


def test_large_files_are_read_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SAM2FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED_SECONDS", 0)
    reads = []
    monkeypatch.setattr(digests, "file_sha256", lambda path, read=digests.file_sha256: reads.append(path) or read(path))
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in "ab":
        (folder / name).write_bytes(name.encode() * digests.KEPT_FROM)
    first = digests.digest_of(folder / "a"), digests.digest_of(folder)
    assert (digests.digest_of(folder / "a"), digests.digest_of(folder)) == first and len(reads) == 3
    flip(str(folder / "a"), "")  # the size and the time of the change stay
    assert digests.digest_of(folder / "a") != first[0] and digests.digest_of(folder) != first[1]
    os.rename(folder / "b", folder / "c")
    assert digests.digest_of(folder) != first[1]
    monkeypatch.setattr(digests, "SETTLED_SECONDS", 60)  # a new file may change again at the same time
    (folder / "a").write_bytes(b"c" * digests.KEPT_FROM)
    count = len(reads)
    assert digests.digest_of(folder / "a") == digests.digest_of(folder / "a") and len(reads) == count + 2
    monkeypatch.setenv("SAM2FAST_CACHE", "/dev/null/nowhere")
    assert digests.digest_of(folder / "a") == digests.digest_of(folder / "a")
