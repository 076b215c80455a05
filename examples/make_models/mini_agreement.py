"""How far mini's masks agree with those of SAM 2 tiny, which it is derived from, on photographs that it has not seen.

    python mini_agreement.py --photographs FOLDER --tiny sam2_hiera_tiny.pt --image image.pt --out agreement.jsonl

The photographs are those of ``mini_photographs.txt``, at most ``--count``. Clicks lie on a grid of four by four. SAM 2
tiny's mask at 1024 pixels serves as ground truth where it is confident: predicted IoU at least 0.85, stable under a
shift of the threshold, between 0.5 and 60 percent of the image, and not found by an earlier click. Measured by the IoU
of the mask scored highest and of the best of three: mini as shipped and before rounding to int8, at 768 and 512 pixels,
nano, and tiny at 768 and 512 pixels.

The file gets a line per photograph; a run that was stopped goes on after the last one.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from derive_mini import TINY
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from sam2fast.build_sam import build_sam2, build_sam2_hf
from sam2fast.evaluation.j_and_f import jaccard
from sam2fast.mini import CONFIG, WEIGHTS
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

NAMES = Path(__file__).with_name("mini_photographs.txt")
GRID = 4
LEAST_SCORE, LEAST_STABILITY, AREAS, SAME = 0.85, 0.9, (0.005, 0.6), 0.8

Found = tuple[NDArray[np.float32], NDArray[np.float32]]


def at(predictor: SAM2ImagePredictor, click: tuple[float, float]) -> Found:
    """Logits of the three masks at one click, and their predicted IoUs."""
    logits, scores, _ = predictor.predict(np.array([click]), np.array([1]), multimask_output=True, return_logits=True)
    return logits, scores


def truths(tiny: SAM2ImagePredictor, image: NDArray[np.uint8]) -> list[tuple[tuple[float, float], NDArray[np.bool_]]]:
    """Clicks (x, y) and the masks that count as true."""
    height, width = image.shape[:2]
    tiny.set_image(image)
    kept: list[tuple[tuple[float, float], NDArray[np.bool_]]] = []
    for cell in range(GRID * GRID):
        click = ((cell % GRID + 0.5) * width / GRID, (cell // GRID + 0.5) * height / GRID)
        logits, scores = at(tiny, click)
        best = logits[int(np.argmax(scores))]
        stability = (best > 1).sum() / max((best > -1).sum(), 1)
        mask = best > 0
        if scores.max() < LEAST_SCORE or stability < LEAST_STABILITY or not AREAS[0] <= mask.mean() <= AREAS[1]:
            continue
        if all(jaccard(mask, other) <= SAME for _, other in kept):
            kept.append((click, mask))
    return kept


def candidates(tiny: Path, image: Path) -> dict[str, SAM2ImagePredictor]:
    sources = {"mini": (CONFIG, WEIGHTS), "before int8": (CONFIG, image), "tiny": (TINY, tiny)}
    models = {"nano": build_sam2_hf("sam2fast/nano", device="cpu")}
    for name, source in sources.items():
        for size in (768, 512):
            models[f"{name} at {size}"] = build_sam2(*source, device="cpu", image_size=size)
    return {name: SAM2ImagePredictor(model) for name, model in models.items()}


def compare(models: dict[str, SAM2ImagePredictor], tiny: SAM2ImagePredictor, file: Path) -> dict[str, Any]:
    """For each click the IoUs of every model: of the mask scored highest, and of the best of three."""
    image = np.array(Image.open(file).convert("RGB"))
    found = truths(tiny, image)
    row: dict[str, Any] = {"photograph": file.name, "clicks": [click for click, _ in found]}
    for name, model in models.items():
        row[name] = []
        if found:
            model.set_image(image)
        for click, truth in found:
            logits, scores = at(model, click)
            ious = [float(jaccard(mask > 0, truth)) for mask in logits]
            row[name].append([round(ious[int(np.argmax(scores))], 4), round(max(ious), 4)])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True, help="the folder of the names in the list")
    parser.add_argument("--tiny", type=Path, required=True, help="weights of sam2_hiera_tiny; those for images suffice")
    parser.add_argument("--image", type=Path, required=True, help="mini's image path of derive_mini.py")
    parser.add_argument("--out", type=Path, required=True, help="a .jsonl file")
    parser.add_argument("--count", type=int, default=100)
    args = parser.parse_args()
    names = NAMES.read_text(encoding="utf-8").split()[: args.count]
    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {row["photograph"] for row in rows}
    missing = [name for name in names if Path(name).name not in done]
    models, tiny = candidates(args.tiny, args.image), SAM2ImagePredictor(build_sam2(TINY, args.tiny, device="cpu"))
    with args.out.open("a", encoding="utf-8") as out:
        for name in tqdm(missing):
            rows.append(compare(models, tiny, args.photographs / name))
            print(json.dumps(rows[-1]), file=out, flush=True)
    print(f"{len(rows)} photographs, {sum(len(row['clicks']) for row in rows)} clicks")
    for model in models:
        highest, best = 100 * np.mean([ious for row in rows for ious in row[model]], axis=0)
        print(f"{model:<17}{highest:6.1f} / {best:.1f}")


if __name__ == "__main__":
    main()
