"""What each approximation of the video predictor costs in agreement with the exact masks, and what it saves.

    python bench/approximations.py --out bench/results
    python bench/approximations.py --films FOLDER --out bench/results    # and real videos
    python bench/approximations.py --model t --out bench/results         # time alone, at 1024x1024, drawn weights

nano tracks clips of the synthetic factory, fast ones and slow ones, from the true masks of the first frame, and videos
of a folder from boxes (those of `nano_real.py`) or clicks. Sessions with each approximation and without any take turns
frame by frame in one process. Masks of every object and frame after the first are compared with those of the exact
session and, where there is one, with the truth. Times and counts are of frames that find all memories filled. FLOPs are
those of products, counted by torch while a clip is tracked once more. ``fp8_attention`` is measured where the
GPU has it; ``fp8_attention=emulated`` rounds alike anywhere, and its times say nothing.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from nano_real import BOXES
from reports import write_rows
from suite.machine import machine

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.evaluation.j_and_f import JAndF, j_and_f
from sam2fast.kernels.memory_attention import why_no_fp8
from sam2fast.profiling.run import scattered_points
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking.approximations import Approximations
from sam2fast.training.data.synthetic import SyntheticClips
from sam2fast.utils.testing import mask_iou

STEADY = 8  # frames before the ones that are timed and counted
SUBJECTS: dict[str, Any] = {
    "exact": (),
    "memory_slots=4": "memory_slots=4",
    "memory_slots=2": "memory_slots=2",
    "pooled_memory": "pooled_memory",
    "still_frames": "still_frames",
    "fp8_attention": "fp8_attention",
    "fp8_attention=emulated": "fp8_attention=emulated",
    "all": ("memory_slots", "pooled_memory", "still_frames"),
}
MOTIONS = {"fast clips": 1.0, "slow clips": 0.1}


@dataclass
class Film:
    """A video, how its objects are shown on the first frame, and what is known about it."""

    frames: Any  # as init_state takes them
    prompt: Callable[[SAM2VideoPredictor, Any], None]
    length: int
    truth: NDArray[np.bool_] | None = None  # (T, O, H, W)


@dataclass
class Found:
    """What one subject made of the films of one kind."""

    ious: list[float] = field(default_factory=list)
    quality: list[JAndF] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of each steady frame
    encoded: int = 0
    frames: int = 0
    tokens: list[float] = field(default_factory=list)
    flop: list[float] = field(default_factory=list)
    page_bytes: int = 0


def factory_films(motion: float, count: int, frames: int, size: int) -> Iterator[Film]:
    clips = SyntheticClips(size=size, num_frames=frames, max_objects=3, length=count, motion=motion, seed=9_100)
    for i in range(count):
        clip = clips.sample(i, np.random.default_rng([9_100, i]))

        def prompt(predictor: SAM2VideoPredictor, state: Any, masks: Any = clip.masks[0]) -> None:
            for o, mask in enumerate(masks):
                predictor.add_new_mask(state, 0, o, mask)

        yield Film(list(clip.frames), prompt, frames, clip.masks)


def real_films(folder: Path, frames: int) -> Iterator[Film]:
    for path in sorted(folder.iterdir()):
        boxes = [found[0] for found in BOXES.get(path.name, {}).values()]

        def prompt(predictor: SAM2VideoPredictor, state: Any, boxes: Any = boxes) -> None:
            for o, box in enumerate(boxes):
                predictor.add_new_points_or_box(state, 0, o, box=box)
            if not boxes:
                for o, point in enumerate(scattered_points(3, *state.video_size)):
                    predictor.add_new_points_or_box(state, 0, o, points=[point], labels=[1])

        yield Film(str(path), prompt, frames)


def drawn_films(frames: int, size: int) -> Iterator[Film]:
    """Something that moves, for time alone."""
    from video import clip

    def prompt(predictor: SAM2VideoPredictor, state: Any) -> None:
        predictor.add_new_points_or_box(state, 0, 0, points=[[size / 2, size / 2]], labels=[1])

    yield Film(clip(frames, size, size), prompt, frames)


def opened(predictor: SAM2VideoPredictor, film: Film, asked: Any) -> tuple[Any, Iterator[tuple[Any, ...]]]:
    predictor.approximations = asked
    state = predictor.init_state(film.frames)
    predictor.approximations = None
    film.prompt(predictor, state)
    last = min(film.length, state.num_frames) - 1
    return state, predictor.propagate_in_video(state, max_frame_num_to_track=last, progress=False)


def track_in_turn(predictor: SAM2VideoPredictor, film: Film, subjects: Sequence[str], found: dict[str, Found]) -> None:
    """Adds what each subject makes of a film."""
    sessions = {name: opened(predictor, film, SUBJECTS[name]) for name in subjects}
    masks: dict[str, list[Tensor]] = {name: [] for name in subjects}
    for frame in range(min(film.length, sessions["exact"][0].num_frames)):
        for name in subjects if frame % 2 else reversed(subjects):  # nobody always comes first
            begin = time.perf_counter()
            logits = next(sessions[name][1])[2]
            masks[name].append(logits[:, 0].cpu() > 0)
            if frame >= STEADY:
                found[name].seconds.append(time.perf_counter() - begin)
    for name, (state, _) in sessions.items():
        add_comparisons(found[name], film, masks[name], masks["exact"])
        found[name].encoded += state.features.encoded
        found[name].frames += len(masks[name])
        found[name].page_bytes = state.bank.memories.data[0].nbytes
        state.frames.close()


def add_comparisons(found: Found, film: Film, masks: Sequence[Tensor], exact: Sequence[Tensor]) -> None:
    for own, others in zip(masks[1:], exact[1:], strict=True):
        found.ious += [mask_iou(a, b) for a, b in zip(own, others, strict=True)]
    if film.truth is not None:
        truth = film.truth[1 : len(masks)]
        found.quality.append(j_and_f(torch.stack(list(masks[1:])).numpy(), truth, skip_first_and_last=False))


def count(predictor: SAM2VideoPredictor, film: Film, asked: Any, found: Found) -> None:
    """FLOPs of each steady frame, and the tokens that an object attends to."""
    state, answers = opened(predictor, film, asked)
    right = state.bank.attended

    def attended(*arguments: Any) -> Any:
        memory = right(*arguments)
        tokens = (memory.page_table >= 0).sum(dim=1) * memory.pages.shape[1] + memory.pointer_valid.sum(dim=1)
        if counting:
            found.tokens += [float(n) for n in tokens]
        return memory

    state.bank.attended, counting = attended, False
    for frame in range(min(film.length, state.num_frames)):
        counting = frame >= STEADY
        with Products() as products:
            next(answers)
        if counting:
            found.flop.append(products.flop)
    state.frames.close()


class Products(TorchDispatchMode):
    """Counts the FLOPs of products by torch's own formulas; its ``FlopCounterMode`` does not work in inference mode."""

    def __init__(self) -> None:
        super().__init__()
        self.flop = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:  # of what the operation is made of
                made = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if made is NotImplemented else made
        out = func(*args, **kwargs)
        self.flop += formula(*args, **kwargs, out_val=out)
        return out


def measure(predictor: SAM2VideoPredictor, kind: str, films: Sequence[Film], has_weights: bool) -> list[dict[str, Any]]:
    """A row for each subject on the films of one kind."""
    subjects = [name for name in SUBJECTS if can_be_measured(name, predictor.device, has_weights)]
    found = {name: Found() for name in subjects}
    for film in films:
        track_in_turn(predictor, film, subjects, found)
    for name in subjects:
        count(predictor, films[0], SUBJECTS[name], found[name])
    return [row(kind, name, found, has_weights) for name in subjects]


def can_be_measured(name: str, device: torch.device, has_weights: bool) -> bool:
    """Drawn weights see nothing that is still, and time alone does not say anything about what is emulated."""
    asked = Approximations.of(SUBJECTS[name])
    if asked.fp8_attention is True:
        return why_no_fp8(device) is None
    return has_weights or (asked.still_frames is None and not asked.fp8_attention)


def row(kind: str, name: str, found: dict[str, Found], has_weights: bool) -> dict[str, Any]:
    own, exact = found[name], found["exact"]
    ratios = [a / b for a, b in zip(exact.seconds, own.seconds, strict=True)]
    quality = JAndF.of_videos(own.quality).mean if own.quality else None
    agreement = {
        "masks": len(own.ious),
        "mean": float(np.mean(own.ious)),
        "q05": float(np.quantile(own.ious, 0.05)),
        "worst": min(own.ious),
    }
    return {
        "films": kind,
        "name": name,
        "approximations": Approximations.of(SUBJECTS[name]).named(),
        "iou": agreement if has_weights else None,
        "j_and_f": quality if has_weights else None,
        "frames": own.frames,
        "encoded": own.encoded,
        "tokens": statistics.mean(own.tokens),
        "gflop": statistics.mean(own.flop) / 1e9,
        "page_bytes": own.page_bytes,
        "samples_s": own.seconds,
        "mean_s": statistics.mean(own.seconds),
        "median_s": statistics.median(own.seconds),
        "saving": None
        if is_emulated(name)
        else {"total": sum(exact.seconds) / sum(own.seconds), "median": statistics.median(ratios)},
    }


def is_emulated(name: str) -> bool:
    """Whether times are those of an imitation, which saves nothing."""
    return Approximations.of(SUBJECTS[name]).fp8_attention == "emulated"


def report(found: dict[str, Any]) -> str:
    iou, quality = found["iou"], found["j_and_f"]
    close = f"IoU {iou['mean']:.3f}, 5 % {iou['q05']:.3f}, worst {iou['worst']:.3f}, " if iou else ""
    close += f"J&F {100 * quality:.1f}, " if quality is not None else ""
    saving = f"{found['saving']['total']:.2f}x" if found["saving"] else "an imitation"
    return (
        f"{found['films']:12} {found['name']:22} {close}encoded {found['encoded']}/{found['frames']}, "
        f"{found['tokens']:.0f} tokens, {found['gflop']:.2f} GFLOP, {found['mean_s'] * 1e3:.1f} ms a frame, "
        f"{saving}"
    )


def build(model: str, device: str, image_size: int | None) -> SAM2VideoPredictor:
    size = [f"++model.image_size={image_size}"] if image_size else []
    if model == "nano":
        return SAM2VideoPredictor.from_pretrained("sam2fast/nano", device=device, hydra_overrides_extra=size)
    import tame_weights

    config = f"configs/sam2.1/sam2.1_hiera_{model}.yaml"
    predictor = build_sam2_video_predictor(config, None, device="cpu", hydra_overrides_extra=size)
    return tame_weights.fill(predictor, 0).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("nano", "t", "s", "b+", "l"), default="nano")
    parser.add_argument("--clips", type=int, default=12, help="of each speed")
    parser.add_argument("--frames", type=int, default=24, help=f"of each clip, more than {STEADY}")
    parser.add_argument("--films", type=Path, help="a folder of videos and of folders of pictures")
    parser.add_argument("--film-frames", type=int, default=100)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.frames <= STEADY or arguments.film_frames <= STEADY:
        parser.error(f"memories are filled after {STEADY} frames; give more")
    predictor = build(arguments.model, arguments.device, arguments.image_size)
    has_weights, frames = arguments.model == "nano", arguments.frames
    kinds: dict[str, Iterator[Film]] = {"time alone": drawn_films(frames, predictor.image_size)}
    if has_weights:
        size = predictor.image_size
        kinds = {kind: factory_films(motion, arguments.clips, frames, size) for kind, motion in MOTIONS.items()}
        if arguments.films:
            kinds["real videos"] = real_films(arguments.films, arguments.film_frames)
    rows = []
    for kind, films in kinds.items():
        for made in measure(predictor, kind, list(films), has_weights):
            rows.append({"model": arguments.model, "image_size": predictor.image_size} | made)
            print(report(made), flush=True)
    if arguments.out:
        write(arguments.out, arguments.device, arguments.model, rows)


def write(folder: Path, device: str, model: str, rows: list[dict[str, Any]]) -> None:
    """Rows of other models that the day's file has stay in it."""
    name = f"approximations-{torch.device(device).type}"
    print(f"written to {write_rows(folder, name, rows, itemgetter('model'), machine=machine(device))}")


if __name__ == "__main__":
    main()
