"""Invalid calls of the video predictor, and the expected errors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch


class WrongCall(NamedTuple):
    call: Callable[[Any, Any], Any]  # of predictor and state
    error: type[Exception]
    message: str  # a part of it


def _points(points: Any, labels: Any, frame: Any = 0, obj_id: Any = "a", **kwargs: Any) -> Callable[[Any, Any], Any]:
    return lambda p, s: p.add_new_points_or_box(s, frame, obj_id, points, labels, **kwargs)


def _mask(mask: Any, frame: int = 0) -> Callable[[Any, Any], Any]:
    return lambda p, s: p.add_new_mask(s, frame, "a", mask)


def _pass(**options: Any) -> Callable[[Any, Any], Any]:
    return lambda p, s: next(p.propagate_in_video(s, progress=False, **options))


NO_SESSION, END = "expected the session that init_state() returned", 99
WRONG_CALLS = {
    "no session": WrongCall(lambda p, s: p.reset_state(None), TypeError, f"is None; {NO_SESSION}"),
    "a pass of no session": WrongCall(
        lambda p, s: next(p.propagate_in_video({})), TypeError, f"'frames_tracked_per_obj'; {NO_SESSION}"
    ),
    "no session to save": WrongCall(lambda p, s: p.save_state(None, "/nowhere"), TypeError, NO_SESSION),
    "frame behind the end": WrongCall(_points([[1, 1]], [1], END), IndexError, "is not in this video"),
    "frame before the start": WrongCall(_mask(np.ones((2, 2)), -1), IndexError, "frame -1"),
    "frame that is no integer": WrongCall(
        lambda p, s: p.clear_all_prompts_in_frame(s, 1.0, "a"), TypeError, "frame_idx is 1.0"
    ),
    "nothing": WrongCall(_points(None, None), ValueError, "at least one of points or box"),
    "points alone": WrongCall(_points([[1, 1]], None), ValueError, "belong together"),
    "no points": WrongCall(_points([], []), ValueError, "expected one with at least 1"),
    "a point of three numbers": WrongCall(_points([[1, 1, 1]], [1]), ValueError, "expected (N, 2)"),
    "NaN": WrongCall(_points([[float("nan"), 1]], [1]), ValueError, "points holds NaN or infinite"),
    "label 7": WrongCall(_points([[1, 1]], [7]), ValueError, "labels holds 7"),
    "two prompts": WrongCall(_points([[[1, 1]], [[2, 2]]], [[1], [1]]), ValueError, "got 2 prompts"),
    "box that joins": WrongCall(_points(None, None, box=[1] * 4, clear_old_points=False), ValueError, "cannot join"),
    "box turned over": WrongCall(_points(None, None, box=[9, 1, 5, 5]), ValueError, "the wrong way round"),
    "id that cannot be hashed": WrongCall(_points([[1, 1]], [1], obj_id=["a"]), TypeError, "unhashable"),
    "mask of three dimensions": WrongCall(_mask(np.ones((1, 2, 2))), ValueError, "expected (H, W)"),
    "no mask": WrongCall(_mask(None), ValueError, "expected an array"),
    "mask with NaN": WrongCall(_mask(np.full((2, 2), np.nan)), ValueError, "the mask holds NaN"),
    "tensor that overflows": WrongCall(_mask(torch.full((64, 64), 1e38)), ValueError, "too large"),
    "tensor without values": WrongCall(_mask(torch.ones(2, 2, device="meta")), ValueError, "expected an array"),
    "unknown object": WrongCall(lambda p, s: p.remove_object(s, "nobody", strict=True), RuntimeError, "no object"),
    "start behind the end": WrongCall(_pass(start_frame_idx=END), IndexError, "is not in this video"),
    "less than no frames": WrongCall(_pass(max_frame_num_to_track=-1), ValueError, "expected 0 or more"),
    "encode nothing ahead": WrongCall(_pass(encode_ahead=0), ValueError, "encode_ahead is 0"),
    "less than no lag": WrongCall(_pass(lag=-1), ValueError, "lag is -1"),
    "unknown output": WrongCall(_pass(output="rle"), ValueError, "output is 'rle'"),
}
