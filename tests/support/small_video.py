"""A short video of two things that move, and a pass over it."""

import numpy as np

SIZE = 128


def video_frames(count):
    """Returns uint8 RGB frames (SIZE, SIZE) with a bright disc and a dark square on a drawn ground."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    ground = 120 + 40 * np.stack([np.sin(x / 9 + y / 7), np.cos(x / 5), np.sin(y / 6)], axis=-1)
    frames = []
    for t in range(count):
        image = ground + rng.normal(0, 3, ground.shape)
        image[(y - 40 - t) ** 2 + (x - 30 - 3 * t) ** 2 < 400] = (230, 60, 40)
        image[80:105, 90 - 2 * t : 115 - 2 * t] = (20, 30, 90)
        frames.append(image.clip(0, 255).astype(np.uint8))
    return frames


def track(predictor, frames, **kwargs):
    """Logits of a disc and a square, each clicked on the first frame."""
    state = predictor.init_state(frames)
    predictor.add_new_points_or_box(state, 0, "disc", [[30, 40]], [1])
    predictor.add_new_points_or_box(state, 0, "square", [[100, 92]], [1])
    return [masks.clone() for _, _, masks in predictor.propagate_in_video(state, progress=False, **kwargs)]
