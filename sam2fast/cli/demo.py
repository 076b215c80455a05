"""``sam2fast demo``: draws a picture and segments two things in it."""

from pathlib import Path

import click

from sam2fast.cli.errors import MissingCheckpointError
from sam2fast.cli.files import make_folder, write_atomically
from sam2fast.cli.model_choice import choose_model
from sam2fast.cli.options import model_options, out_option
from sam2fast.cli.prompts import FOREGROUND, Box, Click, Prompts

# What to find in the scene, in its pixels, by the name of the result.
PROMPTS = {
    "vase": Prompts(clicks=(Click(250, 400, FOREGROUND),)),
    "mug": Prompts(box=Box(530, 372, 706, 540)),
}


@click.command()
@model_options
@out_option("out/demo")
def demo(model: str | None, checkpoint: Path | None, device: str, dtype: str, out: Path) -> None:
    """Draw a still life, find one thing in it by a click and another by a box.

    Writes scene.png, overlay.png with both found, and for each of the two what `sam2fast segment` writes.
    """
    try:
        choice = choose_model(model, checkpoint)
    except MissingCheckpointError as error:
        raise MissingCheckpointError(f"{error.message}; with make: CHECKPOINT=FILE make demo") from error
    make_folder(out)

    import numpy as np

    from sam2fast.cli.results import png, print_results, write_result
    from sam2fast.cli.segmenter import Segmenter
    from sam2fast.demo.scene import draw_scene
    from sam2fast.overlay import draw_overlay

    segmenter = Segmenter(choice, device, dtype)
    with segmenter.stage("draw"):
        picture = draw_scene()
    scene = out / "scene.png"
    with segmenter.stage("write"):
        write_atomically(scene, png(picture))
    pixels = np.array(picture)
    segmenter.encode(pixels)
    records, masks = {}, []
    for name, prompts in PROMPTS.items():
        prediction = segmenter.predict(prompts)
        masks.append(prediction.mask)
        with segmenter.stage("write"):
            records[name] = write_result(out, name, scene, pixels, prompts, prediction, segmenter.description)
    clicks = [(c.x, c.y) for prompts in PROMPTS.values() for c in prompts.clicks]
    boxes = [prompts.box for prompts in PROMPTS.values() if prompts.box is not None]
    with segmenter.stage("write"):
        write_atomically(out / "overlay.png", png(draw_overlay(pixels, np.array(masks), clicks, boxes=boxes)))
    print_results(records, segmenter.seconds, out)
