"""Synthetic clips for tracking strategies, with exact masks: J&F on each kind, and where masks end.

    python examples/strategy_clips.py                       # 50 of each kind, every strategy
    python examples/strategy_clips.py --strategy sam2 samurai
    python examples/strategy_clips.py --both                # the look-alike of hidden and returning is tracked, too
    python examples/strategy_clips.py --all --out all.json  # that with nano and, on 12 of each kind, with mini: hours
    python examples/strategy_clips.py --clips 3 --show out  # and a GIF of each, with outlines of the masks

Kinds: two objects that look the same cross, or turn back where they meet (``crossing``); an object stays behind
something for longer than memories reach (``hidden``), or leaves and comes back at the other side (``returning``), while
another one that looks the same is there. Three to six that look the same meet on curved paths, nearer and farther, in
part behind scenery, and some leave (``crowd``); two or three that look the same meet before a moving camera
(``camera``).

Of each strategy the table has the mean difference of J&F from the first one's on the same clips, with its standard
error. Of clips with two objects it counts those on whose last frames both masks are on their own objects (``right``),
each is on the other's (``swapped``), or one covers both (``merged``).
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from shared import Masks, finish, measured, packaged, tracked_by

from sam2fast.datasets.clip import Clip
from sam2fast.tracking.strategies import STRATEGIES
from sam2fast.training.data.synthetic.compositing import SceneObject
from sam2fast.training.data.synthetic.motion import Floats, affine, compose, wander
from sam2fast.training.data.synthetic.scene import Scene, random_scene
from sam2fast.training.data.synthetic.sprites import Sprite, one_part_sprite, random_sprite, recolour_sprite
from sam2fast.training.data.synthetic.textures import random_texture

KINDS = ("crossing", "hidden", "returning", "crowd", "camera")
SIZE, COUNT, OF_MINI = 256, 50, 12
Row: TypeAlias = dict[str, Any]
AREA, LONGEST, LEAST_FILLED = 0.03, 0.25, 0.42  # of an object, as shares of the frame, its side and the object's square
WALL = 0.36  # width of what hides an object
AWAY = (9, 20)  # for so many frames; memories are of 7, and of one more on the first
LAST = 4  # frames on which masks are on one object or the other
CROWD, FEW = (3, 6), (2, 3)  # objects of a crowd, and before a moving camera
RING, CROWD_AREA, CROWD_LONGEST = 0.35, 0.012, 0.18  # they start on a ring; shares of the frame and its side
POLES, POLE, CLEAR = 2, (0.05, 0.1), 0.11  # at most, their width, and how far from the objects' first places
PAN, MARGIN = 0.15, 0.06  # a camera moves by this much at least; centres of objects stay this far inside
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255))


def strategy_clip(kind: str, index: int, size: int = SIZE, both: bool = False) -> Clip:
    """One clip, the same for the same arguments: 24 to 48 frames. Masks are of one object, of all that meet, or of
    ``both``."""
    rng, name = np.random.default_rng([KINDS.index(kind), index]), f"{kind}/{index}"
    if kind in ("crowd", "camera"):
        scene, objects, count = _crowd(rng, size) if kind == "crowd" else _camera(rng, size)
        return _rendered(rng, scene, objects, rng.permutation(count) + 1, name)
    one = _compact_sprite(rng, size)
    other, low, high = recolour_sprite(rng, one), rng.uniform(0.25, 0.4), rng.uniform(0.6, 0.75)
    if kind == "crossing":
        path, meeting = _crossing(rng)
        y = rng.uniform(0.4, 0.6)
        drawn = [(one, path, y), (other, meeting, y + rng.normal(0, 0.02))]
        order, labelled = list(rng.permutation(2)), [0, 1]
    else:
        path = _hidden(rng) if kind == "hidden" else _returning(rng)
        beside = np.full(len(path), rng.choice([0.2, 0.8]))
        drawn = [(one, path, low), (other, beside, high)]
        if kind == "hidden":
            wall = one_part_sprite(random_texture(rng, (round(WALL * size), 2 * size)).convert("RGBA"))
            drawn.append((wall, np.full(len(path), 0.5), 0.5))
        order, labelled = list(range(len(drawn))), [0, 1] if both else [0]
    scene = random_scene(rng, size, len(path), 0.0, None, 1.0, True)
    is_upright, is_reverse = rng.random(2) < 0.5  # along y instead of x, from the right instead of the left
    objects = []
    for number in order:
        sprite, x, y = drawn[number]
        turn = 0.0 if number == 2 else rng.normal(0, 0.03)
        objects.append(_moving(sprite, 1 - x if is_reverse else x, y, turn, bool(is_upright), size, scene.times))
    return _rendered(rng, scene, objects, np.array([order.index(number) + 1 for number in labelled]), name)


def _rendered(
    rng: np.random.Generator, scene: Scene, objects: list[SceneObject], numbers: NDArray[np.int64], name: str
) -> Clip:
    """The clip of these objects, far to near, and the masks of those with these numbers, from 1."""
    frames = len(scene.times) // scene.steps
    shown = [scene.render(rng, objects, t) for t in range(frames)]
    masks = np.stack([owner == numbers[:, None, None] for _, owner in shown])
    ids = tuple(range(1, len(numbers) + 1))
    return Clip(np.stack([pixels for pixels, _ in shown]), masks, name, ids, tuple(range(frames)))


def _crowd(rng: np.random.Generator, size: int) -> tuple[Scene, list[SceneObject], int]:
    """Three to six that meet, and poles in front of them; how many are no poles."""
    count, frames = int(rng.integers(CROWD[0], CROWD[1] + 1)), int(rng.integers(28, 41))
    scene = random_scene(rng, size, frames, 0.0, None, 1.0, True)
    places = _ring(rng, count)
    ends = places[np.roll(np.arange(count), rng.integers(1, count))]
    ends = 0.5 + (ends - 0.5) * np.where(rng.random(count) < 0.2, 2.4, 1)[:, None]  # some leave
    objects = _meeting(rng, size, np.arange(frames, dtype=float), places, ends, CROWD_AREA, CROWD_LONGEST)
    for _ in range(rng.integers(1, POLES + 1)):
        width = rng.uniform(*POLE)
        while True:
            (x, y), angle = rng.uniform(0.4, 0.6, 2), rng.uniform(0, np.pi)
            if np.abs((places - (x, y)) @ (np.cos(angle), np.sin(angle))).min() > CLEAR + width / 2:
                break
        pole = one_part_sprite(random_texture(rng, (max(4, round(width * size)), 3 * size)).convert("RGBA"))
        still = np.zeros(frames)
        path = affine(still + 1, still + angle, still, still, still + size * x, still + size * y)
        objects.append(SceneObject(pole, path, scene.times))
    return scene, objects, count


def _camera(rng: np.random.Generator, size: int) -> tuple[Scene, list[SceneObject], int]:
    """Two or three that meet before a moving camera, and how many."""
    count, frames = int(rng.integers(FEW[0], FEW[1] + 1)), int(rng.integers(24, 37))
    places = _ring(rng, count)
    ends = 1 - places
    while True:
        scene = random_scene(rng, size, frames, 2.0, None, 1.0, True)
        centre = scene.camera @ (size / 2, size / 2, 1) / size - 0.5
        objects = _meeting(rng, size, scene.times / 2, places, ends, AREA * 0.7, LONGEST)
        objects = [SceneObject(o.sprite, compose(scene.camera, o.path), scene.times) for o in objects]
        inside = all((np.abs(o.path[:, :, 2] / size - 0.5) < 0.5 - MARGIN).all() for o in objects)
        if np.hypot(*centre.T).max() > PAN and inside:
            return scene, objects, count


def _ring(rng: np.random.Generator, count: int) -> Floats:
    """Places ``(count, 2)`` around the middle of the frame, in shares of its side."""
    angle = rng.uniform(0, 2 * np.pi) + 2 * np.pi * (np.arange(count) + rng.uniform(-0.1, 0.1, count)) / count
    return 0.5 + RING * rng.uniform(0.9, 1.05, (count, 1)) * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _meeting(
    rng: np.random.Generator, size: int, times: Floats, places: Floats, ends: Floats, area: float, longest: float
) -> list[SceneObject]:
    """Objects that look the same on curves from place to end, by way of about the middle, in random order."""
    first, objects = _compact_sprite(rng, size, area, longest), []
    progress = np.clip(times / times.max(), 0, 1)
    for place, end in zip(places, ends, strict=True):
        t = progress[:, None] ** rng.uniform(0.8, 1.25)
        bend = 0.5 + rng.normal(0, 0.1, 2)
        x, y = size * ((1 - t) ** 2 * place + 2 * t * (1 - t) * bend + t**2 * end).T
        scale = np.exp(wander(rng, times, rng.uniform(0.1, 0.35), rng.uniform(0.01, 0.04)))
        still = np.zeros(len(times))
        path = affine(scale, still + times * rng.normal(0, 0.03), still, still, x, y)
        objects.append(SceneObject(recolour_sprite(rng, first), path, times))
    return [objects[i] for i in rng.permutation(len(objects))]


def _compact_sprite(rng: np.random.Generator, size: int, area: float = AREA, longest: float = LONGEST) -> Sprite:
    """An object that hides another one of its kind when it is in front of it."""
    while True:
        sprite = random_sprite(rng, area * size**2, longest * size, None, None)
        if len(sprite) == 1 and np.mean(np.asarray(sprite[0].image.getchannel(3)) > 127) > LEAST_FILLED:
            return sprite


def _crossing(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Positions of two that pass each other, or turn back when one hides most of the other."""
    progress = np.linspace(0, 1, int(rng.integers(24, 33)))
    there, start = rng.uniform(0.85, 1.1), rng.uniform(0.14, 0.22)
    if rng.random() < 0.3:
        progress = 0.46 * (1 - np.abs(2 * progress - 1))
    one = start + progress * (1 - 2 * start)
    return one, 1 - start - (progress * there) * (1 - 2 * start)


def _hidden(rng: np.random.Generator) -> Floats:
    """Positions of one that comes to the middle, stays and goes on."""
    come, stay, leave = int(rng.integers(10, 14)), int(rng.integers(*AWAY)), int(rng.integers(10, 14))
    return np.r_[np.linspace(0.14, 0.5, come), np.full(stay, 0.5), np.linspace(0.5, 0.86, leave)]


def _returning(rng: np.random.Generator) -> Floats:
    """Positions of one that leaves the frame and comes in at the other side."""
    leave, away, come = int(rng.integers(10, 14)), int(rng.integers(*AWAY)), int(rng.integers(10, 14))
    return np.r_[np.linspace(0.5, 1.2, leave), np.full(away, 2.0), np.linspace(-0.2, 0.5, come)]


def _moving(
    sprite: Sprite, x: Floats, y: float, turn: float, is_upright: bool, size: int, times: Floats
) -> SceneObject:
    """A sprite along these positions, in shares of the frame, that turns by so many radians a frame."""
    still = np.zeros(len(x))
    angle = np.arange(len(x)) * turn
    places = (still + y, x) if is_upright else (x, still + y)
    if is_upright:
        angle = angle + np.pi / 2
    return SceneObject(sprite, affine(still + 1, angle, still, still, size * places[0], size * places[1]), times)


def write_gif(clip: Clip, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for frame, masks in zip(clip.frames, clip.masks, strict=True):
        image = frame.copy()
        for mask, colour in zip(masks, COLOURS, strict=False):
            image[_outline(mask)] = colour
        images.append(Image.fromarray(image))
    images[0].save(folder / f"{clip.name.replace('/', '_')}.gif", save_all=True, append_images=images[1:], duration=80)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inner = mask.copy()
    for axis in (0, 1):
        inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
    return mask & ~inner


def outcome(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> str:
    """Where two masks ``(T, 2, H, W)`` are in the end: right, swapped, merged or other."""
    found, truth = found[-LAST:], truth[-LAST:]
    shared = (found[:, :, None] & truth[:, None]).sum((0, 3, 4))
    covers = 2 * shared > truth.sum((0, 2, 3))  # more than half of an object, by mask and object
    if covers.all(1).any():
        return "merged"
    return "right" if covers.diagonal().all() else "swapped" if covers[::-1].diagonal().all() else "other"


def row_of(kind: str, strategy: str, clips: Sequence[Clip], found: Sequence[Masks], first: list[float]) -> Row:
    """J&F of the masks that a strategy found.

    Args:
        first: J&F of each clip with the first strategy; filled if it is empty.
    """
    each = [measured([masks], [clip])["J&F"] for masks, clip in zip(found, clips, strict=True)]
    first.extend(each[len(first) :])
    more = np.subtract(each, first)
    ends = [outcome(f, c.masks) if len(c.object_ids) == 2 else "" for f, c in zip(found, clips, strict=True)]
    return {
        "clips": kind,
        "strategy": strategy,
        **measured(found, clips),
        "more": round(more.mean(), 2),
        "error": round(more.std(ddof=1) / len(more) ** 0.5, 2) if len(more) > 1 else 0.0,
        **{name: ends.count(name) for name in ("right", "swapped", "merged")},
    }


def main(options: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=COUNT, help="of each kind (default: %(default)s)")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the frames (default: %(default)s)")
    parser.add_argument("--model", choices=("nano", "mini"), default="nano", help="default: %(default)s")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--strategy", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--both", action="store_true", help="track the look-alike, too")
    parser.add_argument("--all", action="store_true", help=f"--both, with nano and, on {OF_MINI} clips, with mini")
    parser.add_argument("--show", help="a folder for GIFs")
    parser.add_argument("--out", type=Path, help="a JSON file for the rows")
    args, start = parser.parse_args(options), time.perf_counter()
    models = {"nano": args.clips, "mini": min(args.clips, OF_MINI)} if args.all else {args.model: args.clips}
    rows: list[Row] = []
    for model, count in models.items():
        predictor = packaged(model, args.device)
        for kind in args.kinds:
            clips = [strategy_clip(kind, index, args.size, args.both or args.all) for index in range(count)]
            for clip in clips if args.show else ():
                write_gif(clip, Path(args.show))
            with torch.inference_mode():
                found = tracked_by(predictor, clips, {name: STRATEGIES[name]() for name in args.strategy})
            first: list[float] = []
            rows += [{"model": model, **row_of(kind, name, clips, masks, first)} for name, masks in found.items()]
            if args.out is not None:  # of what is done
                finish(args, start, rows)
    finish(args, start, rows)


if __name__ == "__main__":
    main()
