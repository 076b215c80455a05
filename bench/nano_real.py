"""How nano's masks of real pictures and videos agree with those of a larger model.

    python bench/nano_real.py --teacher sam2_hiera_tiny.pt --images FOLDER --videos FOLDER [--out bench/results]

There is no truth for these; the teacher's masks stand in for it. Pictures: a grid of clicks; where the teacher is sure
of its mask, nano's for the same click is compared with it. Videos: `BOXES` were drawn by hand around things on some
frames; the teacher's mask for each box is what nano's tracked mask is compared with, from one click or from the
teacher's mask on the first frame.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from reports import write_report
from suite.machine import machine

from sam2fast.build_sam import build_sam2
from sam2fast.evaluation.j_and_f import jaccard
from sam2fast.io.overlay import draw_overlay
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.sam2_video_predictor import SAM2VideoPredictor

GRID = 12  # clicks along each side of a picture
SURE, STABLE = 0.85, 0.9  # of the teacher: predicted IoU, and overlap of the mask cut at logits of 1 and -1

# Video -> thing -> frame -> box around it, in pixels; and a click on it in the first frame.
BOXES: dict[str, dict[str, dict[int, tuple[int, int, int, int]]]] = {
    "bedroom.mp4": {
        "girl": {
            0: (310, 20, 520, 400), 20: (170, 84, 470, 464), 40: (206, 40, 500, 462), 60: (176, 0, 456, 440),
            80: (184, 20, 344, 484), 100: (44, 90, 300, 500), 130: (184, 0, 390, 490), 160: (264, 20, 524, 470),
            190: (290, 120, 504, 496),
        },
        "boy": {0: (140, 134, 296, 408), 160: (6, 0, 172, 450), 190: (30, 98, 216, 538)},
    },
    "01_dog.mp4": {
        "dog": {
            0: (448, 370, 705, 580), 20: (480, 325, 715, 550), 40: (592, 345, 832, 540), 60: (933, 385, 1240, 550),
            120: (880, 380, 1215, 552), 140: (493, 372, 775, 550), 160: (352, 352, 600, 552),
        },
        "woman": {
            0: (226, 215, 475, 562), 20: (245, 80, 510, 562), 40: (218, 75, 400, 568), 60: (208, 75, 408, 568),
            100: (235, 120, 512, 562), 140: (158, 165, 398, 568),
        },
    },
}  # fmt: skip
CLICKS = {"girl": (400, 150), "boy": (215, 280), "dog": (580, 430), "woman": (330, 300)}

Masks = NDArray[np.bool_]


def compare_picture(teacher: SAM2ImagePredictor, nano: SAM2ImagePredictor, picture: Path) -> dict[str, Any]:
    """Mean IoU in percent of nano's masks with the teacher's, over the clicks where the teacher is sure."""
    teacher.set_image(picture)
    nano.set_image(picture)
    height, width = teacher._orig_hw[0]
    chosen, best = [], []
    for j in range(GRID):
        for i in range(GRID):
            point = np.array([[(i + 0.5) * width / GRID, (j + 0.5) * height / GRID]])
            masks, scores, _ = teacher.predict(point, np.array([1]), return_logits=True)
            logits, score = masks[np.argmax(scores)], scores.max()
            if score < SURE or (logits > 1).sum() < STABLE * max(1, (logits > -1).sum()):
                continue
            found, expected, _ = nano.predict(point, np.array([1]))
            ious = [float(jaccard(mask > 0, logits > 0)) for mask in found]
            chosen.append(ious[int(np.argmax(expected))])
            best.append(max(ious))
    return {"clicks": len(chosen), "miou": _percent(chosen), "miou_best_of_3": _percent(best)}


def compare_video(
    teacher: SAM2ImagePredictor, nano: SAM2VideoPredictor, video: Path, sheet: Path | None
) -> dict[str, Any]:
    """IoU in percent of nano's tracked masks with the teacher's, by thing, prompt and frame."""
    things = BOXES[video.name]
    truth: dict[str, dict[int, Masks]] = {name: {} for name in things}
    pictures: dict[int, Any] = {}
    for name, boxes in things.items():
        for t, box in boxes.items():
            pictures.setdefault(t, _picture(video, t))
            teacher.set_image(pictures[t])
            masks, _, _ = teacher.predict(box=np.array(box), multimask_output=False)
            truth[name][t] = masks[0] > 0
    result: dict[str, Any] = {}
    for prompt in ("click", "mask"):
        tracked = _track(nano, video, {n: CLICKS[n] if prompt == "click" else m[0] for n, m in truth.items()})
        result[prompt] = {
            name: {t: _percent([float(jaccard(tracked[t][i], mask))]) for t, mask in masks.items()}
            for i, (name, masks) in enumerate(truth.items())
        }
        if sheet is not None:
            _draw(sheet / f"{video.stem}-{prompt}.png", pictures, tracked)
    return result


def _track(nano: SAM2VideoPredictor, video: Path, prompts: Mapping[str, tuple[int, int] | Masks]) -> dict[int, Masks]:
    state = nano.init_state(video)
    for number, prompt in enumerate(prompts.values()):
        if isinstance(prompt, tuple):
            nano.add_new_points_or_box(state, 0, number, points=[prompt], labels=[1])
        else:
            nano.add_new_mask(state, 0, number, prompt)
    return {t: (logits[:, 0] > 0).cpu().numpy() for t, _, logits in nano.propagate_in_video(state, progress=False)}


def _picture(video: Path, number: int) -> NDArray[np.uint8]:
    import av

    with av.open(str(video)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i == number:
                return frame.to_ndarray(format="rgb24")
    raise SystemExit(f"{video} has no frame {number}")


def _draw(path: Path, pictures: dict[int, NDArray[np.uint8]], tracked: dict[int, Masks]) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = [draw_overlay(pictures[t], tracked[t]).resize((480, 270)) for t in sorted(pictures)]
    sheet = Image.new("RGB", (3 * 480, -(-len(drawn) // 3) * 270))
    for k, image in enumerate(drawn):
        sheet.paste(image, (k % 3 * 480, k // 3 * 270))
    sheet.save(path)


def _percent(values: list[float]) -> float | None:
    return round(100 * float(np.mean(values)), 1) if values else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="a checkpoint of SAM 2 tiny; image weights will do")
    parser.add_argument("--teacher-config", default="configs/sam2/sam2_hiera_t.yaml")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--sheets", type=Path, help="folder for pictures of what was tracked")
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    args = parser.parse_args()
    teacher = SAM2ImagePredictor(build_sam2(args.teacher_config, args.teacher, device="cpu"))
    nano = SAM2VideoPredictor.from_pretrained("sam2fast/nano", device="cpu")
    report: dict[str, Any] = {"machine": machine(), "teacher": args.teacher.name, "pictures": {}, "videos": {}}
    for picture in sorted(args.images.glob("*.jpg")):
        report["pictures"][picture.stem] = compare_picture(teacher, SAM2ImagePredictor(nano), picture)
        print(picture.stem, report["pictures"][picture.stem])
    for name in BOXES:
        report["videos"][name] = compare_video(teacher, nano, args.videos / name, args.sheets)
        print(name, report["videos"][name])
    if args.out is not None:
        write_report(args.out, "nano-real", **report)


if __name__ == "__main__":
    main()
