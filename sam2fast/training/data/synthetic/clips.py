"""The data set: scenes of moving things, rendered to clips."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sam2fast.training.data.clip import Clip
from sam2fast.training.data.synthetic.compositing import Actor, footprint
from sam2fast.training.data.synthetic.media import Media
from sam2fast.training.data.synthetic.scene import Stage, random_actors, random_stage

# Of the frame: an object is labelled where its first frame shows at least this much of it ...
LEAST_AREA = 0.004
# ... and this share of what would be seen of it without the things before it.
LEAST_VISIBLE = 0.5
# The owner of a pixel is kept in a byte, and there are a few other things.
MOST_OBJECTS = 200
# Scenes drawn before a simple one with a single thing is tried.
ATTEMPTS = 4


class SyntheticClips:
    """A :class:`~sam2fast.training.data.clip.ClipDataset` of scenes that are made up as they are drawn.

    A labelled object's mask is its visible pixels, exactly. All labelled objects are visible in the first frame; later
    they may be hidden, leave the frame and come back. There are other things too, some of which look the same.

    Args:
        size: side of the square frames.
        num_frames: frames of a clip; 1 for pictures.
        max_objects: a clip has 1 to this many labelled objects.
        media: folder or folders of photographs and cut-outs, see
            :class:`~sam2fast.training.data.synthetic.media.Media`; None for drawn shapes and surfaces only.
        length: of the data set.
        motion: speed of everything; 0 for still things.
        procedural: where there is media, the share of things and backgrounds that are drawn nevertheless.
        seed: a different one gives different clips.
        photometric: False for plain colours without shadows, blur, noise, drift and compression.

    Raises:
        ValueError: an argument is out of range.
        MediaError: a media folder lacks what it should hold.
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
    ) -> None:
        for name, value, least in (
            ("size", size, 32), ("num_frames", num_frames, 1), ("max_objects", max_objects, 1), ("length", length, 1),
            ("motion", motion, 0), ("seed", seed, 0),
        ):  # fmt: skip
            if not value >= least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if max_objects > MOST_OBJECTS:
            raise ValueError(f"max_objects must be at most {MOST_OBJECTS}, got {max_objects}")
        if not 0 <= procedural <= 1:
            raise ValueError(f"procedural is a share from 0 to 1, got {procedural}")
        folders = [media] if isinstance(media, str | Path) else list(media or [])
        self._media = Media(folders, size) if folders else None
        self._size = size
        self._num_frames = num_frames
        self._max_objects = max_objects
        self._length = length
        self._motion = motion
        self._procedural = procedural
        self._seed = seed
        self._photometric = photometric

    def __len__(self) -> int:
        return self._length

    def sample(self, index: int, rng: np.random.Generator) -> Clip:
        """A clip that depends on the constructor's arguments, the index and the generator's state, nothing else.

        Returns:
            Frames ``(T, S, S, 3)`` and masks ``(T, O, S, S)`` with 1 <= O <= ``max_objects``.
        """
        if not 0 <= index < self._length:
            raise IndexError(f"clip {index} of {self._length}")
        rng = np.random.default_rng([self._seed, index, *rng.integers(0, 2**32, 4).tolist()])
        stage = random_stage(
            rng, self._size, self._num_frames, self._motion, self._media, self._procedural, self._photometric
        )
        actors, visible = self._cast(rng, stage)
        labelled = rng.permutation(visible)[: self._max_objects]
        frames, masks = [], []
        for frame in range(self._num_frames):
            pixels, owner = stage.shoot(rng, actors, frame)
            frames.append(pixels)
            masks.append(owner == labelled[:, None, None] + 1)
        ids = tuple(range(1, len(labelled) + 1))
        return Clip(np.stack(frames), np.stack(masks), f"synthetic/{index}", ids, tuple(range(self._num_frames)))

    def _cast(self, rng: np.random.Generator, stage: Stage) -> tuple[list[Actor], list[int]]:
        """The things of a scene, far to near, and which of them are visible well enough to be labelled."""
        for attempt in range(100):
            count = int(rng.integers(1, self._max_objects + 1)) if attempt < ATTEMPTS else 1
            actors = random_actors(rng, stage, count, alone=attempt >= ATTEMPTS)
            visible = _visible(actors, stage)
            if visible:
                return actors, visible
        raise RuntimeError("no scene with a visible thing came up; this is a bug")


def _visible(actors: list[Actor], stage: Stage) -> list[int]:
    """Indices of the actors that the first frame shows well."""
    step, size = stage.step_of(0), stage.size
    hidden = np.zeros((size, size), dtype=bool)
    found = []
    for index in reversed(range(len(actors))):
        covered = footprint(actors[index], step, size)
        whole, seen = np.count_nonzero(covered), np.count_nonzero(covered & ~hidden)
        if seen >= max(LEAST_AREA * size * size, LEAST_VISIBLE * whole):
            found.append(index)
        hidden |= covered
    return found
