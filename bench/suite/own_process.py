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
    """Import, build from a checkpoint, first mask of a image."""
    # For everyone before the clock: what takes the place of the official package's extension needs it, and it only.
    try:
        import scipy.ndimage  # noqa: F401
    except ImportError:
        import numpy as np  # noqa: F401
    from suite.photographs import image

    image = image(600, 900)
    start = time.perf_counter()
    setting = _setting(job)
    from suite import subjects

    subjects.import_for_images(job["subject"], setting)
    imported = time.perf_counter()
    built = subjects.image_predictor(job["subject"], setting, job["checkpoint"])
    subjects.synchronise(setting.device)
    ready = time.perf_counter()
    low_res = _first_mask(built, image)
    subjects.synchronise(setting.device)
    done = time.perf_counter()
    parts = {"import": imported - start, "build": ready - imported, "first mask": done - ready}
    path = _plain_path(job)
    return {"parts": parts, "seconds": done - start, "result": low_res, "notes": built.notes, "path": path}


def image_peak(job: dict[str, Any]) -> dict[str, Any]:
    """One image is set, and clicked."""
    from suite import subjects
    from suite.photographs import image

    setting = _setting(job)
    built = subjects.image_predictor(job["subject"], setting, job["checkpoint"])
    peak = _Peak(setting.device)
    seconds, low_res = subjects.timed(setting.device, lambda: _first_mask(built, image(1200, 1800)))
    about = {"notes": built.notes, "path": _plain_path(job)}
    return {"seconds": seconds, "peak_mib": peak.mib(), "result": low_res, **about}


def video_peak(job: dict[str, Any]) -> dict[str, Any]:
    """Objects are tracked through a video from its first frame to its last."""
    from suite import subjects
    from suite.paths import TrackingPath
    from suite.photographs import centre

    setting = _setting(job)
    built = subjects.video_predictor(job["subject"], setting, job["checkpoint"])
    peak, side = _Peak(setting.device), setting.image_size
    path = TrackingPath(job["subject"], built.predictor)

    def track() -> Any:
        with built.context():
            state = built.predictor.init_state(job["video"])
            for i in range(setting.objects or 1):
                built.predictor.add_new_points_or_box(state, 0, i, [centre(side, side, i)], [1])
            bars = {"progress": False} if subjects.is_ours(job["subject"]) else {}
            for answer in built.predictor.propagate_in_video(state, **bars):
                masks = answer[2]
            path.look(getattr(state, "bank", None))
        return masks[:, 0].float().cpu().numpy()

    seconds, masks = subjects.timed(setting.device, track)
    about = {"notes": built.notes, "path": path.name}
    return {"seconds": seconds, "peak_mib": peak.mib(), "result": masks, **about}


class _Peak:
    """The most memory from here on: resident, or allocated on a GPU, with what is there already."""

    def __init__(self, device: str) -> None:
        from suite.machine import forget_peak

        self.device = device
        if device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            forget_peak()

    def mib(self) -> float | None:
        from suite.machine import peak_resident_mib

        if not self.device.startswith("cuda"):
            return peak_resident_mib()
        import torch

        return torch.cuda.max_memory_allocated() / 2**20


def _setting(job: dict[str, Any]) -> Any:
    from suite.subjects import Setting, plain_fp32

    plain_fp32()
    return Setting(**job["setting"])


def _plain_path(job: dict[str, Any]) -> str:
    from suite.paths import plain_path

    return plain_path(job["subject"])


def _first_mask(built: Any, image: Any) -> Any:
    import numpy as np

    with built.context():
        built.predictor.set_image(image)
        point = np.array([[image.shape[1] / 2, image.shape[0] / 2]])
        return built.predictor.predict(point_coords=point, point_labels=np.array([1]))[2]


JOBS = {"cold start": cold_start, "image peak": image_peak, "video peak": video_peak}


def main() -> None:
    job = json.loads(sys.argv[1])
    try:
        answer = JOBS[job["what"]](job)
    except MissingError as error:
        print(json.dumps({"missing": str(error)}))
        return
    except GaveUpError as error:
        print(json.dumps({"gave up": str(error)}))
        return
    import numpy as np

    np.save(Path(job["result"]), answer.pop("result"))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
