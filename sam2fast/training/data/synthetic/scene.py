"""Scenes: a background, a camera that moves before it, and the things in between."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from sam2fast.training.data.synthetic.backgrounds import random_background
from sam2fast.training.data.synthetic.compositing import Actor, Owner, Shadow, paint_actor
from sam2fast.training.data.synthetic.media import Album, Media
from sam2fast.training.data.synthetic.motion import Floats, Warp, after, camera_path, passing_path, thing_path
from sam2fast.training.data.synthetic.photometry import Photometry
from sam2fast.training.data.synthetic.sprites import Thing, blurred, cut_out_thing, drawn_thing, recoloured

# Share of the frame that a thing covers.
SMALLEST, LARGEST = 0.01, 0.45
# Longest side of a thing, in sides of the frame.
LONGEST = 1.3
# Of the time between two frames, while the shutter of a clip with motion blur is open.
SHUTTER = (-0.25, 0.0, 0.25)
STILL = np.eye(2, 3)


@dataclass(frozen=True)
class Stage:
    """Everything of a scene but its things."""

    size: int
    times: Floats  # (N,) in frames, times the speed; N is the number of frames, or more with motion blur
    steps: int  # times per frame
    camera: Floats  # (N, 2, 3) from the scene to the frame
    backdrop: Image.Image  # RGBX
    origin: tuple[float, float]  # the backdrop's corner in the scene
    photometry: Photometry | None
    media: Media | None
    album: Album | None
    procedural: float

    def step_of(self, frame: int) -> int:
        """Which of the times is the middle of this frame."""
        return frame * self.steps + self.steps // 2

    def shoot(self, rng: np.random.Generator, actors: list[Actor], frame: int) -> tuple[NDArray[np.uint8], Owner]:
        """The pixels ``(S, S, 3)`` of a frame, and for each 1 + the index of the actor it shows, or 0."""
        owner: Owner = np.zeros((self.size, self.size), dtype=np.uint8)
        pictures = []
        for step in range(frame * self.steps, (frame + 1) * self.steps):
            picture = self._background(step)
            for number, actor in enumerate(actors, 1):
                paint_actor(picture, owner if step == self.step_of(frame) else None, actor, step, number)
            pictures.append(picture)
        picture = pictures[0]
        if len(pictures) > 1:
            picture = Image.fromarray(np.mean([np.asarray(p.convert("RGB")) for p in pictures], 0).astype(np.uint8))
        picture = picture.convert("RGB")
        if self.photometry is None:
            return np.asarray(picture), owner
        return self.photometry.develop(picture, float(self.times[self.step_of(frame)]), rng), owner

    def _background(self, step: int) -> Image.Image:
        if np.array_equal(self.camera[step], STILL):
            # A copy, sharper and sooner made than by resampling: the origin is a whole pixel.
            left, top = (round(-x) for x in self.origin)
            return self.backdrop.crop((left, top, left + self.size, top + self.size))
        inverse = np.linalg.inv(self.camera[step, :, :2])
        offset = -inverse @ self.camera[step, :, 2] - self.origin
        (a, b), (d, e) = inverse.tolist()
        size, data = (self.size, self.size), (a, b, float(offset[0]), d, e, float(offset[1]))
        return self.backdrop.transform(size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)


def random_stage(
    rng: np.random.Generator,
    size: int,
    num_frames: int,
    motion: float,
    media: Media | None,
    procedural: float,
    photometric: bool,
) -> Stage:
    """A background and a camera's path; arguments as of :class:`SyntheticClips`."""
    is_blurred = rng.random() < 0.08 and photometric and motion > 0 and num_frames > 1
    shutter = np.array(SHUTTER if is_blurred else (0.0,))
    times = motion * (np.arange(num_frames)[:, None] + shutter).ravel()
    camera = camera_path(rng, times, size)
    low, high = _seen(camera, size)
    width, height = (high - low).astype(int).tolist()
    album = Album(media) if media is not None and media.has_photographs else None
    backdrop = random_background(rng, (width, height), album, procedural)
    if photometric and rng.random() < 0.12:
        backdrop = backdrop.filter(ImageFilter.GaussianBlur(size / 256 * rng.uniform(0.7, 4)))
    photometry = Photometry(rng, size) if photometric else None
    origin = (float(low[0]), float(low[1]))
    return Stage(
        size, times, len(shutter), camera, backdrop.convert("RGBX"), origin, photometry, media, album, procedural
    )


def _seen(camera: Floats, size: int) -> tuple[Floats, Floats]:
    """The corners, at whole pixels, of the part of the scene that the camera ever sees, and two pixels more."""
    inverse = np.linalg.inv(camera[:, :, :2])
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], dtype=float)
    seen = np.einsum("nij,nkj->nki", inverse, corners[None] - camera[:, None, :, 2])
    return np.floor(seen.min(axis=(0, 1))) - 2, np.ceil(seen.max(axis=(0, 1))) + 2


def random_actors(rng: np.random.Generator, stage: Stage, count: int, alone: bool = False) -> list[Actor]:
    """Things for the stage, far to near: ``count`` that start within the frame, and some more.

    Args:
        alone: nothing but one thing in the middle of the frame.
    """
    extras = 0 if alone else int(rng.choice([0, 0, 1, 2, 3]))
    are_alike = rng.random() < 0.12
    actors: list[Actor] = []
    things: list[Thing] = []
    for number in range(count + extras):
        if things and rng.random() < (0.8 if are_alike else 0.12):
            thing = recoloured(rng, things[rng.integers(len(things))])
        else:
            thing = _random_thing(rng, stage, np.sqrt(count + extras))
        things.append(thing)
        if alone:
            start = np.full(2, stage.size / 2)
        elif number < count or rng.random() < 0.6:
            start = stage.size * rng.uniform(0.08, 0.92, 2)
        else:
            start = stage.size * rng.uniform(-0.4, 1.4, 2)
        actors.append(_actor(rng, stage, thing, thing_path(rng, stage.times, start, stage.size)))
    order = rng.permutation(len(actors))
    actors = [actors[i] for i in order]
    if not alone and rng.random() < 0.35 and stage.times[-1] > 1:
        # Something passes in front of everything.
        actors.append(_actor(rng, stage, _random_thing(rng, stage, 1.5), passing_path(rng, stage.times, stage.size)))
    return actors


def _actor(rng: np.random.Generator, stage: Stage, thing: Thing, path: Floats) -> Actor:
    if stage.photometry is not None and rng.random() < 0.1:
        thing = blurred(thing, stage.size / 256 * rng.uniform(0.5, 1.2))
    warp = Warp.random(rng) if rng.random() < 0.35 else None
    has_shadow = rng.random() < 0.25 and stage.photometry is not None
    shadow = Shadow.random(rng, thing, stage.size) if has_shadow else None
    return Actor(thing, after(stage.camera, path), stage.times, warp, shadow)


def _random_thing(rng: np.random.Generator, stage: Stage, crowd: float) -> Thing:
    # Nearly log-uniform: somewhat more large things, since they hide one another.
    area = stage.size**2 * SMALLEST * (LARGEST / crowd / SMALLEST) ** (rng.random() ** 0.8)
    most = LONGEST * stage.size
    media = stage.media
    if media is not None and media.has_cutouts and rng.random() >= stage.procedural:
        return cut_out_thing(rng, media.cutout(rng), area, most)
    near = None
    if rng.random() < 0.2:
        near = np.asarray(stage.backdrop.convert("RGB").resize((6, 6)), dtype=np.float32).reshape(-1, 3)
    return drawn_thing(rng, area, most, near, stage.album)
