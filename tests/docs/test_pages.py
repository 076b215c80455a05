"""Runs the documents: the Python, the ``sam2fast`` commands and the scripts of each page, from top to bottom.

The working folder has small files under the documents' names (``support/document_stage.py``); all models are nano.
"""

import re
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from document_blocks import ROOT, Block, kind
from document_commands import Line, lines_of
from document_pages import check_shapes, imports_of, pages, run_python, run_sam2fast, run_script, substituted
from profiled import LIMITS
from small_ray import small_ray

pytestmark = pytest.mark.long

# Replacements for a small machine without GPUs, cameras and time. Everything else runs unchanged.
SUBSTITUTES = {
    '"cuda:0,cuda:1"': '"cpu"',
    "--device cuda:0,cuda:1": "--device cpu",
    "--device cuda": "--device cpu",
    "--device all": "--device cpu",
    'on_devices("all")': 'on_devices("cpu")',
    "rtsp://camera/1": "clip.mp4",
    "frame.index == 30": "frame.index == 3",
    "12,ball": "3,ball",
    "size=(720, 1280)": "size=(576, 720)",
    "SAM2AutomaticMaskGenerator(model)": "SAM2AutomaticMaskGenerator(model, points_per_side=2)",
    "points_per_side=8": "points_per_side=2",
    "--points-per-side 8": "--points-per-side 2",
    "--clips 2 --frames 8 --size 256": "--clips 2 --frames 4 --size 128",
    "--point 200,190": "--point 100,95",
    "0,ball,200,190": "0,ball,100,95",
    "00007.jpg --point 215,190": "00003.jpg --point 107,95",
    "sam2fast masks": "sam2fast masks --points-per-side 2",
    "video.mp4 --model edgetam": "clip.mp4 --model nano --out out/models",
    "video.mp4 --model efficienttam_s": "clip.mp4 --model nano --out out/efficienttam",
    "slices/ --model medsam2 --box 40,1": "clip.mp4 --model nano --out out/slices --box 3,1",
    "--clips 1 --objects 2": "--clips 1 --objects 2 --frames 3 --size 64",
    "--objects 2 --runs 3": "--objects 2 --runs 1",
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

# Checks after blocks whose errors are results, or whose page states more than the code shows.
AFTERWARDS = {
    "docs/images.md: from PIL": (
        "[x.ndim for x in predictor.predict(box=[[1, 2, 30, 30]])] == [3, 1, 3]"
        " and [x.ndim for x in predictor.predict(box=[[1, 2, 30, 30]] * 2)] == [4, 2, 4]"
    ),
    "docs/images.md: predictor.set_image_batch": (
        "[x.ndim for x in masks] == [3, 4] and [x.ndim for x in scores] == [1, 2]"
        " and [x[0].ndim for x in predictor.predict_batch(box_batch=[[[1, 2, 30, 30]]] * 2)] == [3, 1, 3]"
    ),
    "docs/devices.md: import functools": "first is not None",
    "docs/scale_out.md: from functools": "result.done and len(result.value.frames) == 5",
    "docs/strategies.md: import torch": "[x.shape for x in masks] == [(2, 1, 256, 256)] * 5",
    "docs/strategies.md: from sam2fast.tracking.strategies import Dam4Sam": (
        "[x.shape for x in masks] == [(2, 1, 256, 256)] * 5"
    ),
    "docs/vos.md: from functools": "done.problem is None and done.objects == 2",
}
# Slow snippets and those that need a server, with the test that takes them from the page; their imports also run here.
# Slow commands and those that need a cluster or a compiler, with a test of the same command on other inputs;
# test_commands.py parses their options. Keys are the page and the beginning, or the beginning alone.
ELSEWHERE = {
    "docs/research.md: ": "research/test_docs.py::test_snippets",
    "sam2fast export --model tiny --format onnx": "cli/test_export.py::test_onnx",
    "sam2fast export --model nano --format onnx": "cli/test_export.py::test_onnx",
    "sam2fast export --model edgetam --checkpoint edgetam.pt": "deploy/onnx/test_onnx_export.py::test_edgetam",
    "docs/serve.md: import json": "demo/test_serving.py::test_the_documents_script",
    "docs/scale_out.md: sam2fast vos": "deploy/ray/test_ray_runner.py::test_videos_by_command",
    "docs/scale_out.md: sam2fast masks": "deploy/ray/test_ray_runner.py::test_masks_by_command_when_a_worker_is_killed",
    "docs/training.md: sam2fast synthesize": "cli/test_synthesize.py::test_clips_in_the_layout_of_davis",
    "sam2fast train -c my_finetune.yaml": "training/test_official_yaml.py::test_the_command_prints_the_notes",
    "sam2fast serve": "demo/test_serving.py::test_the_documents_script",
    "sam2fast export --model tiny --checkpoint sam2.1_hiera_tiny.pt --out tiny-native --aot": (
        "cli/test_export.py::test_options_reach_the_export"
    ),
    ".venv/bin/python bench/tune.py": "test_bench_tuning.py::test_a_rehearsal",
    "python bench/collect.py": "test_gpu_plan.py::test_collected_rows_replace_earlier_ones",
    ".venv/bin/python examples/scaling.py": "deploy/parallel/test_videos_and_images.py::test_rows",
    "python examples/memory_selection.py": "research/test_docs.py::test_examples_run",
}
# Other programs, and modules of Python's library, are not run; test_commands.py parses their arguments.
RUN = {"sam2fast": run_sam2fast, "python": run_script}
# Pages with a Ray: this process is connected to a small one.
WITH_RAY = {"docs/scale_out.md"}
PAGES = pages()


def key_of(piece: Block | Line) -> str:
    file = piece.file if isinstance(piece, Block) else piece.where.partition(":")[0]
    return f"{file}: {piece.text.splitlines()[0]}"


def fits(key: str, piece: Block | Line) -> bool:
    begins = " ".join(piece.words) if isinstance(piece, Line) else piece.text
    return key_of(piece).startswith(key) or begins.startswith(key)


def is_elsewhere(piece: Block | Line) -> bool:
    return any(fits(key, piece) for key in ELSEWHERE)


@pytest.mark.parametrize("page", sorted(PAGES))
def test_page_runs(page: str, stage: Path, official_names_free: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # Measuring the machine's limits takes seconds and is not needed.
    monkeypatch.setattr("sam2fast.profiling.run.measure_limits", lambda device, dtypes: LIMITS)
    names: dict[str, Any] = {"__name__": "__main__"}
    with small_ray() if page in WITH_RAY else nullcontext():
        for block in PAGES[page]:
            run_block(block, names)


def run_block(block: Block, names: dict[str, Any]) -> None:
    instead = substituted(block, SUBSTITUTES)
    if kind(block) == "shell":
        for line, asked in zip(lines_of(block), lines_of(instead), strict=True):
            if line.program in RUN and line.words[1] != "-m" and not is_elsewhere(line):
                RUN[line.program](asked)
    elif is_elsewhere(block):
        run_python(imports_of(instead), names)
    else:
        run_python(instead, names)
        check_shapes(block, names)
        if holds := of_block(AFTERWARDS, block):
            assert eval(holds, names), f"{block.where}: not {holds}"


def of_block(table: Mapping[str, str], block: Block) -> str | None:
    return next((value for key, value in table.items() if key_of(block).startswith(key)), None)


def test_entries_of_the_tables_exist() -> None:
    blocks = [block for page in PAGES.values() for block in page]
    lines = [line for block in blocks if kind(block) == "shell" for line in lines_of(block)]
    for written in SUBSTITUTES:
        assert any(written in block.text for block in blocks), written
    for key in AFTERWARDS:
        assert any(key_of(block).startswith(key) for block in blocks), key
    assert set(PAGES) >= WITH_RAY
    for key in ELSEWHERE:
        assert any(fits(key, piece) for piece in (*blocks, *lines)), key


def test_tests_elsewhere_exist() -> None:
    snippets = {key_of(block) for page in PAGES.values() for block in page if kind(block) == "python"}
    for key, test in ELSEWHERE.items():
        file, _, name = test.partition("::")
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        found = re.search(rf"((?:^@.*\n)*)^def {name}\((?:.*\n)(?:(?:    .*)?\n)*", text, re.MULTILINE)
        assert found and "mark.slow" not in found[1], test
        if any(snippet.startswith(key) for snippet in snippets):
            page = Path(key.partition(":")[0]).name
            assert "exec(" in found[0] and f'{page}"' in found[0], f"{test} does not run what {page} says"
