"""Tiny data sets in the layouts of SA-1B, SA-V and COCO, and of masks of one's own."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from annotated_videos import small_video
from PIL import Image

from sam2fast.datasets.clip import Clip
from sam2fast.io.rle import encode_rle
from sam2fast.training.data.raw_dataset import NamedVideoDataset
from sam2fast.training.data.sampling import EvalSampler
from sam2fast.training.data.vos import VOSDataset

HEIGHT, WIDTH = 34, 46


def sample(raw: NamedVideoDataset, index: int = 0) -> Clip:
    """All frames and objects of a video."""
    return VOSDataset([], True, raw, EvalSampler()).sample(index, np.random.default_rng(0))


def clips_of(raw: NamedVideoDataset) -> list[Clip]:
    """All frames and objects of each video."""
    return [sample(raw, i) for i in range(len(raw))]


def assert_same_clip(clip: Clip, datapoint: Any) -> None:
    """A clip of ours and an official datapoint: frames, object ids and masks."""
    assert len(clip.frames) == len(datapoint.frames) > 0
    for t, frame in enumerate(datapoint.frames):
        assert np.array_equal(clip.frames[t], np.asarray(frame.data))
        assert clip.object_ids == tuple(o.object_id for o in frame.objects)
        assert clip.frame_indices[t] == frame.objects[0].frame_index
        assert np.array_equal(clip.masks[t], np.stack([o.segment.numpy() for o in frame.objects]).astype(bool))


def blob(rng: np.random.Generator, share: float = 0.2) -> np.ndarray:
    """A mask ``(H, W)`` of a box with ragged edges of about this share of the image; never empty."""
    height, width = (max(3, round(side * share**0.5)) for side in (HEIGHT, WIDTH))
    top, left = rng.integers(0, HEIGHT - height + 1), rng.integers(0, WIDTH - width + 1)
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : top + height, left : left + width] = rng.random((height, width)) < 0.9
    mask[top, left] = True
    return mask


def write_image(path: Path, rng: np.random.Generator, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def write_sa1b(folder: Path, numbers: tuple[int, ...] = (3, 11, 207), objects: int = 4) -> None:
    """``sa_<number>.jpg`` and ``.json``: objects of several sizes and stabilities, one with an area of 0."""
    for number in numbers:
        rng = np.random.default_rng(number)
        write_image(folder / f"sa_{number}.jpg", rng)
        annotations: list[dict[str, Any]] = []
        for i in range(objects):
            mask = blob(rng, share=0.1 + 0.15 * i)
            annotations.append({"id": 100 + i, "segmentation": encode_rle(mask), "area": int(mask.sum())})
            if i:  # one has none
                annotations[-1]["uncertain_iou"] = 0.5 + 0.15 * i
        annotations.insert(1, {"id": 999, "segmentation": encode_rle(np.zeros((HEIGHT, WIDTH), bool)), "area": 0})
        content = {"image": {"height": HEIGHT, "width": WIDTH}, "annotations": annotations}
        (folder / f"sa_{number}.json").write_text(json.dumps(content))


def masklet(seed: int, objects: int = 3) -> list[list[Any]]:
    """Returns run lengths of each object in each of five annotated frames. All objects are visible in the first."""
    rng = np.random.default_rng(seed)
    return [[encode_rle(blob(rng)) for _ in range(objects)] for _ in range(5)]


def write_masklets(folder: Path, name: str, content: Any, kind: str = "manual") -> None:
    path = folder / f"{name}_{kind}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_frames(folder: Path, numbers: range, seed: int = 0) -> None:
    """``<number>.jpg`` with five digits."""
    for number in numbers:
        write_image(folder / f"{number:05d}.jpg", np.random.default_rng([seed, number]))


def write_video(path: Path, frames: int = 18) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(small_video(frames, WIDTH, HEIGHT))


def write_mask_folders(root: Path) -> None:
    """Two images with labels, one with a mask for each object; their masks are the same."""
    rng = np.random.default_rng(0)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[2:9, 3:20], labels[12:30, 5:15], labels[12:30, 20:40] = 7, 2, 255
    for name in ("a.jpg", "b.png", "c.1.jpg"):
        write_image(root / "images" / name, rng)
    (root / "masks" / "c.1").mkdir(parents=True)
    palette = Image.fromarray(labels)
    palette.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
    palette.save(root / "masks" / "a.png")
    Image.fromarray(labels).save(root / "masks" / "b.png")
    for number, label in (("2", 2), ("10", 7)):  # by number: 2 is first
        Image.fromarray((labels == label) * np.uint8(255)).save(root / "masks" / "c.1" / f"{number}.png")


def write_coco(root: Path) -> dict[str, Any]:
    """``images/`` and ``instances.json`` with polygons, both kinds of run lengths, a crowd, an image of nothing."""
    rng = np.random.default_rng(0)
    for number in range(4):
        write_image(root / "images" / f"{number:012d}.jpg", rng)
    square, triangle = [5.0, 4.0, 20.5, 4.0, 20.5, 18.2, 5.0, 18.2], [30.0, 20.0, 44.0, 31.5, 24.0, 30.0]
    mask = blob(rng)
    counts = [len(list(run)) for _, run in itertools.groupby([False, *mask.ravel(order="F")])]
    counts[0] -= 1  # the first one is of pixels outside of the mask
    annotations = [
        (0, [square], 1, {}),
        (0, [triangle, square], 2, {}),
        (0, {"size": [HEIGHT, WIDTH], "counts": counts}, 1, {"iscrowd": 1}),
        (1, dict(encode_rle(mask)), 2, {}),
        (1, {"size": [HEIGHT, WIDTH], "counts": counts}, 1, {}),
        (1, [], 1, {}),
        (3, [triangle], 1, {"area": 2.5}),
    ]
    content = {
        "images": [
            {"id": 70 + n, "file_name": f"{n:012d}.jpg", "height": HEIGHT, "width": WIDTH} for n in (3, 1, 0, 2)
        ],
        "annotations": [
            {"id": 900 + k, "image_id": 70 + n, "segmentation": s, "category_id": c, "area": 50.0, "iscrowd": 0, **more}
            for k, (n, s, c, more) in enumerate(annotations)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (root / "instances.json").write_text(json.dumps(content))
    return content
