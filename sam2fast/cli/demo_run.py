"""Runs the three parts of ``sam2fast demo``: photographs, a video, and a collage of photographs and video."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.checkpoints import CheckpointError
from sam2fast.cli.command_files import output_files, write_atomically
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.prompts import BACKGROUND, FOREGROUND, Box, Click, Prompts
from sam2fast.cli.reporting import emit, say
from sam2fast.cli.results import write_results
from sam2fast.cli.segment import predict_objects
from sam2fast.cli.segmenter import Segmenter
from sam2fast.cli.sources import InputSource
from sam2fast.cli.user_errors import print_note
from sam2fast.demo.clip import CLIP, encode_mp4, read_clip, track
from sam2fast.io.images import open_image
from sam2fast.io.overlay import choose_colours, draw_overlay
from sam2fast.io.png import encode_image
from sam2fast.io.rle import encode_rle


class Photograph(NamedTuple):
    """An image file, and the prompts for its objects."""

    file: Path
    objects: Sequence[Prompts]


# Photographs of the package, by stem of the result files. With mini, each prompt segments a whole object.
PHOTOGRAPHS = {
    "coffee": Photograph(
        CLIP.with_name("coffee.jpg"),
        [
            Prompts((Click(290, 150, FOREGROUND),), Box(172, 16, 412, 312), object="cup"),
            Prompts(
                (
                    *(Click(95, 230, FOREGROUND), Click(420, 250, FOREGROUND)),
                    *(Click(290, 230, BACKGROUND), Click(360, 285, BACKGROUND)),
                ),
                Box(76, 70, 482, 390),
                object="saucer",
            ),
            Prompts(box=Box(322, 62, 426, 330), object="spoon"),
        ],
    ),
    "cat": Photograph(
        CLIP.with_name("cat.jpg"),
        [
            Prompts((Click(350, 290, FOREGROUND), Click(385, 20, FOREGROUND)), Box(0, 0, 400, 300), object="cat"),
            Prompts((Click(147, 112, FOREGROUND),), object="eye"),
        ],
    ),
}
# The prompts for the video, on its first frame.
TRACKED = [
    Prompts(box=Box(400, 195, 560, 345), object="flower"),
    Prompts(box=Box(580, 65, 805, 310), object="upper leaf"),
    Prompts((Click(360, 350, FOREGROUND),), object="lower leaf"),
]
EVERY = 3  # distance of tracked frames: every third of 75 is tracked
COLLAGE, VIDEO, TRACKS = "demo.png", "tracked.mp4", "tracked.json"
COLLAGE_WIDTH, GAP, PAPER = 1240, 8, (255, 255, 255)  # width, space between images, and colour of the background
FRAMES_OF_ROWS = (0, 0.15, 0.3, 0.45), (0.6, 0.75, 0.9, 1)  # frames in the collage, as fractions of the video


def demo_files(out: Path, photographs: Mapping[str, Photograph] = PHOTOGRAPHS) -> list[Path]:
    """Returns all files that the demo writes."""
    results = [
        file
        for stem, photograph in photographs.items()
        for file in output_files(out, stem, [one.object for one in photograph.objects]).values()
    ]
    return [*results, *(out / name for name in (COLLAGE, VIDEO, TRACKS))]


def segment_photographs(
    segmenter: Segmenter, photographs: Mapping[str, Photograph], out: Path
) -> dict[str, dict[str, Any]]:
    """Segments the objects of photographs, and writes the files of ``segment``. Returns the records by name."""
    records = {}
    for stem, photograph in photographs.items():
        pixels, objects = predict_objects(segmenter, InputSource(str(photograph.file)), photograph.objects)
        made_from = [None] * len(objects)
        with segmenter.stage("write"):
            written = write_results(out, stem, photograph.file.name, pixels, objects, segmenter.description, made_from)
        for record in written:
            emit({**record, "image": str(photograph.file)})
            records[f"{stem} {record['object']}" if "object" in record else stem] = record
    return records


def track_clip(segmenter: Segmenter, choice: ModelChoice, out: Path) -> list[Image.Image]:
    """Tracks three objects through the video of the package. Returns its frames with their masks.

    Without PyAV, or with weights only for images, prints a note, writes nothing, and returns no frames.
    """
    device, dtype = segmenter.description["device"], getattr(torch, segmenter.description["dtype"])
    try:
        frames = read_clip(EVERY)
        with segmenter.stage("load model"):
            options: dict[str, Any] = {"dtype": dtype, "image_size": choice.image_size}
            predictor = build_sam2_video_predictor(choice.config, choice.checkpoint, device, **options)
    except ImportError:
        print_note('no video without PyAV: pip install "sam2fast[video]"')
        return []
    except CheckpointError:  # the segmenter has loaded the file, so the file is valid
        print_note(f"no video, since {choice.checkpoint} has weights for images only")
        return []
    with segmenter.stage("track"):
        masks = track(predictor, frames, [one.as_arguments() for one in TRACKED])

    with segmenter.stage("write"):
        colours = choose_colours(frames[0], masks[0])
        images = [draw_overlay(pixels, found, colours=colours) for pixels, found in zip(frames, masks, strict=True)]
        write_atomically(out / VIDEO, encode_mp4(images))
        objects = [
            {"object": one.object, "prompts": one.as_json(), "rle": [encode_rle(mask) for mask in masks[:, i]]}
            for i, one in enumerate(TRACKED)
        ]
        frame_numbers = [EVERY * index for index in range(len(frames))]
        content = {"video": str(CLIP), "frames": frame_numbers, "objects": objects, "model": segmenter.description}
        write_atomically(out / TRACKS, (json.dumps(content) + "\n").encode())
    names, (height, width) = [one.object for one in TRACKED], frames[0].shape[:2]
    emit({"video": str(out / TRACKS), "frames": len(frames), "model": segmenter.description, "objects": names})
    rate = len(frames) / segmenter.seconds["track"]
    say(f"tracked {', '.join(names)}: {len(frames)} frames of {width}x{height}, {rate:.1f}/s")
    return images


def write_collage(photographs: Mapping[str, Photograph], tracked: Sequence[Image.Image], out: Path) -> Path:
    """Writes one collage of the photographs and some tracked frames, with their masks. Returns its path."""
    rows: list[list[Image.Image]] = [[open_image(output_files(out, stem)["overlay"]) for stem in photographs]]
    if tracked:
        rows += [[tracked[round(share * (len(tracked) - 1))] for share in shares] for shares in FRAMES_OF_ROWS]
    collage = out / COLLAGE
    # All images of a row have the same height, chosen so that the row fills the width.
    heights = [
        round((COLLAGE_WIDTH - GAP * (len(row) - 1)) / sum(image.width / image.height for image in row)) for row in rows
    ]
    sheet = Image.new("RGB", (COLLAGE_WIDTH, sum(heights) + GAP * (len(rows) - 1)), PAPER)
    y = 0
    for row, height in zip(rows, heights, strict=True):
        x = 0
        for image in row:
            width = round(image.width * height / image.height)
            sheet.paste(image.resize((width, height), Image.Resampling.LANCZOS), (x, y))
            x += width + GAP
        y += height + GAP
    write_atomically(collage, encode_image(sheet))
    return collage
