"""Makes, tracks and shows a short synthetic video of two objects with ground truth."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from sam2fast.demo.rolling_ball import draw_rolling_ball
from sam2fast.io.overlay import choose_colours, draw_overlay
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.training.data.clip import Clip
from sam2fast.video_io.video_types import require_pyav
from sam2fast.video_io.video_writer import encoder_options, find_encoder

FRAMES = 16
FRAMES_PER_SECOND = 8
CRF = 20  # x264's quality
SHOWN, COLUMNS = 8, 2  # pairs of images on the contact sheet
TILE, CAPTION, GAP = (300, 200), 22, 8  # size of an image, height of a line of text, space between pairs; pixels
PAPER, INK = (250, 250, 250), (40, 40, 40)


class ClipPrompts(NamedTuple):
    """Prompts for the two objects in the first frame, in pixels."""

    point: tuple[int, int]  # a click (x, y) on the first object
    box: tuple[int, int, int, int]  # around the second object, XYXY


def make_clip() -> Clip:
    """A beach ball that rolls behind a vase, then a mug, with masks of ball and mug; every call returns the same."""
    clip = draw_rolling_ball(FRAMES, mug_from="start")
    return replace(clip, masks=clip.masks[:, [0, 2]])


def prompts_for(clip: Clip) -> ClipPrompts:
    """A click and a box for the two objects in the clip's first frame."""
    first, second = clip.masks[0]
    rows, columns = np.nonzero(second)
    return ClipPrompts(point_inside(first), (int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())))


def point_inside(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """A pixel (x, y) of ``mask (H, W)`` with the greatest distance to its edge, in steps along rows and columns."""
    deepest = inner = np.pad(mask, 1)
    while inner.any():
        deepest = inner
        inner = np.logical_and.reduce([deepest, *(np.roll(deepest, step, axis) for step in (-1, 1) for axis in (0, 1))])
    rows, columns = np.nonzero(deepest)
    middle = len(rows) // 2
    return int(columns[middle]) - 1, int(rows[middle]) - 1


def track(predictor: SAM2VideoPredictor, clip: Clip, prompts: ClipPrompts) -> NDArray[np.bool_]:
    """The masks ``(T, 2, H, W)`` that a model tracks from the prompts."""
    state = predictor.init_state(clip.frames)
    predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, points=[prompts.point], labels=[1])
    predictor.add_new_points_or_box(state, frame_idx=0, obj_id=2, box=prompts.box)
    found = np.zeros_like(clip.masks)
    for frame, _, logits in predictor.propagate_in_video(state, progress=_bar):
        found[frame] = (logits[:, 0] > 0).cpu().numpy()
    return found


def _bar(frames: Iterable[int]) -> Iterable[int]:
    return tqdm(frames, "frames", disable=None)  # None: only on a terminal


def draw_frames(clip: Clip, masks: NDArray[np.bool_], prompts: ClipPrompts | None = None) -> list[Image.Image]:
    """The clip's frames with ``masks (T, O, H, W)``, one colour per object; the prompts are in the first frame."""
    colours = choose_colours(clip.frames[0], clip.masks[0])
    images = [draw_overlay(pixels, found, colours=colours) for pixels, found in zip(clip.frames, masks, strict=True)]
    if prompts is not None:
        images[0] = draw_overlay(clip.frames[0], masks[0], [prompts.point], boxes=[prompts.box], colours=colours)
    return images


def contact_sheet(truth: Sequence[Image.Image], found: Sequence[Image.Image]) -> Image.Image:
    """One image of some frames in order, each as a pair of the ground truth and the tracked masks."""
    shown = np.linspace(0, len(truth) - 1, SHOWN).round().astype(int).tolist()
    pair_width, pair_height = 2 * TILE[0] + GAP, TILE[1] + CAPTION + GAP
    sheet = Image.new("RGB", (COLUMNS * pair_width - GAP, -(-SHOWN // COLUMNS) * pair_height - GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for cell, frame in enumerate(shown):
        x, y = cell % COLUMNS * pair_width, cell // COLUMNS * pair_height
        for kind, image in (("truth", truth[frame]), ("tracked", found[frame])):
            draw.text((x + 6, y + 2), f"frame {frame}: {kind}", INK, font)
            sheet.paste(image.resize(TILE, Image.Resampling.LANCZOS), (x, y + CAPTION))
            x += TILE[0]
    return sheet


def encode_mp4(images: Sequence[Image.Image]) -> bytes:
    """Encodes images with even sides as an MP4 file: H.264 if PyAV has an encoder for it, else MPEG-4.

    Raises:
        ImportError: PyAV is not installed.
    """
    require_pyav("writing")
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        name = find_encoder() or "mpeg4"
        stream = container.add_stream(name, rate=FRAMES_PER_SECOND, options=encoder_options(name, CRF))
        stream.width, stream.height = images[0].size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000  # for encoders without CRF
        stream.codec_context.thread_count = 1  # the bytes depend on it
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return file.getvalue()
