"""Reads the video of the package, tracks its objects, and encodes videos."""

import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.video_io import read_frames
from sam2fast.video_io.video_types import require_pyav
from sam2fast.video_io.video_writer import encoder_options, find_encoder

CLIP = Path(__file__).with_name("media") / "flower.mp4"  # a flower that opens, 960x540; NOTICE has its origin
FRAMES_PER_SECOND = 8
CRF = 20  # x264's quality


def read_clip(every: int) -> list[NDArray[np.uint8]]:
    """Returns each ``every``-th frame ``(540, 960, 3)`` of the package's video. Raises ImportError without PyAV."""
    with read_frames(CLIP, 1) as reader:
        return [frame.rgb for frame in islice(reader, 0, None, every)]


def track(
    predictor: SAM2VideoPredictor, frames: Sequence[NDArray[np.uint8]], prompts: Iterable[Mapping[str, Any]]
) -> NDArray[np.bool_]:
    """Tracks objects through frames ``(H, W, 3)``; returns their masks ``(T, N, H, W)``.

    Args:
        prompts: Arguments of ``add_new_points_or_box`` on the first frame for each of the N objects.
    """
    state = predictor.init_state(frames)
    for obj_id, arguments in enumerate(prompts):
        predictor.add_new_points_or_box(state, frame_idx=0, obj_id=obj_id, **arguments)
    passes = predictor.propagate_in_video(state, progress=lambda steps: tqdm(steps, "frames", disable=None))
    return np.stack([(logits[:, 0] > 0).cpu().numpy() for _, _, logits in passes])


def encode_mp4(images: Sequence[Image.Image]) -> bytes:
    """Encodes images with even sides as MP4, in H.264 or else MPEG-4. Raises ImportError without PyAV."""
    require_pyav("writing")
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        name = find_encoder() or "mpeg4"
        stream: Any = container.add_stream(name, rate=FRAMES_PER_SECOND, options=encoder_options(name, CRF))
        stream.width, stream.height = images[0].size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000  # for encoders without CRF
        stream.codec_context.thread_count = 1  # the bytes depend on it
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return file.getvalue()
