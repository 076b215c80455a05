"""Synthetic clips: exact masks, the same bytes for the same seed, media folders."""

import hashlib
import os
import subprocess
import sys
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from fake_teacher import FakePredictor
from PIL import Image, ImageDraw

from sam2fast.io.label_maps import palette
from sam2fast.training.data.synthetic import MediaError, SyntheticClips, scene
from sam2fast.training.data.synthetic.clips import LEAST_AREA, labelled_objects
from sam2fast.training.data.synthetic.compositing import SceneObject
from sam2fast.training.data.synthetic.media import Media
from sam2fast.training.data.synthetic.pseudo_labels import ObjectSearch, find_objects, write_cutouts
from sam2fast.training.data.synthetic.shapes import coverage, random_shape, rasterise
from sam2fast.training.data.synthetic.sprites import one_part_sprite, with_border

MAGENTA, GREEN = (250, 10, 240), (20, 200, 60)


def draw(clips, index=0, seed=0):
    return clips.sample(index, np.random.default_rng([seed, index]))


def digest(clip):
    return hashlib.sha256(clip.frames.tobytes() + clip.masks.tobytes()).hexdigest()


def photograph(path, size=(160, 120), seed=0):
    """A noisy image, as photographs are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def cutout(path, colour=MAGENTA, size=(60, 40)):
    """An opaque ellipse in the middle of a transparent image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGBA", (size[0] + 40, size[1] + 40))
    ImageDraw.Draw(image).ellipse((20, 20, 20 + size[0] - 1, 20 + size[1] - 1), fill=(*colour, 255))
    image.save(path)
    return path


@pytest.fixture
def media(tmp_path):
    for i in range(3):
        photograph(tmp_path / f"media/backgrounds/{i}.png", seed=i)
        cutout(tmp_path / f"media/cutouts/{i}.png")
    return tmp_path / "media"


@pytest.mark.parametrize("num_frames", [1, 5])
@pytest.mark.parametrize("with_media", [False, True])
def test_masks_are_visible_pixels_of_one_to_five_objects(media, num_frames, with_media):
    clips = SyntheticClips(size=72, num_frames=num_frames, max_objects=4, media=media if with_media else None)
    counts = set()
    for index in range(25):
        clip = draw(clips, index)
        frames, count, height, width = clip.masks.shape
        assert clip.frames.shape == (num_frames, 72, 72, 3) and clip.frames.dtype == np.uint8
        assert (frames, height, width) == (num_frames, 72, 72) and clip.masks.dtype == np.bool_
        assert clip.masks.sum(axis=1).max() <= 1, "a pixel shows one object"
        assert (clip.masks[0].mean(axis=(1, 2)) >= LEAST_AREA).all()
        assert clip.object_ids == tuple(range(1, count + 1)) and clip.frame_indices == tuple(range(num_frames))
        counts.add(count)
    assert counts == {1, 2, 3, 4}


SCRIPT = """
import hashlib, sys, numpy as np
from sam2fast.training.data.synthetic import SyntheticClips
clips = SyntheticClips(size=64, num_frames=3, media=sys.argv[1])
for index in (7, 3, 12):
    clip = clips.sample(index, np.random.default_rng([0, index]))
    print(index, hashlib.sha256(clip.frames.tobytes() + clip.masks.tobytes()).hexdigest())
assert "torch" not in sys.modules
"""


def test_same_bytes_in_every_process_and_order(media):
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", SCRIPT, str(media)]
    output = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
    clips = SyntheticClips(size=64, num_frames=3, media=media)
    # In another order, with other images in the cache.
    for index in (12, 0, 3, 7, 3):
        clip = draw(clips, index)
        assert index == 0 or f"{index} {digest(clip)}" in output
    others = [draw(clips, 3, seed=1), draw(SyntheticClips(size=64, num_frames=3, media=media, seed=1), 3)]
    assert len({digest(clip) for clip in (*others, draw(clips, 3))}) == 3


def flat_sprites(monkeypatch):
    """Every object in one unique colour, on black."""
    colours = np.random.default_rng(1)

    def sprite(rng, area, max_side, *others):
        shape = random_shape(rng)
        side = max(8, round(min(max_side, np.sqrt(area / coverage(shape)))))
        colour = Image.new("RGB", (side, side), tuple(colours.integers(60, 256, 3).tolist()))
        return one_part_sprite(with_border(colour, rasterise(shape, side)))

    monkeypatch.setattr(scene, "random_sprite", sprite)
    monkeypatch.setattr(scene, "recolour_sprite", lambda rng, old: sprite(rng, 300, 60))
    monkeypatch.setattr(scene, "random_background", lambda rng, size, *others: Image.new("RGB", size))


def test_masks_are_where_the_colours_are(monkeypatch):
    flat_sprites(monkeypatch)
    clips = SyntheticClips(size=96, num_frames=4, photometric=False)
    checked = 0
    for index in range(25):
        clip = draw(clips, index)
        for number in range(clip.masks.shape[1]):
            inside = clip.frames[0][clip.masks[0, number]]
            colours, counts = np.unique(inside, axis=0, return_counts=True)
            colour = colours[counts.argmax()]
            for frame, mask in zip(clip.frames, clip.masks[:, number], strict=True):
                pure = (frame == colour).all(axis=-1)
                assert mask[pure].all(), "a pixel of the object's colour is not in its mask"
                share = frame[mask] @ colour.astype(float) / (colour.astype(float) @ colour)
                # Less than half only where the soft edge of a nearer object covers this object's edge.
                assert (share < 0.49).sum() <= 0.02 * mask.sum() + 3
                checked += pure.sum() > 100
    assert checked > 100


def white_square(side, *path, times=(0.0,)):
    """An object that is at these places at these times."""
    sprite = one_part_sprite(with_border(Image.new("RGB", (side, side), "white"), Image.new("L", (side, side), 255)))
    return SceneObject(sprite, np.array([[[1, 0, x], [0, 1, y]] for x, y in path], dtype=float), np.array(times))


def test_half_covered_pixels_belong_to_the_mask():
    """A square whose edges lie in the middle of pixels, and one right of the middle of pixels."""
    for offset, first, last in ((0.48, 15, 24), (0.52, 16, 25)):
        canvas = Image.new("RGBX", (32, 32))
        object_map = np.zeros((32, 32), np.uint8)
        scene.paint_object(canvas, object_map, white_square(10, (20 + offset, 20 + offset)), 0, 3)
        rows = np.flatnonzero((object_map == 3).any(axis=1))
        assert (rows[0], rows[-1]) == (first, last)
        np.testing.assert_array_equal(object_map == 3, np.asarray(canvas)[..., 0] >= 128)


def test_masks_are_of_the_middle_of_the_exposure():
    """Motion blur with three exposure times of an object that moves 4 pixels between them."""
    times, camera = np.array([-0.2, 0, 0.2]), np.tile(np.eye(2, 3), (3, 1, 1))
    moving = white_square(20, (28, 32), (32, 32), (36, 32), times=times)
    small_scene = scene.Scene(64, times, 3, camera, Image.new("RGBX", (64, 64)), (0.0, 0.0), None, None, None, 1.0)
    pixels, object_map = small_scene.render(np.random.default_rng(0), [moving], 0)
    assert np.flatnonzero((object_map == 1).any(axis=0)).tolist() == list(range(22, 42))
    assert pixels[32, [20, 24, 32, 40, 44], 0].tolist() == [85, 170, 255, 170, 85]


def test_hidden_objects_are_not_labelled():
    frame = SimpleNamespace(size=64, middle_step=lambda number: number)
    first = white_square(20, (20, 32))
    assert sorted(labelled_objects([first, white_square(20, (29, 32))], frame)) == [1]  # 9 of 20 columns are seen
    assert sorted(labelled_objects([first, white_square(20, (31, 32))], frame)) == [0, 1]  # 11 of 20
    assert labelled_objects([white_square(3, (20, 32))], frame) == []


def test_objects_move_vanish_and_come_back():
    still = draw(SyntheticClips(size=64, num_frames=3, motion=0, photometric=False))
    assert (still.masks == still.masks[:1]).all() and (still.frames == still.frames[:1]).all()
    clips = SyntheticClips(size=64, num_frames=16)
    moved = vanished = back = total = 0
    for index in range(25):
        for masks in draw(clips, index).masks.swapaxes(0, 1):
            areas = masks.sum(axis=(1, 2))
            total += 1
            moved += (masks[0] != masks[-1]).any()
            gone = np.flatnonzero(areas == 0)
            if len(gone):
                vanished += 1
                back += areas[gone[0] :].any()
    assert moved > 0.9 * total
    assert vanished > 0.05 * total and back > 0.02 * total


def test_crossing_objects_meet_and_hide_one_another():
    plain = {"size": 96, "num_frames": 9, "max_objects": 3}
    met = hidden = 0
    for index in range(20):
        masks = draw(SyntheticClips(**plain, crossing=1.0), index).masks
        areas = masks.sum(axis=(2, 3))
        assert areas.shape[1] <= 3
        hidden += (areas.min(axis=0) < 0.6 * areas[0]).any()
        if areas.shape[1] >= 2:
            first, least = (distances(masks[frames]).min() for frames in (slice(1), slice(1, None)))
            met += least < 0.5 * first
    assert met >= 18 and hidden >= 12
    assert digest(draw(SyntheticClips(**plain, crossing=0.0))) == digest(draw(SyntheticClips(**plain)))


def distances(masks):
    """Between the centres of any two objects that are visible in the same frame, in pixels."""
    centres = [[np.argwhere(mask).mean(axis=0) for mask in frame if mask.any()] for frame in masks]
    return np.array([np.linalg.norm(a - b) for frame in centres for a, b in combinations(frame, 2)])


def test_images_with_masks(tmp_path):
    """Objects are cut out by their ids, also where the mask has another size than the image."""
    pixels = np.zeros((60, 80, 3), np.uint8)
    ids = np.zeros((60, 80), np.uint8)
    for number, colour, region in ((1, MAGENTA, np.s_[10:30, 10:40]), (200, GREEN, np.s_[35:55, 30:70])):
        pixels[region], ids[region] = colour, number
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(pixels).resize((160, 120), Image.Resampling.NEAREST).save(tmp_path / "images/a.png")
    mask = Image.fromarray(ids)
    mask.putpalette(palette().tobytes())
    mask.save(tmp_path / "masks/a.png")
    images = Media([tmp_path], 200)
    rng = np.random.default_rng(0)
    found = {}
    for _ in range(20):
        image = images.cutout(rng)
        found[image.getpixel((image.width // 2, image.height // 2))[:3]] = image.size
    assert set(found) == {MAGENTA, GREEN}
    assert np.abs(np.array(found[MAGENTA]) - (60, 40)).max() <= 2
    assert np.abs(np.array(found[GREEN]) - (80, 40)).max() <= 2
    draw(SyntheticClips(size=64, num_frames=1, media=tmp_path, procedural=0))


def test_unreadable_images_are_reported_once_and_skipped(media, caplog):
    """Without procedural objects, labelled pixels have the colour of the only cut-out that can be read."""
    cutout(media / "cutouts/0.png", colour=(128, 128, 128))
    broken = media / "cutouts/1.png"
    broken.write_bytes(broken.read_bytes()[:80])
    Image.new("RGB", (40, 40)).save(media / "cutouts/2.png")
    clips = SyntheticClips(size=64, num_frames=1, media=media, procedural=0, photometric=False)
    for index in range(20):
        clip = draw(clips, index)
        for mask in clip.masks[0]:
            colours = clip.frames[0][mask].astype(float)
            assert np.abs(np.median(colours, axis=0) - 128).max() <= 45, "but for the change of tone"
    messages = [record.getMessage() for record in caplog.records]
    assert sorted(m.split(" is left out")[0] for m in messages) == [str(broken), str(media / "cutouts/2.png")]
    assert any("alpha" in message for message in messages)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 8}, "size"),
        ({"max_objects": 0}, "max_objects"),
        ({"max_objects": 201}, "max_objects"),
        ({"seed": -1}, "seed"),
        ({"procedural": 2}, "procedural"),
        ({"crossing": -0.1}, "crossing"),
        ({"media": "missing"}, "no media folder.*missing"),
        ({"media": "flat"}, "flat.*backgrounds/.*cutouts/.*images/ and masks/"),
        ({"media": "empty"}, "no images.*empty/cutouts"),
        ({"media": "pairs"}, "pairs/images.*pairs/masks"),
        ({"media": "broken"}, "none of the 1 photographs can be read.*backgrounds"),
    ],
)
def test_refusals(tmp_path, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty/cutouts").mkdir(parents=True)
    broken = photograph(tmp_path / "broken/backgrounds/a.png")
    broken.write_bytes(b"no image")
    for file in ("flat/a.png", "pairs/images/a.png", "pairs/masks/b.png"):
        photograph(tmp_path / file)
    with pytest.raises(MediaError if "media" in arguments else ValueError, match=message):
        SyntheticClips(**arguments)


def test_images_without_masks_are_counted_by_folder(media, tmp_path, caplog):
    (tmp_path / "pairs/images").mkdir(parents=True)
    (tmp_path / "pairs/masks").mkdir()
    for name in "abc":
        photograph(tmp_path / f"pairs/images/{name}.png")
    Image.new("L", (90, 70)).save(tmp_path / "pairs/masks/b.png")
    found = []
    images = Media([media, tmp_path / "pairs"], 64, lambda *facts: found.append(facts))
    for index in range(20):
        images.cutout(np.random.default_rng(index))
    (unpaired, empty) = [(path.name, str(error), count) for path, error, count in found]
    assert unpaired == ("a.png", "it has no mask", 2)
    assert empty == ("b.png", "it holds no object: all its pixels are 0", 1) and not caplog.records
    Media([tmp_path / "pairs", media], 64)
    assert f"2 images are left out, such as {tmp_path}/pairs/images/a.png: it has no mask" in caplog.text


def test_teacher_keeps_sure_and_distinct_objects(tmp_path):
    good = photograph(tmp_path / "in/photo.png", (80, 60))
    bad = tmp_path / "in/text.jpg"
    bad.write_text("no image")
    results = list(
        write_cutouts([good, bad], FakePredictor(), tmp_path / "media", ObjectSearch(points_per_side=4, batch=3))
    )
    assert results == [(good, 2), (bad, results[1][1])] and "it is a text file" in str(results[1][1])
    first, second = (Image.open(tmp_path / f"media/cutouts/photo_png_0{i}.png") for i in range(2))
    assert (first.mode, first.size, second.size) == ("RGBA", (40, 60), (20, 60))
    pixels = np.asarray(Image.open(good))
    np.testing.assert_array_equal(np.asarray(first)[..., :3], pixels[:, :40])
    np.testing.assert_array_equal(np.asarray(second)[..., :3], pixels[:, 60:])
    assert Media([tmp_path / "media"], 64).has_cutouts


def test_alpha_below_8_is_0():
    """Tests logits of -1.8 and -1.72, whose alpha is 7 and 8 of 255."""

    class Faint(FakePredictor):
        def predict(self, points, labels, **options):
            masks = np.full((len(points), 3, *self.size), 9, np.float32)
            masks[..., :2], masks[..., 2:4], masks[..., 4:] = -1.8, -1.72, 9
            return masks, np.full((len(points), 3), 0.95, np.float32), np.zeros(0)

    search = ObjectSearch(points_per_side=1, areas=(0, 1), least_stability=0)
    (alpha,) = find_objects(Image.new("RGB", (40, 40)), Faint(), search)
    assert sorted(set(alpha.ravel().tolist())) == [0, 8, 255]
