"""What each approximation of the video predictor costs in agreement with the exact masks, and what it saves.

    python examples/approximations.py                 # fast synthetic clips
    python examples/approximations.py --motion 0.1    # slow ones

nano tracks clips from the true masks of their first frames. Sessions with each approximation and without any take turns
frame by frame. "IoU" is the mean over objects and frames with the masks of the exact session; J&F are with the truth.
Times are of frames that find all memories filled. ``fp8_attention`` is measured where the GPU has it;
``fp8_attention=emulated`` rounds alike anywhere, and its times say nothing.
"""

import statistics
import time
from typing import Any

import numpy as np
from shared import Masks, arguments, finish, measured, nano, synthetic_clips

from sam2fast.evaluation.j_and_f import jaccard
from sam2fast.kernels.memory_attention import why_no_fp8

STEADY = 8  # frames before the ones that are timed
SUBJECTS: dict[str, Any] = {
    "exact": (),
    "memory_slots=4": "memory_slots=4",
    "memory_slots=2": "memory_slots=2",
    "still_frames": "still_frames",
    "fp8_attention": "fp8_attention",
    "fp8_attention=emulated": "fp8_attention=emulated",
    "all": ("memory_slots", "still_frames"),
}


def main() -> None:
    parser = arguments(__doc__, clips=12, frames=24)
    parser.add_argument("--motion", type=float, default=1.0, help="of what moves (default: %(default)s)")
    args, start = parser.parse_args(), time.perf_counter()
    if args.frames <= STEADY:
        parser.error(f"memories are filled after {STEADY} frames; give more")
    predictor, clips = nano(args.device), synthetic_clips(args, max_objects=3, motion=args.motion)
    names = [name for name in SUBJECTS if name != "fp8_attention" or why_no_fp8(predictor.device) is None]
    found: dict[str, list[Masks]] = {name: [np.zeros_like(clip.masks) for clip in clips] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number, clip in enumerate(clips):
        sessions = {}
        for name in names:
            predictor.approximations = SUBJECTS[name]
            state = predictor.init_state([*clip.frames])
            for o, mask in enumerate(clip.masks[0]):
                predictor.add_new_mask(state, 0, o, mask)
            sessions[name] = predictor.propagate_in_video(state, progress=False)
        predictor.approximations = None
        for frame in range(len(clip.frames)):
            for name in names if frame % 2 else reversed(names):  # nobody always comes first
                begin = time.perf_counter()
                logits = next(sessions[name])[2]
                found[name][number][frame] = (logits[:, 0] > 0).cpu().numpy()
                if frame >= STEADY:
                    seconds[name].append(time.perf_counter() - begin)
    rows = []
    for name in names:
        pairs = zip(found[name], found["exact"], strict=True)
        iou = np.concatenate([jaccard(masks[1:], exact[1:]).ravel() for masks, exact in pairs])
        row = {"approximation": name, "IoU": 100 * float(iou.mean()), "least": 100 * float(iou.min())}
        row |= {**measured(found[name], clips), "ms a frame": 1e3 * statistics.mean(seconds[name])}
        rows.append(row | {"times as fast": sum(seconds["exact"]) / sum(seconds[name])})
    finish(args, start, rows)


if __name__ == "__main__":
    main()
