"""Synthetic data set: random scenes of moving objects, rendered to clips."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sam2fast.datasets.clip import Clip
from sam2fast.training.data.synthetic.compositing import SceneObject, footprint
from sam2fast.training.data.synthetic.media import Media, OnLeftOut, warn_left_out
from sam2fast.training.data.synthetic.scene import Scene, crossing_objects, random_objects, random_scene

# Minimum visible area of a labeled object in the first frame, as a fraction of the frame.
LEAST_AREA = 0.004
# Minimum visible area of a labeled object in the first frame, as a fraction of the object's unoccluded area.
LEAST_VISIBLE = 0.5
# Maximum number of labeled objects. The limit is below 255, because object maps are uint8 and a scene has a few
# unlabeled objects.
MOST_OBJECTS = 200
# Maximum number of random scenes tried per clip. If no scene has a labeled object, a simple scene is drawn.
ATTEMPTS = 4


class SyntheticClips:
    """Data set of random scenes that are rendered on access, a :class:`~sam2fast.training.data.clip.ClipDataset`.

    The mask of a labeled object has exactly the object's visible pixels. All labeled objects are visible in the first
    frame. In later frames, labeled objects may be occluded, leave the frame and return. Scenes may contain unlabeled
    objects that look like labeled objects.

    Args:
        size: side of the square frames, in pixels.
        num_frames: number of frames of a clip. A clip with one frame is an image.
        max_objects: maximum number of labeled objects of a clip, at least 1.
        media: folder or folders of photographs and cut-outs, see
            :class:`~sam2fast.training.data.synthetic.media.Media`; if None, all objects and backgrounds are procedural.
        length: number of clips in the data set.
        motion: factor by which all speeds are multiplied; 0 gives still objects.
        procedural: fraction of procedural objects and backgrounds if ``media`` is given.
        seed: seed of the random scenes.
        photometric: if False, disables shadows, blur, noise, color drift and compression.
        crossing: fraction of clips in which at least two similar objects meet and occlude one another.
        on_left_out: function called with the path of the first skipped image, the error, and the number of skipped
            images. The default function logs a warning.

    Raises:
        ValueError: If an argument is out of range.
        MediaError: If a folder of ``media`` lacks images or their subfolders.
    """

    def __init__(
        self,
        size: int = 256,
        num_frames: int = 8,
        max_objects: int = 5,
        media: str | Path | Sequence[str | Path] | None = None,
        length: int = 100_000,
        motion: float = 1.0,
        procedural: float = 0.5,
        seed: int = 0,
        photometric: bool = True,
        crossing: float = 0.0,
        on_left_out: OnLeftOut = warn_left_out,
    ) -> None:
        for name, value, least in (
            ("size", size, 32), ("num_frames", num_frames, 1), ("max_objects", max_objects, 1), ("length", length, 1),
            ("motion", motion, 0), ("seed", seed, 0),
        ):  # fmt: skip
            if not value >= least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if max_objects > MOST_OBJECTS:
            raise ValueError(f"max_objects must be at most {MOST_OBJECTS}, got {max_objects}")
        for name, value in (("procedural", procedural), ("crossing", crossing)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, got {value}")
        folders = [media] if isinstance(media, str | Path) else list(media or [])
        self._media = Media(folders, size, on_left_out) if folders else None
        self._size, self._num_frames, self._max_objects, self._length = size, num_frames, max_objects, length
        self._motion, self._procedural, self._seed, self._photometric = motion, procedural, seed, photometric
        self._crossing = crossing

    def __len__(self) -> int:
        return self._length

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        """Renders a clip. The clip depends only on the constructor's arguments, the index and the generator's state.

        Returns:
            Clip with frames ``(T, S, S, 3)`` and masks ``(T, O, S, S)``, where 1 <= O <= ``max_objects``.
        """
        if not 0 <= index < self._length:
            raise IndexError(f"clip {index} of {self._length}")
        rng = np.random.default_rng([self._seed, index, *rng.integers(0, 2**32, 4).tolist()])
        scene = random_scene(
            rng, self._size, self._num_frames, self._motion, self._media, self._procedural, self._photometric
        )
        objects, visible = self._draw_objects(rng, scene)
        labelled = rng.permutation(visible)[: self._max_objects]
        frames, masks = [], []
        for frame in range(self._num_frames):
            pixels, object_map = scene.render(rng, objects, frame)
            frames.append(pixels)
            masks.append(object_map == labelled[:, None, None] + 1)
        ids = tuple(range(1, len(labelled) + 1))
        return Clip(np.stack(frames), np.stack(masks), f"synthetic/{index}", ids, tuple(range(self._num_frames)))

    def _draw_objects(self, rng: np.random.Generator, scene: Scene) -> tuple[list[SceneObject], list[int]]:
        """Returns the objects of a scene, from far to near, and the indices of objects visible enough to be labeled."""
        are_crossing = self._crossing > 0 and rng.random() < self._crossing
        for attempt in range(100):
            count = int(rng.integers(1, self._max_objects + 1)) if attempt < ATTEMPTS else 1
            if are_crossing and attempt < ATTEMPTS:
                objects = crossing_objects(rng, scene, max(2, count))
            else:
                objects = random_objects(rng, scene, count, only_one=attempt >= ATTEMPTS)
            visible = labelled_objects(objects, scene)
            if visible:
                return objects, visible
        raise RuntimeError("100 random scenes have no visible object; this is a bug")


def labelled_objects(objects: list[SceneObject], scene: Scene) -> list[int]:
    """Returns the indices of objects that are visible enough in the first frame to be labeled."""
    step, size = scene.middle_step(0), scene.size
    hidden = np.zeros((size, size), dtype=bool)
    labelled = []
    for index in reversed(range(len(objects))):
        covered = footprint(objects[index], step, size)
        whole, seen = np.count_nonzero(covered), np.count_nonzero(covered & ~hidden)
        if seen >= max(LEAST_AREA * size * size, LEAST_VISIBLE * whole):
            labelled.append(index)
        hidden |= covered
    return labelled
