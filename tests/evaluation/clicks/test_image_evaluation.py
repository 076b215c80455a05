"""One image of a data set, and means over many, against manual calculations."""

import csv
import io
import math

import numpy as np
import pytest
import torch
from parity import random_image
from PIL import Image

from sam2fast import SAM2ImagePredictor
from sam2fast.evaluation.clicks import BoxScores, ClickScores, evaluate_boxes, evaluate_clicks
from sam2fast.evaluation.clicks.image_evaluation import (
    ClickJob,
    ClickSettings,
    ImageScores,
    Results,
    evaluate_image,
    size_of,
)
from sam2fast.evaluation.clicks.sources import DatasetError, ImageMasks, TrueMask
from sam2fast.io.rle import encode_rle


def scores_of(ious: list[list[float]], best: list[float], areas: list[int], boxes: list[float] | None) -> ImageScores:
    O, K = np.shape(ious)  # noqa: E741
    labels = np.where(np.arange(K) < 2, [[1, 0, -1][:K]], -1).repeat(O, 0)
    points = np.arange(O * K * 2).reshape(O, K, 2)
    clicks = ClickScores(np.array(ious), np.array(best), np.zeros((O, K)), points, labels)
    box = None if boxes is None else BoxScores(np.array(boxes), np.zeros(O), np.zeros((O, 4), np.float32))
    return ImageScores(tuple(f"id{o}" for o in range(O)), np.array(areas), clicks, box, ())


@pytest.fixture
def results() -> Results:
    found = Results((1, 3))
    found.add("a.jpg", scores_of([[0.2, 0.3, 0.4], [0.6, 0.7, 0.8]], [0.5, 0.6], [1023, 1024], [0.1, 0.3]))
    found.add("empty.jpg", ImageScores((), np.zeros(0, int), None, None, ()))
    found.add("b.jpg", scores_of([[1.0, 0.9, 0.9]], [1.0], [9215], [0.8]))
    return found


def test_means(results):
    means = results.means()
    assert list(means) == ["1 click", "1 click, best of 3", "3 clicks", "box"]
    assert means["1 click"].miou == pytest.approx(1.8 / 3) and means["1 click"].by_image == pytest.approx(0.7)
    assert means["1 click, best of 3"].miou == pytest.approx(2.1 / 3)
    assert means["3 clicks"].by_size["medium"] == pytest.approx(0.85)
    assert means["3 clicks"].by_size["small"] == pytest.approx(0.4) and math.isnan(means["3 clicks"].by_size["large"])
    assert means["box"].miou == pytest.approx(0.4) and means["box"].by_image == pytest.approx(0.5)
    assert results.images == 2 and results.objects == 3
    assert results.objects_by_size() == {"small": 1, "medium": 2, "large": 0}


def test_sizes_are_cocos():
    assert [size_of(area) for area in (1, 1023, 1024, 9215, 9216, 10**7)] == [
        "small", "small", "medium", "medium", "large", "large",
    ]  # fmt: skip


def test_as_json(results):
    found = results.as_json()
    assert found["miou"]["1 click"] == {
        "mean": 0.6, "mean_by_image": 0.7, "small": 0.2, "medium": 0.8, "large": None,
    }  # fmt: skip
    assert (found["images"], found["objects"]) == (2, 3)


def test_as_table(results):
    lines = [line.split("  ") for line in results.table()]
    assert [[cell.strip() for cell in line if cell.strip()] for line in lines] == [
        ["mIoU", "by image", "small", "medium", "large"],
        ["objects", "3", "2", "1", "2", "0"],
        ["1 click", "60.0", "70.0", "20.0", "80.0", "-"],
        ["1 click, best of 3", "70.0", "77.5", "50.0", "80.0", "-"],
        ["3 clicks", "70.0", "75.0", "40.0", "85.0", "-"],
        ["box", "40.0", "50.0", "10.0", "55.0", "-"],
    ]
    assert len(set(map(len, results.table()))) == 1


def test_as_csv(results):
    rows = list(csv.DictReader(io.StringIO(results.as_csv())))
    assert [(row["image"], row["object"], row["area"], row["size"]) for row in rows] == [
        ("a.jpg", "id0", "1023", "small"),
        ("a.jpg", "id1", "1024", "medium"),
        ("b.jpg", "id0", "9215", "medium"),
    ]
    assert [float(rows[1][column]) for column in ("1 click", "1 click, best of 3", "2 clicks", "3 clicks", "box")] == [
        0.6, 0.6, 0.7, 0.8, 0.3,
    ]  # fmt: skip
    assert rows[1]["clicks"] == "6,7,1;8,9,0"


def test_nothing_done():
    results = Results((1,))
    assert results.means() == {} and results.as_csv() == "" and results.as_json()["miou"] == {}


class Given:
    """Masks without a file."""

    files = ()

    def __init__(self, masks: np.ndarray, problems: tuple[str, ...] = ()) -> None:
        self.masks, self.problems = masks, problems

    def read(self, size: tuple[int, int]) -> ImageMasks:
        if size != self.masks.shape[1:]:
            raise DatasetError("of another size")
        found = [TrueMask(str(i), encode_rle(mask), int(mask.sum())) for i, mask in enumerate(self.masks)]
        return ImageMasks(found, list(self.problems))


@pytest.fixture(scope="module")
def nano() -> SAM2ImagePredictor:
    return SAM2ImagePredictor.from_pretrained("sam2fast/nano", device="cpu")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "image.png"
    Image.fromarray(random_image(60, 80)).save(path)
    return path


def squares(*sides: int) -> np.ndarray:
    masks = np.zeros((len(sides), 60, 80), bool)
    for i, side in enumerate(sides):
        masks[i, 5 : 5 + side, 8 * i : 8 * i + side] = True
    return masks


def test_an_image_is_evaluated_as_by_the_functions(nano, file):
    masks = squares(20, 12, 30)
    settings = ClickSettings(clicks=3, feed_back=False, box=True, objects_per_batch=2)
    scores = evaluate_image(nano, ClickJob("p", file, Given(masks, ("one is damaged",))), settings)
    expected = evaluate_clicks(nano, file, masks, 3, feed_back=False, objects_per_batch=2)
    assert scores.objects == ("0", "1", "2") and scores.areas.tolist() == [400, 144, 900]
    assert np.array_equal(scores.clicks.points, expected.points) and np.array_equal(scores.clicks.ious, expected.ious)
    assert np.array_equal(scores.boxes.ious, evaluate_boxes(nano, None, masks, objects_per_batch=2).ious)
    assert scores.problems == ("one is damaged",)


def test_small_objects_are_left_out(nano, file):
    job = ClickJob("p", file, Given(squares(0, 3, 4, 5)))
    for least, objects in ((1, ("1", "2", "3")), (16, ("2", "3")), (17, ("3",)), (26, ())):
        scores = evaluate_image(nano, job, ClickSettings(clicks=1, min_area=least))
        assert scores.objects == objects and (scores.clicks is None) == (not objects)
        assert len(scores.areas) == len(objects) and scores.boxes is None


def test_objects_and_noise_are_drawn_by_seed_and_name(nano, file):
    def drawn(name: str, seed: int) -> tuple[str, ...]:
        settings = ClickSettings(clicks=1, max_objects=2, seed=seed, min_area=2)
        return evaluate_image(nano, ClickJob(name, file, Given(squares(1, 9, 9, 9, 9, 9))), settings).objects

    found = {(name, seed): drawn(name, seed) for name in "ab" for seed in range(4)}
    assert all(len(set(objects)) == 2 and objects == tuple(sorted(objects)) for objects in found.values())
    assert not any("0" in objects for objects in found.values())
    assert drawn("a", 2) == found["a", 2]
    assert len({found["a", seed] for seed in range(4)}) > 1
    assert [found["a", seed] for seed in range(4)] != [found["b", seed] for seed in range(4)]
    noisy = [
        evaluate_image(
            nano, ClickJob("p", file, Given(squares(30))), ClickSettings(clicks=1, box=True, box_noise=0.3, seed=seed)
        ).boxes.boxes.tolist()
        for seed in (0, 0, 1)
    ]
    assert noisy[0] == noisy[1] != noisy[2]
    few = ClickJob("p", file, Given(squares(1, 9, 1, 9)))
    assert evaluate_image(nano, few, ClickSettings(clicks=1, max_objects=3, min_area=2)).objects == ("1", "3")


def test_unreadable_files_become_problems(nano, file, tmp_path):
    (tmp_path / "broken.png").write_bytes(file.read_bytes()[:200])
    nano.set_image(random_image(60, 80))
    before = nano.get_image_embedding()
    for image, message in (
        (tmp_path / "broken.png", "broken.png"),
        (tmp_path / "none.png", "none.png"),
        (file, "of another size"),
    ):
        masks = squares(9)[:, :50] if image == file else squares(9)
        scores = evaluate_image(nano, ClickJob("p", image, Given(masks)), ClickSettings())
        assert scores.objects == () and scores.clicks is None
        assert len(scores.problems) == 1 and message in scores.problems[0]
    assert torch.equal(nano.get_image_embedding(), before)
