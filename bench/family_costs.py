"""SAM 2's relatives, and SAM 2.1 tiny, beside their published code: an image encoded, and a frame with full memories.

``--model sam3 --runs 1`` compares SAM 3's tracker with transformers and writes ``results/sam3-cpu-DATE.json``.

    make bench-family

Each environment has one of the packages, all named ``sam2``, and writes its rows into
``results/family-cpu-DATE.json``. Weights are drawn and the same for both; fp32. What is timed is ``set_image`` of an
image of the model's size, and the step of ``propagate_in_video`` from a frame on whose memories are full, of one
object; ours and theirs in turn, after a first call of each. Filling the memories by tracking would take minutes: frames
before get the result of the first one that was tracked. Masks of this frame are compared, theirs with memories in fp32.
"""

import argparse
import datetime
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH), str(BENCH.parent / "tests" / "support")]

import family_models  # noqa: E402  (before torch)
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import tame_weights  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from family_scenarios import write_clip  # noqa: E402
from reports import write_report  # noqa: E402
from suite.machine import RESULTS, machine  # noqa: E402

from sam2fast.build_sam import build_sam2_video_predictor  # noqa: E402
from sam2fast.checkpoints.transformers_layout import to_transformers  # noqa: E402
from sam2fast.compat.misc import load_video_frames  # noqa: E402
from sam2fast.sam2_image_predictor import SAM2ImagePredictor  # noqa: E402
from sam2fast.utils.testing import relative_error  # noqa: E402

FULL = 16  # frames after which as many memories and pointers are attended to as ever
CLICK = {"points": np.array([[140, 110]], np.float32), "labels": np.array([1], np.int32)}


class Sam3:
    """SAM 3's tracker of transformers, with the methods of a published predictor that are called here."""

    def __init__(self, size: int, weights: dict[str, torch.Tensor]) -> None:
        from transformers import Sam3TrackerVideoConfig, Sam3TrackerVideoModel
        from transformers.models.sam3_tracker_video import modeling_sam3_tracker_video as module

        module.torch = family_models.Float32Memory()  # which stores memories in fp32
        self.size, self.session = size, module.Sam3TrackerVideoInferenceSession
        self.model = Sam3TrackerVideoModel(Sam3TrackerVideoConfig()).eval()
        self.model.load_state_dict(to_transformers(weights), strict=True, assign=True)

    def set_image(self, image: np.ndarray) -> None:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        self.model.get_image_features((pixels - 0.5) / 0.5, return_dict=True)

    def init_state(self, video: str) -> Any:
        images, *hw = load_video_frames(video, self.size, True, (0.5,) * 3, (0.5,) * 3)
        return self.session(images, video_height=hw[0], video_width=hw[1], dtype=torch.float32)

    def add_new_points_or_box(self, state: Any, frame: int, obj: int, points: np.ndarray, labels: np.ndarray) -> None:
        scale = self.size / torch.tensor([state.video_width, state.video_height])
        inputs = {"point_coords": torch.from_numpy(points)[None, None] * scale}
        inputs["point_labels"] = torch.from_numpy(labels)[None, None]
        state.add_point_inputs(state.obj_id_to_idx(obj), frame, inputs)
        state.obj_with_new_inputs = [obj]
        self.model(state, frame_idx=frame)

    def propagate_in_video(self, state: Any, start: int, count: int | None = None) -> Iterator[Any]:
        for out in self.model.propagate_in_video_iterator(state, start, count):
            hw = state.video_height, state.video_width
            yield out.frame_idx, out.object_ids, F.interpolate(out.pred_masks, hw, mode="bilinear")


def sam3(size: int) -> family_models.Pair:
    ours = tame_weights.fill(build_sam2_video_predictor("sam3/sam3", device="cpu"), 0)
    return ours, Sam3(size, ours.state_dict())


# By the package named sam2: models, sizes of their images, and how both predictors are built.
MODELS: dict[str, dict[str, tuple[int, Callable[..., family_models.Pair]]]] = {
    "official": {
        "tiny": (1024, partial(family_models.hiera, family_models.TINY)),
        "medsam2": (512, partial(family_models.hiera, family_models.MEDSAM2)),
        **({"sam3": (1008, sam3)} if find_spec("transformers") else {}),
    },
    "edgetam": {"edgetam": (1024, family_models.edgetam)},
    "efficienttam": {
        f"efficienttam_{name}": (
            512 if "512" in name else 1024,
            partial(family_models.efficienttam, f"efficienttam_{name}"),
        )
        for name in ("s", "s_512x512", "s_1", "s_2", "ti", "ti_512x512", "ti_1", "ti_2")
    },
}


def in_turn(calls: dict[str, Callable[[], Any]], runs: int) -> dict[str, list[float]]:
    """Processor seconds of each call, after a first one that does not count, unless there is one run."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + (runs > 1)):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            if run or runs == 1:
                samples[name].append(time.process_time() - begin)
    return samples


def our_passes(predictor: Any, video: Path) -> tuple[torch.Tensor, Iterator[Any]]:
    """Masks of the first tracked frame, and of frames whose memories are full."""
    state = predictor.init_state(str(video))
    predictor.add_new_points_or_box(state, 0, 1, **CLICK)
    masks = [found[2] for found in predictor.propagate_in_video(state, 0, 1, progress=False)]
    tracked = state.objects[1].tracked
    for frame in range(2, FULL):
        tracked[frame], state.objects[1].reverse[frame] = tracked[1], False
    return masks[1], predictor.propagate_in_video(state, FULL, progress=False)


def their_passes(predictor: Any, video: Path) -> tuple[torch.Tensor, Iterator[Any]]:
    state = predictor.init_state(str(video))
    predictor.add_new_points_or_box(state, 0, 1, **CLICK)
    masks = [found[2] for found in predictor.propagate_in_video(state, 0, 1)]
    # The older predictors track objects together.
    found = vars(state) if isinstance(predictor, Sam3) else state
    results = [found["output_dict"]] if "output_dict" in found else found["output_dict_per_obj"].values()
    for result in results:
        tracked = result["non_cond_frame_outputs"]
        tracked.update(dict.fromkeys(range(2, FULL), tracked[1]))
    return masks[1], predictor.propagate_in_video(state, FULL)


def measured(name: str, size: int, pair: family_models.Pair, video: Path, runs: int) -> dict[str, Any]:
    ours, theirs = pair
    for predictor in pair:
        predictor.fill_hole_area = 0  # for which the published code needs an extension
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    images = {"ours": SAM2ImagePredictor(ours)}
    images["theirs"] = theirs if isinstance(theirs, Sam3) else family_models.image_predictor(theirs)
    encode = in_turn({who: partial(one.set_image, image) for who, one in images.items()}, runs)
    expected, their_frames = their_passes(theirs, video)
    actual, our_frames = our_passes(ours, video)
    frame = in_turn({"theirs": partial(next, their_frames), "ours": partial(next, our_frames)}, runs)
    row: dict[str, Any] = {"model": name, "image_size": size, "difference": float(relative_error(expected, actual))}
    for part, samples in (("encode", encode), ("frame", frame)):
        median = {who: statistics.median(taken) for who, taken in samples.items()}
        row |= {f"{part}_s": median, f"{part}_ratio": median["theirs"] / median["ours"], f"{part}_samples_s": samples}
    return row


def main(options: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = MODELS[family_models.package()]
    parser.add_argument("--model", nargs="+", choices=models, default=[name for name in models if name != "sam3"])
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "calls")
    args = parser.parse_args(options)
    report = "sam3-cpu" if "sam3" in args.model else "family-cpu"
    path = args.out / f"{report}-{datetime.date.today()}.json"
    earlier = json.loads(path.read_text())["rows"] if path.exists() else []
    about, rows = machine(), [row for row in earlier if row["model"] not in args.model]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        video = write_clip(Path(folder), FULL + args.runs + 1)
        family_models.repair(patch)
        for name in args.model:
            size, build = models[name]
            rows.append(measured(name, size, build(size), video, args.runs))
            print({key: value for key, value in rows[-1].items() if not key.endswith("samples_s")}, flush=True)
            write_report(args.out, report, machine=about, rows=rows)


if __name__ == "__main__":
    main()
