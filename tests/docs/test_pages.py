"""Runs the Python, commands and scripts of each page with nano, from top to bottom; see support/document_stage.py."""

import ast
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from document_blocks import ROOT, Block, Command, all_blocks, commands
from document_commands import run_sam2fast, run_script
from profiled import LIMITS
from small_ray import small_ray

# Replacements for a small machine without GPUs, cameras and time. Everything else runs unchanged.
SUBSTITUTES = {
    '"cuda:0,cuda:1"': '"cpu"',
    "--device cuda:0,cuda:1": "--device cpu",
    "--device cuda:1 --out": "--device cpu --out",
    "--device cuda": "--device cpu",
    "--device all": "--device cpu",
    'on_devices("all")': 'on_devices("cpu")',
    ', VideoJob("b.mp4", [...])]': "]",
    "rtsp://camera/1": "clip.mp4",
    "--at-once 2": "--at-once 1",
    "frame.index == 30": "frame.index == 3",
    "12,ball": "3,ball",
    "size=(720, 1280)": "size=(576, 720)",
    "SAM2AutomaticMaskGenerator(model)": "SAM2AutomaticMaskGenerator(model, points_per_side=2)",
    "sam2fast masks": "sam2fast masks --points-per-side 2",
    "video.mp4 --model edgetam": "clip.mp4 --model nano --out out/models",
    "video.mp4 --model efficienttam_s": "clip.mp4 --model nano --out out/efficienttam",
    "video.mp4 --checkpoint sam3.pt": "clip.mp4 --model nano --out out/sam3",
    "slices/ --model medsam2 --box 40,1": "clip.mp4 --model nano --out out/slices --box 3,1",
    "bench/kernels/layer_norm.py ": "bench/kernels/layer_norm.py --list ",
    "--clips 1 --objects 2": "--clips 1 --objects 2 --frames 3 --size 64",
    "--objects 2 --runs 3": "--objects 2 --runs 1",
    "photo.jpg --model tiny --json": "photo.jpg --model tiny --runs 1 --json",
    "--with model=mini": "--image-size 256 --with model=mini",
    "objects=4, frames=10": "objects=2, frames=2",
    '"sam2fast/mini"': '"sam2fast/nano"',
    # Exports, and compilations that take a minute.
    '"sam2fast/nano", device="cpu").model': '"narrow.pt", config_file="narrow.yaml", device="cpu").model',
    "--model tiny --checkpoint sam2.1_hiera_tiny.pt --out tiny-exported": (
        "--model narrow.yaml --checkpoint narrow.pt --out tiny-exported"
    ),
    'load_predictor("tiny-native"': 'load_predictor("tiny-exported"',
    "from tracker import": "from sam2fast.deploy.onnx import",
    'load_model("tiny-onnx")': 'load_model("nano-onnx")',
    'init_state("frames")': 'init_state(["photo.jpg", "another.jpg"])',
    # In Ray's processes the models have their own names.
    '"sam2.1_hiera_b+", "/data/sam2.1_hiera_base_plus.pt"': '"small_nano.yaml", "averaged.pt"',
    'Path("/data/videos").glob("*.mp4")': 'Path().glob("a.mp4")',
    "--ray local --workers 2": "--ray local --workers 1 --device cpu --model small_nano.yaml --checkpoint averaged.pt",
    # Trainings, which are only built.
    "--dry-run dataset": "--dry-run scratch.resolution=64 scratch.num_frames=1 scratch.max_num_objects=1 dataset",
    "train -c CONFIG": "train -c my_training.yaml",
    "dataset.img_folder=... dataset.gt_folder=...": "dataset.img_folder=JPEGImages dataset.gt_folder=Annotations",
    "scratch.media=FOLDER": "scratch.media=.",
    "initialize_from=IMAGE_WEIGHTS": "initialize_from=averaged.pt",
    # Images for a later evaluation, and timings.
    "held_out --count 30": "held_out --count 2",
}
# What is slow or needs a server, a cluster or a compiler, and the test that runs it. Keys are the page and the
# beginning, or the beginning alone. Of Python the imports run here, too.
ELSEWHERE = {
    "docs/research.md: ": "research/test_docs.py::test_snippets",
    "docs/volumes.md: sam2fast track scan.nii.gz": "cli/test_track_volumes.py::test_nifti",
    "docs/choose.md: sam2fast track scan.nii.gz": "cli/test_track_volumes.py::test_nifti",
    "docs/volumes.md: sam2fast track series": "cli/test_track_volumes.py::test_dicom",
    "docs/volumes.md: from sam2fast": "cli/test_track_volumes.py::test_the_documents_script",
    "docs/serve.md: import json": "demo/test_serving.py::test_the_documents_script",
    "docs/scale_out.md: sam2fast vos": "deploy/ray/test_ray_runner.py::test_videos_by_command",
    "docs/scale_out.md: sam2fast masks": "deploy/ray/test_ray_runner.py::test_masks_by_command_when_a_worker_is_killed",
    "docs/training.md: sam2fast synthesize": "cli/test_synthesize.py::test_clips_in_the_layout_of_davis",
    "sam2fast export --model tiny --format onnx": "cli/test_export.py::test_onnx",
    "sam2fast export --model nano --format onnx": "cli/test_export.py::test_onnx",
    "sam2fast export --model edgetam --checkpoint edgetam.pt": "deploy/onnx/test_onnx_export.py::test_edgetam",
    "sam2fast export --format web": (
        "../frontend/tests/browser/in_browser.test.ts::a click segments, without a server"
    ),
    "sam2fast train -c my_finetune.yaml": "training/test_official_yaml.py::test_the_command_prints_the_notes",
    "sam2fast serve": "demo/test_serving.py::test_the_documents_script",
    "sam2fast export --model tiny --checkpoint sam2.1_hiera_tiny.pt --out tiny-native --aot": (
        "cli/test_export.py::test_options_reach_the_export"
    ),
    ".venv/bin/python bench/tune.py": "bench/test_tuning.py::test_a_rehearsal",
    "python bench/gpu --collect": "bench/test_gpu.py::test_collected_rows_replace_earlier_ones",
    ".venv/bin/python examples/scaling.py": "deploy/parallel/test_videos_and_images.py::test_rows",
}
# Other programs, and modules of Python's library, are not run.
RUN = {"sam2fast": run_sam2fast, "python": run_script}
# A page with a Ray: this process is connected to a small one.
WITH_RAY = "docs/scale_out.md"
PAGES: Mapping[str, list[Block]] = defaultdict(list)
for block in all_blocks():
    if block.language in ("python", "shell"):
        PAGES[block.file].append(block)


def elsewhere(piece: Block | Command) -> str | None:
    """The key of ``ELSEWHERE`` that names this block or command."""
    text = piece.text if isinstance(piece, Block) else " ".join(piece.words)
    names = f"{piece.where.rpartition(':')[0]}: {text}", text
    return next((key for key in ELSEWHERE if any(name.startswith(key) for name in names)), None)


@pytest.mark.parametrize("page", sorted(PAGES))
def test_page_runs(
    page: str, stage: Path, official_names_free: None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    # Measuring the machine's limits takes seconds and is not needed.
    monkeypatch.setattr("sam2fast.profiling.run.measure_limits", lambda device, dtypes: LIMITS)
    if page == "docs/export.md":
        shutil.copy(ROOT / "configs/nano/sam2fast_nano.yaml", "small_nano.yaml")  # the graphs are of its size
        request.getfixturevalue("copied_graphs")
    names: dict[str, Any] = {"__name__": "__main__"}
    with small_ray() if page == WITH_RAY else nullcontext():
        for block in PAGES[page]:
            (run_commands if block.language == "shell" else run_python)(block, names)


def substituted(block: Block) -> Block:
    text = block.text
    for written, instead in SUBSTITUTES.items():
        text = text.replace(written, instead)
    return block._replace(text=text)


def run_commands(block: Block, names: dict[str, Any]) -> None:
    for command, instead in zip(commands(block), commands(substituted(block)), strict=True):
        if command.program in RUN and command.words[1] != "-m" and not elsewhere(command):
            RUN[command.program](instead)


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Runs a block in this namespace; tracebacks name the document and its own line."""
    tree = ast.parse(substituted(block).text)
    if elsewhere(block):
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.increment_lineno(tree, block.line - 1), ROOT / block.file, "exec"), names)
    if not elsewhere(block):
        check_shapes(block, names)
        for name in {"result", "done"} & names.keys():  # of jobs, which return their errors
            assert not (getattr(names[name], "error", None) or getattr(names[name], "problem", None)), names[name]


def check_shapes(block: Block, names: dict[str, Any]) -> None:
    """Compares values that have a comment such as ``# (objects, 1, H, W)`` with it; a name stands for any length."""
    for name, comment in re.findall(r"^ *([\w.]+)(?: = .*)?  +# \((\w+(?:, \w+)*),?\)", block.text, re.MULTILINE):
        shape, axes = eval(name, names).shape, comment.split(", ")
        fits = len(shape) == len(axes) and all(
            not axis.isdecimal() or int(axis) == length for axis, length in zip(axes, shape, strict=True)
        )
        assert fits, f"{block.where}: {name} is {tuple(shape)}, not ({comment})"


def test_the_tables_are_current() -> None:
    blocks = [block for page in PAGES.values() for block in page]
    of_blocks = {elsewhere(command) for block in blocks if block.language == "shell" for command in commands(block)}
    assert {elsewhere(block) for block in blocks} | of_blocks >= ELSEWHERE.keys()
    assert [written for written in SUBSTITUTES if not any(written in block.text for block in blocks)] == []
    for file, _, name in (test.partition("::") for test in ELSEWHERE.values()):
        start = f'test("{name}"' if file.endswith(".ts") else f"def {name}("
        assert f"\n{start}" in (ROOT / "tests" / file).read_text(encoding="utf-8"), name
