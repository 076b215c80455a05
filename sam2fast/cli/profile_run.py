"""What ``sam2fast profile`` does with its inputs: profiles images and videos, prints and draws what was found."""

from collections.abc import Sequence
from pathlib import Path

import click
import torch

from sam2fast.cli.errors import one_line
from sam2fast.cli.files import write_atomically
from sam2fast.cli.model_choice import ModelChoice
from sam2fast.cli.prompts import Box, Click
from sam2fast.cli.segmenter import Segmenter
from sam2fast.cli.track_prompts import TrackPrompt, merge_prompts
from sam2fast.cli.track_run import load_predictor
from sam2fast.profiling import Profile, profile_image, profile_video
from sam2fast.profiling.picture import draw
from sam2fast.profiling.report import DEPTH, print_profile
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.sam2_video_predictor import SAM2VideoPredictor

# By the user's input: what cannot be opened, read or used.
FAILURES = (OSError, ValueError, TypeError, ImportError, torch.OutOfMemoryError)
Prompt = Click | Box | TrackPrompt


class Images:
    """Profiles of images; the model is loaded for the first one."""

    def __init__(self, choice: ModelChoice, device: str, dtype: str) -> None:
        self._choice, self._device, self._dtype = choice, device, dtype
        self._predictor: SAM2ImagePredictor | None = None

    def profile(self, text: str, prompts: Sequence[Prompt], objects: int, runs: int, trace: Path | None) -> Profile:
        """The profile of a file.

        Args:
            prompts: clicks and at most one box.
            objects, runs, trace: see :func:`~sam2fast.profiling.profile_image`.

        Raises:
            UserError: the model, the file or a prompt cannot be used.
        """
        if self._predictor is None:
            self._predictor = Segmenter(self._choice, self._device, self._dtype).predictor
        clicks = [prompt for prompt in prompts if isinstance(prompt, Click)]
        box = next((list(prompt) for prompt in prompts if isinstance(prompt, Box)), None)
        with one_line(*FAILURES):
            return profile_image(
                self._predictor,
                text,
                point_coords=[(c.x, c.y) for c in clicks] or None,
                point_labels=[c.label for c in clicks] or None,
                box=box,
                objects=objects,
                runs=runs,
                trace=trace,
            )


class Videos:
    """Profiles of videos; the model is loaded for the first one.

    Args:
        frames: of each, how many are measured.
    """

    def __init__(self, choice: ModelChoice, device: str, dtype: str, frames: int) -> None:
        self._choice, self._device, self._dtype, self._frames = choice, device, dtype, frames
        self._predictor: SAM2VideoPredictor | None = None

    def profile(self, text: str, prompts: Sequence[Prompt], objects: int, runs: int, trace: Path | None) -> Profile:
        """The profile of a video; raises as that of :class:`Images`.

        Args:
            prompts: all on the first frame.
            objects, runs, trace: see :func:`~sam2fast.profiling.profile_video`.
        """
        asked = [_on_first_frame(prompt) for prompt in prompts]
        merged = merge_prompts(asked, each_shows_object=True) if asked else []
        if self._predictor is None:
            self._predictor, _ = load_predictor(self._choice, self._device, self._dtype)
        with one_line(*FAILURES):
            return profile_video(
                self._predictor,
                text,
                prompts={prompt.object: prompt.as_arguments() for prompt in merged},
                objects=objects,
                frames=self._frames,
                runs=runs,
                trace=trace,
            )


def _on_first_frame(prompt: Prompt) -> TrackPrompt:
    if isinstance(prompt, Click):
        return TrackPrompt(0, 1, (prompt,))
    return TrackPrompt(0, 1, box=prompt) if isinstance(prompt, Box) else prompt


def show(found: Profile, text: str, depth: int | None, several: bool) -> None:
    """Prints the tree, of several inputs under its name.

    Args:
        depth: how deep; None for the usual.
    """
    if several:
        click.echo(f"\n{click.format_filename(text)}")
    print_profile(found, depth or DEPTH)


def draw_picture(found: Profile, file: Path) -> None:
    """Draws the tree into a file, in the format that its ending says.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    with one_line(ImportError):
        content = draw(found, file.suffix.lower())
    write_atomically(file, content)
