"""Random annotations, data set files in their official formats, and small videos for them."""

import json
from pathlib import Path

import numpy as np
from file_contents import files_of
from numbered_videos import drawing_of, encode
from PIL import Image

from sam2fast.datasets.annotations import VideoAnnotations
from sam2fast.io.label_maps import palette
from sam2fast.io.rle import encode_rle

HEIGHT, WIDTH = 34, 46
SAV_FACTS = {
    "video_duration": 20.125,
    "video_frame_count": 24.0,
    "video_resolution": float(HEIGHT * WIDTH),
    "video_environment": "Indoor",
    "video_split": "train",
}


def random_masks(rng: np.random.Generator, count: int, overlap: bool = False) -> list[np.ndarray]:
    """Returns masks ``(H, W)`` bool of ``count`` objects, ragged, some of them empty."""
    labels = rng.integers(0, count + 2, (5, 7)).repeat(8, 0).repeat(8, 1)[:HEIGHT, :WIDTH]
    masks = [labels == number for number in range(1, count + 1)]
    for mask in masks:
        if rng.random() < 0.2:
            mask[:] = False
    if overlap and count > 1:
        masks[0] |= np.roll(masks[1], 1, 0)
        masks[1][:] |= masks[0] & (rng.random((HEIGHT, WIDTH)) < 0.5)
        masks[0][10, 10] = masks[1][10, 10] = True
    return masks


def random_video(
    name: str,
    seed: int = 0,
    objects: tuple[int, ...] = (1, 2, 4),
    frames: tuple[str, ...] = ("00000", "00004", "00008", "00012"),
    facts: dict | None = None,
    overlap: bool = False,
    gaps: bool = True,
) -> VideoAnnotations:
    """Annotations in memory. With ``gaps``, some objects are not in some frames, and none in the last one."""
    rng = np.random.default_rng(seed)
    stored = {}
    for frame in frames:
        masks = random_masks(rng, len(objects), overlap)
        stored[frame] = {
            number: encode_rle(mask)
            for number, mask in zip(objects, masks, strict=True)
            if not gaps or (frame != frames[-1] and rng.random() < 0.8)
        }
    return VideoAnnotations(name, (HEIGHT, WIDTH), frames, objects, facts or {}, stored.__getitem__)


def write_sav(root: Path, name: str, seed: int = 0, kind: str = "manual", objects: int = 3, frames: int = 5) -> dict:
    """``<name>_manual.json`` with SA-V's keys; its content."""
    rng = np.random.default_rng(seed)
    content = {
        "video_id": name,
        **SAV_FACTS,
        "video_height": float(HEIGHT),
        "video_width": float(WIDTH),
        "masklet": [[encode_rle(m) for m in random_masks(rng, objects, overlap=True)] for _ in range(frames)],
        "masklet_id": list(range(objects)),
        "masklet_type": [kind] * objects,
        "masklet_edited_frame_count": list(range(objects)),
        "masklet_stability_score": [None] * objects,
        "masklet_num": objects,
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{name}_{kind}.json").write_text(json.dumps(content))
    return content


def write_palette(path: Path, labels: np.ndarray, colours: bytes | None = None) -> None:
    """A palette image, as DAVIS's tools write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(palette().tobytes() if colours is None else colours)
    image.save(path)


def random_labels(rng: np.random.Generator, ids: tuple[int, ...]) -> np.ndarray:
    """``(H, W)`` with some of these ids."""
    return rng.choice([0, *ids], (5, 7)).repeat(8, 0).repeat(8, 1)[:HEIGHT, :WIDTH]


def write_jpegs(folder: Path, names: tuple[str, ...]) -> None:
    """An image for each name, whose bytes differ."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(drawing_of(WIDTH, HEIGHT)(number)).save(folder / f"{name}.jpg", quality=90)


def small_video(count: int = 18, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """An MP4 file whose frames carry their numbers (``numbered_videos.number_in``)."""
    return encode("mpeg4", "mp4", {"q": "2"}, count, draw=drawing_of(width, height))


def read_files(folder: Path) -> dict[str, bytes]:
    """All files by their path in the folder, without hidden files and folders."""
    return {path: content for path, content in files_of(folder).items() if not path.startswith(".")}


def pixels_of(folder: Path) -> dict[str, np.ndarray]:
    """The indices in all PNGs by their path in the folder."""
    paths = sorted(folder.rglob("*.png"))
    return {path.relative_to(folder).as_posix(): np.asarray(Image.open(path)) for path in paths}
