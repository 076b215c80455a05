"""A tracked clip as a film and as a sheet of frames."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sam2fast.demo.clip import Task
from sam2fast.io.overlay import choose_colours, draw_overlay
from sam2fast.training.data.clip import Clip
from sam2fast.video_io.h264 import encoder_options, find_encoder

FRAMES_PER_SECOND = 15
CRF = 20  # x264's quality
SHOWN, COLUMNS = 8, 2  # pairs of pictures on the sheet
TILE, CAPTION, GAP = 300, 22, 8  # side of a picture, height of a line of text, space between pairs; pixels
PAPER, INK = (250, 250, 250), (40, 40, 40)


def draw_frames(clip: Clip, masks: NDArray[np.bool_], task: Task | None = None) -> list[Image.Image]:
    """The clip's frames with ``masks (T, O, H, W)``, each thing in one colour throughout; the task in the first."""
    colours = choose_colours(clip.frames[0], clip.masks[0])
    pictures = [draw_overlay(pixels, found, colours=colours) for pixels, found in zip(clip.frames, masks, strict=True)]
    if task is not None:
        pictures[0] = draw_overlay(clip.frames[0], masks[0], [task.point], boxes=[task.box], colours=colours)
    return pictures


def contact_sheet(truth: Sequence[Image.Image], found: Sequence[Image.Image]) -> Image.Image:
    """Some frames in order, each as a pair of the truth and what was found."""
    shown = np.linspace(0, len(truth) - 1, SHOWN).round().astype(int).tolist()
    pair_width, pair_height = 2 * TILE + GAP, TILE + CAPTION + GAP
    sheet = Image.new("RGB", (COLUMNS * pair_width - GAP, -(-SHOWN // COLUMNS) * pair_height - GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for place, frame in enumerate(shown):
        x, y = place % COLUMNS * pair_width, place // COLUMNS * pair_height
        for kind, picture in (("truth", truth[frame]), ("tracked", found[frame])):
            draw.text((x + 6, y + 2), f"frame {frame}: {kind}", INK, font)
            sheet.paste(picture.resize((TILE, TILE), Image.Resampling.LANCZOS), (x, y + CAPTION))
            x += TILE
    return sheet


def encode_film(pictures: Sequence[Image.Image]) -> bytes:
    """An MP4 file of the pictures, which have even sides: H.264 where PyAV has an encoder for it, else MPEG-4.

    Raises:
        ImportError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("writing video files needs PyAV: pip install 'sam2fast[video]'") from error
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        name = find_encoder() or "mpeg4"
        stream = container.add_stream(name, rate=FRAMES_PER_SECOND, options=encoder_options(name, CRF))
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000  # of encoders that have no CRF
        stream.codec_context.thread_count = 1  # the bytes depend on it
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return file.getvalue()
