"""Memory trained from nothing on top of image weights, beside nano, on clips that neither has seen.

    python bench/memory_trial.py --media HELDOUT --trained averaged.pt --image-weights FILE --videos FILMS --out FOLDER

The clips are the first of `nano_heldout.py`, whose measures these are. Floors are the first frame's true mask kept
still, and the model as its training began: image weights, and memory as it was drawn. The subject `pictures` is what
the image weights alone find by one click in images of several sizes; `films` how the trained model's masks of real
films agree with the image weights' at full size, as `nano_real.py` has it of nano. The JSON file is written after each
subject, and one of the same day and clips is completed, so that subjects can be measured one by one.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from nano_heldout import (
    CLIPS,
    PICTURES,
    SIZE,
    build,
    clips,
    evaluate_pictures,
    evaluate_tracking,
    kept_still,
    tracked_by,
)
from nano_real import BOXES, compare_video
from reports import report_path, write_report
from side_by_side import machine

from sam2fast import nano
from sam2fast.build_sam import build_sam2, build_sam2_video_predictor
from sam2fast.checkpoints import load_partial
from sam2fast.config import build_from_config
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.training.config import TRAINING_TARGETS, load_training_config
from sam2fast.training.data.clip import Clip

RECIPE = "sam2.1_training/sam2_hiera_t_memory_from_image_weights"
SUBJECTS = ("still", "nano", "pictures", "untrained", "trained", "films")
SIZES = (256, 384, 512)  # of pictures
# Subject -> options that it cannot do without.
NEEDED = {
    "trained": ("trained",),
    "untrained": ("image_weights",),
    "pictures": ("image_weights",),
    "films": ("trained", "image_weights", "videos"),
}


def evaluate(predictor: Any, videos: list[Clip], name: str) -> dict[str, Any]:
    """J&F in percent from one click and from a mask on the first frame, and how long they took."""
    start = time.perf_counter()
    found: dict[str, Any] = {
        f"clips_{prompt}": evaluate_tracking(tracked_by(predictor, prompt), videos, f"{name}, {prompt}")
        for prompt in ("click", "mask")
    }
    return found | {"seconds": round(time.perf_counter() - start)}


def trained(checkpoint: Path, size: int) -> Any:
    """The predictor of a checkpoint of the recipe."""
    config = f"configs/{load_training_config(RECIPE).model_config}"
    return build_sam2_video_predictor(config, checkpoint, device="cpu", hydra_overrides_extra=_at(size))


def untrained(image_weights: Path, size: int) -> Any:
    """The predictor of the model as the recipe's training begins."""
    recipe = load_training_config(RECIPE)
    torch.manual_seed(recipe.trainer.seed_value)
    start: Any = build_from_config(recipe.trainer.model, targets=TRAINING_TARGETS)
    load_partial(start, image_weights)
    config = f"configs/{recipe.model_config}"
    predictor: Any = build_sam2_video_predictor(config, None, device="cpu", hydra_overrides_extra=_at(size))
    predictor.load_state_dict(start.state_dict())
    return predictor


def pictures(image_weights: Path, held_out: list[Clip]) -> dict[str, Any]:
    """What one click finds at each size, see :func:`evaluate_pictures`."""
    found: dict[str, Any] = {"count": len(held_out)}
    for size in SIZES:
        found[str(size)] = evaluate_pictures(SAM2ImagePredictor(untrained(image_weights, size)), held_out)
    return found


def films(image_weights: Path, predictor: Any, videos: Path) -> dict[str, Any]:
    """IoUs by film, prompt, thing and frame, see :func:`compare_video`."""
    teacher = build_sam2(f"configs/{load_training_config(RECIPE).model_config}", image_weights, device="cpu")
    return {name: compare_video(SAM2ImagePredictor(teacher), predictor, videos / name, None) for name in BOXES}


def _at(size: int) -> list[str]:
    return [f"++model.image_size={size}"]


def _updates(checkpoint: Path) -> int:
    """Of the training that wrote ``averaged.pt``, by the checkpoint beside it."""
    return int(torch.load(checkpoint.with_name("checkpoint.pt"), weights_only=True, map_location="cpu")["steps"])


def _completed(path: Path, report: dict[str, Any]) -> dict[str, Any]:
    """The report with the results of the file, if that is of the same clips.

    Raises:
        SystemExit: it is of others.
    """
    if not path.exists():
        return report
    before = json.loads(path.read_text(encoding="utf-8"))
    if before["clips"] != report["clips"]:
        raise SystemExit(f"{path} is of other clips: {before['clips']}; remove it, or ask for those")
    return {**before, **report, "results": {**before["results"], **report["results"]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, help="photographs and cut-outs that were set aside")
    parser.add_argument("--trained", type=Path, help="averaged.pt of a run of the recipe")
    parser.add_argument("--image-weights", type=Path, help="what the run began with")
    parser.add_argument("--videos", type=Path, help="films that nano_real.py knows")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--pictures", type=int, default=25)
    parser.add_argument("--training-minutes", type=float, help="of one core, that the training took; to be noted")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the images of all but nano")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    args = parser.parse_args()
    for subject, options in NEEDED.items():
        for option in options if subject in args.subjects else ():
            if getattr(args, option) is None:
                parser.error(f"the subject {subject} needs --{option.replace('_', '-')}")
    if args.media is None and set(args.subjects) != {"films"}:
        parser.error("the subjects need --media; films alone does not")
    torch.set_num_threads(args.threads)
    videos = clips(args.media, args.clips, CLIPS) if set(args.subjects) != {"films"} else []
    report: dict[str, Any] = {
        "machine": machine(),
        "recipe": RECIPE,
        "clips": {**CLIPS, "count": args.clips, "size": SIZE},
        "results": {},
    }
    for subject in args.subjects:
        name = subject if subject in ("still", "nano", "pictures") or args.size == SIZE else f"{subject} at {args.size}"
        if subject == "films":
            found = films(args.image_weights, trained(args.trained, args.size), args.videos)
        elif subject == "still":
            found = {"clips_mask": evaluate_tracking(kept_still, videos, name)}
        elif subject == "nano":
            found = evaluate(build(nano.WEIGHTS, "cpu"), videos, name)
        elif subject == "pictures":
            found = pictures(args.image_weights, clips(args.media, args.pictures, PICTURES))
        elif subject == "untrained":
            found = evaluate(untrained(args.image_weights, args.size), videos, name)
        else:
            found = evaluate(trained(args.trained, args.size), videos, name)
            found |= {"updates": _updates(args.trained), "training_minutes": args.training_minutes}
        report["results"][name] = found
        print(name, json.dumps(found))
        if args.out is not None:
            report = _completed(report_path(args.out, "memory-trial-cpu"), report)
            write_report(args.out, "memory-trial-cpu", **report)


if __name__ == "__main__":
    main()
