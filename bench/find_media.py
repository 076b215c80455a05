"""Pairs for bench/find_pairs.py: views of objects in real clips, cut-outs pasted into photographs, and neither.

A view is a frame of a clip with a box around an object, drawn by hand on the frame at 640x360. A model makes the mask
from the box. ``python bench/find_media.py DATA --weights FILE --sheets FOLDER`` draws the masks for review.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from sam2fast import SAM2ImagePredictor
from sam2fast.build_sam import build_sam2
from sam2fast.io.overlay import draw_overlay
from sam2fast.video_io import read_frames

Box = tuple[int, int, int, int]
FLOWER = Path(__file__).parents[1] / "sam2fast/demo/media/flower.mp4"
VIEWS: dict[str, dict[int, Box]] = {
    "01_dog:dog": {
        0: (223, 189, 350, 273),
        58: (442, 192, 587, 275),
        115: (493, 190, 638, 278),
        173: (203, 163, 329, 269),
        230: (381, 200, 453, 297),
        288: (244, 179, 353, 280),
    },
    "01_dog:woman": {
        0: (114, 107, 237, 275),
        58: (108, 39, 202, 281),
        115: (97, 64, 237, 280),
        173: (72, 38, 218, 280),
        230: (75, 40, 167, 282),
        288: (134, 91, 271, 282),
    },
    "bedroom:girl": {0: (209, 0, 344, 264), 80: (123, 5, 229, 322), 119: (68, 79, 240, 360), 159: (171, 24, 346, 326)},
    "bedroom:boy": {0: (97, 90, 196, 272), 119: (4, 101, 119, 277), 159: (2, 0, 113, 304), 199: (65, 0, 183, 281)},
    "02_hummingbird:bird": {
        0: (119, 73, 378, 156),
        35: (282, 68, 502, 203),
        70: (405, 35, 575, 159),
        105: (403, 1, 554, 131),
        140: (371, 19, 635, 107),
    },
    "03_skateboarder:skater": {
        0: (83, 66, 227, 244),
        38: (334, 116, 450, 360),
        76: (266, 1, 440, 104),
        115: (160, 40, 235, 173),
        153: (108, 68, 225, 297),
        191: (167, 1, 278, 142),
    },
    "05_landing_dog_soccer:dog": {
        0: (409, 105, 537, 185),
        42: (185, 127, 315, 218),
        84: (44, 102, 130, 232),
        126: (298, 95, 355, 195),
        168: (234, 93, 288, 181),
        210: (265, 91, 324, 195),
    },
    "05_landing_dog_soccer:ball": {
        0: (326, 149, 380, 199),
        42: (135, 163, 190, 217),
        84: (121, 157, 176, 210),
        126: (251, 154, 307, 202),
        168: (226, 148, 278, 195),
        210: (203, 160, 257, 207),
    },
    "07_snowboarder:rider": {
        0: (127, 46, 220, 223),
        38: (150, 57, 318, 341),
        77: (162, 1, 275, 135),
        115: (234, 32, 337, 294),
        154: (333, 58, 409, 206),
        192: (338, 170, 358, 210),
    },
    "08_driving:dark_car": {
        0: (152, 244, 198, 277),
        25: (159, 249, 201, 280),
        49: (164, 252, 205, 280),
        74: (178, 244, 216, 272),
        98: (192, 248, 228, 271),
        123: (203, 233, 234, 255),
    },
    "08_driving:white_car": {
        49: (0, 214, 108, 319),
        74: (4, 214, 152, 308),
        98: (55, 223, 177, 304),
        123: (81, 212, 187, 280),
    },
    "10_cloth_magic:hat": {
        0: (266, 53, 392, 156),
        49: (313, 74, 410, 154),
        98: (287, 105, 370, 176),
        147: (287, 71, 381, 146),
        196: (300, 63, 405, 147),
        245: (244, 23, 346, 87),
    },
    "11_polevault:athlete": {
        0: (145, 209, 176, 288),
        50: (174, 212, 213, 304),
        100: (267, 187, 308, 321),
        149: (329, 137, 395, 223),
        199: (336, 63, 398, 153),
    },
    "14_social_dog_training:dog": {
        0: (337, 112, 515, 253),
        29: (183, 90, 320, 201),
        58: (354, 117, 442, 258),
        87: (60, 121, 218, 311),
        116: (413, 148, 591, 349),
        145: (155, 126, 364, 359),
    },
    "20_doughkneading:dough": {
        0: (264, 215, 426, 293),
        50: (244, 182, 422, 289),
        199: (251, 192, 385, 289),
        249: (268, 201, 401, 289),
    },
    "21_biker:biker": {
        0: (307, 85, 435, 226),
        48: (287, 77, 436, 189),
        95: (233, 38, 385, 182),
        143: (198, 90, 312, 247),
        190: (154, 153, 251, 253),
    },
    "22_dogskateboarder:dog": {
        0: (444, 215, 641, 360),
        47: (58, 190, 288, 352),
        95: (66, 159, 209, 294),
        142: (136, 146, 207, 244),
        190: (166, 149, 249, 227),
        237: (82, 134, 207, 234),
    },
    "flower:flower": {
        0: (271, 134, 364, 226),
        15: (265, 127, 360, 227),
        30: (248, 104, 369, 234),
        44: (231, 88, 378, 241),
        59: (209, 67, 391, 245),
        74: (192, 56, 401, 258),
    },
}
WITH_TWINS = ("08_driving",)  # clips with several objects of the type, which an image without the object still shows
LEAST_REST = 0.25  # share of a frame that an image without the object shows
SIDES = (0.15, 0.6)  # of a pasted cut-out, as shares of the photograph's height
PASTED, CROWDS, COPIES = 60, 20, 3


class View(NamedTuple):
    """An object on a frame."""

    name: str  # CLIP:OBJECT
    image: np.ndarray  # (H, W, 3) uint8
    mask: np.ndarray  # (H, W) bool


class Pair(NamedTuple):
    """A labelled object, and an image to find it in."""

    kind: str
    fold: int  # 0 or 1; objects of a clip are in one fold
    reference: View
    image: np.ndarray  # (H, W, 3) uint8
    truths: list[np.ndarray]  # masks (H, W) of the object in the image; empty for an image without it


def read_views(data: Path, masks: Path, weights: Path | None) -> dict[str, list[View]]:
    """Returns the views of each object. Their masks are read from ``masks``, or made by a model and written there."""
    stored = dict(np.load(masks)) if masks.exists() else {}
    predictor = None if stored else labeller(weights)
    views: dict[str, list[View]] = {}
    for name, boxes in VIEWS.items():
        clip = name.partition(":")[0]
        file = FLOWER if clip == "flower" else next(p for p in data.rglob("*.mp4") if p.stem == clip)
        with read_frames(file, 1024) as video:
            frames = {frame.index: np.array(frame.rgb) for frame in video if frame.index in boxes}
        views[name] = []
        for index, box in boxes.items():
            image, key = frames[index], f"{name} {index}"
            if predictor is not None:
                predictor.set_image(image)
                scaled = np.array(box) * image.shape[1] / 640
                stored[key] = predictor.predict(box=scaled, multimask_output=False, output_mode="bool")[0][0]
            views[name].append(View(name, image, stored[key]))
    if predictor is not None:
        np.savez_compressed(masks, **stored)
    return views


def make_pairs(views: dict[str, list[View]], scenes: list[Path], seed: int = 0) -> Iterator[Pair]:
    """Yields all pairs.

    ``similar``: another frame of the clip, half of the views away. ``other clip``: a frame of another clip.
    ``cropped``: the largest part of another frame of the clip without the object. ``pasted``: another view of the
    object, pasted into a photograph, and ``plain``, the same photograph without it. ``crowd``: three copies in a
    photograph.
    """
    rng = np.random.default_rng(seed)
    clips = {name: name.partition(":")[0] for name in views}
    folds = {clip: number % 2 for number, clip in enumerate(dict.fromkeys(clips.values()))}
    photographs = iter(rng.permutation(len(scenes)).tolist())
    for name, own in views.items():
        clip, fold = clips[name], folds[clips[name]]
        strangers = [view for other in views if clips[other] != clip for view in views[other]]
        for i, view in enumerate(own):
            other = own[(i + len(own) // 2) % len(own)]
            yield Pair("similar", fold, view, other.image, [other.mask])
            if i % 2 == 0:
                yield Pair("other clip", fold, view, strangers[rng.integers(len(strangers))].image, [])
            elif clip not in WITH_TWINS and (rest := _without(other)) is not None:
                yield Pair("cropped", fold, view, rest, [])
    every = [
        (folds[clips[name]], view, own[(i + len(own) // 2) % len(own)])
        for name, own in views.items()
        for i, view in enumerate(own)
    ]
    order = rng.permutation(len(every)).tolist()
    for i in range(PASTED + CROWDS):
        fold, view, other = every[order[i % len(order)]]
        photograph = np.array(Image.open(scenes[next(photographs)]).convert("RGB"))
        image, truths = photograph, list[np.ndarray]()
        for _ in range(COPIES if i >= PASTED else 1):
            image, truths = paste(image, other, truths, rng)
        yield Pair("crowd" if i >= PASTED else "pasted", fold, view, image, truths)
        if i < PASTED:
            yield Pair("plain", fold, view, photograph, [])


def paste(
    image: np.ndarray, view: View, before: list[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Pastes the object at another size and in another light beside earlier copies. Returns the image and all masks."""
    rows, columns = np.nonzero(view.mask)
    cut = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    for attempt in range(200):
        side = np.exp(rng.uniform(*np.log(SIDES))) * image.shape[0] * 0.985**attempt
        height, width = view.mask[cut].shape
        scale = side / max(height, width)
        size = max(2, round(width * scale)), max(2, round(height * scale))
        x, y = (int(rng.integers(0, most - own)) for own, most in zip(size, image.shape[1::-1], strict=True))
        place = np.s_[y : y + size[1], x : x + size[0]]
        if not any(mask[place].any() for mask in before):
            break
    else:
        raise ValueError("no place is left for another copy")
    light = rng.uniform(0.65, 1.35) * rng.uniform(0.92, 1.08, 3)
    cutout = np.array(Image.fromarray(view.image[cut]).resize(size, Image.Resampling.BOX)) * light
    alpha = np.array(Image.fromarray(np.uint8(view.mask[cut]) * np.uint8(255)).resize(size, Image.Resampling.BOX)) / 255
    if rng.integers(2):
        cutout, alpha = cutout[:, ::-1], alpha[:, ::-1]
    made, mask = image.copy(), np.zeros(image.shape[:2], bool)
    blend = alpha[..., None] * cutout + (1 - alpha[..., None]) * made[place]
    made[place] = blend.clip(0, 255).astype(np.uint8)
    mask[place] = alpha > 0.5
    return made, [*before, mask]


def _without(view: View) -> np.ndarray | None:
    """Returns the largest part of the image beside the object, or None if it is small."""
    rows, columns = np.nonzero(view.mask)
    margin = 8
    parts = (view.image[: max(rows.min() - margin, 0)], view.image[rows.max() + margin :])
    parts += (view.image[:, : max(columns.min() - margin, 0)], view.image[:, columns.max() + margin :])
    largest = max(parts, key=lambda part: part.size)
    return largest if largest.size >= LEAST_REST * view.image.size else None


def labeller(weights: Path | None, device: str = "cpu") -> SAM2ImagePredictor:
    """Returns a predictor of mini, or of SAM 2 tiny with these weights."""
    if weights is None:
        return SAM2ImagePredictor.from_pretrained("sam2fast/mini", device=device)
    return SAM2ImagePredictor(build_sam2("configs/sam2/sam2_hiera_t.yaml", str(weights), device, strict=False))


def draw_sheets(pairs: list[tuple[np.ndarray, list[np.ndarray]]], folder: Path) -> None:
    """Draws masks on images, twelve on a sheet."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(pairs), 12):
        sheet = Image.new("RGB", (4 * 320, 3 * 240))
        for i, (image, masks) in enumerate(pairs[start : start + 12]):
            drawn = draw_overlay(image, np.array(masks) if masks else np.zeros((0, *image.shape[:2]), bool))
            drawn.thumbnail((320, 240))
            sheet.paste(drawn, (i % 4 * 320, i // 4 * 240))
        sheet.save(folder / f"{start // 12:02}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the clips and with photos/scenes")
    parser.add_argument("--masks", type=Path, default="find_masks.npz", help="masks of the views, made once")
    parser.add_argument("--weights", type=Path, help="of SAM 2 tiny, which makes the masks  [default: mini]")
    parser.add_argument("--sheets", type=Path, required=True)
    args = parser.parse_args()
    views = read_views(args.data, args.masks, args.weights)
    draw_sheets([(view.image, [view.mask]) for own in views.values() for view in own], args.sheets / "views")
    pairs = list(make_pairs(views, sorted((args.data / "photos/scenes").iterdir())))
    draw_sheets([(pair.image, pair.truths) for pair in pairs if pair.kind != "similar"], args.sheets / "pairs")


if __name__ == "__main__":
    main()
