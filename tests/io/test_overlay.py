from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from sam2fast.io import png
from sam2fast.io.overlay import COLOURS, draw_overlay, label_colours, layers_png

GREY = np.full((120, 200, 3), 128, dtype=np.uint8)


def square(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(GREY.shape[:2], dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def changed(overlay) -> np.ndarray:
    return (np.asarray(overlay) != GREY).any(axis=2)


@pytest.mark.parametrize("masks", [None, square(0, 0, 0, 0)[None]], ids=["none", "empty"])
def test_without_masks_and_prompts_it_is_the_image(masks):
    overlay = draw_overlay(GREY, masks)
    assert overlay.size == (200, 120) and overlay.mode == "RGB"
    assert not changed(overlay).any()


def test_mask_is_tinted_inside_and_outlined_on_its_edge():
    before = GREY.copy()
    pixels = np.asarray(draw_overlay(GREY, square(50, 30, 150, 90)[None]))
    tints = [(128 + np.array(colour)) / 2 for colour in COLOURS]
    assert min(np.abs(pixels[60, 100] - tint).max() for tint in tints) <= 1
    assert (pixels[60, 50:150][[0, -1]] > 200).all()
    assert not changed(pixels)[:20].any() and not changed(pixels)[:, :40].any()
    np.testing.assert_array_equal(GREY, before)


@pytest.mark.parametrize("colour", COLOURS)
def test_tint_differs_from_the_object(colour):
    image = np.broadcast_to(np.array(colour, dtype=np.uint8), GREY.shape)
    pixels = np.asarray(draw_overlay(image, square(50, 30, 150, 90)[None])).astype(int)
    assert np.abs(pixels[60, 100] - colour).sum() > 80


def test_given_colours():
    masks = np.stack([square(10, 20, 60, 100), square(100, 20, 160, 100)])
    pixels = np.asarray(draw_overlay(GREY, masks, colours=COLOURS[2:4])).astype(int)
    for x, colour in ((35, COLOURS[2]), (130, COLOURS[3])):
        np.testing.assert_allclose(pixels[60, x], (128 + np.array(colour)) / 2, atol=1)


def test_small_masks_are_drawn_over_large_ones():
    masks = np.stack([square(80, 50, 110, 70), square(40, 20, 160, 100)])
    pixels = np.asarray(draw_overlay(GREY, masks, colours=COLOURS[:2])).astype(int)
    for x, colour in ((95, COLOURS[0]), (60, COLOURS[1])):
        np.testing.assert_allclose(pixels[60, x], (128 + np.array(colour)) / 2, atol=1)


def test_clicks_are_green_plus_and_red_minus_around_their_point():
    pixels = np.asarray(draw_overlay(GREY, points=[(50, 60), (150, 60)], labels=[1, 0])).astype(int)
    green, red = pixels[55:66, 45:56].reshape(-1, 3), pixels[55:66, 145:156].reshape(-1, 3)
    assert (green[:, 1] - green[:, 0]).max() > 80 and (red[:, 0] - red[:, 1]).max() > 80
    where = changed(pixels)
    np.testing.assert_allclose(np.argwhere(where[:, :100]).mean(axis=0), (60, 50), atol=0.6)
    assert not where[:, 70:130].any()
    unlabelled = np.asarray(draw_overlay(GREY, points=[(50, 60)]))
    np.testing.assert_array_equal(unlabelled[:, :100], pixels[:, :100])


def test_box_is_a_frame():
    where = changed(draw_overlay(GREY, boxes=[(40, 30, 160, 90)]))
    assert where[60, 40] and where[60, 160] and where[30, 100] and where[90, 100]
    assert not where[36:85, 46:155].any() and not where[:25].any()


@pytest.mark.parametrize("far", [-1e9, -300, 500, 1e9])
def test_prompts_outside_the_image_are_clipped(far):
    assert not changed(draw_overlay(GREY, points=[(far, 60)])).any()
    where = changed(draw_overlay(GREY, boxes=[(min(far, 100), 30, max(far, 100), 90)]))
    assert where[60, 100] and where[30].any()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"image": GREY[..., 0]}, "RGB uint8"),
        ({"image": GREY, "masks": square(0, 0, 1, 1)}, r"masks \(N, 120, 200\)"),
        ({"image": GREY, "masks": square(0, 0, 1, 1)[None], "colours": COLOURS}, "5 colours for 1 masks"),
        ({"image": GREY, "points": [(1, 2)], "labels": [1, 1]}, "2 labels for 1 points"),
        ({"image": GREY, "boxes": [(1, 2, 3)]}, r"boxes \(N, 4\)"),
    ],
)
def test_refusals(arguments, word):
    with pytest.raises(ValueError, match=word):
        draw_overlay(**arguments)


@pytest.mark.parametrize("scale", [1, 20])
def test_labels_are_tinted_and_outlined_and_the_rest_is_left(scale, monkeypatch):
    ids = np.zeros((40 * scale, 60 * scale), dtype=np.uint16)
    ids[10 * scale : 30 * scale, 10 * scale : 30 * scale] = 1
    ids[10 * scale : 30 * scale, 30 * scale : 50 * scale] = 2
    image = np.full((*ids.shape, 3), 100, dtype=np.uint8)
    pixels = np.asarray(Image.open(BytesIO(layers_png(image, ids)))).astype(int)
    colours = label_colours(2).astype(int)
    for x, number in ((20, 1), (40, 2)):
        np.testing.assert_allclose(pixels[20 * scale, x * scale], (100 + colours[number]) / 2, atol=1)
    for x in (10, 30, 50):  # the last edge is to the background
        assert (pixels[20 * scale, x * scale - 1 : x * scale + 1] > 200).all()
    assert (pixels[: 9 * scale] == 100).all() and (pixels[:, 52 * scale :] == 100).all()
    assert (image == 100).all()
    # Strips of ten rows join to the same image.
    monkeypatch.setattr(png, "STRIP_BYTES", 10 * 3 * ids.shape[1])
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(layers_png(image, ids)))), pixels)
