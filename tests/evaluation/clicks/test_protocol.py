"""Clicks and boxes against the official predictor in a simple loop, and against predefined masks."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
import sam2.build_sam
import torch
from parity import NARROW, build_pair, official_image_predictor, random_image
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter

from sam2fast import SAM2ImagePredictor, build_sam2
from sam2fast.evaluation.clicks import depth, evaluate_boxes, evaluate_clicks
from sam2fast.io.rle import encode_rle
from sam2fast.training.data.synthetic import SyntheticClips

SIDE, HEIGHT, WIDTH, CLICKS = 256, 150, 200, 4


class Pair(NamedTuple):
    """Both predictors with the same image set."""

    official: Any
    ours: SAM2ImagePredictor


@pytest.fixture(scope="module")
def pair() -> Pair:
    return predictors(*build_pair("sam2.1_t", [f"++model.image_size={SIDE}", *NARROW]), random_image(HEIGHT, WIDTH))


@pytest.fixture(scope="module")
def nano() -> SAM2ImagePredictor:
    return SAM2ImagePredictor.from_pretrained("sam2fast/nano", device="cpu")


def shapes() -> np.ndarray:
    """A disc, a bar along the image's edge, a ring, and two squares that are one object."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    radius = np.hypot(x - 120, y - 70)
    squares = (abs(x - 40) < 20) & ((abs(y - 30) < 14) | (abs(y - 100) < 18))
    return np.stack([np.hypot(x - 60, y - 80) < 35, x > 180, (radius < 60) & (radius > 25), squares])


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return (mask & truth).sum() / (mask | truth).sum()


def deepest(truth: np.ndarray, mask: np.ndarray) -> tuple[int, int, int]:
    """From distances of the whole image: x, y and label."""
    missed, false = (distance_transform_edt(np.pad(wrong, 1))[1:-1, 1:-1] for wrong in (truth & ~mask, mask & ~truth))
    label = int(missed.max() > false.max())
    y, x = np.unravel_index((missed if label else false).argmax(), truth.shape)
    return int(x), int(y), label


class Clicked(NamedTuple):
    points: list[list[int]]
    labels: list[int]
    ious: list[float]
    scores: list[float]
    best: float


def click_by_click(predictor: Any, truth: np.ndarray, feed_back: bool) -> Clicked:
    """One object, as in a script with the official package."""
    mask, logits, found = np.zeros_like(truth), None, Clicked([], [], [], [], 0.0)
    for k in range(CLICKS):
        x, y, label = deepest(truth, mask)
        found.points.append([x, y])
        found.labels.append(label)
        masks, scores, low_res = predictor.predict(
            np.array(found.points),
            np.array(found.labels),
            mask_input=logits if feed_back else None,
            multimask_output=k == 0,
        )
        if k == 0:
            found = found._replace(best=max(iou(m > 0, truth) for m in masks))
        best = int(scores.argmax())
        mask, logits = masks[best] > 0, low_res[best][None]
        found.ious.append(iou(mask, truth))
        found.scores.append(float(scores[best]))
    return found


def predictors(official_model: Any, model: Any, image: np.ndarray) -> Pair:
    found = Pair(official_image_predictor(official_model), SAM2ImagePredictor(model))
    for predictor in found:
        predictor.set_image(image)
    return found


@pytest.mark.parametrize("feed_back", [True, False])
def test_clicks_are_those_of_a_loop_with_the_official_predictor(pair, feed_back):
    truths = shapes()
    found = evaluate_clicks(pair.ours, None, truths, CLICKS, feed_back=feed_back)
    assert found.ious.shape == found.scores.shape == found.labels.shape == (4, CLICKS)
    for o, truth in enumerate(truths):
        expected = click_by_click(pair.official, truth, feed_back)
        with oracle.written_out_attention():
            changed = click_by_click(pair.official, truth, feed_back)
        assert changed.points == expected.points, "the case is not tame"
        assert found.points[o].tolist() == expected.points and found.labels[o].tolist() == expected.labels
        np.testing.assert_allclose(found.ious[o], expected.ious, rtol=0, atol=1e-3)
        np.testing.assert_allclose(found.scores[o], expected.scores, rtol=0, atol=1e-3)
        assert found.best_of_three[o] == pytest.approx(expected.best, abs=1e-3)
    # Otherwise the comparison would be weak.
    assert set(found.labels.ravel()) == {0, 1} and len(np.unique(found.ious.round(2))) > 5


@pytest.mark.weights
def test_real_weights_on_a_photograph(weights_folder, data_folder):
    """Wheel and window, with an added disc and a hole that the model does not expect."""
    checkpoint, size = weights_folder / "sam2_hiera_tiny_image_fp16.pt", ["++model.image_size=512"]
    official = sam2.build_sam.build_sam2("configs/sam2/sam2_hiera_t.yaml", device="cpu", hydra_overrides_extra=size)
    official.load_state_dict(torch.load(checkpoint, weights_only=True)["model"], strict=False)
    ours = build_sam2("configs/sam2/sam2_hiera_t.yaml", checkpoint, device="cpu", hydra_overrides_extra=size)
    with Image.open(data_folder / "images" / "truck.jpg") as file:
        pair = predictors(official, ours, np.array(file.resize((600, 400))))
    y, x = np.mgrid[:400, :600]
    truths = []
    for box, radius in (([142, 200, 233, 292], 10), ([136, 95, 222, 150], 15)):
        mask = pair.official.predict(box=np.array(box), multimask_output=False)[0][0] > 0
        middle_x, middle_y = x[mask].mean(), y[mask].mean()
        more = np.hypot(x - middle_x - 2 * radius, y - middle_y + radius) < radius
        truths.append((mask | more) & (np.hypot(x - middle_x + radius, y - middle_y) > radius / 2))
    found = evaluate_clicks(pair.ours, None, np.stack(truths), CLICKS)
    for o, truth in enumerate(truths):
        expected = click_by_click(pair.official, truth, feed_back=True)
        assert found.points[o].tolist() == expected.points and found.labels[o].tolist() == expected.labels
        np.testing.assert_allclose(found.ious[o], expected.ious, rtol=0, atol=1e-3)
    assert found.ious.max() > 0.8 and set(found.labels.ravel()) == {0, 1}


def test_boxes_are_those_of_the_official_predictor(pair):
    truths = shapes()
    found = evaluate_boxes(pair.ours, None, truths)
    for o, truth in enumerate(truths):
        rows, columns = (np.flatnonzero(truth.any(axis=axis)) for axis in (1, 0))
        box = [columns[0], rows[0], columns[-1], rows[-1]]
        assert found.boxes[o].tolist() == box
        masks, scores, _ = pair.official.predict(box=np.array(box), multimask_output=False)
        assert found.ious[o] == pytest.approx(iou(masks[0] > 0, truth), abs=1e-3)
        assert found.scores[o] == pytest.approx(scores[0], abs=1e-3)


def test_noise_of_boxes(pair):
    truths = shapes()
    exact = evaluate_boxes(pair.ours, None, truths).boxes
    found = [
        evaluate_boxes(pair.ours, None, truths, noise=0.2, rng=np.random.default_rng(seed), objects_per_batch=n).boxes
        for seed, n in ((1, 4), (1, 3), (2, 4))
    ]
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])
    sides = np.tile(exact[:, 2:] - exact[:, :2], 2)
    assert (abs(found[0] - exact) <= np.minimum(0.2 * sides, 20)).all() and (found[0] != exact).any(axis=1).all()


@pytest.mark.parametrize("objects_per_batch", [1, 3])
def test_objects_do_not_depend_on_one_another(pair, objects_per_batch, monkeypatch):
    truths, counts, predict = shapes(), [], pair.ours._predict
    monkeypatch.setattr(
        pair.ours, "_predict", lambda points, *rest: counts.append(len(points)) or predict(points, *rest)
    )
    together, apart = (
        evaluate_clicks(pair.ours, None, truths, 3, objects_per_batch=n) for n in (32, objects_per_batch)
    )
    assert counts[:3] == [4, 4, 4] and max(counts[3:]) == objects_per_batch and sum(counts[3:]) == 12
    assert np.array_equal(together.points, apart.points)
    np.testing.assert_allclose(apart.ious, together.ious, rtol=0, atol=1e-3)


def test_masks_in_other_forms(pair):
    truths = shapes()
    expected = evaluate_clicks(pair.ours, None, truths, 2)
    runs = [encode_rle(truth) for truth in truths]
    for masks in (runs, torch.from_numpy(truths), truths[:, ::-1].copy()[:, ::-1]):
        found = evaluate_clicks(pair.ours, random_image(HEIGHT, WIDTH), masks, 2)
        assert np.array_equal(found.points, expected.points) and np.array_equal(found.ious, expected.ious)
    found = evaluate_clicks(pair.ours, None, [], 3)
    assert found.ious.shape == (0, 3) and found.points.shape == (0, 3, 2)
    assert evaluate_boxes(pair.ours, None, truths[:0]).boxes.shape == (0, 4)


def test_nano_gets_better_with_every_click(nano):
    clips = SyntheticClips(size=256, num_frames=1, max_objects=3, length=4, seed=41)
    images = [clips.sample(i, np.random.default_rng([41, i])) for i in range(4)]
    found = [evaluate_clicks(nano, clip.frames[0], clip.masks[0], 5) for clip in images]
    means = np.concatenate([scores.ious for scores in found]).mean(axis=0)
    best = np.concatenate([scores.best_of_three for scores in found]).mean()
    assert 0.3 < means[0] <= best < 1 and means[0] + 0.05 < means[2] < means[4]
    boxes = [evaluate_boxes(nano, clip.frames[0], clip.masks[0]).ious for clip in images]
    assert np.concatenate(boxes).mean() > means[0]


class Planned:
    """A predictor that returns predefined masks, and records its prompts."""

    model = SimpleNamespace(device=torch.device("cpu"))
    _is_batch = False

    def __init__(self, size: tuple[int, int], answers: list[tuple[np.ndarray, list[list[float]]]]) -> None:
        self._orig_hw = [size]
        self.answers, self.asked = answers, []

    def _prep_prompts(self, points, labels, box, logits, normalize_coords):
        assert normalize_coords
        return logits, points, labels, box

    def _predict(self, points, labels, box, logits, multimask_output):
        """Low-resolution logits are constant, and identify the call and the mask."""
        self.asked.append((points.tolist(), labels.tolist(), None if logits is None else logits.flatten().tolist()))
        masks, scores = self.answers.pop(0)
        assert len(masks) == len(points) and masks.shape[1] == (3 if multimask_output else 1)
        low_res = torch.arange(masks.shape[1]).float() + 10 * len(self.asked)
        return torch.from_numpy(masks), torch.tensor(scores), low_res.repeat(len(masks), 1)[..., None, None]


def test_prompts_and_chosen_masks():
    truth = np.zeros((2, 9, 12), bool)
    truth[0, 2:7, 3:8] = True  # its middle is (5, 4)
    truth[1, 0:3, 0:3] = True  # its middle is (1, 1)
    nothing, all_but_one, more = np.zeros((9, 12), bool), truth[1].copy(), truth[1].copy()
    all_but_one[2, 2] = False
    more[5:8, 8:11] = True  # its middle is (9, 6)
    predictor = Planned(
        (9, 12),
        [
            # The first object is perfect after one click; the best mask of the second has not the highest score.
            (
                np.stack([[nothing, truth[0], nothing], [nothing, all_but_one, more]]),
                [[0.1, 0.9, 0.2], [0.3, 0.4, 0.8]],
            ),
            (all_but_one[None, None], [[0.7]]),
            (truth[1][None, None], [[0.6]]),
        ],
    )
    found = evaluate_clicks(predictor, None, truth, 5)
    assert predictor.answers == []
    assert predictor.asked == [
        ([[[5, 4]], [[1, 1]]], [[1], [1]], None),
        ([[[1, 1], [9, 6]]], [[1, 0]], [12.0]),  # the object alone, with the logits of the third mask
        ([[[1, 1], [9, 6], [2, 2]]], [[1, 0, 1]], [20.0]),
    ]
    np.testing.assert_allclose(found.ious, [[1, 1, 1, 1, 1], [9 / 18, 8 / 9, 1, 1, 1]])
    np.testing.assert_allclose(found.best_of_three, [1, 8 / 9])
    np.testing.assert_allclose(found.scores, [[0.9] * 5, [0.8, 0.7, 0.6, 0.6, 0.6]], rtol=1e-6)
    assert found.labels.tolist() == [[1, -1, -1, -1, -1], [1, 0, 1, -1, -1]]
    assert found.points[1].tolist() == [[1, 1], [9, 6], [2, 2], [-1, -1], [-1, -1]]


REGIONS = {
    "noise": lambda rng, shape: rng.random(shape) < rng.random(),
    "blobs": lambda rng, shape: gaussian_filter(rng.standard_normal(shape), rng.uniform(0.5, 8), mode="wrap") > 0,
    "all": lambda rng, shape: np.ones(shape, bool),
    "one box": lambda rng, shape: np.arange(shape[1]) // 7 == rng.integers(0, 5) + 0 * np.arange(shape[0])[:, None],
}


@pytest.mark.parametrize("most_outline", [0, 1e9])
@pytest.mark.parametrize("kind", REGIONS)
def test_deepest_pixel_is_the_first_of_the_distance_transform(monkeypatch, kind, most_outline):
    """By blocks and by the transform, with many equal distances."""
    monkeypatch.setattr(depth, "MOST_OUTLINE", most_outline)
    rng = np.random.default_rng(1)
    for _ in range(60):
        region = REGIONS[kind](rng, tuple(rng.integers(1, 90, 2)))
        distances = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(distances.argmax(), region.shape)
        assert depth.deepest_pixel(region) == (x, y, distances.max())


NAN_SCORES = [(np.ones((1, 3, HEIGHT, WIDTH), bool), [[0.1, float("nan"), 0.2]])]


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda ours: evaluate_clicks(ours, None, shapes().astype(np.uint8)), "bool"),
        (lambda ours: evaluate_clicks(ours, None, shapes()[:, :-1]), "200x149 pixels, the image 200x150"),
        (lambda ours: evaluate_clicks(ours, None, shapes() & (np.arange(4) != 2)[:, None, None]), "mask 2 is empty"),
        (lambda ours: evaluate_clicks(ours, None, [{"size": [HEIGHT, WIDTH], "counts": [7, 8]}]), "add up"),
        (lambda ours: evaluate_clicks(ours, None, shapes(), 0), "clicks is 0"),
        (lambda ours: evaluate_boxes(ours, None, shapes(), noise=0.5), "noise is 0.5"),
        (lambda ours: evaluate_clicks(Planned((HEIGHT, WIDTH), NAN_SCORES), None, shapes()[:1], 1), "not finite"),
    ],
)
def test_refusals(pair, call, word):
    with pytest.raises(ValueError, match=word):
        call(pair.ours)


def test_a_batch_of_images_is_refused(nano):
    fresh = SAM2ImagePredictor(nano.model)
    fresh.set_image_batch([random_image(32, 32)] * 2)
    with pytest.raises(RuntimeError, match="no single image"):
        evaluate_clicks(fresh, None, shapes())
