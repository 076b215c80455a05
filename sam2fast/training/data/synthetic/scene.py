"""Random scenes: a background, a moving camera and objects in front of the background."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from sam2fast.training.data.synthetic.compositing import ObjectMap, Photometry, SceneObject, Shadow, paint_object
from sam2fast.training.data.synthetic.media import Media, ScenePhotographs
from sam2fast.training.data.synthetic.motion import (
    Floats,
    Warp,
    camera_path,
    compose,
    meeting_places,
    object_path,
    passing_path,
)
from sam2fast.training.data.synthetic.shapes import random_shape, rasterise
from sam2fast.training.data.synthetic.sprites import Sprite, blur_sprite, cutout_sprite, random_sprite, recolour_sprite
from sam2fast.training.data.synthetic.textures import Photograph, random_crop, random_texture

# Minimum and maximum area of an object, as fractions of the frame.
SMALLEST, LARGEST = 0.01, 0.45
# Maximum side of an object, as a multiple of the frame's side.
LONGEST = 1.3
# Exposure times of a frame with motion blur, relative to the frame's time, as fractions of the frame interval.
SHUTTER = (-0.25, 0.0, 0.25)
STILL = np.eye(2, 3)


@dataclass(frozen=True)
class Scene:
    """Background, camera and photometric effects of a scene. The objects of the scene are passed to :meth:`render`."""

    size: int
    times: Floats  # (N,) exposure times in frames, times the factor of speeds; ``steps`` per frame
    steps: int  # number of exposure times per frame
    camera: Floats  # (N, 2, 3) matrices from the scene to the frame
    backdrop: Image.Image  # RGBX image of the background
    origin: tuple[float, float]  # x and y of the backdrop's upper left corner in the scene
    photometry: Photometry | None
    media: Media | None
    photographs: ScenePhotographs | None
    procedural: float

    def middle_step(self, frame: int) -> int:
        """Returns the index of a frame's middle exposure time."""
        return frame * self.steps + self.steps // 2

    def render(
        self, rng: np.random.Generator, objects: list[SceneObject], frame: int
    ) -> tuple[NDArray[np.uint8], ObjectMap]:
        """Returns the pixels ``(S, S, 3)`` uint8 and the object map ``(S, S)`` of a frame."""
        object_map: ObjectMap = np.zeros((self.size, self.size), dtype=np.uint8)
        images = []
        for step in range(frame * self.steps, (frame + 1) * self.steps):
            image = self._background(step)
            for number, obj in enumerate(objects, 1):
                paint_object(image, object_map if step == self.middle_step(frame) else None, obj, step, number)
            images.append(image)
        image = images[0]
        if len(images) > 1:
            image = Image.fromarray(np.mean([np.asarray(p.convert("RGB")) for p in images], 0).astype(np.uint8))
        image = image.convert("RGB")
        if self.photometry is None:
            return np.asarray(image), object_map
        return self.photometry.apply(image, float(self.times[self.middle_step(frame)]), rng), object_map

    def _background(self, step: int) -> Image.Image:
        if np.array_equal(self.camera[step], STILL):
            # Crops instead of resampling, because a crop is sharper and faster. The crop is exact, because the upper
            # left corner ``origin`` has integer coordinates.
            left, top = (round(-x) for x in self.origin)
            return self.backdrop.crop((left, top, left + self.size, top + self.size))
        inverse = np.linalg.inv(self.camera[step, :, :2])
        offset = -inverse @ self.camera[step, :, 2] - self.origin
        (a, b), (d, e) = inverse.tolist()
        size, data = (self.size, self.size), (a, b, float(offset[0]), d, e, float(offset[1]))
        return self.backdrop.transform(size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)


def random_scene(
    rng: np.random.Generator,
    size: int,
    num_frames: int,
    motion: float,
    media: Media | None,
    procedural: float,
    photometric: bool,
) -> Scene:
    """Draws a background and a camera path. Arguments have the meaning of :class:`SyntheticClips`' arguments."""
    is_blurred = rng.random() < 0.08 and photometric and motion > 0 and num_frames > 1
    shutter = np.array(SHUTTER if is_blurred else (0.0,))
    times = motion * (np.arange(num_frames)[:, None] + shutter).ravel()
    camera = camera_path(rng, times, size)
    low, high = _visible_bounds(camera, size)
    width, height = (high - low).astype(int).tolist()
    photographs = ScenePhotographs(media) if media is not None and media.has_photographs else None
    backdrop = random_background(rng, (width, height), photographs, procedural)
    if photometric and rng.random() < 0.12:
        backdrop = backdrop.filter(ImageFilter.GaussianBlur(size / 256 * rng.uniform(0.7, 4)))
    photometry = Photometry(rng, size) if photometric else None
    origin = (float(low[0]), float(low[1]))
    return Scene(
        size, times, len(shutter), camera, backdrop.convert("RGBX"), origin, photometry, media, photographs, procedural
    )


def _visible_bounds(camera: Floats, size: int) -> tuple[Floats, Floats]:
    """Returns the corners, in integer pixels, of the scene region that the camera sees, with a margin of two pixels."""
    inverse = np.linalg.inv(camera[:, :, :2])
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], dtype=float)
    seen = np.einsum("nij,nkj->nki", inverse, corners[None] - camera[:, None, :, 2])
    return np.floor(seen.min(axis=(0, 1))) - 2, np.ceil(seen.max(axis=(0, 1))) + 2


def random_objects(rng: np.random.Generator, scene: Scene, count: int, only_one: bool = False) -> list[SceneObject]:
    """Draws the objects of a scene, from far to near.

    ``count`` objects start inside the frame, and up to four more objects may enter the frame.

    Args:
        only_one: if True, places the ``count`` objects in the middle of the frame and draws no more objects.
    """
    extras = 0 if only_one else int(rng.choice([0, 0, 1, 2, 3]))
    are_alike = rng.random() < 0.12
    objects: list[SceneObject] = []
    sprites: list[Sprite] = []
    for number in range(count + extras):
        if sprites and rng.random() < (0.8 if are_alike else 0.12):
            sprite = recolour_sprite(rng, sprites[rng.integers(len(sprites))])
        else:
            sprite = _random_sprite(rng, scene, np.sqrt(count + extras))
        sprites.append(sprite)
        start: NDArray[np.float64]
        if only_one:
            start = np.full(2, scene.size / 2)
        elif number < count or rng.random() < 0.6:
            start = scene.size * rng.uniform(0.08, 0.92, 2)
        else:
            start = scene.size * rng.uniform(-0.4, 1.4, 2)
        objects.append(_random_object(rng, scene, sprite, object_path(rng, scene.times, start, scene.size)))
    order = rng.permutation(len(objects))
    objects = [objects[i] for i in order]
    if not only_one and rng.random() < 0.35 and scene.times[-1] > 1:
        # Adds an object that passes in front of all other objects.
        objects.append(
            _random_object(rng, scene, _random_sprite(rng, scene, 1.5), passing_path(rng, scene.times, scene.size))
        )
    return objects


def crossing_objects(rng: np.random.Generator, scene: Scene, count: int) -> list[SceneObject]:
    """Draws ``count`` similar objects of a scene that meet, touch and occlude one another, from far to near."""
    sprite = _random_sprite(rng, scene, 2 * count)
    reach = max(max(part.image.size) for part in sprite)
    objects = []
    for places in meeting_places(rng, scene.times, count, reach, scene.size):
        path = object_path(rng, scene.times, places[0], scene.size)
        path[:, :, 2] = places
        objects.append(_random_object(rng, scene, recolour_sprite(rng, sprite), path))
    return [objects[i] for i in rng.permutation(count)]


def _random_object(rng: np.random.Generator, scene: Scene, sprite: Sprite, path: Floats) -> SceneObject:
    if scene.photometry is not None and rng.random() < 0.1:
        sprite = blur_sprite(sprite, scene.size / 256 * rng.uniform(0.5, 1.2))
    warp = Warp.random(rng) if rng.random() < 0.35 else None
    has_shadow = rng.random() < 0.25 and scene.photometry is not None
    shadow = Shadow.random(rng, sprite, scene.size) if has_shadow else None
    return SceneObject(sprite, compose(scene.camera, path), scene.times, warp, shadow)


def _random_sprite(rng: np.random.Generator, scene: Scene, crowd: float) -> Sprite:
    # Areas of objects are nearly log-uniform. Large objects are slightly more frequent, because objects are occluded.
    area = scene.size**2 * SMALLEST * (LARGEST / crowd / SMALLEST) ** (rng.random() ** 0.8)
    max_side = LONGEST * scene.size
    media = scene.media
    if media is not None and media.has_cutouts and rng.random() >= scene.procedural:
        return cutout_sprite(rng, media.cutout(rng), area, max_side)
    near = None
    if rng.random() < 0.2:
        near = np.asarray(scene.backdrop.convert("RGB").resize((6, 6)), dtype=np.float32).reshape(-1, 3)
    return random_sprite(rng, area, max_side, near, scene.photographs)


def random_background(
    rng: np.random.Generator, size: tuple[int, int], photograph: Photograph | None, procedural: float
) -> Image.Image:
    """Draws a random background as an RGB image of ``size`` (width, height).

    Args:
        photograph: function that draws a photograph; None if there are no photographs.
        procedural: probability of a procedural background if there are photographs.
    """
    if photograph is not None and rng.random() >= procedural:
        return random_crop(rng, photograph(rng), size)
    draw = rng.random()
    if draw < 0.4:
        return random_texture(rng, size)
    if draw < 0.7:
        return _room(rng, size)
    return _clutter(rng, random_texture(rng, size), photograph)


def _room(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Draws an image of a wall with a floor in perspective."""
    width, height = size
    image, floor = random_texture(rng, size), random_texture(rng, size)
    horizon = round(height * rng.uniform(0.2, 0.7))
    depth = height - horizon
    # A pixel below the horizon shows the floor texture's point (x' / z, y' / z). The divisor z is 1 at the horizon and
    # ``nearness`` at the image's lower edge.
    nearness = rng.uniform(2, 6)
    growth = (nearness - 1) / depth
    perspective = (1.0, width / 2 * growth, 0.0, 0.0, nearness * height / depth, 0.0, 0.0, growth)
    seen = floor.transform((width, depth), Image.Transform.PERSPECTIVE, perspective, Image.Resampling.BILINEAR)
    image.paste(seen, (0, horizon))
    return image


def _clutter(rng: np.random.Generator, image: Image.Image, photograph: Photograph | None) -> Image.Image:
    """Pastes random shapes onto the image. All shapes use one of two textures."""
    surfaces = [random_texture(rng, image.size, photograph=photograph) for _ in range(2)]
    longest = max(image.size)
    for _ in range(rng.integers(4, 16)):
        alpha = rasterise(random_shape(rng), max(8, round(longest * rng.uniform(0.05, 0.3))))
        left, top = (round(rng.uniform(-0.1, 0.95) * side) for side in image.size)
        surface = surfaces[rng.integers(2)]
        start = int(rng.integers(0, max(1, min(image.size) - alpha.width)))
        piece = surface.crop((start, start, start + alpha.width, start + alpha.height))
        image.paste(piece, (left, top), alpha)
    return image
