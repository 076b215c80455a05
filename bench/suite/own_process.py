"""One subject in a process of its own, for what only a fresh process shows: the seconds until the first mask, the peak
of memory. Run by :mod:`suite.process_cases` with one argument of JSON; the answer is the last line it prints.

Nothing of weight is imported before the clock runs.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from suite.missing import GaveUpError, MissingError


def cold_start(job: dict[str, Any]) -> dict[str, Any]:
    """Import, build from a checkpoint, first mask of an image."""
    # For everyone before the clock: what takes the place of the official package's extension needs it, and it only.
    try:
        import scipy.ndimage  # noqa: F401
    except ImportError:
        import numpy as np  # noqa: F401
    from suite.photographs import image

    pixels = image(600, 900)
    start = time.perf_counter()
    built = _built(job)
    low_res = _first_mask(built, pixels)
    from suite.subjects import image_path, synchronise

    synchronise(built.setting.device)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "result": low_res,
        "notes": built.notes,
        "path": image_path(job["subject"], built.predictor.model),
    }


def image_peak(job: dict[str, Any]) -> dict[str, Any]:
    """One image is set, and clicked."""
    from suite.photographs import image
    from suite.subjects import image_path

    built = _built(job)
    found = _with_peak(built, lambda: _first_mask(built, image(1200, 1800)))
    return found | {"path": image_path(job["subject"], built.predictor.model)}


def video_peak(job: dict[str, Any]) -> dict[str, Any]:
    """Objects are tracked through a video from its first frame to its last."""
    from suite.photographs import centre
    from suite.subjects import TrackingPath, is_ours

    built = _built(job, "video_predictor")
    setting, path = built.setting, TrackingPath(job["subject"], built.predictor)
    side = setting.image_size

    def track() -> Any:
        with built.context():
            state = built.predictor.init_state(job["video"])
            for i in range(setting.objects or 1):
                built.predictor.add_new_points_or_box(state, 0, i, [centre(side, side, i)], [1])
            bars = {"progress": False} if is_ours(job["subject"]) else {}
            for answer in built.predictor.propagate_in_video(state, **bars):
                masks = answer[2]
            path.look(getattr(state, "bank", None))
        return masks[:, 0].float().cpu().numpy()

    return _with_peak(built, track) | {"path": path.name}


def _with_peak(built: Any, call: Any) -> dict[str, Any]:
    """Seconds, result and the most memory meanwhile, with what is there already."""
    from suite.machine import forget_peak, peak_mib
    from suite.subjects import timed

    device = built.setting.device
    forget_peak(device)
    seconds, result, _ = timed(device, call)
    return {"seconds": seconds, "result": result, "peak_mib": peak_mib(device), "notes": built.notes}


def _built(job: dict[str, Any], kind: str = "image_predictor") -> Any:
    from suite import subjects

    subjects.plain_fp32()
    return getattr(subjects, kind)(job["subject"], subjects.Setting(**job["setting"]), job["checkpoint"])


def _first_mask(built: Any, image: Any) -> Any:
    import numpy as np

    with built.context():
        built.predictor.set_image(image)
        point = np.array([[image.shape[1] / 2, image.shape[0] / 2]])
        return built.predictor.predict(point_coords=point, point_labels=np.array([1]))[2]


def main() -> None:
    job = json.loads(sys.argv[1])
    jobs = {"cold start": cold_start, "image peak": image_peak, "video peak": video_peak}
    try:
        answer = jobs[job["what"]](job)
    except (GaveUpError, MissingError) as error:
        answer = {type(error).__name__: str(error)}
    else:
        import numpy as np

        np.save(Path(job["result"]), answer.pop("result"))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
