"""Whether images and video work here at all, with the model in the package."""

import time
from typing import Any

SIDE, FRAMES = 128, 3


def check_facts(device: str = "auto") -> dict[str, Any]:
    """Segments a drawn square and tracks it through three frames.

    Raises:
        RuntimeError: the numbers are not finite, or the square is not found at all.
        Exception: whatever is broken.
    """
    import numpy as np

    from sam2fast.sam2_image_predictor import SAM2ImagePredictor
    from sam2fast.sam2_video_predictor import SAM2VideoPredictor

    frames = [_picture(8 * t) for t in range(FRAMES)]
    points, labels = np.array([[SIDE / 2, SIDE / 2]]), np.array([1])
    begun = time.perf_counter()
    videos = SAM2VideoPredictor.from_pretrained("sam2fast/nano", device=device)
    images = SAM2ImagePredictor(videos)
    images.set_image(frames[0])
    masks, scores, logits = images.predict(points, labels)
    if not (np.isfinite(scores).all() and np.isfinite(logits).all()):
        raise RuntimeError("segmenting a picture gives numbers that are not finite")
    if not masks.any():
        raise RuntimeError("no mask of a bright square that was clicked")
    image_seconds, begun = time.perf_counter() - begun, time.perf_counter()

    state = videos.init_state(frames)
    videos.add_new_points_or_box(state, 0, 1, points=points, labels=labels)
    count = 0
    for _, _, found in videos.propagate_in_video(state, progress=False):
        if not found.isfinite().all():
            raise RuntimeError("tracking gives numbers that are not finite")
        count += 1
    if count != FRAMES:
        raise RuntimeError(f"tracking gives {count} frames of {FRAMES}")
    return {
        "device": str(images.device),
        "image seconds": round(image_seconds, 2),
        "video seconds": round(time.perf_counter() - begun, 2),
        "result": "images and video work",
    }


def _picture(offset: int) -> Any:
    """A bright square ``(S, S, 3)`` uint8 on grey, moved to the right."""
    import numpy as np

    picture = np.full((SIDE, SIDE, 3), 60, np.uint8)
    picture[SIDE // 4 : -SIDE // 4, SIDE // 4 + offset : -SIDE // 4 + offset] = (240, 200, 40)
    return picture
