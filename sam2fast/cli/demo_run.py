"""The three parts of ``sam2fast demo``: photograph, synthetic image, synthetic video."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.checkpoints import CheckpointError
from sam2fast.cli.command_files import output_files, write_atomically
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.prompts import FOREGROUND, Box, Click, Prompts
from sam2fast.cli.reporting import emit, say
from sam2fast.cli.results import SegmentedObject, write_results
from sam2fast.cli.segmenter import Segmenter
from sam2fast.cli.user_errors import as_user_error, print_note
from sam2fast.demo import clip as demo_clip
from sam2fast.demo.clip import contact_sheet, draw_frames, encode_mp4
from sam2fast.demo.scene import draw_scene
from sam2fast.evaluation.j_and_f import j_and_f
from sam2fast.io.overlay import draw_overlay
from sam2fast.io.png import encode_image
from sam2fast.io.rle import encode_rle

# The prompts for the synthetic image, by the name of the result.
PROMPTS = {
    "vase": Prompts(clicks=(Click(250, 400, FOREGROUND),)),
    "apple": Prompts(clicks=(Click(405, 540, FOREGROUND),)),
    "mug": Prompts(box=Box(530, 372, 706, 540)),
    "book": Prompts(box=Box(682, 444, 914, 574)),
}
DIGITS = 4  # of a measure in percent


def demo_files(out: Path) -> list[Path]:
    """All files that the demo writes."""
    results = [file for name in ("photo", *PROMPTS) for file in output_files(out, name).values()]
    names = ("scene.png", "overlay.png", "tracked.png", "tracked.mp4", "tracked.json")
    return [*results, *(out / name for name in names)]


def segment_scene(segmenter: Segmenter, out: Path) -> dict[str, dict[str, Any]]:
    """Draws a still life, segments two objects by clicks and two by boxes; returns their records by name."""
    with segmenter.stage("draw"):
        image = draw_scene()
    scene = out / "scene.png"
    with segmenter.stage("write"):
        write_atomically(scene, encode_image(image))
    pixels = np.array(image)
    segmenter.encode(pixels)
    records, masks = {}, []
    for name, prompts in PROMPTS.items():
        prediction = segmenter.predict(prompts)
        masks.append(prediction.mask)
        with segmenter.stage("write"):
            found = SegmentedObject(None, prompts, prediction)
            (records[name],) = write_results(out, name, scene, pixels, [found], segmenter.description, [None])
    clicks = [(c.x, c.y) for prompts in PROMPTS.values() for c in prompts.clicks]
    boxes = [prompts.box for prompts in PROMPTS.values() if prompts.box is not None]
    with segmenter.stage("write"):
        overlay = draw_overlay(pixels, np.array(masks), clicks, boxes=boxes)
        write_atomically(out / "overlay.png", encode_image(overlay))
    return records


def track_clip(segmenter: Segmenter, choice: ModelChoice, out: Path) -> None:
    """Tracks one object from a click and one from a box through a synthetic video, and prints J and F.

    With weights for images only it prints a note and writes nothing.
    """
    device, dtype = segmenter.description["device"], getattr(torch, segmenter.description["dtype"])
    try:
        with segmenter.stage("load model"):
            predictor = build_sam2_video_predictor(
                choice.config, choice.checkpoint, device=device, dtype=dtype, image_size=choice.image_size
            )
    except CheckpointError:  # the file fits: the segmenter has loaded it
        print_note(f"no video, since {choice.checkpoint} has weights for images only")
        return
    with segmenter.stage("make video"):
        clip = demo_clip.make_clip()
    task = demo_clip.prompts_for(clip)
    with segmenter.stage("track"), as_user_error(torch.OutOfMemoryError):
        found = demo_clip.track(predictor, clip, task)

    quality = j_and_f(found, clip.masks)
    objects = []
    for i, prompts in enumerate((Prompts((Click(*task.point, FOREGROUND),)), Prompts(box=Box(*task.box)))):
        measures = {"J": quality.j[i], "F": quality.f[i], "J&F": quality.per_object[i]}
        objects.append(
            {
                "prompts": prompts.as_json(),
                **{name: round(100 * float(value), DIGITS) for name, value in measures.items()},
                "rle": [encode_rle(mask) for mask in found[:, i]],
                "truth": [encode_rle(mask) for mask in clip.masks[:, i]],
            }
        )
    with segmenter.stage("write"):
        frames = draw_frames(clip, found, task)
        sheet = contact_sheet(draw_frames(clip, clip.masks), frames)
        write_atomically(out / "tracked.png", encode_image(sheet))
        try:
            write_atomically(out / "tracked.mp4", encode_mp4(frames))
        except ImportError:
            print_note("no tracked.mp4 without PyAV: pip install 'sam2fast[video]'")
        record = {"objects": objects, "model": segmenter.description}
        write_atomically(out / "tracked.json", (json.dumps(record) + "\n").encode())

    say("agreement with the true masks, in percent")
    say("tracked          J      F    J&F")
    for kind, measured in zip(("ball (click)", "mug (box)"), objects, strict=True):
        say(f"{kind:<12}" + "".join(f"{measured[name]:7.1f}" for name in ("J", "F", "J&F")))
    T, height, width = clip.frames.shape[:3]
    emit(
        {
            "video": str(out / "tracked.json"),
            "frames": T,
            "model": segmenter.description,
            "objects": [{name: measured[name] for name in ("J", "F", "J&F")} for measured in objects],
        }
    )
    say(f"{T} frames of {width}x{height} at {T / segmenter.seconds['track']:.1f} frames/s")
