"""The tables of docs/formats.md: every command, source and format."""

import re
from functools import cache
from pathlib import Path

import moving_shapes
import pytest
from commands import NANO, invoke
from PIL import Image
from track_runs import FRAMES, PROMPTS

from sam2fast.cli.masks import FORMATS as MASKS_FORMATS
from sam2fast.cli.track import FORMATS as TRACK_FORMATS
from sam2fast.results.formats import VOLUME_FILES

PAGE = (Path(__file__).parents[2] / "docs/formats.md").read_text(encoding="utf-8")
DASH = "–"


def table(head: str) -> dict[str, dict[str, str]]:
    """The cells of a table by row and column, as they stand."""
    lines = [line for line in PAGE[PAGE.index(f"| {head} |") :].split("\n\n")[0].splitlines()]
    columns, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]
    return {row[0].strip("`"): dict(zip((c.strip("`") for c in columns[1:]), row[1:], strict=True)) for row in rows}


FILES, SOURCES = table("`--format`"), table("source")
COMMANDS = {"masks": MASKS_FORMATS, "track": TRACK_FORMATS}
OTHERS = {command: [name for name in names if name not in VOLUME_FILES] for command, names in COMMANDS.items()}
PATHS = {"an image": "image.png", "a folder of images": "frames", "a video": "video.mp4"}
RUNS = [(command, source) for command in COMMANDS for source in SOURCES if SOURCES[source][command] != DASH]
# test_track_volumes.py runs those of volumes.
CELLS = [(*run, name) for run in RUNS for name in FILES if name in OTHERS[run[0]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory, track):
    """The output folder of a command on a source, with all of its formats."""
    sources = tmp_path_factory.mktemp("sources")
    frames = moving_shapes.make_frames(FRAMES)
    moving_shapes.write_video(sources / PATHS["a video"], frames)
    (sources / PATHS["a folder of images"]).mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(sources / PATHS["a folder of images"] / f"{i:05d}.jpg")
    Image.fromarray(frames[0]).save(sources / PATHS["an image"])

    @cache
    def run(command: str, source: str) -> Path:
        out = tmp_path_factory.mktemp("out")
        arguments = [sources / PATHS[source], "--format", ",".join(OTHERS[command]), "--out", out]
        if command == "track":
            result = track(*arguments, *PROMPTS)
        else:
            quick = [*NANO, "--points-per-side", "2", "--pred-iou-thresh", "0"]
            result = invoke("masks", *arguments, *quick, "--stability-score-thresh", "0")
        assert result.exit_code == 0, result.stderr
        return out

    return run


@pytest.mark.parametrize("command, source, name", CELLS)
def test_cell(results, command, source, name):
    pattern = re.sub("STEM|FRAME", "*", FILES[name][command].strip("`"))
    found = list(results(command, source).glob(pattern))
    assert any(file.stat().st_size for file in found)  # those of frames before the first prompt are empty


@pytest.mark.parametrize("command", COMMANDS)
def test_every_format_of_a_command_is_in_the_table(command):
    assert set(COMMANDS[command]) == {name for name in FILES if FILES[name][command] != DASH}
