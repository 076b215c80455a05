import find_media
import find_pairs
import numpy as np
import pytest
from coloured_discs import BLUE, RED, disc, painted
from find_media import Pair, View, make_pairs, paste
from PIL import Image

from sam2fast import SAM2ImagePredictor

DISCS = (60, 90, 30), (190, 110, 36)


@pytest.fixture
def pairs(tmp_path, monkeypatch) -> list[Pair]:
    """Pairs of two clips with two views of a disc each, and of photographs without any."""
    monkeypatch.setattr(find_media, "PASTED", 4)
    monkeypatch.setattr(find_media, "CROWDS", 2)
    views = {
        f"{name}:disc": [View(f"{name}:disc", painted((disc(*place), colour)), disc(*place)) for place in DISCS]
        for name, colour in (("a", RED), ("b", BLUE))
    }
    for i in range(6):
        Image.fromarray(painted()).save(tmp_path / f"{i}.png")
    return list(make_pairs(views, sorted(tmp_path.iterdir())))


def test_pairs_show_what_they_say(pairs):
    counts = {kind: sum(pair.kind == kind for pair in pairs) for kind in sorted({pair.kind for pair in pairs})}
    assert counts == {"cropped": 2, "crowd": 2, "other clip": 2, "pasted": 4, "plain": 4, "similar": 4}
    for pair in pairs:
        assert len(pair.truths) == {"similar": 1, "pasted": 1, "crowd": 3}.get(pair.kind, 0)
        assert all(mask.any() for mask in pair.truths) and np.sum(pair.truths, axis=0).max(initial=0) <= 1
        is_red = pair.reference.name == "a:disc"
        pixels = pair.image.astype(int)
        coloured = abs(pixels[..., 0] - pixels[..., 2]) > 60
        same = coloured & ((pixels[..., 0] > pixels[..., 2]) == is_red)
        assert (same & ~np.any([*pair.truths, np.zeros_like(same)], axis=0)).mean() < 0.01
        assert all(same[mask].mean() > 0.8 for mask in pair.truths)
    assert {pair.fold for pair in pairs if pair.reference.name == "a:disc"} == {0}


def test_a_full_photograph_has_no_place_for_a_copy(pairs):
    with pytest.raises(ValueError, match="no place"):
        paste(pairs[0].image, pairs[0].reference, [np.ones(pairs[0].image.shape[:2], bool)], np.random.default_rng(0))


def test_figures(pairs):
    predictor = SAM2ImagePredictor.from_pretrained("sam2fast/nano")
    images = {id(pair.reference.image): pair.reference.image for pair in pairs}
    encoded = {key: predictor.encode(image) for key, image in images.items()}
    found = [find_pairs.candidates_of(predictor, pair, encoded) for pair in pairs]
    figures = find_pairs.evaluate(found)
    similar = figures["held_out"]["similar"]
    assert similar["pairs"] == 4 and similar["without_object"] == 4
    assert similar["mean_iou"] > 0.8 and similar["found"] == similar["over_half"] == 1
    assert sum(figures["crowds"]) == 2
