"""How well ``sam2fast.find`` finds labelled objects in other images, and says that they are not there.

    python bench/find_pairs.py DATA --memory 30                                # mini, and videos of two frames
    python bench/find_pairs.py DATA --weights sam2_hiera_tiny.pt                # SAM 2 tiny

DATA is a folder with the clips of bench/find_media.py and photographs in photos/scenes. The weights of the likeness
are fitted on the objects of every other clip, and reported are the other half, and the reverse. ``found`` are results
with an IoU above 0.5 among results that are more alike than 90 % of the results in images without the object.
``copies`` are the shares of copies that are found in crowds, and wrong masks in an image, of each half, by the least
likeness relative to the best one.
"""

import argparse
import datetime
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from find_media import Pair, labeller, make_pairs, read_views
from suite.machine import machine
from tqdm import tqdm

from sam2fast import SAM2ImagePredictor, SAM2VideoPredictor
from sam2fast.evaluation.j_and_f import jaccard
from sam2fast.find import Reference, Search
from sam2fast.image_features import Features
from sam2fast.transforms import to_pixels

FALSE_FINDS = 0.1  # share of images without the object
WITHOUT = {"similar": ("other clip", "cropped"), "pasted": ("plain",)}  # kinds of pairs without the object
MOST = 6  # results in a crowd
RELATIVES = 0.5, 0.3, 0.2, 0.1  # least likenesses of results in a crowd, relative to the best one


class Candidates(NamedTuple):
    """The masks of one image that `find` selects from."""

    pair: Pair
    search: Search
    ious: np.ndarray  # (N, T) with each true mask


def candidates_of(predictor: SAM2ImagePredictor, pair: Pair, encoded: dict[int, Features]) -> Candidates:
    view = pair.reference
    reference = Reference(predictor, view.image, view.mask, features=encoded[id(view.image)])
    search = Search(predictor, [reference], to_pixels(pair.image), encoded.get(id(pair.image)))
    masks = search.full_masks(range(len(search.masks)))
    ious = [[float(jaccard(mask, truth)) for truth in pair.truths] for mask in masks]
    return Candidates(pair, search, np.array(ious).reshape(len(masks), -1))


def fit(found: Sequence[Candidates]) -> tuple[torch.Tensor, float]:
    """Fits weights and a bias of the terms: the likeness shall be the IoU, and the best mask the most alike."""
    terms = torch.stack([one.search.terms[0] for one in found])  # (P, N, 4)
    ious = torch.stack([torch.tensor(one.ious.max(1, initial=0)) for one in found]).float()
    has_object = ious.amax(1) > 0.3
    weights, bias = torch.zeros(terms.shape[2], requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = terms @ weights + bias
        chosen = (torch.softmax(3 * logits[has_object], 1) * ious[has_object]).sum(1)
        value = F.binary_cross_entropy_with_logits(logits, ious) + 1 - chosen.mean()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach(), float(bias.detach())


def crowds(found: Sequence[Candidates], relative: float) -> tuple[float, float]:
    """Returns the share of found copies, and the mean number of wrong masks in an image."""
    hits, wrong = [], []
    for _, search, ious in found:
        good = ious[search.choose(MOST, 0.0, relative)] > 0.5
        hits.append(good.any(0).mean())
        wrong.append((~good.any(1)).sum())
    return round(float(np.mean(hits)), 3), round(float(np.mean(wrong)), 3)


def measure(found: Sequence[Candidates]) -> dict[str, Any]:
    """Returns the figures of all pairs with at most one object, by kind."""
    best: dict[str, list[tuple[float, float, float]]] = defaultdict(list)  # likeness, IoU, side of the object
    for pair, search, ious in found:
        i = int(search.likeness.argmax())
        side = float(np.sqrt(pair.truths[0].mean())) if pair.truths else np.nan
        best[pair.kind].append((float(search.likeness[i]), ious[i].max(initial=0), side))
    figures: dict[str, Any] = {}
    for kind, others in WITHOUT.items():
        likeness, ious, sides = np.array(best[kind]).T
        least = np.quantile(np.array([row[0] for other in others for row in best[other]]), 1 - FALSE_FINDS)
        small = sides < 0.1
        figures[kind] = {
            "pairs": len(ious),
            "mean_iou": round(float(ious.mean()), 3),
            "over_half": round(float((ious > 0.5).mean()), 3),
            "without_object": sum(len(best[other]) for other in others),
            "least_likeness": round(float(least), 3),
            "found": round(float(((likeness > least) & (ious > 0.5)).mean()), 3),
            "small_pairs": int(small.sum()),
            "small_mean_iou": round(float(ious[small].mean()), 3) if small.any() else None,
        }
    return figures


def by_memory(predictor: SAM2VideoPredictor, found: Sequence[Candidates], count: int) -> dict[str, Any]:
    """Returns mean IoUs of `find`, and of tracking in a video of the labelled image and the other image at its size."""
    figures = {}
    for kind in WITHOUT:
        chosen = [one for one in found if one.pair.kind == kind]
        chosen = chosen[:: max(1, len(chosen) // count)][:count]
        ious = []
        for pair in tqdm([one.pair for one in chosen], "memory"):
            height, width = pair.reference.image.shape[:2]
            other = F.interpolate(torch.tensor(pair.image).permute(2, 0, 1)[None].float(), (height, width), mode="area")
            state = predictor.init_state([pair.reference.image, other[0].permute(1, 2, 0).byte().numpy()])
            predictor.add_new_mask(state, 0, 1, pair.reference.mask)
            logits = [masks for _, _, masks in predictor.propagate_in_video(state, progress=False)][1]
            mask = F.interpolate(logits.float(), pair.image.shape[:2], mode="bilinear")[0, 0] > 0
            ious.append(float(jaccard(mask.cpu().numpy(), pair.truths[0])))
        by_find = [one.ious[int(one.search.likeness.argmax())].max() for one in chosen]
        figures[kind] = {"pairs": len(ious), "memory": round(float(np.mean(ious)), 3)}
        figures[kind]["find"] = round(float(np.mean(by_find)), 3)
    return figures


def evaluate(found: Sequence[Candidates]) -> dict[str, Any]:
    """Returns all figures. Sets each likeness by weights that were fitted on the other half."""
    single = [one for one in found if one.pair.kind != "crowd"]
    fits = [fit([one for one in single if one.pair.fold != fold]) for fold in (0, 1)]
    named = {"without fold 0": fits[0], "without fold 1": fits[1], "all": fit(single)}
    rounded = {name: [round(float(x), 3) for x in (*weights, bias)] for name, (weights, bias) in named.items()}
    for one in found:
        one.search.rate(*fits[one.pair.fold])
    halves = [[one for one in found if one.pair.kind == "crowd" and one.pair.fold == fold] for fold in (0, 1)]
    many = {str(relative): [crowds(half, relative) for half in halves] for relative in RELATIVES}
    return {"fitted": rounded, "held_out": measure(single), "crowds": [len(half) for half in halves], "copies": many}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=os.environ.get("SAM2FAST_TEST_DATA"))
    parser.add_argument("--masks", type=Path, default="find_masks.npz", help="masks of the views, made once")
    parser.add_argument("--labels", type=Path, help="weights of SAM 2 tiny, which makes these masks  [default: mini]")
    parser.add_argument("--weights", type=Path, help="of SAM 2 tiny  [default: mini]")
    parser.add_argument("--memory", type=int, default=0, help="pairs of each kind that mini also tracks, as a video")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    views = read_views(args.data, args.masks, args.labels)
    pairs = list(make_pairs(views, sorted((args.data / "photos/scenes").iterdir())))
    predictor = labeller(args.weights)
    encoded = {
        id(view.image): predictor.encode(view.image) for view in tqdm([view for own in views.values() for view in own])
    }
    found = [candidates_of(predictor, pair, encoded) for pair in tqdm(pairs)]
    results: dict[str, Any] = {"date": str(datetime.date.today()), "machine": machine()}
    results |= {"model": "mini" if args.weights is None else args.weights.stem, **evaluate(found)}
    if args.memory:
        results["memory"] = by_memory(SAM2VideoPredictor.from_pretrained("sam2fast/mini"), found, args.memory)
    print(json.dumps(results, indent=2))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
