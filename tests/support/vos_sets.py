"""Small data sets of videos with masks, and the official VOS inference with any predictor."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from video import clip, jpeg_folder

from sam2fast.io.label_maps import palette

HEIGHT, WIDTH = 90, 120
# By frame and object: middle (x, y) and radius of a disc.
Discs = Mapping[int, Mapping[int, tuple[int, int, int]]]
Mask = NDArray[np.bool_]
NOT_THERE = -1024.0


def disc(x: int, y: int, radius: int) -> Mask:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def save_png(path: Path, labels: NDArray[np.uint8], colours: bytes | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if colours is not None:
        image.putpalette(colours)
    image.save(path)


def odd_colours() -> bytes:
    """A palette that is not DAVIS's."""
    return np.random.default_rng(7).integers(0, 255, (256, 3), dtype=np.uint8).tobytes()


def write_masks(folder: Path, discs: Discs, per_object: bool = False, colours: bytes | None = None) -> None:
    """Masks in either layout; where discs overlap in a palette image, the greater id covers the other."""
    for frame, objects in discs.items():
        labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        for obj_id in sorted(objects):
            mask = disc(*objects[obj_id])
            labels[mask] = obj_id
            if per_object:
                save_png(folder / f"{obj_id:03d}" / f"{frame:05d}.png", mask.astype(np.uint8), colours)
        if not per_object:
            save_png(folder / f"{frame:05d}.png", labels, colours)


def write_video(folder: Path, frames: int, seed: int = 0) -> Path:
    return jpeg_folder(folder, clip(frames, HEIGHT, WIDTH, seed))


def davis_folder(folder: Path, per_object: bool = False) -> None:
    """Writes two videos of three frames with two objects each, in either layout."""
    discs = {t: {1: (30 + t, 30, 18), 2: (80, 50 + t, 20)} for t in range(3)}
    for seed, name in enumerate(("a", "b")):
        write_video(folder / "JPEGImages" / name, 3, seed)
        write_masks(folder / "Annotations" / name, discs, per_object, palette().tobytes())


class OfficialInference:
    """``tools/vos_inference.py`` on one video, in fp32."""

    def __init__(
        self, predictor: Any, frames: Path, masks: Path, score_thresh: float, all_masks: bool, per_object: bool
    ) -> None:
        self.predictor, self.masks, self.per_object = predictor, masks, per_object
        self.score_thresh, self.all_masks = score_thresh, all_masks
        self.names = sorted((path.stem for path in frames.iterdir()), key=int)
        self.state = predictor.init_state(str(frames))
        self.colours: Sequence[int] | None = None

    def files(self, name: str) -> dict[int | None, Path]:
        if not self.per_object:
            return {None: self.masks / f"{name}.png"}
        return {int(path.name): path / f"{name}.png" for path in sorted(self.masks.iterdir())}

    def read(self, name: str, may_lack: bool = False) -> dict[int, Mask]:
        found: dict[int, Mask] = {}
        for obj_id, file in self.files(name).items():
            if may_lack and not file.exists():
                continue
            image = Image.open(file)
            self.colours, labels = image.getpalette(), np.array(image)
            if obj_id is not None:
                found[obj_id] = labels > 0
            else:
                found.update({int(i): labels == i for i in np.unique(labels) if i > 0})
        return found

    def together(self) -> dict[int, dict[int, torch.Tensor]]:
        """Logits by frame and object."""
        indices = [0]
        if self.all_masks:
            indices = [t for t, name in enumerate(self.names) if any(f.exists() for f in self.files(name).values())]
        for t in indices:
            for obj_id, mask in self.read(self.names[t]).items():
                self.predictor.add_new_mask(self.state, t, obj_id, mask)
        answers = self.predictor.propagate_in_video(self.state)
        return {t: dict(zip(list(ids), logits.clone(), strict=True)) for t, ids, logits in answers}

    def one_by_one(self) -> dict[int, dict[int, torch.Tensor]]:
        given: dict[int, dict[int, Mask]] = {}
        for t, name in enumerate(self.names):
            for obj_id, mask in self.read(name, may_lack=True).items():
                if mask.any() and (self.all_masks or obj_id not in given):
                    given.setdefault(obj_id, {})[t] = mask
        size = (1, self.state["video_height"], self.state["video_width"])
        found = {t: {i: torch.full(size, NOT_THERE) for i in sorted(given)} for t in range(len(self.names))}
        for obj_id in sorted(given):
            self.predictor.reset_state(self.state)
            for t, mask in given[obj_id].items():
                self.predictor.add_new_mask(self.state, t, obj_id, mask)
            first = min(given[obj_id])
            for t, _, logits in self.predictor.propagate_in_video(self.state, start_frame_idx=first):
                found[t][obj_id] = logits[0].clone()
        if not self.per_object:
            for t, logits in found.items():
                apart = self.predictor._apply_non_overlapping_constraints(torch.stack(list(logits.values())))
                found[t] = dict(zip(logits, apart, strict=True))
        return found

    def images(self, late_objects: bool) -> Iterator[tuple[str, NDArray[np.uint8], bytes]]:
        """Relative paths, pixels and palettes of the files."""
        found = self.one_by_one() if late_objects else self.together()
        colours = palette().tobytes() if self.colours is None else bytes(self.colours)
        for t, logits in found.items():
            masks = {i: (x[0] > self.score_thresh).numpy() for i, x in logits.items()}
            labels = np.zeros((self.state["video_height"], self.state["video_width"]), dtype=np.uint8)
            for obj_id in sorted(masks, reverse=True):
                labels[masks[obj_id]] = obj_id
                if self.per_object:
                    yield f"{obj_id:03d}/{self.names[t]}.png", masks[obj_id].astype(np.uint8), colours
            if not self.per_object:
                yield f"{self.names[t]}.png", labels, colours
