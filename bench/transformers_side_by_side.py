"""Times Hugging Face transformers' SAM 2 beside sam2fast, in turn in one process, in an environment that has it.

    make bench-transformers

The tiny model with the same drawn weights, fp32, on the CPU: an image encoded, one click answered, and a steady frame
of a video (seven memories full) with one object and four. Their processor is not used; what it does is done here as it
does it, and timed: normalising pixels, bringing masks to the image's size. So that both compute the same,
``Sam2VideoModel`` is made to store memories in fp32, and to remember the masks of prompted frames as they are: cut at
0, a pixel that rounding has carried across would change all that follows. Results are compared on every call; one that
differs stops the run. Rows are those of the suite (``suite/schema.py``), with transformers in the official package's
place.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from reports import write_report
from suite.machine import machine
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "transformers"))

import tame_weights
import transformers
from counterpart import vision_config
from float32_memory import Float32Memory
from PIL import Image
from transformers import (
    Sam2Config,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoMaskDecoderConfig,
    Sam2VideoModel,
    Sam2VideoPromptEncoderConfig,
)
from transformers.models.sam2_video import modeling_sam2_video
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from sam2fast.build_sam import build_sam2, build_sam2_video_predictor
from sam2fast.checkpoints.transformers_layout import to_transformers
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.utils.testing import relative_error

NAME = "sam2.1_hiera_t"
CONFIG = f"configs/sam2.1/{NAME}.yaml"
ALLOWED = 1e-4
WARM_UP = 8  # frames until seven memories are full
OBJECTS = (1, 4)
MEAN, STD = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
# The choice among masks as transformers has it always.
OVERRIDES = (
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability=true",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_delta=0.05",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh=0.98",
)
# What Sam2Model does not have.
VIDEO_ONLY = ("maskmem", "mask_downsample", "memory_", "no_mem_pos_enc", "no_obj_", "obj_ptr_")
Call = Callable[[], Tensor]


def clip(frames: int, size: int) -> list[NDArray[np.uint8]]:
    """A disc that moves over a drifting smooth random image, as ``(S, S, 3)``."""
    coarse = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((2 * size, 2 * size), Image.Resampling.BICUBIC))
    y, x = np.mgrid[:size, :size] / size
    images = []
    for t in range(frames):
        frame = image[3 * t : 3 * t + size, 5 * t : 5 * t + size].copy()
        frame[np.hypot(x - 0.55 - t / 64, y - 0.45 + t / 85) < 0.15] = (220, 60, 40)
        images.append(frame)
    return images


def normalised(image: NDArray[np.uint8]) -> Tensor:
    """``(1, 3, S, S)`` as their models want it."""
    return ((torch.from_numpy(image).permute(2, 0, 1) / 255 - MEAN) / STD)[None]


def clicks(objects: int, size: int) -> list[tuple[float, float]]:
    """One (x, y) on each object."""
    return [(size * x, size * y) for x, y in ((0.55, 0.45), (0.2, 0.3), (0.8, 0.75), (0.3, 0.8))[:objects]]


def image_calls(size: int) -> Iterator[tuple[str, dict[str, Call]]]:
    """Cases with the calls to be timed; what one returns is compared with the other's."""
    ours_model = build_sam2(CONFIG, None, device="cpu", hydra_overrides_extra=[f"++model.image_size={size}"])
    tame_weights.fill(ours_model, 0)
    weights = {n: x for n, x in ours_model.state_dict().items() if not n.startswith(VIDEO_ONLY)}
    config = Sam2Config(vision_config=vision_config(NAME, size), prompt_encoder_config={"image_size": size})
    theirs = Sam2Model(config).eval()
    theirs.load_state_dict(to_transformers(weights), strict=True)
    ours = SAM2ImagePredictor(ours_model)
    image = clip(1, size)[0]
    (point,) = clicks(1, size)
    features: list[Tensor] = []

    def their_encoding() -> Tensor:
        features[:] = theirs.get_image_embeddings(normalised(image))
        return features[-1]

    def our_encoding() -> Tensor:
        ours.set_image(image)
        return ours.get_image_embedding()

    def their_answer() -> Tensor:
        points, labels = torch.tensor([[[point]]]), torch.ones(1, 1, 1, dtype=torch.int32)
        out = theirs(image_embeddings=features, input_points=points, input_labels=labels, multimask_output=True)
        return F.interpolate(out.pred_masks[0], (size, size), mode="bilinear", align_corners=False)

    def our_answer() -> Tensor:
        masks, _, _ = ours.predict(np.array([point]), np.array([1]), return_logits=True)
        return torch.from_numpy(masks)[None]

    yield "image encode", {"transformers": their_encoding, "sam2fast": our_encoding}
    yield "predict", {"transformers": their_answer, "sam2fast": our_answer}


def our_frames(size: int, video: list[NDArray[np.uint8]], objects: int) -> tuple[Any, Iterator[Tensor]]:
    """Our model, and the logits ``(N, 1, S, S)`` of each frame as they are asked for."""
    predictor = build_sam2_video_predictor(
        CONFIG,
        None,
        device="cpu",
        hydra_overrides_extra=[*OVERRIDES, f"++model.image_size={size}"],
        apply_postprocessing=False,
    )
    tame_weights.fill(predictor, 0)

    def frames() -> Iterator[Tensor]:
        state = predictor.init_state(video)
        for i, point in enumerate(clicks(objects, size)):
            predictor.add_new_points_or_box(state, 0, i + 1, [point], [1])
        for _, _, masks in predictor.propagate_in_video(state, progress=False):
            yield masks

    return predictor, frames()


class SameMemories(Sam2VideoModel):
    """Remembers masks of prompted frames as those of the others."""

    def _encode_new_memory(
        self,
        current_vision_feats: Tensor,
        pred_masks_high_res: Tensor,
        object_score_logits: Tensor,
        is_mask_from_pts: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        return super()._encode_new_memory(current_vision_feats, pred_masks_high_res, object_score_logits, False)


def their_frames(
    weights: dict[str, Tensor], size: int, video: list[NDArray[np.uint8]], objects: int
) -> Iterator[Tensor]:
    """As :func:`our_frames`, by transformers."""
    config = Sam2VideoConfig(
        vision_config=vision_config(NAME, size),
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(image_size=size),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(),
        image_size=size,
        memory_attention_rope_feat_sizes=[size // 16, size // 16],
    )
    model = SameMemories(config).eval()
    model.load_state_dict(to_transformers(weights), strict=True)
    pixels = torch.cat([normalised(image) for image in video])
    session = Sam2VideoInferenceSession(pixels, video_height=size, video_width=size, dtype=torch.float32)
    for i, point in enumerate(clicks(objects, size)):
        index = session.obj_id_to_idx(i + 1)
        inputs = {"point_coords": torch.tensor([[[point]]]), "point_labels": torch.ones(1, 1, 1, dtype=torch.int32)}
        session.add_point_inputs(index, 0, inputs)
    session.obj_with_new_inputs = list(range(1, objects + 1))
    model(session, frame_idx=0)
    for out in model.propagate_in_video_iterator(session):
        yield F.interpolate(out.pred_masks, (size, size), mode="bilinear", align_corners=False)


def video_calls(size: int, objects: int, runs: int) -> dict[str, Call]:
    """Calls that give the next frame, for so many frames besides those of the warm-up."""
    video = clip(1 + WARM_UP + runs, size)
    predictor, ours = our_frames(size, video, objects)
    theirs = their_frames(predictor.state_dict(), size, video, objects)
    return {"transformers": lambda: next(theirs), "sam2fast": lambda: next(ours)}


def measure(case: str, calls: dict[str, Call], warm_up: int, runs: int, **setting: Any) -> dict[str, Any]:
    """A row: calls in turn, the first ``warm_up`` rounds not among the samples.

    Raises:
        SystemExit: results differ.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    difference = 0.0
    for _ in range(warm_up + runs):
        results = []
        for name, call in calls.items():
            start = time.perf_counter()
            with torch.inference_mode():
                results.append(call())
            seconds[name].append(time.perf_counter() - start)
        difference = max(difference, relative_error(*results))
        if not difference <= ALLOWED:
            raise SystemExit(f"{case}, {setting}: results differ by {difference:.1e}; not timed")
    theirs, ours = (samples[warm_up:] for samples in seconds.values())
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {
        "case": case,
        "size": "t",
        "dtype": "fp32",
        **setting,
        "history": None,
        "subjects": {name: figures(samples[0], samples[warm_up:]) for name, samples in seconds.items()},
        "ratio": {"sam2fast": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}},
        "difference": {"sam2fast": difference},
        "note": "",
    }


def figures(first: float, samples: list[float]) -> dict[str, Any]:
    return {
        "samples_s": samples,
        "median_s": statistics.median(samples),
        "min_s": min(samples),
        "max_s": max(samples),
        "first_s": first,
        "compile_s": None,
        "peak_mib": None,
        "note": "",
    }


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    runs = arguments.runs
    for case, calls in image_calls(arguments.image_size):
        times = runs if case == "image encode" else 5 * runs
        yield measure(case, calls, 1, times, image_size=arguments.image_size, objects=None)
    module: Any = modeling_sam2_video
    module.torch = Float32Memory()
    for objects in OBJECTS:
        calls = video_calls(arguments.video_size, objects, runs)
        setting = {"image_size": arguments.video_size, "objects": objects}
        yield measure("video steady frame", calls, 1 + WARM_UP, runs, **setting)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--video-size", type=int, default=512)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    measured = []
    for row in rows(arguments):
        measured.append(row)
        medians = ", ".join(f"{name} {subject['median_s']:.3f} s" for name, subject in row["subjects"].items())
        what = f"{row['case']} at {row['image_size']}" + (f", {row['objects']} objects" if row["objects"] else "")
        ratio, difference = row["ratio"]["sam2fast"], row["difference"]["sam2fast"]
        print(
            f"{what}: {medians}, {ratio['median']:.2f}x ({ratio['min']:.2f}-{ratio['max']:.2f}), "
            f"differ by {difference:.1e}",
            flush=True,
        )
    if arguments.out:
        about = machine() | {"transformers": transformers.__version__}
        path = write_report(arguments.out, "suite-transformers-cpu", machine=about, rows=measured)
        print(f"written to {path}")


if __name__ == "__main__":
    main()
